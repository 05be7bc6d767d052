"""`itcav`: the connectome as it was published, with CAVs and distances from centres.

From the paper and the authors' code (Kowal et al., "Visual Concept Connectome (VCC)", 2024): a
lower concept is the normal of a linear classifier of its segments against random images, in
flattened features; an upper concept is the centre of a cluster; an edge is the share of the upper
concept's segments in which a step along the normal brings the features nearer to the centre.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import train_test_split

from xplique_dirpairs.connectome.responses import Responses, chosen_classes, responses_above
from xplique_dirpairs.connectome.result import Connectome, Edges, LayerConcepts
from xplique_dirpairs.connectome.segment_concepts import SegmentConcepts
from xplique_dirpairs.core.linear_algebra import unit_rows
from xplique_dirpairs.core.progress import progress
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import (
    Names,
    check_class_names,
    check_fraction,
    check_images,
    check_integer,
    check_type,
)
from xplique_dirpairs.data.images import compute_activations
from xplique_dirpairs.plots.images import as_picture, pixel_limits

#: Share of the examples that a classifier does not see, and its regularisation, as published.
_HELD_OUT, _ALPHA = 1.0 / 3.0, 0.01
#: Number of images of a class that the edges to it are measured in, the last of twice as many.
_CLASS_IMAGES = 50
#: Differences of shares below this are none.
_ROUNDING = 1e-9


def itcav(
    concepts: Mapping[str, SegmentConcepts],
    random_images: ArrayLike,
    *,
    class_ids: list[int] | None = None,
    class_names: Names = None,
    random_sets: int = 20,
    level: float = 0.05,
    crops: int = 3,
    batch_size: int = 32,
    random_state: int | None = 0,
    verbose: int = 1,
) -> Connectome:
    """Build the connectome of segment concepts as it was published.

    With f the network between two layers and μ_q the centre of upper concept q,

        s(a) = −‖mean_S f(a) − μ_q‖,   ITCAV_r(c, q) = share of q's segments with ⟨∇s, v_c^r⟩ > 0

    for the CAVs v_c^r of lower concept c against each random set r. The edges to a class are the
    same shares for its logit, in images of the class. An edge is kept if a paired t-test over the
    random sets tells its shares from those of random against random images. There is no correction
    for many tests.

    Parameters
    ----------
    concepts : mapping of str to SegmentConcepts
        Concepts of each layer, from `segment_concepts`.
    random_images : array-like of shape (M, height, width, C)
        Natural images, of which random sets of at most 50 are drawn.
    class_ids : list of int, optional
        Classes to which there are edges. None: those that the segmented images are predicted as, at
        most the 20 most frequent ones.
    class_names : sequence of K str or dict of int to str, optional
        Names of the classes.
    random_sets : int, default=20
        Number of random sets, at least 2.
    level : float, default=0.05
        Significance level of the t-test.
    crops : int, default=3
        Number of pictures kept for each concept.
    batch_size : int, default=32
        Number of images that pass through the network at a time.
    random_state : int or None, default=0
        Seed of random sets and classifiers.
    verbose : int, default=1
        Progress bars are shown unless this is 0.

    Returns
    -------
    connectome : Connectome
        Scores, and effects, are 2 ITCAV − 1, in [−1, 1]: a direction without any meaning has 0 in
        expectation. There are no contributions (NaN).

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit.
    """
    random_images = check_images(random_images)
    if len(random_images) < 2:
        raise ValueError("random_images must be at least 2, which classifiers learn from, not 1")
    check_integer("random_sets", random_sets, 2)
    check_integer("crops", crops, 0)
    check_fraction("level", level)
    check_type("concepts", concepts, Mapping, "a dict of SegmentConcepts", "call segment_concepts")
    if not concepts:
        raise ValueError("concepts must hold at least one layer: call segment_concepts")
    given = list(concepts.values())
    layers = tuple(one.layer for one in given)
    images = given[-1].segments.images
    rng = np.random.default_rng(random_state)
    last = layers[-1]
    x = last.activations(images, batch_size)
    head = last.head.by_class(x)
    logits = head.logits(x, batch_size)
    predicted = logits.argmax(axis=1)
    ids = chosen_classes(class_ids, logits)
    edges = []
    for n, one in enumerate(given):
        cavs = _cavs(one, random_images, random_sets, rng, batch_size, verbose)
        if n + 1 < len(given):
            above = given[n + 1]
            examples = [above.pictures(q) for q in range(len(above.centres))]
            centres = above.centres
        else:
            examples = [_images_of_class(images, predicted, int(k)) for k in ids]
            centres = one.centres
        shares = [
            _shares(
                responses_above(layers, n, "centroid", centres, ids, own, batch_size),
                np.arange(len(own)),
                q,
                cavs,
            )
            for q, own in enumerate(examples)
        ]
        values = np.stack(shares, axis=-1)  # (I + 1, R, J); the last row is the random concept
        scores = 2.0 * values[:-1].mean(axis=1) - 1.0
        p = paired_p_values(values[:-1], values[-1])
        nothing = np.full(scores.shape, np.nan)
        edges.append(Edges(scores, scores, nothing, p, p <= level))
    names = check_class_names(class_names, logits.shape[1])
    settings = {"target": "centroid", "direction": "cav", "correction": "none"}
    return Connectome(
        tuple(_described(one, crops) for one in given),
        tuple(edges),
        tuple(int(k) for k in ids),
        tuple(names[k] for k in ids),
        {**settings, "level": float(level), "images": len(images)},
        layers,
    )


def _described(one: SegmentConcepts, crops: int) -> LayerConcepts:
    """Return the concepts of a layer with pictures of their segments."""
    limits = pixel_limits(one.segments.images)
    pictures = []
    for own in one.members:
        shown = as_picture(one.segments.pictures(one.index, own[:crops]), limits)
        pictures.append((255 * shown + 0.5).astype(np.uint8))
    shares = np.array([len(own) for own in one.members]) / len(one.segments.members(one.index))
    layer = one.layer
    signals = unit_rows(layer.encoding.astype(np.float64)).astype(np.float32)
    return LayerConcepts(
        str(layer.layer), layer.concept_names, signals, one.centres, shares, tuple(pictures)
    )


def _images_of_class(images: Array, predicted: Array, class_id: int) -> Array:
    """Return the last 50 of the first 100 images of a class; all images if it has none."""
    own = images[predicted == class_id][: 2 * _CLASS_IMAGES][-_CLASS_IMAGES:]
    return own if len(own) else images[:_CLASS_IMAGES]


def _cavs(
    one: SegmentConcepts,
    random_images: Array,
    random_sets: int,
    rng: np.random.Generator,
    batch_size: int,
    verbose: int,
) -> Array:
    """Return unit CAVs (I + 1, R, F) of each concept, and of a random one, in flat features."""
    first = one.layer.split.input_to_latent_model
    size = min(50, len(random_images))

    def flat(pictures: Array) -> Array:
        x = compute_activations(first, pictures, batch_size)
        return x.reshape(len(x), -1)

    def random_set() -> Array:
        return flat(random_images[rng.choice(len(random_images), size, replace=False)])

    concepts = [flat(one.pictures(c)) for c in range(len(one.centres))]
    cavs: list[list[Array]] = [[] for _ in range(len(concepts) + 1)]
    rounds = progress(
        range(random_sets), random_sets, f"CAVs of {one.layer.layer}", verbose, "random set"
    )
    for _ in rounds:
        negatives = random_set()
        for own, positives in zip(cavs, [*concepts, random_set()], strict=True):
            own.append(_normal(positives, negatives, int(rng.integers(2**31))))
    return unit_rows(np.array(cavs, np.float32))


def _normal(positives: Array, negatives: Array, seed: int) -> Array:
    """Return the normal of a linear classifier, which points to the positives."""
    x = np.concatenate([positives, negatives])
    y = np.repeat([1, 0], [len(positives), len(negatives)])
    if len(positives) > 1:
        x, _, y, _ = train_test_split(x, y, test_size=_HELD_OUT, stratify=y, random_state=seed)
    classifier = SGDClassifier(alpha=_ALPHA, max_iter=1000, tol=1e-3, random_state=seed)
    return np.asarray(classifier.fit(x, y).coef_[0], np.float32)


def _shares(responses: Responses, indices: Array, q: int, cavs: Array) -> Array:
    """Return the share of the examples in which a step along each CAV (…, F) raises reading q."""
    gradients = responses.gradients(indices, q)
    slopes = np.einsum("nf,crf->crn", gradients.reshape(len(gradients), -1), cavs, optimize=True)
    return np.asarray((slopes > 0).mean(axis=-1))


def paired_p_values(shares: Array, of_random: Array) -> Array:
    """Return p of paired t-tests of shares (I, R, J) with those of a random concept (R, J)."""
    differences = shares - of_random
    # Shares are quotients of whole numbers: what is less than this is rounding.
    differences[np.abs(differences) < _ROUNDING] = 0.0
    constant = np.ptp(differences, axis=1) < _ROUNDING
    with np.errstate(divide="ignore", invalid="ignore"):
        p = np.asarray(stats.ttest_1samp(np.where(constant[:, None], np.nan, differences), 0.0,
                                         axis=1).pvalue)  # fmt: skip
    # The same difference for every random set: none at all, or one without any doubt.
    return np.where(constant, np.where(differences[:, 0] == 0, 1.0, 0.0), p)
