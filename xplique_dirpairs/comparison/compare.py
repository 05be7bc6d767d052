"""`compare`: several concept extractors on one network and one set of images, in one table."""

from __future__ import annotations

import functools
import logging
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.exceptions import ConvergenceWarning
from xplique.concepts.factorizer import ConceptFactorizer

from xplique_dirpairs.comparison.extractor_result import ExtractorResult
from xplique_dirpairs.comparison.inputs import (
    check_same_layer,
    checked_extractors,
    controls_for,
    images_to_fit,
    network_halves,
    scored_classes,
)
from xplique_dirpairs.comparison.result import Comparison
from xplique_dirpairs.comparison.settings import Settings, checksum
from xplique_dirpairs.core.batching import as_positions
from xplique_dirpairs.core.validation import as_images, check_integer
from xplique_dirpairs.data.activations import compute_activations
from xplique_dirpairs.extractors.reader import (
    ConceptReader,
    Extractor,
    factorizer_of,
    is_fitted,
    reader_of,
)
from xplique_dirpairs.factorizers.direction_pairs import DirectionPairsFactorizer
from xplique_dirpairs.learning.history import LearningWarning
from xplique_dirpairs.metrics.dictionary import dictionary_values
from xplique_dirpairs.metrics.fidelity import fidelity
from xplique_dirpairs.metrics.importance import SobolIndices, sobol_designs, sobol_indices
from xplique_dirpairs.metrics.manipulation import Reading, outcomes
from xplique_dirpairs.models.head import Head
from xplique_dirpairs.pairs import DirectionPairs

logger = logging.getLogger("xplique_dirpairs")

#: Positions that dictionary metrics and the mean residual are of, about.
_SOME_POSITIONS = 5000


def compare(
    extractors: Mapping[str, Extractor | DirectionPairs],
    images: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    fit_images: ArrayLike | None = None,
    input_to_latent_model: keras.Model | None = None,
    latent_to_logit_model: keras.Model | None = None,
    ends_in: str | None = None,
    multilabel: bool | None = None,
    controls: bool = True,
    importance_images: int = 20,
    nb_design: int = 16,
    batch_size: int = 64,
    random_state: int = 0,
    verbose: int = 1,
) -> Comparison:
    """Measure several concept extractors on the same images of the same layer of a network.

    Parameters
    ----------
    extractors
        Name → `CraftTf` (Xplique's, or a child such as `DirectionPairsTf`), holistic extractor,
        `ConceptFactorizer`, or `DirectionPairs`. Those that are not fitted are fitted here, on
        ``fit_images``, and stay fitted.
    images : (N, height, width, channels)
        To measure on: other ones than the extractors were fitted on.
    labels : (N,) or (N, K), optional
        True classes, as indices or one-hot rows: the class whose score counts, and what
        completeness is about. None: the classes the network predicts, and no completeness. Where
        outputs are independent of one another (sigmoids) rows of 0 and 1 may have several: of
        these the likeliest counts; of indices there is no completeness then.
    fit_images : (M, height, width, channels), optional
        Needed for extractors that are not fitted; the controls are fitted on them, too. None:
        the images that every `CraftTf` was fitted on, if these are the same.
    input_to_latent_model, latent_to_logit_model
        The network's halves; None: those of the first `CraftTf`.
    ends_in, multilabel
        As `Head` takes them, for a second half that does not come from `split_model`: in what its
        outputs end, and whether each is a yes or no of its own.
    controls
        Whether random directions and detectors without learning are measured, too, with as many
        concepts as most extractors have.
    importance_images
        Sobol indices are means over so many of the images, evenly spaced.
    nb_design
        n of the Sobol design: n · (I + 2) passes for each of those images.
    batch_size
        Images in one pass.
    random_state
        Seed of controls, subsets and masks.
    verbose
        0 for silence; else a line for each extractor.

    Returns
    -------
    comparison
        An extractor that fails is missing from the results, and stands with the reason in
        ``errors``. Ctrl-C keeps what is measured.

    Raises
    ------
    TypeError, ValueError
        If there is nothing to compare, extractors are of different layers, or the images, labels
        or halves do not fit.

    Notes
    -----
    What an extractor's concepts leave of the features on average, over ``fit_images``, is added to
    its reconstructions: so all have a constant part, whether their decoders have or not.
    """
    compared = checked_extractors(extractors)
    for name, value in {
        "importance_images": importance_images,
        "nb_design": nb_design,
        "batch_size": batch_size,
    }.items():
        check_integer(name, value, 2 if name == "nb_design" else 1)
    check_integer("random_state", random_state, minimum=0)
    first, second = network_halves(compared, input_to_latent_model, latent_to_logit_model)
    images, head = as_images(images), Head(second, ends_in, multilabel)
    activations = compute_activations(first, images, batch_size)
    head.check_takes(activations.shape[1:])
    check_same_layer(compared, first, images[:2], activations[:2])
    logits = head.logits(activations, batch_size)
    class_ids, true = scored_classes(labels, logits, head.is_multilabel)
    to_fit = images_to_fit(compared, fit_images, controls)
    fitted_on = None if to_fit is None else compute_activations(first, to_fit, batch_size)
    if controls:
        compared |= controls_for(compared, random_state)
    seen = [activations] if fitted_on is None else [activations, fitted_on]
    bench = _Bench(
        activations=activations,
        class_ids=class_ids,
        labels=true,
        limits=(min(float(x.min()) for x in seen), max(float(x.max()) for x in seen)),
        predict=functools.partial(head.logits, batch_size=batch_size),
        head=head,
        fit_images=to_fit,
        fitted_on=fitted_on,
        importance_images=min(importance_images, len(images)),
        nb_design=nb_design,
        random_state=random_state,
    )
    settings = Settings(
        shape=tuple(int(length) for length in activations.shape[1:]),
        logits=logits,
        limits=bench.limits,
        fit_images=checksum(to_fit),
        importance_images=int(bench.importance_images),
        nb_design=int(nb_design),
        random_state=int(random_state),
    )
    results: dict[str, ExtractorResult] = {}
    errors: dict[str, str] = {}
    for number, (name, extractor) in enumerate(compared.items(), 1):
        _say(verbose, f"[{number}/{len(compared)}] {name}: ", end="")
        try:
            results[name] = bench.measure(name, extractor)
            spent = results[name].seconds.items()
            _say(verbose, ", ".join(f"{what} {seconds:.1f} s" for what, seconds in spent))
        except KeyboardInterrupt:
            _say(verbose, "interrupted")
            missing = tuple(compared)[number - 1 :]
            return Comparison(results, errors, images, class_ids, True, settings, missing)
        except Exception as error:  # whatever one extractor meets, the others are worth having
            errors[name] = f"{type(error).__name__}: {error}"
            _say(verbose, "failed")
            logger.warning("%s has no result: %s", name, errors[name])
    return Comparison(results, errors, images, class_ids, settings=settings)


