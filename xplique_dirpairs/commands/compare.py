"""The command ``compare``: several extractors, the same images, one table."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike
from xplique.concepts import CraftTf

from xplique_dirpairs.commands.console import Console
from xplique_dirpairs.commands.options import EXTRACTORS
from xplique_dirpairs.commands.subject import (
    Subject,
    load_pairs,
    number_of_concepts,
    open_subject,
)
from xplique_dirpairs.comparison.compare import compare
from xplique_dirpairs.comparison.result import Comparison
from xplique_dirpairs.core.batching import slices
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.extractors.craft import DirectionPairsTf, FactorizerCraftTf
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
from xplique_dirpairs.metrics.registry import METRICS
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
#: Bytes of crops that `SeededCraft` passes through the network at a time: 128 MB.
CROP_BYTES = 2**27


def run(arguments: argparse.Namespace, console: Console) -> None:
    """Compare, and write tables and figures to a folder."""
    with console.running():
        subject = open_subject(arguments, console)
        to_fit, to_measure = subject.parts(arguments.held_out, arguments.seed)
        tell_parts(to_fit, to_measure, console)
        pairs = load_pairs(arguments.pairs, subject)
        extractors = extractors_to_fit(arguments.extractors, to_fit, pairs, arguments, console)
        comparison = compare_extractors(extractors, to_fit, to_measure, arguments.seed, console)
        console.step("draw the figures")
        written = [path.name for path in comparison.save_report(arguments.output)]
        comparison.save(arguments.output / "comparison.npz")
        if comparison.interrupted:
            console.note(f"what was measured by then is in {arguments.output}")
            raise KeyboardInterrupt
    results = {
        "measured_on": len(to_measure.images),
        "metrics": metrics_of(comparison),
        "errors": comparison.errors,
    }
    summary = subject.write_summary(arguments, results, [*written, "comparison.npz"])
    text = f"{comparison}\n\nEverything is in {arguments.output}/: start with table.md"
    console.result(text, summary)


def tell_parts(to_fit: Subject, to_measure: Subject, console: Console) -> None:
    """Note which images are learned from and which are measured on."""
    if to_fit is to_measure:
        console.note(
            f"all {len(to_fit.images)} images are learned from and measured on: few images, or "
            "--held-out 0"
        )
    else:
        console.note(
            f"learned from {len(to_fit.images)} images, measured on {len(to_measure.images)} others"
        )


class SeededCraft(CraftTf):
    """Xplique's `CraftTf`, seeded, its crops passing through the network a few images at a time.

    Parameters
    ----------
    seed : int
        Seed of its NMF.
    crop_bytes : int, default=CROP_BYTES
        `CraftTf` holds every crop of its images at full size: bytes of them at a time.
    """

    def __init__(self, *arguments: Any, seed: int, crop_bytes: int = CROP_BYTES, **options: Any):
        super().__init__(*arguments, **options)
        self._seed, self._crop_bytes = seed, crop_bytes

    def fit(self, inputs: ArrayLike, class_id: int = 0) -> tuple[tf.Tensor, Array, Array]:
        """Fit like `CraftTf.fit`; uint8 images are converted."""
        np.random.seed(self._seed)  # noqa: NPY002 (CraftTf's NMF takes no seed)
        result: tuple[tf.Tensor, Array, Array] = super().fit(
            np.asarray(inputs, np.float32), class_id=class_id
        )
        return result

    def _extract_patches(self, inputs: Array) -> tuple[tf.Tensor, Array]:
        stride = int(self.patch_size * 0.8)
        across, down = ((n - self.patch_size) // stride + 1 for n in inputs.shape[1:3])
        few = max(1, self._crop_bytes // max(1, across * down * inputs[0].nbytes))
        extract = super()._extract_patches
        parts = [extract(inputs[part]) for part in slices(len(inputs), few)]
        patches, activations = zip(*parts, strict=True)
        return tf.concat(patches, axis=0), np.concatenate([np.asarray(a) for a in activations])


def extractors_to_fit(
    names: Sequence[str],
    to_fit: Subject,
    pairs: DirectionPairs | None,
    arguments: argparse.Namespace,
    console: Console,
) -> dict[str, Any]:
    """Return extractors of the subject's network by name, not fitted.

    Parameters
    ----------
    names : sequence of str
        Some of `EXTRACTORS`.
    to_fit : Subject
        Images that they will learn from.
    pairs : DirectionPairs or None
        Pairs that were given: they stand for the direction pairs, and all have their number.
    arguments : argparse.Namespace
        With ``concepts``, ``recipe`` and ``seed``.
    console : Console
    """
    if pairs is None:
        count = number_of_concepts(arguments.concepts, to_fit, arguments.seed, console)
    else:
        count = pairs.number_of_concepts
        if len(names) > 1:
            console.note(
                "the pairs of --pairs may have been learned from images that are measured on"
            )
    split, patch_size, seed = to_fit.split, to_fit.patch_size, arguments.seed

    def new_extractor(name: str) -> Any:
        if name == "CRAFT":
            return SeededCraft(*split, number_of_concepts=count, patch_size=patch_size, seed=seed)
        if name != EXTRACTORS[0]:
            factorizer = _FACTORIZERS[name](count, random_state=seed)
            return FactorizerCraftTf(
                split, factorizer=factorizer, patch_size=patch_size, random_state=seed
            )
        if pairs is not None:
            return pairs
        return DirectionPairsTf(
            split,
            number_of_concepts=count,
            patch_size=patch_size,
            recipe=arguments.recipe,
            random_state=seed,
            verbose=console.progress,
        )

    return {name: new_extractor(name) for name in names}


def compare_extractors(
    extractors: dict[str, Any], to_fit: Subject, to_measure: Subject, seed: int, console: Console
) -> Comparison:
    """Fit extractors on one part of the images and measure them on the other."""
    console.step(f"compare {', '.join(extractors)}")
    return compare(
        extractors,
        to_measure.images,
        to_measure.labels,
        split=to_measure.split,
        fit_images=to_fit.images,
        random_state=seed,
        verbose=console.progress,
    )


def metrics_of(comparison: Comparison) -> dict[str, Any]:
    """Return every figure of a comparison with its interval, by extractor and metric."""
    return {
        name: {
            key: {"value": s.value, "low": s.low, "high": s.high, "better": METRICS[key].arrow}
            for key, s in result.summaries.items()
        }
        for name, result in comparison.results.items()
    }
