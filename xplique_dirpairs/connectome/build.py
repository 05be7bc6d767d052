"""`build_connectome`: which concepts make those of the next layer, and the classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.connectome.layers import (
    ConnectomeInterrupted,
    Survey,
    given_layers,
    learn_layers,
    survey,
)
from xplique_dirpairs.connectome.responses import (
    TARGETS,
    Responses,
    chosen_classes,
    responses_above,
)
from xplique_dirpairs.connectome.result import Connectome, Edges, LayerConcepts
from xplique_dirpairs.core.batching import as_positions, slices
from xplique_dirpairs.core.linear_algebra import unit_rows
from xplique_dirpairs.core.progress import progress, warn_caller
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import (
    Names,
    check_choice,
    check_class_names,
    check_fraction,
    check_images,
    check_integer,
    check_number,
    check_seed,
    check_type,
)
from xplique_dirpairs.extractors.concept_layer import ConceptLayer
from xplique_dirpairs.metrics.significance import (
    CORRECTIONS,
    significant,
    tail_p_values,
    uniform_p_values,
)
from xplique_dirpairs.models.head import Head
from xplique_dirpairs.models.split import SplitModel, split_model
from xplique_dirpairs.sensitivity.noise_vectors import (
    balanced_sample,
    mean_difference_noise,
    noise_vectors,
    uniform_directions,
)

DIRECTIONS = ("signals", "filters")
MEASURES = ("slope", "shift")
NOISES = ("uniform", "permuted labels")
#: Number of noise directions where p is not exact.
_NOISE = 200


@dataclass(frozen=True)
class EdgeSettings:
    """How edges of a connectome are measured and tested.

    Parameters
    ----------
    target : {"coefficient", "detector", "centroid"}, default="coefficient"
        What an upper concept is read by, averaged over positions: its coefficient; the projection
        on its filter; or, as in the paper, minus the distance of the mean features from its centre.
    direction : {"signals", "filters"}, default="signals"
        Along what a lower concept is moved: its signal vector (encoding direction), or its filter.
    measure : {"slope", "shift"}, default="slope"
        By the gradient; or by a step of one spread of the lower concept, which also shows what a
        saturated detector does.
    exemplars : int, default=50
        Largest number of images for an upper concept or class: those that show most of the concept;
        the surest of those that are predicted as the class, or of all images if none is.
    sample : int, default=64
        Number of images, evenly spaced, in which contributions are measured.
    noise : {"uniform", "permuted labels"}, default="uniform"
        What a direction is tested against: directions that are uniform on the sphere, or, for
        slopes along signal vectors only, signal vectors estimated from permuted labels of the lower
        concept. The mean gradient over the exemplars is tested. p is exact for slopes against
        uniform directions; elsewhere it is that of 200 noise directions and the tail of their
        values.
    level : float, default=0.05
        Significance level of kept edges.
    correction : {"benjamini-hochberg", "bonferroni", "none"}, default="benjamini-hochberg"
        Correction for all edges between two layers.
    tie : float, default=1e-4
        Slopes up to this share of the gradient's length count as 0; shifts, up to this share of the
        absolute value that was read before the step.

    Raises
    ------
    ValueError
        If a value is not one of these, or out of range, or permuted labels are asked for where no
        slopes along signal vectors are tested.
    """

    target: str = "coefficient"
    direction: str = "signals"
    measure: str = "slope"
    exemplars: int = 50
    sample: int = 64
    noise: str = "uniform"
    level: float = 0.05
    correction: str = "benjamini-hochberg"
    tie: float = 1e-4

    def __post_init__(self) -> None:
        check_choice("target", self.target, TARGETS)
        check_choice("direction", self.direction, DIRECTIONS)
        check_choice("measure", self.measure, MEASURES)
        check_choice("noise", self.noise, NOISES)
        check_choice("correction", self.correction, CORRECTIONS)
        for name in ("exemplars", "sample"):
            check_integer(name, getattr(self, name))
            object.__setattr__(self, name, int(getattr(self, name)))  # JSON takes no numpy integers
        check_fraction("level", self.level)
        check_number("tie", self.tie, minimum=0.0)
        for name in ("level", "tie"):
            object.__setattr__(self, name, float(getattr(self, name)))
        if self.noise != "uniform" and (self.measure, self.direction) != ("slope", "signals"):
            raise ValueError(
                "noise='permuted labels' makes signal vectors, which only slopes along signal "
                f"vectors can be compared with, not measure={self.measure!r} with direction="
                f"{self.direction!r}: use noise='uniform', or measure='slope' and "
                "direction='signals'"
            )


_DEFAULT = EdgeSettings()


def build_connectome(
    model: keras.Model,
    layers: Mapping[str, Any],
    images: ArrayLike,
    *,
    class_ids: Sequence[int] | None = None,
    class_names: Names = None,
    pictures: ArrayLike | None = None,
    settings: EdgeSettings = _DEFAULT,
    crops: int = 3,
    batch_size: int = 32,
    random_state: int | None = 0,
    verbose: int = 1,
) -> Connectome:
    """Measure which concepts of each layer make those of the next one, and which make the classes.

    An edge goes from a lower concept c to an upper concept q. With g the gradient of the reading
    r_q with respect to the features of the lower layer, summed over positions, and ŝ_c the signal
    vector of c,

        score  = share of the exemplars of q with ⟨g, ŝ_c⟩ > 0 − share with ⟨g, ŝ_c⟩ < 0
        effect = mean over the exemplars of ⟨g, ŝ_c⟩ · spread of c / spread of q

    where a spread is the standard deviation over images of what lies along ŝ_c, and of r_q. The
    form is that of the visual concept connectome (Kowal et al., "Visual Concept Connectome (VCC)",
    2024), which asks how the distance from the upper concept's centre changes along a CAV; that the
    upper concept's own reading is moved along the lower concept's signal vector, that effects have
    a size, and the test are defined by this project.

    Memory does not grow with the number of images beyond the images themselves and one number for
    each image and concept: activations are computed in batches, and at most 256 MB are kept.

    Parameters
    ----------
    model : keras.Model
        The whole classifier.
    layers : mapping of str to object
        Layer name → its concepts, in the order in which images pass the layers: a number of
        concepts, for which direction pairs are learned from at most 100,000 positions; or anything
        that `ConceptLayer.of` takes beside a split.
    images : array-like of shape (N, height, width, C)
        N ≥ 2 images, preprocessed for the network: of one class, or of any.
    class_ids : sequence of int, optional
        Classes to which there are edges. None: those that the images are predicted as, at most the
        20 most frequent ones.
    class_names : sequence of K str or dict of int to str, optional
        Names of the classes.
    pictures : array-like of shape (N, height, width, 1 or 3), optional
        What crops are cut from, such as the pixels before they were preprocessed. Integers are
        shown with 0 as black and 255 as white. None: the images.
    settings : EdgeSettings, default=EdgeSettings()
        How edges are measured and tested.
    crops : int, default=3
        Number of image crops kept for each concept.
    batch_size : int, default=32
        Number of images that pass through the network at a time.
    random_state : int or None, default=0
        Seed of the learning, of samples and of noise.
    verbose : int, default=1
        Progress bars are shown unless this is 0.

    Returns
    -------
    connectome : Connectome

    Warns
    -----
    UserWarning
        If slopes of an upper concept are 0 along every direction, as those of K-Means are.

    Raises
    ------
    TypeError
        If ``model`` is no Keras model, or concepts are of no known kind.
    ValueError
        If layers are in another order, a branch bypasses one, or another argument does not fit.
    KeyboardInterrupt
        On Ctrl-C. What has been learned is in its attribute ``layers``: give it as ``layers`` to go
        on. (A layer that was being learned begins again.)
    """
    images = check_images(images)
    if len(images) < 2:
        raise ValueError("images must be at least 2, of which spreads are taken, not 1")
    check_integer("batch_size", batch_size)
    check_integer("crops", crops, 0)
    shown = images if pictures is None else np.asarray(pictures)
    if shown.ndim != 4 or shown.shape[:3] != images.shape[:3]:
        raise ValueError(
            f"pictures must be of the images, {images.shape[:3]} and channels, not {shown.shape}"
        )
    check_type("settings", settings, EdgeSettings, "EdgeSettings")
    check_seed(random_state)
    given = given_layers(model, layers, class_names)
    _check_classes(split_model(model, next(reversed(given))), class_ids, class_names)
    try:
        fitted = learn_layers(
            model, given, images, class_names=class_names, batch_size=batch_size,
            random_state=random_state, verbose=verbose,
        )  # fmt: skip
        return _measured(
            fitted, images, shown, class_ids, settings, crops, batch_size, random_state, verbose
        )
    except KeyboardInterrupt:
        raise ConnectomeInterrupted(given) from None


def _check_classes(split: SplitModel, class_ids: Sequence[int] | None, class_names: Names) -> None:
    """Raise a ValueError unless classes and names are those of the network, if it says how many."""
    count = Head(split.latent_to_logit_model).number_of_classes
    if count is not None:
        check_class_names(class_names, count)
        if class_ids is not None:
            chosen_classes(class_ids, np.zeros((1, count)))


def _measured(
    fitted: tuple[ConceptLayer, ...],
    images: Array,
    shown: Array,
    class_ids: Sequence[int] | None,
    settings: EdgeSettings,
    crops: int,
    batch_size: int,
    random_state: int | None,
    verbose: int,
) -> Connectome:
    """Read the concepts of all layers, and measure the edges between them."""
    seeds = iter(check_seed(random_state).generate_state(2 * len(fitted) + 3))
    surveys = [
        survey(
            layer, images, shown, is_last=layer is fitted[-1], crops=crops, batch_size=batch_size,
            random_state=int(next(seeds)), verbose=verbose,
        )
        for layer in fitted
    ]  # fmt: skip
    last, logits = fitted[-1], surveys[-1].logits
    ids = chosen_classes(class_ids, logits)
    edges = []
    for n, (lower, own) in enumerate(zip(fitted, surveys, strict=True)):
        above = surveys[min(n + 1, len(fitted) - 1)]
        if lower is last:
            title = f"{lower.layer} to classes"
            exemplars = _class_exemplars(logits, ids, settings.exemplars)
        else:
            title = f"{lower.layer} to {fitted[n + 1].layer}"
            concepts = range(fitted[n + 1].number_of_concepts)
            exemplars = [above.exemplars(q, settings.exemplars) for q in concepts]
        responses = responses_above(
            fitted, n, settings.target, above.centres, ids, images, batch_size
        )
        rng = np.random.default_rng(int(next(seeds)))
        edges.append(_edges(lower, own, responses, exemplars, settings, rng, title, verbose))
    names = last.names_of_classes(logits.shape[1])
    return Connectome(
        tuple(_layer_concepts(layer, own) for layer, own in zip(fitted, surveys, strict=True)),
        tuple(edges),
        tuple(int(k) for k in ids),
        tuple(names[k] for k in ids),
        {**vars(settings), "images": len(images)},
        fitted,
    )


def _layer_concepts(layer: ConceptLayer, own: Survey) -> LayerConcepts:
    signals = unit_rows(layer.encoding.astype(np.float64)).astype(np.float32)
    shares = own.shown.mean(axis=0)
    return LayerConcepts(
        str(layer.layer), layer.concept_names, signals, own.centres, shares, own.crops
    )


def _class_exemplars(logits: Array, ids: Array, count: int) -> list[Array]:
    """Return the images predicted as each class, the surest first; others if there are none."""
    predicted, chosen = logits.argmax(axis=1), []
    margins = logits - logits.mean(axis=1, keepdims=True)
    for k in ids:
        own = np.flatnonzero(predicted == k)
        own = own if len(own) else np.arange(len(logits))
        chosen.append(own[np.argsort(-margins[own, k], kind="stable")[:count]])
    return chosen


# ------------------------------------------------------------ the edges between two layers


def _edges(
    lower: ConceptLayer,
    own: Survey,
    responses: Responses,
    exemplars: list[Array],
    settings: EdgeSettings,
    rng: np.random.Generator,
    title: str,
    verbose: int,
) -> Edges:
    """Measure and test the edges from the concepts of a layer to all upper readings."""
    signals = unit_rows(lower.encoding.astype(np.float64))
    # How far one unit of a coefficient moves the features along the signal vector.
    lengths = (lower.bank * signals).sum(axis=1)
    spreads = own.spreads * np.abs(lengths)
    directions = signals
    if settings.direction == "filters":
        rows = lower.bank if lower.decoding is None else lower.decoding
        directions = unit_rows(rows.astype(np.float64))
    shape = len(signals), len(exemplars)
    chosen = np.unique(np.linspace(0, len(own.means) - 1, settings.sample).astype(int))
    means = responses.readings(responses.activations(chosen))
    upper_spreads = _spreads(responses, len(own.means), means.shape[1])
    gradients = np.full((shape[1], lower.channels), np.nan)
    scores, contributions = np.full(shape, np.nan), np.full(shape, np.nan)
    for q in progress(range(shape[1]), shape[1], title, verbose, "concept"):
        contributions[:, q] = _contributions(lower, responses, chosen, q)
        if len(exemplars[q]):
            g = responses.gradients(exemplars[q], q)
            g = g.reshape(len(g), -1, g.shape[-1]).sum(axis=1, dtype=np.float64)
            gradients[q] = g.mean(axis=0)
            scores[:, q] = _signs(g @ directions.T, g, settings.tie).mean(axis=0)
    slopes = (gradients @ directions.T).T
    if settings.measure == "slope":
        _warn_of_flat(gradients, title)
    if settings.measure == "shift":
        scores, slopes, noise = _shifts(
            responses, directions, spreads, exemplars, settings, rng, verbose
        )
        p = tail_or_nan(slopes, noise)
    elif settings.noise == "uniform":
        cosines = unit_rows(directions) @ unit_rows(gradients).T
        p = uniform_p_values(cosines, lower.channels)
    else:
        p = _permuted(own, lower, slopes, gradients, rng)
    p[np.isnan(scores)] = np.nan
    with np.errstate(divide="ignore", invalid="ignore"):
        effects = slopes * spreads[:, None] / upper_spreads
        contributions = contributions / upper_spreads
    effects[~np.isfinite(effects)] = np.nan
    contributions[~np.isfinite(contributions)] = np.nan
    kept = significant(p, settings.level, settings.correction)
    return Edges(scores, effects, contributions, p, kept)


def _warn_of_flat(gradients: Array, title: str) -> None:
    """Warn if what is read above does not change with the features at all, by gradients (J, D)."""
    flat = np.flatnonzero((gradients == 0).all(axis=1))
    if len(flat):
        warn_caller(
            f"{title}: the slopes of {len(flat)} of {len(gradients)} readings are 0 along every "
            "direction, so that they have no edges. Coefficients of K-Means are steps, which have "
            "no slope, and saturated detectors have none either: use EdgeSettings(measure='shift')"
            ", or target='detector'",
            UserWarning,
        )


def _signs(slopes: Array, gradients: Array, tie: float) -> Array:
    """Return 1, 0 or −1 for slopes (n, I) along unit directions of gradients (n, D)."""
    least = tie * np.linalg.norm(gradients, axis=1, keepdims=True)
    return np.asarray((slopes > least).astype(float) - (slopes < -least))


def _spreads(responses: Responses, count: int, width: int) -> Array:
    """Return the standard deviation of the upper readings over all images, (J,), in one pass."""
    total, squares = np.zeros(width), np.zeros(width)
    first: Array | None = None
    for part in slices(count, 256):
        values = responses.readings(responses.activations(np.arange(part.start, part.stop)))
        first = values[0].astype(np.float64) if first is None else first
        shifted = values - first  # so that squares do not lose digits
        total += shifted.sum(axis=0)
        squares += np.square(shifted).sum(axis=0)
    return np.sqrt(np.maximum(squares / count - np.square(total / count), 0.0))


def _contributions(lower: ConceptLayer, responses: Responses, chosen: Array, q: int) -> Array:
    """Return what each lower concept adds to reading q, to first order, mean over images (I,).

    It is Σ_p ⟨∂ r_q/∂x_p, u_{c,p} b_c⟩, with the coefficient u and the bank row b of concept c.
    """
    total = np.zeros(lower.number_of_concepts)
    for part in slices(len(chosen), 16):
        g = as_positions(responses.gradients(chosen[part], q))
        u = as_positions(lower.coefficients(responses.activations(chosen[part])))
        total += (u * (g @ lower.bank.T)).sum(axis=0, dtype=np.float64)
    return total / len(chosen)


def _shifts(
    responses: Responses,
    directions: Array,
    spreads: Array,
    exemplars: list[Array],
    settings: EdgeSettings,
    rng: np.random.Generator,
    verbose: int,
) -> tuple[Array, Array, Array]:
    """Return scores and slopes (I, J) of steps of one spread, and slopes of noise (n, J)."""
    steps = np.where(spreads > 0, spreads, 1.0)
    noise = uniform_directions(_NOISE, directions.shape[1], rng)
    rows = np.concatenate([directions * steps[:, None], noise * np.median(steps)])
    steps = np.concatenate([steps, np.full(_NOISE, np.median(steps))])
    images = np.unique(np.concatenate(exemplars)) if exemplars else np.zeros(0, int)
    counts = np.array([max(1, len(own)) for own in exemplars])
    sums, signs = np.zeros((2, len(rows), len(exemplars)))
    members = np.array([np.isin(images, own) for own in exemplars]).T.astype(float)
    parts = list(slices(len(images), 16))
    for part in progress(parts, len(parts), "shifts", verbose, "batch"):
        x = responses.activations(images[part])
        before = responses.readings(x)
        for d, row in enumerate(rows):
            change = responses.readings((x + row).astype(np.float32)) - before
            least = settings.tie * np.abs(before)
            sums[d] += (members[part] * change).sum(axis=0)
            signs[d] += (members[part] * ((change > least) * 1.0 - (change < -least))).sum(axis=0)
    slopes = sums / counts / steps[:, None]
    scores = signs / counts
    empty = np.array([not len(own) for own in exemplars])
    slopes[:, empty] = scores[:, empty] = np.nan
    return scores[: len(directions)], slopes[: len(directions)], slopes[len(directions) :]


def tail_or_nan(slopes: Array, noise: Array) -> Array:
    """Return p-values of slopes (I, J) among those of noise (n, J); NaN without exemplars."""
    p = np.full(slopes.shape, np.nan)
    known = np.isfinite(slopes).all(axis=0)
    p[:, known] = tail_p_values(slopes[:, known], noise[:, known])
    return p


def _permuted(
    own: Survey, lower: ConceptLayer, slopes: Array, gradients: Array, rng: np.random.Generator
) -> Array:
    """Return p-values of slopes (I, J) against signal vectors from permuted labels."""
    detected, p = own.detected(lower), np.full(slopes.shape, np.nan)
    for c in range(len(slopes)):
        sample = balanced_sample(own.sample, detected[:, c], 1000, rng)
        if len(sample):
            noise = np.concatenate(
                list(noise_vectors(sample, _NOISE, _NOISE, mean_difference_noise, rng))
            )
            p[c] = tail_or_nan(slopes[[c]], noise @ gradients.T)[0]
    return p
