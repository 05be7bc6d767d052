"""The command ``compare``: measure several extractors on the same images."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike
from xplique.concepts import CraftTf

from xplique_dirpairs.commands.concept_count import number_of_concepts
from xplique_dirpairs.commands.console import Console
from xplique_dirpairs.commands.outputs import keep
from xplique_dirpairs.commands.subject import (
    Subject,
    given_concepts,
    open_subject,
)
from xplique_dirpairs.comparison.compare import compare
from xplique_dirpairs.comparison.result import Comparison
from xplique_dirpairs.core.batching import slices
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.data.images import default_patch
from xplique_dirpairs.extractors.concept_layer import ConceptLayer
from xplique_dirpairs.extractors.craft import DirectionPairsTf, FactorizerCraftTf
from xplique_dirpairs.factorizers.autoencoders import (
    ArchetypalFactorizer,
    RelaxedArchetypalFactorizer,
    TopKFactorizer,
)
from xplique_dirpairs.factorizers.convex import ConvexNMFFactorizer
from xplique_dirpairs.factorizers.decompositions import (
    FastICAFactorizer,
    KMeansFactorizer,
    PCAFactorizer,
)
from xplique_dirpairs.factorizers.nonnegative import (
    DictionaryLearningFactorizer,
    NMFFactorizer,
    SemiNMFFactorizer,
)
from xplique_dirpairs.metrics.registry import METRICS

#: Name in `EXTRACTORS` → factorizer, for all but the direction pairs and CRAFT.
_FACTORIZERS: dict[str, Callable[..., Any]] = {
    "PCA": PCAFactorizer,
    "FastICA": FastICAFactorizer,
    "K-Means": KMeansFactorizer,
    "NMF": NMFFactorizer,
    "semi-NMF": SemiNMFFactorizer,
    "convex NMF": ConvexNMFFactorizer,
    "dictionary learning": DictionaryLearningFactorizer,
    "TopK SAE": TopKFactorizer,
    "A-SAE": ArchetypalFactorizer,
    "RA-SAE": RelaxedArchetypalFactorizer,
}
#: Bytes of crops that `SeededCraft` passes through the network at a time: 128 MB. `CraftTf` itself
#: holds every crop of its images at full size.
CROP_BYTES = 2**27


def run(arguments: argparse.Namespace, console: Console) -> None:
    """Compare the extractors, and write tables and figures to a folder."""
    with console.running():
        subject = open_subject(arguments, console)
        to_fit, to_measure = divide(subject, arguments, console)
        given = given_concepts(subject, arguments, console)
        _, comparison = compare_extractors(
            arguments.extractors, to_fit, to_measure, given, arguments, console
        )
        console.step("draw the figures")
        written = ["comparison.npz"]
        keep(comparison.save, arguments.output / written[0], console)
        with console.writing(arguments.output):
            names = subject.class_names.shown
            written += [path.name for path in comparison.save_report(arguments.output, names)]
        if comparison.interrupted:
            console.note(f"the results measured so far are in {arguments.output}")
            raise KeyboardInterrupt
    results = {
        "measured_on": len(to_measure.images),
        "metrics": metrics_of(comparison),
        "errors": comparison.errors,
    }
    summary = subject.write_summary(arguments, results, written, console)
    opened = f"open {arguments.output / 'table.md'}"
    text = f"{comparison}\n\nEverything is in {arguments.output}/: {opened}"
    console.result(text, summary)


def divide(
    subject: Subject, arguments: argparse.Namespace, console: Console
) -> tuple[Subject, Subject]:
    """Divide the images into those to learn from and those to measure on.

    The share and the seed are those of the arguments; the console notes the sizes of both parts.

    Returns
    -------
    to_fit : Subject
    to_measure : Subject
        The same as ``to_fit`` if the images are not divided.
    """
    to_fit, to_measure = subject.parts(arguments.held_out, arguments.seed)
    learned, measured = len(to_fit.images), len(to_measure.images)
    text = f"learned from {learned} images, measured on {measured} others"
    if to_fit is to_measure:
        reason = "there are too few to divide, or --held-out is 0"
        text = f"learned from all {learned} images and measured on the same ones: {reason}"
    console.note(text)
    return to_fit, to_measure


class SeededCraft(CraftTf):
    """`CraftTf` with a seed, which computes the activations of its crops in small batches.

    Parameters
    ----------
    *arguments, **options : object
        Arguments of Xplique's `CraftTf`.
    seed : int
        Seed of the NMF.
    """

    def __init__(self, *arguments: Any, seed: int, **options: Any):
        super().__init__(*arguments, **options)
        self._seed = seed

    def fit(self, inputs: ArrayLike, class_id: int = 0) -> tuple[tf.Tensor, Array, Array]:
        """Fit as `CraftTf.fit` does, with images of any dtype converted to float32."""
        np.random.seed(self._seed)  # noqa: NPY002 (CraftTf's NMF takes no seed)
        images = np.asarray(inputs, np.float32)
        fitted: tuple[tf.Tensor, Array, Array] = super().fit(images, class_id=class_id)
        return fitted

    def _extract_patches(self, inputs: Array) -> tuple[tf.Tensor, Array]:
        """Return the crops of the images, resized to the input, and their activations."""
        stride = int(self.patch_size * 0.8)
        across, down = ((n - self.patch_size) // stride + 1 for n in inputs.shape[1:3])
        images_at_once = max(1, CROP_BYTES // (across * down * inputs[0].nbytes))
        extract = super()._extract_patches
        parts = [extract(inputs[part]) for part in slices(len(inputs), images_at_once)]
        patches, activations = zip(*parts, strict=True)
        return tf.concat(patches, axis=0), np.concatenate([np.asarray(a) for a in activations])


def compare_extractors(
    names: Sequence[str],
    to_fit: Subject,
    to_measure: Subject,
    given: ConceptLayer | None,
    arguments: argparse.Namespace,
    console: Console,
) -> tuple[dict[str, Any], Comparison]:
    """Fit extractors on one part of the images and measure them on the other.

    Parameters
    ----------
    names : sequence of str
        Names from `EXTRACTORS`.
    to_fit : Subject
        The images that the extractors are fitted on.
    to_measure : Subject
        The images that they are measured on.
    given : ConceptLayer or None
        Pairs that were learned before. The other extractors then have the same number of concepts.
    arguments : argparse.Namespace
        Its ``concepts``, ``recipe`` and ``seed`` are used.
    console : Console

    Returns
    -------
    extractors : dict of str to extractor
        The fitted extractors by name.
    comparison : Comparison

    Raises
    ------
    KeyError
        If a name is unknown.
    """
    if given is None:
        count = number_of_concepts(arguments.concepts, to_fit, arguments.seed, console)
    else:
        count = given.number_of_concepts
        if len(names) > 1:
            console.note("--pairs may have been learned from some of the measured images")
    split, seed = to_fit.split, arguments.seed
    patch_size = default_patch(to_fit.images.shape[1:])

    def new_extractor(name: str) -> Any:
        """Return an extractor that is not fitted, or the given pairs."""
        if name == "CRAFT":
            return SeededCraft(*split, number_of_concepts=count, patch_size=patch_size, seed=seed)
        if name == "pairs":
            return given or DirectionPairsTf(
                split,
                number_of_concepts=count,
                patch_size=patch_size,
                recipe=arguments.recipe,
                random_state=seed,
                verbose=console.progress,
            )
        factorizer = _FACTORIZERS[name](count, random_state=seed)
        return FactorizerCraftTf(
            split, factorizer=factorizer, patch_size=patch_size, random_state=seed
        )

    extractors = {name: new_extractor(name) for name in names}
    console.step(f"compare {', '.join(extractors)}")
    comparison = compare(
        extractors,
        to_measure.images,
        to_measure.labels,
        split=split,
        fit_images=to_fit.images,
        random_state=seed,
        verbose=console.progress,
    )
    return extractors, comparison


def metrics_of(comparison: Comparison) -> dict[str, Any]:
    """Return extractor → metric → its value, interval and arrow (which says what is better)."""
    return {
        name: {
            key: {"value": s.value, "low": s.low, "high": s.high, "better": METRICS[key].arrow}
            for key, s in result.summaries.items()
        }
        for name, result in comparison.results.items()
    }
