"""`segment_concepts`: clusters of image segments as concepts, as in the concept connectome."""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np
from sklearn.cluster import KMeans

from xplique_dirpairs.connectome.divide import Segments
from xplique_dirpairs.core.batching import slices
from xplique_dirpairs.core.progress import progress
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_integer, check_type
from xplique_dirpairs.data.images import compute_activations
from xplique_dirpairs.extractors.concept_layer import ConceptLayer
from xplique_dirpairs.factorizers.decompositions import KMeansFactorizer
from xplique_dirpairs.models.split import split_model


@dataclass(frozen=True, eq=False)
class SegmentConcepts:
    """I clusters of image segments at a layer. `segment_concepts` returns them.

    Attributes
    ----------
    layer : ConceptLayer
        The centres as concepts of the layer: of a `KMeansFactorizer`, usable wherever fitted
        concepts are.
    centres : ndarray of shape (I, D)
        Centres of the clusters.
    members : tuple of I ndarray of shape (S, 2), int
        Image and number of the segments nearest to each centre, at most 50, the nearest first.
    segments : Segments
        The segments.
    index : int
        Index of the layer in ``segments``.
    """

    layer: ConceptLayer
    centres: Array
    members: tuple[Array, ...]
    segments: Segments
    index: int

    def pictures(self, concept: int) -> Array:
        """Return the segments of a concept as images, (S, height, width, C)."""
        return self.segments.pictures(self.index, self.members[concept])


def segment_concepts(
    model: keras.Model,
    segments: Segments,
    *,
    number_of_concepts: int = 25,
    prune: bool = True,
    nearest: int = 50,
    batch_size: int = 32,
    random_state: int | None = 0,
    verbose: int = 1,
) -> dict[str, SegmentConcepts]:
    """Cluster the segments of each layer by their features (Kowal et al. 2024).

    Each segment passes through the network as an image of its own, and its features are averaged
    over positions. K-Means clusters them; clusters that are too small, or come from too few images,
    are pruned: see `least_size` and `is_common`.

    Parameters
    ----------
    model : keras.Model
        The network.
    segments : Segments
        Segments of `divide_images`.
    number_of_concepts : int, default=25
        Number of clusters before pruning, at most the number of segments.
    prune : bool, default=True
        Whether clusters are pruned.
    nearest : int, default=50
        Number of segments kept of a cluster, those nearest to its centre.
    batch_size : int, default=32
        Number of segments that pass through the network at a time.
    random_state : int or None, default=0
        Seed of K-Means.
    verbose : int, default=1
        Progress bars are shown unless this is 0.

    Returns
    -------
    concepts : dict of str to SegmentConcepts
        By the name of the layer.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit, or no cluster of a layer survives.
    """
    check_type("segments", segments, Segments, "Segments", "call divide_images")
    for name, value in (("number_of_concepts", number_of_concepts), ("nearest", nearest)):
        check_integer(name, value)
    check_integer("batch_size", batch_size)
    found = {}
    for n, name in enumerate(segments.layer_names):
        split = split_model(model, name)
        members = segments.members(n)
        pooled = []
        parts = list(slices(len(members), batch_size))
        for part in progress(parts, len(parts), f"segments of {name}", verbose, "batch"):
            x = compute_activations(
                split.input_to_latent_model, segments.pictures(n, members[part])
            )
            pooled.append(x.reshape(len(x), -1, x.shape[-1]).mean(axis=1))
        features = np.concatenate(pooled)
        count = min(number_of_concepts, len(features))
        clusters = KMeans(count, n_init=4, random_state=random_state).fit(features)
        centres, kept = [], []
        for i, centre in enumerate(clusters.cluster_centers_):
            own = np.flatnonzero(clusters.labels_ == i)
            distances = np.linalg.norm(features[own] - centre, axis=1)
            own = own[np.argsort(distances, kind="stable")]
            images = len(np.unique(members[own, 0]))
            is_large = len(own) > least_size(len(members))
            if not prune or (is_large and is_common(len(own), images, len(segments.images))):
                centres.append(centre)
                kept.append(members[own[:nearest]])
        if not centres:
            raise ValueError(
                f"no cluster of the {len(members)} segments of layer {name!r} is large and common "
                "enough: give more images, a smaller number_of_concepts, or prune=False"
            )
        factorizer = KMeansFactorizer(len(centres))
        factorizer.constant_ = features.mean(axis=0).astype(np.float32)
        factorizer.bank_ = (np.stack(centres) - factorizer.constant_).astype(np.float32)
        layer = ConceptLayer.of(factorizer, split)
        found[name] = SegmentConcepts(
            layer, np.stack(centres).astype(np.float32), tuple(kept), segments, n
        )
    return found


def least_size(segments: int) -> float:
    """Return how many segments a cluster must exceed: −102 + 217 / (1 + e^(−0.0004 n)).

    ``segments`` is n, the number of segments of the layer (from the code of Kowal et al. 2024).
    """
    return float(-102.0 + 217.0 / (1.0 + np.exp(-0.0004 * segments)))


def is_common(size: int, images: int, of_images: int) -> bool:
    """Return whether a cluster of ``size`` segments comes from enough images.

    Of v different images, it does if v > size / 2 or size > 200; if v > size / 4 and v is more than
    a quarter of ``of_images``; or if v > size / 10 and v is more than half of them (the rules of
    Ghorbani et al., "Towards Automatic Concept-based Explanations", 2019).
    """
    return (
        images > 0.5 * size
        or size > 200
        or (images > 0.25 * size and images > 0.25 * of_images)
        or (images > 0.1 * size and images > 0.5 * of_images)
    )