def _say(verbose: int, text: str, end: str = "\n") -> None:
    if verbose:
        print(text, end=end, flush=True)


@dataclass(frozen=True, eq=False)
class _Bench:
    """What all extractors are measured with."""

    activations: NDArray
    class_ids: NDArray
    labels: NDArray | None
    limits: tuple[float, float]
    predict: Any
    head: Head
    fit_images: NDArray | None
    fitted_on: NDArray | None
    importance_images: int
    nb_design: int
    random_state: int

    def measure(self, name: str, extractor: Extractor) -> ExtractorResult:
        """Fit it if it is not fitted, read the images with it, and measure what it reads."""
        seconds: dict[str, float] = {}
        with _remarks() as remarks:
            if is_fitted(extractor):
                remarks += _unfinished(factorizer_of(extractor))
            else:
                with _timed(seconds, "fit"):
                    self._fit(extractor)
            with _timed(seconds, "read"):
                pixels = as_positions(self.activations)
                reader = reader_of(extractor, pixels[:: max(1, len(pixels) // 64)])
                coefficients = reader.coefficients(self.activations)
                shown = coefficients
                if reader.shown is not None:
                    shown = reader.shown_coefficients(self.activations)
            with _timed(seconds, "measure"):
                reading = self._reading(reader, coefficients)
                measured = fidelity(
                    reading,
                    reconstructions=reader.reconstructions(coefficients) + self._left_over(reader),
                    labels=self.labels,
                    random_state=self.random_state,
                )
                values = measured.values | self._dictionary_values(reader, coefficients)
                importances = self._importances(reading)
        return ExtractorResult(
            name,
            reader.encoding,
            reader.decoding,
            shown,
            values,
            measured,
            importances,
            seconds,
            tuple(dict.fromkeys(remarks)),
        )

    def _fit(self, extractor: Extractor) -> None:
        if self.fit_images is None or self.fitted_on is None:
            raise ValueError("it is not fitted, and there are no fit_images")
        if isinstance(extractor, DirectionPairsFactorizer):
            extractor.fit_maps(self.fitted_on, self.head)
        elif isinstance(extractor, ConceptFactorizer):
            if extractor.requires_positive_activations and self.fitted_on.min() < 0:
                raise ValueError(
                    f"{type(extractor).__name__} needs activations that are nowhere negative"
                )
            extractor.fit(as_positions(self.fitted_on))
        else:
            extractor.fit(self.fit_images)
        # a fit of direction pairs ends normally on Ctrl-C: what it had learned by then
        if getattr(getattr(factorizer_of(extractor), "history_", None), "interrupted", False):
            raise KeyboardInterrupt

    def _reading(self, reader: ConceptReader, coefficients: NDArray) -> Reading:
        return Reading(
            self.activations,
            coefficients,
            reader.bank,
            self.predict,
            self.class_ids,
            self.limits,
            "sigmoid" if self.head.is_multilabel else "softmax",
        )

    def _left_over(self, reader: ConceptReader) -> NDArray:
        """Mean of x − decode(encode(x)) over positions of the images of the fit, (D,)."""
        x = as_positions(self.activations if self.fitted_on is None else self.fitted_on)
        x = x[:: max(1, len(x) // _SOME_POSITIONS)]
        left = x - reader.reconstructions(reader.coefficients(x))
        return left.mean(axis=0, dtype=np.float64).astype(np.float32)

    def _dictionary_values(
        self, reader: ConceptReader, coefficients: NDArray
    ) -> dict[str, NDArray]:
        pixels, read = as_positions(self.activations), as_positions(coefficients)
        some = slice(None, None, max(1, len(pixels) // _SOME_POSITIONS))
        rows = self.head.class_rows
        return dictionary_values(
            reader.encoding,
            reader.bank,
            read[some],
            pixels[some] - reader.constant,
            head_rows=None if rows is None else rows[np.unique(self.class_ids)],
            filters=reader.decoding,
        )

    def _importances(self, reading: Reading) -> SobolIndices:
        """Means over some images, with the standard errors of the means."""
        total = len(reading.activations)
        chosen = np.linspace(0, total - 1, self.importance_images).round().astype(int)
        designs = sobol_designs(reading.number_of_concepts, self.nb_design, self.random_state)
        found = []
        for image, masks in zip(chosen, designs, strict=False):
            one = slice(image, image + 1)
            single = replace(
                reading,
                activations=reading.activations[one],
                coefficients=reading.coefficients[one],
                class_ids=reading.class_ids[one],
            )
            found.append(sobol_indices(outcomes(single, masks).logits[0], masks))
        count = len(found)
        return SobolIndices(
            np.mean([f.first for f in found], axis=0),
            np.sqrt(np.mean(np.square([f.first_error for f in found]), axis=0) / count),
            np.mean([f.total for f in found], axis=0),
            np.sqrt(np.mean(np.square([f.total_error for f in found]), axis=0) / count),
        )


@contextmanager
def _timed(seconds: dict[str, float], what: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[what] = time.perf_counter() - start


@contextmanager
def _remarks() -> Iterator[list[str]]:
    """What fits warn of, to stand under the table; other warnings are passed on."""
    remarks: list[str] = []
    kept = (LearningWarning, ConvergenceWarning)
    with warnings.catch_warnings(record=True) as caught:
        for category in kept:
            warnings.simplefilter("always", category)
        yield remarks
    for warning in caught:
        if issubclass(warning.category, kept):
            remarks.append(str(warning.message))
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )


def _unfinished(factorizer: Any) -> list[str]:
    """What a fit done before, and elsewhere, warned of there."""
    problems = getattr(getattr(factorizer, "history_", None), "problems", None)
    if problems is not None:  # of direction pairs, or an autoencoder
        return problems()
    converged = getattr(factorizer, "converged_", None)
    if converged is None and not isinstance(factorizer, ConceptFactorizer):  # CRAFT's NMF
        converged = factorizer.n_iter_ < factorizer.max_iter
    if converged is False:
        return [f"its fit was cut short after {factorizer.n_iter_} iterations"]
    return []
