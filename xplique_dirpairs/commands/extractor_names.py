"""Concept extractors by the names that the command line knows."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray
from xplique.concepts import CraftTf

from xplique_dirpairs.commands.console import Console
from xplique_dirpairs.commands.extractor_list import NAMES
from xplique_dirpairs.commands.subject import Subject
from xplique_dirpairs.extractors.craft import FactorizerCraftTf
from xplique_dirpairs.extractors.direction_pairs import DirectionPairsTf
from xplique_dirpairs.factorizers.autoencoders import (
    ArchetypalFactorizer,
    RelaxedArchetypalFactorizer,
    TopKFactorizer,
)
from xplique_dirpairs.factorizers.decompositions import (
    FastICAFactorizer,
    KMeansFactorizer,
    PCAFactorizer,
)
from xplique_dirpairs.factorizers.nonnegative import NMFFactorizer, SemiNMFFactorizer
from xplique_dirpairs.pairs import DirectionPairs

_FACTORIZERS: dict[str, Callable[..., Any]] = {
    "PCA": PCAFactorizer,
    "FastICA": FastICAFactorizer,
    "K-Means": KMeansFactorizer,
    "NMF": NMFFactorizer,
    "semi-NMF": SemiNMFFactorizer,
    "TopK SAE": TopKFactorizer,
    "A-SAE": ArchetypalFactorizer,
    "RA-SAE": RelaxedArchetypalFactorizer,
}
#: `CraftTf` holds every crop of its images at full size: so much of it at a time, 128 MB.
_CROP_BYTES = 2**27


class SeededCraft(CraftTf):
    """Xplique's `CraftTf`, seeded, its crops going through the network a few images at a time.

    Parameters
    ----------
    seed
        Of its NMF.
    """

    def __init__(self, *arguments: Any, seed: int, **options: Any):
        super().__init__(*arguments, **options)
        self._seed = seed

    def fit(self, inputs: ArrayLike, class_id: int = 0):
        """As `CraftTf.fit`; uint8 images are converted."""
        np.random.seed(self._seed)  # noqa: NPY002 (CraftTf's NMF takes no seed)
        return super().fit(np.asarray(inputs, np.float32), class_id=class_id)

    def _extract_patches(self, inputs: NDArray) -> tuple[tf.Tensor, NDArray]:
        stride = int(self.patch_size * 0.8)
        across, down = ((n - self.patch_size) // stride + 1 for n in inputs.shape[1:3])
        few = max(1, _CROP_BYTES // max(1, across * down * inputs[0].nbytes))
        parts = [
            super(SeededCraft, self)._extract_patches(inputs[start : start + few])
            for start in range(0, len(inputs), few)
        ]
        patches, activations = zip(*parts, strict=True)
        return tf.concat(patches, axis=0), np.concatenate([np.asarray(a) for a in activations])


def extractors(
    names: Sequence[str],
    subject: Subject,
    concepts: int,
    arguments: argparse.Namespace,
    console: Console,
    pairs: DirectionPairs | None = None,
) -> dict[str, Any]:
    """Name → an extractor of the subject's network, not fitted.

    Parameters
    ----------
    names
        Some of `NAMES`.
    subject
    concepts
        I of each.
    arguments
        With ``seed`` and ``recipe``.
    console
    pairs
        Taken for direction pairs, if there are.
    """
    halves = (subject.first, subject.second)
    made: dict[str, Any] = {}
    for name in names:
        if name == NAMES[0]:
            made[name] = pairs if pairs is not None else DirectionPairsTf(
                *halves, concepts, patch_size=subject.patch_size, recipe=arguments.recipe,
                random_state=arguments.seed, verbose=console.progress,
            )  # fmt: skip
        elif name == "CRAFT":
            made[name] = SeededCraft(
                *halves, number_of_concepts=concepts, patch_size=subject.patch_size,
                seed=arguments.seed,
            )  # fmt: skip
        else:
            factorizer = _FACTORIZERS[name](concepts, random_state=arguments.seed)
            made[name] = FactorizerCraftTf(
                *halves, factorizer, patch_size=subject.patch_size, random_state=arguments.seed
            )
    return made
