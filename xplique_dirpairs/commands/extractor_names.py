"""Concept extractors by the names that the command line knows."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from xplique.concepts import CraftTf

from xplique_dirpairs.commands.console import Console
from xplique_dirpairs.commands.subject import Subject
from xplique_dirpairs.extractor_list import NAMES
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
#: CraftTf sends every crop through the network at full size, all held at once: at most 1 GB.
_CRAFT_BYTES = 2**30


class SeededCraft(CraftTf):
    """Xplique's `CraftTf`, seeded, on no more images than its crops leave room for in memory.

    Parameters
    ----------
    seed
        Of its NMF.
    console
        Is told if images are left out.
    """

    def __init__(self, *arguments: Any, seed: int, console: Console, **options: Any):
        super().__init__(*arguments, **options)
        self._seed, self._console = seed, console

    def fit(self, inputs: ArrayLike, class_id: int = 0):
        """As `CraftTf.fit`, of an even part of the images if they are many."""
        images = np.asarray(inputs, np.float32)
        stride = int(self.patch_size * 0.8)
        height, width = images.shape[1:3]
        crops = ((height - self.patch_size) // stride + 1) * (
            (width - self.patch_size) // stride + 1
        )
        room = max(1, _CRAFT_BYTES // (crops * images[0].nbytes))
        if len(images) > room:
            self._console.note(
                f"CRAFT is fitted on {room} of {len(images)} images: it holds every crop of them "
                "at full size"
            )
            images = images[np.linspace(0, len(images) - 1, room).round().astype(int)]
        np.random.seed(self._seed)  # noqa: NPY002 (CraftTf's NMF takes no seed)
        return super().fit(images, class_id=class_id)


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
                seed=arguments.seed, console=console,
            )  # fmt: skip
        else:
            factorizer = _FACTORIZERS[name](concepts, random_state=arguments.seed)
            made[name] = FactorizerCraftTf(
                *halves, factorizer, patch_size=subject.patch_size, random_state=arguments.seed
            )
    return made
