"""`compare`: several concept extractors on one network and one set of images, in one table."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import keras
import numpy as np
from numpy.typing import ArrayLike, NDArray
from xplique.concepts import CraftTf
from xplique.concepts.factorizer import ConceptFactorizer

from xplique_dirpairs.activations import as_pixels, check_count, check_images, compute_activations
from xplique_dirpairs.extractors.reader import ConceptReader, is_fitted, reader_of
from xplique_dirpairs.factorizers.controls import NoLearningFactorizer, RandomFactorizer
from xplique_dirpairs.factorizers.direction_pairs import DirectionPairsFactorizer
from xplique_dirpairs.metrics.dictionary_values import dictionary_values
from xplique_dirpairs.metrics.fidelity import Fidelity, fidelity
from xplique_dirpairs.metrics.importance import SobolIndices, sobol_designs, sobol_indices
from xplique_dirpairs.metrics.manipulation import Reading, outcomes
from xplique_dirpairs.metrics.registry import METRICS, Metric
from xplique_dirpairs.metrics.summary import Summary
from xplique_dirpairs.network import Head
from xplique_dirpairs.tables import Cell, Table

logger = logging.getLogger("xplique_dirpairs")

#: Controls that stand in every table: directions that mean nothing, and detectors nobody trained.
RANDOM, NO_LEARNING = "random directions", "no learning"
#: Positions that dictionary metrics and the mean residual are of, about.
_SOME_POSITIONS = 5000


@dataclass(frozen=True, eq=False)
class ExtractorResult:
    """What was measured of one extractor.

    Attributes
    ----------
    name
    reader
        How it reads and writes features.
    values
        Key of `METRICS` → a value for every image, (N,) or (N, 2), or one figure, ().
    fidelity
        With the curves and the contributions of every image, (N, I).
    importances
        Sobol indices of the class score, each (I,), means over some of the images.
    seconds
        "fit" (if it was fitted here), "read", "measure" → wall time.
    """

    name: str
    reader: ConceptReader
    values: dict[str, NDArray]
    fidelity: Fidelity
    importances: SobolIndices
    seconds: dict[str, float]

    @cached_property
    def summaries(self) -> dict[str, Summary]:
        """Key of `METRICS` → figure with its 95 % bootstrap interval over images."""
        found = {}
        for key, values in self.values.items():
            if np.ndim(values):
                found[key] = METRICS[key].summary(values)
            else:
                found[key] = Summary(float(values), float("nan"), float("nan"), 0)
        return found


@dataclass(frozen=True, eq=False)
class Comparison:
    """Several extractors by the same measures.

    Attributes
    ----------
    results
        Name → what was measured, in the order given, the controls last.
    errors
        Name → why there is no result.
    images : (N, height, width, channels)
    class_ids : (N,)
        The class whose score counts, for each image.
    interrupted
        Whether Ctrl-C ended it: later extractors are missing.
    """

    results: dict[str, ExtractorResult]
    errors: dict[str, str]
    images: NDArray
    class_ids: NDArray
    interrupted: bool = False
    input_to_latent_model: keras.Model | None = field(default=None, repr=False)

    def table(self, kind: str | None = None) -> Table:
        """Extractors × metrics, the best of a column marked.

        Parameters
        ----------
        kind
            Metrics of one kind, as in `METRICS`: "curves", "all off", "reconstruction",
            "dictionary". None: all.

        Raises
        ------
        ValueError
            If there is no such kind.
        """
        kinds = list(dict.fromkeys(metric.kind for metric in METRICS.values()))
        if kind is not None and kind not in kinds:
            raise ValueError(f"kind must be one of {kinds}, not {kind!r}")
        metrics = [
            metric
            for metric in METRICS.values()
            if kind in (None, metric.kind)
            and any(metric.key in result.values for result in self.results.values())
        ]
        best = {metric.key: self._best(metric) for metric in metrics}
        rows = [
            [Cell(name), *(self._cell(result, metric, best[metric.key]) for metric in metrics)]
            for name, result in self.results.items()
        ]
        headers = ["extractor", *(f"{metric.name} {metric.arrow}".rstrip() for metric in metrics)]
        notes = [f"{name}: {why}" for name, why in self.errors.items()]
        caption = [
            "± is half of the 95 % bootstrap interval over images; = marks what cannot be told "
            "apart from the best of its column (95 % interval of the paired difference)."
        ]
        return Table(headers, rows, caption + notes)

    def _best(self, metric: Metric) -> str | None:
        """Name of the extractor that is best, or None where no direction is better."""
        if metric.higher_is_better is None:
            return None
        sign = 1.0 if metric.higher_is_better else -1.0
        found = {
            name: sign * result.summaries[metric.key].value
            for name, result in self.results.items()
            if metric.key in result.values and np.isfinite(result.summaries[metric.key].value)
        }
        return max(found, key=found.__getitem__) if found else None

    def _cell(self, result: ExtractorResult, metric: Metric, best: str | None) -> Cell:
        figure = result.summaries.get(metric.key)
        if figure is None or not np.isfinite(figure.value):
            return Cell("–")
        text = f"{figure.value:.3f}"
        if np.isfinite(figure.low):
            text += f" ± {(figure.high - figure.low) / 2:.3f}"
        if best is not None and result.name != best and self.is_tied(metric.key, best, result.name):
            text += " ="
        return Cell(text, best=result.name == best)

    def is_tied(self, key: str, name: str, other: str) -> bool:
        """Whether the 95 % bootstrap interval of the paired difference of two extractors holds 0.

        Of metrics with one value per image; False for others.
        """
        ours, theirs = (self.results[n].values[key] for n in (name, other))
        if np.ndim(ours) != 1 or np.ndim(theirs) != 1:
            return False
        difference = METRICS[key].summary(ours - theirs)
        return bool(difference.low <= 0.0 <= difference.high)

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()

    def __str__(self) -> str:
        return str(self.table())


def compare(
    extractors: Mapping[str, Any],
    images: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    fit_images: ArrayLike | None = None,
    input_to_latent_model: keras.Model | None = None,
    latent_to_logit_model: keras.Model | None = None,
    controls: bool = True,
    importance_images: int = 20,
    nb_design: int = 16,
    batch_size: int = 64,
    random_state: int = 0,
    verbose: int = 1,
) -> Comparison:
    """Measure several concept extractors on the same images of the same network.

    Parameters
    ----------
    extractors
        Name → `CraftTf` (Xplique's, or a child such as `DirectionPairsTf`), holistic extractor, or
        `ConceptFactorizer`. Those that are not fitted are fitted on ``fit_images``.
    images : (N, height, width, channels)
        To measure on: other ones than the extractors were fitted on.
    labels : (N,) or (N, K), optional
        True classes, as indices or one-hot rows: the class whose score counts, and what
        completeness is about. None: the classes the network predicts, and no completeness.
    fit_images : (M, height, width, channels), optional
        Needed for extractors that are not fitted; the controls are fitted on them, too. None: on
        the images of the first `CraftTf`'s own fit.
    input_to_latent_model, latent_to_logit_model
        The network's halves; None: those of the first `CraftTf`.
    controls
        Whether random directions and detectors without learning are measured, too.
    importance_images
        Sobol indices are means over so many of the images, evenly spaced.
    nb_design
        n of the Sobol design: n · (I + 2) passes for each of those images.
    batch_size
        Images in one pass.
    random_state
        Seed of controls, subsets and masks.
    verbose
        0 for silence.

    Returns
    -------
    comparison
        An extractor that fails is missing from the results, and stands with the reason in
        ``errors``. Ctrl-C keeps what is measured.

    Raises
    ------
    TypeError, ValueError
        If there is nothing to compare, or the images, labels or halves do not fit.
    """
    extractors = _checked_extractors(extractors)
    for name, value in {
        "importance_images": importance_images,
        "nb_design": nb_design,
        "batch_size": batch_size,
    }.items():
        check_count(name, value, 2 if name == "nb_design" else 1)
    first, second = _halves(extractors, input_to_latent_model, latent_to_logit_model)
    check_images(images)
    images, head = np.asarray(images), Head(second)
    activations = compute_activations(first, images, batch_size)
    predict = functools.partial(head.logits, batch_size=batch_size)
    class_ids, true = _classes(labels, predict(activations), len(images))
    to_fit = _images_to_fit(extractors, fit_images, controls)
    fitted_on = None if to_fit is None else compute_activations(first, to_fit, batch_size)
    if controls:
        extractors |= _controls(extractors, random_state)
    seen = [activations] if fitted_on is None else [activations, fitted_on]
    bench = _Bench(
        activations=activations,
        class_ids=class_ids,
        labels=true,
        limits=(min(float(x.min()) for x in seen), max(float(x.max()) for x in seen)),
        predict=predict,
        head=head,
        fit_images=to_fit,
        fitted_on=fitted_on,
        importance_images=min(importance_images, len(images)),
        nb_design=nb_design,
        random_state=random_state,
    )
    results, errors, interrupted = {}, {}, False
    bar = keras.utils.Progbar(len(extractors), unit_name="extractor", verbose=int(bool(verbose)))
    for number, (name, extractor) in enumerate(extractors.items(), 1):
        try:
            results[name] = bench.measure(name, extractor)
        except KeyboardInterrupt:
            interrupted = True
            break
        except Exception as error:
            errors[name] = f"{type(error).__name__}: {error}"
            logger.warning("%s has no result: %s", name, errors[name])
        bar.update(number)
    return Comparison(results, errors, images, class_ids, interrupted, first)


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

    def measure(self, name: str, extractor: Any) -> ExtractorResult:
        seconds = {}
        if not is_fitted(extractor):
            start = time.perf_counter()
            self._fit(extractor)
            seconds["fit"] = time.perf_counter() - start
        start = time.perf_counter()
        pixels = as_pixels(self.activations)
        reader = reader_of(extractor, pixels[:: max(1, len(pixels) // 64)])
        coefficients = reader.coefficients(self.activations)
        seconds["read"] = time.perf_counter() - start
        start = time.perf_counter()
        reading = Reading(
            self.activations,
            coefficients,
            reader.bank,
            self.predict,
            self.class_ids,
            self.limits,
            "sigmoid" if self.head.is_multilabel else "softmax",
        )
        measured = fidelity(
            reading,
            reconstructions=reader.reconstructions(coefficients) + self._left_over(reader),
            labels=self.labels,
            random_state=self.random_state,
        )
        values = measured.values | self._dictionary_values(reader, coefficients)
        importances = self._importances(reading)
        seconds["measure"] = time.perf_counter() - start
        return ExtractorResult(name, reader, values, measured, importances, seconds)

    def _dictionary_values(
        self, reader: ConceptReader, coefficients: NDArray
    ) -> dict[str, NDArray]:
        pixels, read = as_pixels(self.activations), as_pixels(coefficients)
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

    def _fit(self, extractor: Any) -> None:
        if self.fit_images is None or self.fitted_on is None:
            raise ValueError("it is not fitted, and there are no fit_images")
        if isinstance(extractor, DirectionPairsFactorizer):
            extractor.fit_maps(self.fitted_on, self.head)
        elif isinstance(extractor, ConceptFactorizer):
            extractor.fit(as_pixels(self.fitted_on))
        else:
            extractor.fit(self.fit_images)

    def _importances(self, reading: Reading) -> SobolIndices:
        """Means over some images, with the standard errors of the means."""
        total = len(reading.activations)
        chosen = np.linspace(0, total - 1, self.importance_images).round().astype(int)
        concepts = reading.number_of_concepts
        designs = sobol_designs(concepts, self.nb_design, self.random_state)
        found = []
        for image, masks in zip(chosen, designs, strict=False):
            one = Reading(
                reading.activations[image : image + 1],
                reading.coefficients[image : image + 1],
                reading.bank,
                reading.predict,
                reading.class_ids[image : image + 1],
                reading.limits,
                reading.final_activation,
            )
            found.append(sobol_indices(outcomes(one, masks).logits[0], masks))
        count = len(found)
        return SobolIndices(
            np.mean([f.first for f in found], axis=0),
            np.sqrt(np.mean(np.square([f.first_error for f in found]), axis=0) / count),
            np.mean([f.total for f in found], axis=0),
            np.sqrt(np.mean(np.square([f.total_error for f in found]), axis=0) / count),
        )


def _checked_extractors(extractors: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(extractors, Mapping):
        raise TypeError(
            f"extractors must be a dictionary, name to extractor, not {type(extractors).__name__}"
        )
    if not extractors:
        raise ValueError("there are no extractors to compare")
    taken = sorted({RANDOM, NO_LEARNING} & set(extractors))
    if taken:
        raise ValueError(f"{taken} are names of controls: name the extractors otherwise")
    for name, extractor in extractors.items():
        if not isinstance(name, str):
            raise TypeError(f"names of extractors must be strings, not {name!r}")
        known = isinstance(extractor, ConceptFactorizer) or hasattr(extractor, "factorization")
        if not known:
            raise TypeError(
                f"{name!r} must be a CraftTf, a HolisticCraftTf or a ConceptFactorizer, not "
                f"{type(extractor).__name__}"
            )
    return dict(extractors)


def _halves(
    extractors: dict[str, Any], first: keras.Model | None, second: keras.Model | None
) -> tuple[keras.Model, keras.Model]:
    if (first is None) != (second is None):
        raise ValueError("give both halves of the network, or none")
    if first is not None and second is not None:
        return first, second
    for extractor in extractors.values():
        if isinstance(extractor, CraftTf):
            return extractor.input_to_latent_model, extractor.latent_to_logit_model
    raise ValueError(
        "none of the extractors is a CraftTf that knows the network: give input_to_latent_model "
        "and latent_to_logit_model, from split_model(model, layer)"
    )


def _classes(
    labels: ArrayLike | None, logits: NDArray, images: int
) -> tuple[NDArray, NDArray | None]:
    """The class whose score counts for each image, and the true classes if there are any."""
    if labels is None:
        return logits.argmax(axis=1), None
    classes = np.asarray(labels)
    if classes.ndim == 2 and classes.shape == logits.shape:
        classes = classes.argmax(axis=1)
    if classes.shape != (images,) or not np.issubdtype(classes.dtype, np.integer):
        raise ValueError(
            f"labels must be class indices ({images},) or one-hot rows {logits.shape}, not "
            f"{classes.dtype} of shape {classes.shape}"
        )
    if classes.min() < 0 or classes.max() >= logits.shape[1]:
        raise ValueError(
            f"labels must be classes 0 … {logits.shape[1] - 1}, but go from {classes.min()} to "
            f"{classes.max()}"
        )
    return classes, classes


def _images_to_fit(
    extractors: dict[str, Any], fit_images: ArrayLike | None, controls: bool
) -> NDArray | None:
    if fit_images is not None:
        check_images(fit_images)
        return np.asarray(fit_images)
    missing = [name for name, extractor in extractors.items() if not is_fitted(extractor)]
    if missing:
        raise ValueError(f"{missing} are not fitted: fit them, or give fit_images")
    for extractor in extractors.values():
        factorization = getattr(extractor, "factorization", None)
        if isinstance(extractor, CraftTf) and factorization is not None:
            return np.asarray(factorization.inputs)
    if controls:
        raise ValueError("the controls need fit_images, or controls=False")
    return None


def _controls(extractors: dict[str, Any], random_state: int) -> dict[str, Any]:
    numbers = [extractor.number_of_concepts for extractor in extractors.values()]
    concepts = max(set(numbers), key=numbers.count)
    return {
        RANDOM: RandomFactorizer(concepts, random_state=random_state),
        NO_LEARNING: NoLearningFactorizer(concepts, random_state=random_state),
    }
