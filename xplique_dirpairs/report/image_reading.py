"""What a report needs to know of its images: one pass over all, a closer look at those shown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from xplique.concepts import CraftTf, HolisticCraftTf
from xplique.concepts.factorizer import ConceptFactorizer

from xplique_dirpairs.core.batching import as_positions
from xplique_dirpairs.core.geometry import coverage_matrix, crop_place
from xplique_dirpairs.core.progress import Part, progress
from xplique_dirpairs.data.crops import (
    concept_maps,
    crop_coefficients,
    fitting_patch,
)
from xplique_dirpairs.explanations.shares import ScoreOfLayer
from xplique_dirpairs.extractors.concept_layer import ConceptLayer, Explaining
from xplique_dirpairs.extractors.reader import factorizer_of
from xplique_dirpairs.pairs import DirectionPairs

#: Steps of the histogram of detections.
BINS = 20
#: Cells of a map that is shown, along each side; more are averaged.
_CELLS = 16
#: Side of a crop, as a share of the shorter side of an image.
_CROP = 0.3
#: Activations up to this size are kept for the closer look, 512 MB.
_KEPT_BYTES = 2**29
#: What a path may miss, in logits, and the gradients it may take: for heads that are not linear.
_TOLERANCE, _MAX_STEPS = 1e-2, 128
#: This part of a concept's positive values lies above what is drawn at full strength.
_BRIGHTEST = 0.5
#: Images whose crops are in a strip that are shown whole as well.
_WHOLE = 4


@dataclass(frozen=True, eq=False)
class Overview:
    """What is kept of all N images.

    Attributes
    ----------
    logits : (N, K)
    detected : (N, I)
        Share of the positions on which a concept is detected.
    together : (I, I)
        Positions where both of two are detected; on the diagonal, where one is.
    histogram : (I, B) or None
        Positions by detection; None where there are no detectors.
    crop_values, crop_places : (N, I)
        Mean of the concept map over the best crop of each image, and which crop that is.
    patch : int
        Side of the crops, in pixels of the network's input.
    image_shape
        (height, width, channels) of these.
    """

    logits: NDArray
    detected: NDArray
    together: NDArray
    histogram: NDArray | None
    crop_values: NDArray
    crop_places: NDArray
    patch: int
    image_shape: tuple[int, ...]

    @property
    def overlaps(self) -> NDArray:
        """Positions where both of two are detected, as a share of those where either is, (I, I)."""
        own = np.diag(self.together)
        either = own[:, None] + own[None] - self.together
        return np.divide(self.together, either, out=np.zeros(either.shape), where=either > 0)

    def best_images(self, concept: int, count: int) -> NDArray:
        """Images with a concept's best crops, best first; those without it are none."""
        values = self.crop_values[:, concept]
        best = np.argsort(-values, kind="stable")[:count]
        return best[values[best] > 0]

    def shown(self, labels: NDArray, count: int) -> NDArray:
        """At most so many images: those of the best crops, then evenly of all classes; sorted."""
        total, concepts = self.crop_values.shape
        if total <= count:
            return np.arange(total)
        best = [self.best_images(i, _WHOLE) for i in range(concepts)]
        ranked = [int(of[k]) for k in range(_WHOLE) for of in best if k < len(of)]
        # the n-th image of each class, class by class
        turns = np.zeros(total, int)
        for k in np.unique(labels):
            turns[labels == k] = np.arange((labels == k).sum())
        chosen = list(dict.fromkeys([*ranked, *np.argsort(turns, kind="stable").tolist()]))
        return np.sort(chosen[:count])

    def place(self, image: int, concept: int) -> tuple[float, float, float, float]:
        """Where the best crop is: (top, left, bottom, right), as shares of the image's sides."""
        height, width = self.image_shape[:2]
        crop = int(self.crop_places[image, concept])
        top, left = crop_place(crop, self.image_shape, self.patch)
        return (
            top / height, left / width, (top + self.patch) / height, (left + self.patch) / width
        )  # fmt: skip


class Closer(NamedTuple):
    """What is kept of the n shown images; see `ImagePages`."""

    scores: NDArray
    residuals: NDArray
    contributions: NDArray
    maps: NDArray


def pairs_of(extractor: Explaining) -> DirectionPairs | None:
    """The direction pairs that an extractor's concepts are; None if they are something else."""
    if isinstance(extractor, DirectionPairs):
        return extractor
    found = extractor if isinstance(extractor, ConceptFactorizer) else None
    if isinstance(extractor, (CraftTf, HolisticCraftTf)):
        found = factorizer_of(extractor)
    pairs = getattr(extractor, "pairs", None) if found is None else getattr(found, "pairs_", None)
    return pairs if isinstance(pairs, DirectionPairs) else None


