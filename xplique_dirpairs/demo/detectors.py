"""The best detector of each true concept, and the importance of what defines a class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from xplique_dirpairs.core.geometry import upsampled_bands
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.data.annotated_images import AnnotatedImages
from xplique_dirpairs.datasets.scene_settings import CLASSES
from xplique_dirpairs.demo.scenes import SHORTCUT, SHORTCUT_CLASS
from xplique_dirpairs.metrics.dissection import Dissection, category_of, dissect
from xplique_dirpairs.metrics.interpretability import Interpretability, paired_interval
from xplique_dirpairs.metrics.labelled_detectors import choose_thresholds, score_labels
from xplique_dirpairs.metrics.registry import Summary


@dataclass(frozen=True, eq=False)
class Annotated:
    """Annotated images with the activations (N, H, W, D) of a layer."""

    scenes: AnnotatedImages
    activations: Array


@dataclass(frozen=True, eq=False)
class Detectors:
    """The detectors of a method, and the best one of each true concept.

    Attributes
    ----------
    read : callable
        From activations (n, H, W, D) to the maps (n, H, W, I) of the detectors.
    threshold : str
        How their thresholds were found.
    dissection : Dissection
        Of all I detectors, on the images to learn from.
    best : ndarray of shape (C,), int
        For each true concept, the detector with the highest IoU on the images to learn from.
    scores : Interpretability
        Of these C detectors, with the true concepts as labels, on held-out images.
    """

    read: Callable[[Array], Array]
    threshold: str
    dissection: Dissection
    best: Array
    scores: Interpretability

    @property
    def categories(self) -> dict[str, float]:
        """Category of true concepts → mean IoU of their best detectors."""
        of_concept = category_of(self.dissection.concepts)
        return {
            name: float(np.nanmean(self.scores.iou[of_concept == number]))
            for number, name in enumerate(self.dissection.concepts)
        }

    @property
    def mean_iou(self) -> float:
        """Mean IoU of the best detectors of all true concepts on the held-out images."""
        return float(np.nanmean(self.scores.iou))

    def fires(self, activations: Array, number: int, side: int) -> Array:
        """Return where the best detector of a true concept fires in an image.

        Parameters
        ----------
        activations : ndarray of shape (H, W, D)
        number : int
            Number of the true concept.
        side : int
            Side of the image in pixels.

        Returns
        -------
        fires : ndarray of shape (side, side), bool
        """
        maps = np.asarray(self.read(activations[None]), np.float32)[..., [self.best[number]]]
        bands = [values for _, values in upsampled_bands(maps[0], (side, side), 0.0)]
        above = np.concatenate(bands) > self.dissection.thresholds[self.best[number]]
        return np.asarray(above.reshape(side, side))

    def number_of(self, category: str, name: str) -> int:
        """Return the number of a true concept."""
        return self.dissection.flat_concepts.index((category, name))


def best_detectors(
    read: Callable[[Array], Array],
    biases: Array | None,
    learning: Annotated,
    held_out: Annotated,
) -> Detectors:
    """Find the best detector of each true concept, and score it on images it was not found on.

    Parameters
    ----------
    read : callable
        From activations (n, H, W, D) to the maps (n, H, W, I) of the detectors.
    biases : ndarray of shape (I,), optional
        Thresholds of the detectors. None: for a method without, the better one of two quantiles on
        the images to learn from; see `choose_thresholds`.
    learning : Annotated
        Images on which thresholds and detectors are chosen.
    held_out : Annotated
        Images on which IoU is counted.

    Returns
    -------
    detectors : Detectors
    """
    # Maps are computed once: CRAFT's solve a least-squares problem for each position.
    scenes, maps = learning.scenes, read(learning.activations)
    if biases is None:
        threshold, found = choose_thresholds(scenes, np.asarray, activations=maps)
    else:
        threshold, found = "own", dissect(scenes, np.asarray, biases, activations=maps)
    best = np.nan_to_num(found.iou).argmax(axis=0)
    # A detector may be the best of several concepts: it then stands for each of them.
    parts = ("thresholds", "intersection", "detector_area", "lowest", "highest")
    repeated = replace(found, **{name: getattr(found, name)[best] for name in parts})
    scores = score_labels(
        held_out.scenes,
        lambda of_all: of_all[..., best],
        repeated,
        np.arange(len(best)),
        activations=read(held_out.activations),
    )
    return Detectors(read, threshold, found, best, scores)


def difference(ours: Detectors, theirs: Detectors) -> Summary:
    """Return the difference of the mean IoU, ours − theirs, with its interval over images."""
    sums, count = paired_interval(ours.scores, theirs.scores)["s1"], len(ours.best)
    return Summary(sums.value / count, sums.low / count, sums.high / count, sums.undefined)


def importances(coefficients: Array, bank: Array, row: Array) -> Array:
    """Compute the total Sobol index of each concept for the logit of a class, as CRAFT defines it.

    Behind the layer are an average over positions and a linear layer, so that the logit under a
    mask m is a constant plus Σ m_i a_i, with a_i the logit's part that concept i makes up. The
    index is then exactly a_i² / Σ_j a_j², without sampling masks.

    Parameters
    ----------
    coefficients : ndarray of shape (n, H, W, I)
        Coefficients of the concepts in images of the class.
    bank : ndarray of shape (I, D)
        What one unit of each coefficient adds to the features.
    row : ndarray of shape (D,)
        Weights of the class over the features averaged over positions.

    Returns
    -------
    importances : ndarray of shape (I,)
        Mean over the images; they sum to 1.
    """
    squares = (coefficients.mean(axis=(1, 2)) * (bank @ row)) ** 2
    sums = squares.sum(axis=1, keepdims=True)
    return np.asarray((squares / np.maximum(sums, np.finfo(np.float32).tiny)).mean(axis=0))


def defining_objects() -> list[tuple[str, str]]:
    """Return (class, object) for what defines each class, and for the shortcut."""
    pairs = [(name, thing) for name, kind in CLASSES.items() for thing in kind.defining]
    return [*pairs, (SHORTCUT_CLASS, SHORTCUT)]
