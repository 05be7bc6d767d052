"""`compare`: measure several concept extractors on the same network and the same images."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.exceptions import ConvergenceWarning

from xplique_dirpairs.comparison.blend import Blends
from xplique_dirpairs.comparison.extractor_result import ExtractorResult
from xplique_dirpairs.comparison.inputs import (
    Settings,
    Subject,
    check_extractors,
    check_same_layer,
    checksum,
    controls_for,
    find_split,
    images_to_fit,
)
from xplique_dirpairs.comparison.result import Comparison
from xplique_dirpairs.core.batching import as_positions, by_position
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import as_inputs, check_integer
from xplique_dirpairs.data.images import compute_activations, without_extra_tokens
from xplique_dirpairs.extractors.concept_layer import ConceptLayer, Split
from xplique_dirpairs.extractors.kinds import (
    Extractor,
    fit_extractor,
    is_fitted,
    problems_of_fit,
)
from xplique_dirpairs.learning.history import LearningWarning
from xplique_dirpairs.metrics.dictionary import dictionary_values
from xplique_dirpairs.metrics.fidelity import fidelity
from xplique_dirpairs.metrics.importance import SobolIndices, sobol_designs, sobol_indices
from xplique_dirpairs.metrics.manipulation import Reading, outcomes
from xplique_dirpairs.models.split import SplitModel

logger = logging.getLogger("xplique_dirpairs")

#: Approximate number of positions from which dictionary metrics and mean residuals are estimated.
_SAMPLED_POSITIONS = 5000
#: Warnings of a fit that are shown below the table.
_FIT_WARNINGS = (LearningWarning, ConvergenceWarning)


def compare(
    extractors: Mapping[str, Any],
    images: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    split: Split | None = None,
    fit_images: ArrayLike | None = None,
    controls: bool = True,
    importance_images: int = 20,
    nb_design: int = 16,
    batch_size: int = 64,
    random_state: int = 0,
    verbose: int = 1,
) -> Comparison:
    """Measure several concept extractors on the same images at the same layer of a network.

    Five things are measured: the class probability as concepts are switched off or on one after the
    other (deletion, insertion); the predictions that remain with all concepts off; how well the
    concepts reconstruct features and predictions; properties of their directions and coefficients;
    and whether the concepts of blends of two images are those of both (as `blend_separation` does,
    with up to 100 pairs). ``print(comparison)`` shows a table for each.

    Parameters
    ----------
    extractors : dict of str to object
        Extractors by name. Each is anything that `ConceptLayer.of` accepts, such as a CRAFT
        extractor, a factorizer of Xplique or of this package, or `DirectionPairs`. Those that are
        not fitted are fitted on ``fit_images``, and stay fitted.
    images : array-like of shape (N, height, width, channels)
        Images to measure on; they should differ from those on which the extractors were fitted.
    labels : array-like of shape (N,) or (N, K), optional
        True classes, as indices or as one-hot rows of K classes. The score of the true class is
        measured in each image, and the metric "completeness" (accuracy that the reconstruction
        keeps) is added. For a network with independent sigmoid outputs, rows may hold several 1s:
        the score of the likeliest of these classes is measured, and completeness is measured only
        if labels are rows. None: the score of the predicted class is measured, without
        completeness.
    split : SplitModel or (keras.Model, keras.Model), optional
        The two halves of the network, from `split_model`. None: the halves that the first extractor
        with any was built on.
    fit_images : array-like of shape (M, height, width, channels), optional
        Images on which the controls and the extractors that are not fitted are fitted. None: the
        images on which the CRAFT extractors were fitted, if these are the same for all of them;
        otherwise ``controls`` must be False. Extractors that are not fitted need ``fit_images``.
    controls : bool, default=True
        Whether to measure two baselines as well: `RandomFactorizer` (random directions) and
        `NoLearningFactorizer` (direction pairs from a clustering, without training), with the
        number of concepts that most extractors have.
    importance_images : int, default=20
        Number of images, evenly spaced among ``images``, over which the concepts' total Sobol
        indices (as in CRAFT: shares of the variance of the class's logit) are averaged.
    nb_design : int, default=16
        Number n ≥ 2 of random masks of the concepts in each block of the Sobol design. For an
        extractor with I concepts, Sobol indices need n · (I + 2) passes through the second half of
        the network for each of the ``importance_images``.
    batch_size : int, default=64
        Number of images in a batch.
    random_state : int, default=0
        Seed of the controls, of the subsets of concepts for μ-fidelity and of the random masks.
    verbose : int, default=1
        0 prints nothing; any other value prints a line for each extractor.

    Returns
    -------
    comparison : Comparison
        Measurements, with methods for tables and figures. An extractor that fails has no result;
        ``comparison.errors`` holds the reason. After Ctrl-C, the comparison holds the results of
        the extractors that were measured before.

    Raises
    ------
    TypeError
        If ``extractors`` is not a dictionary of names to extractors.
    ValueError
        If there are no extractors; if extractors belong to different layers; if ``split`` or
        ``fit_images`` is missing and needed; if an argument is out of range; or if the images,
        labels and halves do not match.

    Notes
    -----
    The residual x − decode(encode(x)) of features x is kept when concepts are switched off, so that
    every extractor starts from the network's own output. Changed features are clipped to the range
    that the layer has in ``images`` and ``fit_images``. Reconstructions are decode(encode(x)) plus
    the mean of the residual over ``fit_images`` (over ``images`` if there are none), so that every
    extractor has a constant term, whether its decoder has one or not.
    """
    compared = check_extractors(extractors)
    check_integer("importance_images", importance_images)
    check_integer("nb_design", nb_design, 2)
    check_integer("batch_size", batch_size)
    check_integer("random_state", random_state, 0)
    halves, images = find_split(extractors.values(), split), as_inputs(images)
    subject = Subject.of(halves, images, labels, batch_size)
    check_same_layer(extractors, images[:2], subject.activations[:2])
    to_fit = images_to_fit(compared, fit_images, controls)
    activations = [subject.activations]
    if to_fit is not None:
        activations.append(compute_activations(halves.input_to_latent_model, to_fit, batch_size))
    if controls:
        compared |= controls_for(compared, random_state)
    settings = Settings(
        shape=tuple(int(length) for length in subject.activations.shape[1:]),
        logits=subject.logits,
        limits=(min(float(x.min()) for x in activations), max(float(x.max()) for x in activations)),
        fit_images=checksum(to_fit),
        importance_images=int(min(importance_images, len(images))),
        nb_design=int(nb_design),
        random_state=int(random_state),
    )
    blends = Blends.of(halves, images, subject.activations, batch_size, random_state)
    measurer = _Measurer(halves, subject, settings, to_fit, activations[-1], blends)
    results: dict[str, ExtractorResult] = {}
    errors: dict[str, str] = {}
    missing: tuple[str, ...] = ()
    for number, (name, extractor) in enumerate(compared.items(), 1):
        _tell(verbose, f"[{number}/{len(compared)}] {name}: ", end="")
        try:
            results[name] = measurer.measure(name, extractor)
        except KeyboardInterrupt:
            _tell(verbose, "interrupted")
            missing = tuple(compared)[number - 1 :]
            break
        except Exception as error:  # Whatever makes one extractor fail, the others are measured.
            errors[name] = f"{type(error).__name__}: {error}"
            _tell(verbose, "failed")
            logger.warning("%s has no result: %s", name, errors[name])
        else:
            times = results[name].seconds.items()
            _tell(verbose, ", ".join(f"{step} {seconds:.1f} s" for step, seconds in times))
    interrupted = bool(missing)
    return Comparison(results, errors, images, subject.class_ids, interrupted, settings, missing)


def _tell(verbose: int, text: str, end: str = "\n") -> None:
    """Print a text unless ``verbose`` is 0."""
    if verbose:
        print(text, end=end, flush=True)


@dataclass(frozen=True, eq=False)
class _Measurer:
    """Measures one extractor after the other on the same images.

    ``fit_activations`` are the activations of ``fit_images``, or of the measured images if there
    are no ``fit_images``; ``blends`` is None for a single image.
    """

    split: SplitModel
    subject: Subject
    settings: Settings
    fit_images: Array | None
    fit_activations: Array
    blends: Blends | None

    def measure(self, name: str, extractor: Extractor) -> ExtractorResult:
        """Fit the extractor if it is not fitted, measure it, and return the result."""
        seconds: dict[str, float] = {}
        with _warnings_of_fit() as remarks:
            if is_fitted(extractor):
                remarks += problems_of_fit(extractor)
            elif self.fit_images is None:
                raise ValueError("the extractor is not fitted: fit it, or give fit_images")
            else:
                with _timed(seconds, "fit"):
                    fit_extractor(extractor, self.fit_images, self.fit_activations, self.split.head)
            with _timed(seconds, "read"):
                concepts = ConceptLayer.of(extractor, self.split)
                reading = self.subject.reading(concepts, self.settings.limits)
                shown = reading.coefficients
                if concepts.encode_shown is not concepts.encode:
                    shown = by_position(concepts.encode_shown, reading.activations)
            with _timed(seconds, "measure"):
                rebuilt = concepts.reconstructions(reading.coefficients)
                measured = fidelity(
                    reading,
                    reconstructions=rebuilt + self._mean_residual(concepts),
                    labels=self.subject.true_classes,
                    random_state=self.settings.random_state,
                )
                measured.values.update(self._dictionary_values(concepts, reading))
                if self.blends is not None:
                    measured.values.update(self.blends.values(concepts, reading.coefficients))
                importances = self._importances(reading)
        return ExtractorResult(
            name,
            concepts.encoding,
            concepts.decoding,
            without_extra_tokens(shown, self.split.extra_tokens),
            measured.values,
            measured,
            importances,
            seconds,
            tuple(dict.fromkeys(remarks)),
        )

    def _mean_residual(self, concepts: ConceptLayer) -> Array:
        """Return the mean of x − decode(encode(x)) over sampled positions, (D,)."""
        x = _sampled(as_positions(self.fit_activations))
        residual = x - concepts.reconstructions(concepts.coefficients(x))
        return np.asarray(residual.mean(axis=0, dtype=np.float64), np.float32)

    def _dictionary_values(self, concepts: ConceptLayer, reading: Reading) -> dict[str, Array]:
        """Return the dictionary metrics of the concepts, by key."""
        rows = self.subject.head.class_rows
        return dictionary_values(
            concepts.encoding,
            concepts.bank,
            _sampled(as_positions(reading.coefficients)),
            _sampled(as_positions(reading.activations)) - concepts.constant,
            head_rows=None if rows is None else rows[np.unique(reading.class_ids)],
            filters=concepts.decoding,
        )

    def _importances(self, reading: Reading) -> SobolIndices:
        """Return the means of Sobol indices over some images, with their standard errors, (I,)."""
        count, settings = len(reading.activations), self.settings
        chosen = np.linspace(0, count - 1, settings.importance_images).round().astype(int)
        designs = sobol_designs(
            reading.number_of_concepts, settings.nb_design, settings.random_state
        )
        indices = []
        for image, masks in zip(chosen, designs, strict=False):
            scores = outcomes(reading.part(slice(image, image + 1)), masks).logits[0]
            indices.append(vars(sobol_indices(scores, masks)))
        by_image = {name: np.array([each[name] for each in indices]) for name in indices[0]}
        errors = ("first_error", "total_error")
        means = {name: values.mean(axis=0) for name, values in by_image.items()}
        means |= {name: _error_of_mean(by_image[name]) for name in errors}
        return SobolIndices(**means)


def _sampled(positions: Array) -> Array:
    """Return evenly spaced rows of positions (P, D), (S, D): about `_SAMPLED_POSITIONS`."""
    return positions[:: max(1, len(positions) // _SAMPLED_POSITIONS)]


def _error_of_mean(errors: Array) -> Array:
    """Return the standard error of a mean of values with these errors (n, I), (I,)."""
    return np.asarray(np.sqrt(np.mean(np.square(errors), axis=0) / len(errors)))


@contextmanager
def _timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    """Store the duration of the context under the name of the step."""
    start = time.perf_counter()
    yield
    seconds[step] = time.perf_counter() - start


@contextmanager
def _warnings_of_fit() -> Iterator[list[str]]:
    """Collect the messages of `_FIT_WARNINGS`, and pass on all other warnings."""
    messages: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        for category in _FIT_WARNINGS:
            warnings.simplefilter("always", category)
        yield messages
    for warning in caught:
        if issubclass(warning.category, _FIT_WARNINGS):
            messages.append(str(warning.message))
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