class ImageReading:
    """Images, read by the concepts of a layer.

    Parameters
    ----------
    layer
    pairs
        The concepts' detectors; None where there are none.
    images : (N, height, width, channels)
    batch_size
    verbose
        0 for silence.
    """

    def __init__(
        self,
        layer: ConceptLayer,
        pairs: DirectionPairs | None,
        images: NDArray,
        batch_size: int,
        verbose: int = 0,
    ) -> None:
        self.layer, self.pairs, self.images, self.batch_size = layer, pairs, images, batch_size
        self.verbose = verbose
        self._kept: dict[int, NDArray] = {}

    def overview(self) -> Overview:
        """One pass over all images."""
        shape, concepts = self.images.shape[1:], self.layer.number_of_concepts
        patch = fitting_patch(ceil(_CROP * min(shape[:2])), shape)
        logits, detected, values, places = [], [], [], []
        together, histogram = np.zeros((concepts, concepts)), np.zeros((concepts, BINS))
        for x in self._progress(self._batches(), "images again"):
            u, shown = self.layer.read(x)
            maps = concept_maps(shown, shape)
            if maps[0, ..., 0].size == 1:  # no places: the largest square
                patch = min(shape[:2])
            of_crops = crop_coefficients(maps, shape, patch).reshape(len(x), -1, concepts)
            values.append(of_crops.max(axis=1))
            places.append(of_crops.argmax(axis=1))
            on = as_positions(shown) > 0
            together += on.T.astype(np.float32) @ on.astype(np.float32)
            detected.append((shown > 0).mean(axis=tuple(range(1, u.ndim - 1))))
            if self.pairs is not None:
                y = self.pairs.detect(as_positions(x))
                steps = np.minimum((y * BINS).astype(int), BINS - 1) + BINS * np.arange(concepts)
                counts = np.bincount(steps.ravel(), minlength=BINS * concepts)
                histogram += counts.reshape(concepts, BINS)
            logits.append(self.layer.head.logits(self.layer.head.pool(x), self.batch_size))
        return Overview(
            np.concatenate(logits),
            np.concatenate(detected),
            together,
            None if self.pairs is None else histogram,
            np.concatenate(values),
            np.concatenate(places),
            patch,
            shape,
        )

    def closer(self, shown: NDArray, logits: NDArray) -> Closer:
        """A second look at some images: what concepts do to the predicted class, and where.

        Parameters
        ----------
        shown : (n,)
            Which, in ascending order.
        logits : (N, K)
        """
        scores: dict[int, ScoreOfLayer] = {}
        classes = logits.shape[1]
        found, maps = [], []
        starts = range(0, len(self.images), self.batch_size)
        for start in self._progress(starts, "pages of images"):
            among = shown[(shown >= start) & (shown < start + self.batch_size)]
            if not len(among):
                continue
            x = self._activations(start)[among - start]
            u, present = self.layer.read(x)
            maps.append(_reduced(concept_maps(present, self.images.shape[1:])))
            for n, features, coefficients in zip(among, x, u, strict=True):
                k = int(logits[n].argmax())
                if k not in scores:
                    scores[k] = ScoreOfLayer(self.layer, k, None, classes, _TOLERANCE, _MAX_STEPS)
                shares = scores[k].shares(features, coefficients)
                summed = shares.contributions.reshape(-1, u.shape[-1]).sum(axis=0)
                found.append((shares.score, shares.residual, summed))
        own, residuals, contributions = zip(*found, strict=True)
        return Closer(
            np.array(own),
            np.array(residuals),
            np.stack(contributions),
            _scaled(np.concatenate(maps)),
        )

    def _progress(self, parts: Iterable[Part], what: str) -> Iterator[Part]:
        count = len(range(0, len(self.images), self.batch_size))
        return progress(parts, count, what, self.verbose, "batch")

    def _batches(self) -> Iterator[NDArray]:
        for start in range(0, len(self.images), self.batch_size):
            yield self._activations(start)

    def _activations(self, start: int) -> NDArray:
        """Of one batch; kept as long as they are not too much."""
        if start in self._kept:
            return self._kept[start]
        x = self.layer.activations(self.images[start : start + self.batch_size], self.batch_size)
        if x.nbytes + sum(part.nbytes for part in self._kept.values()) <= _KEPT_BYTES:
            self._kept[start] = x
        return x


def _reduced(maps: NDArray) -> NDArray:
    """Maps (n, H, W, I) of no more than so many cells along each side."""
    for axis in (1, 2):
        if maps.shape[axis] > _CELLS:
            matrix = coverage_matrix(_CELLS, maps.shape[axis])
            maps = np.moveaxis(np.tensordot(matrix, maps, axes=(1, axis)), 0, axis)
    return maps.astype(np.float32)


def _scaled(maps: NDArray) -> NDArray:
    """To [0, 1], each concept by what few of its positive values in all these images exceed."""
    tops = np.ones(maps.shape[-1], np.float32)
    for i in range(maps.shape[-1]):
        positive = maps[..., i][maps[..., i] > 0]
        if positive.size:
            tops[i] = np.percentile(positive, 100 - _BRIGHTEST)
    return np.clip(maps / tops, 0.0, 1.0)
