"""The list of all metrics, and the confidence interval of a metric's figure.

A metric has one row of values for every image, and a *statistic* reduces the rows to one figure:
their `mean`, or, for a quotient over the whole data set (R², completeness), the `ratio_of_means`
of two columns. The bootstrap draws images, with their whole rows.

`METRICS` lists every metric for tables, figures and docs, with the direction that is better. The
functions that compute them are elsewhere and do not know this list: they return an array with one
row per image (or one figure) under a key of `METRICS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.core.batching import chunk_size, slices
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_fraction, check_integer

#: ``statistic(samples)`` reduces axis 1, the images: (B, N, …) → (B,).
Statistic = Callable[[Array], Array]

#: A sum smaller than this, relative to its terms, is their rounding error.
_ROUNDING = 1e-12


class Summary(NamedTuple):
    """A figure with its confidence interval.

    Attributes
    ----------
    value : float
        The statistic of all defined rows; NaN if there are none, and of a ratio whose denominator
        cannot be told from 0 (see `summary`).
    low, high : float
        Percentile bootstrap interval; NaN with fewer than two defined rows.
    undefined : int
        Rows with a NaN, which were left out.
    """

    value: float
    low: float
    high: float
    undefined: int


def mean(samples: Array) -> Array:
    """Compute the mean over the images, (B, N) → (B,)."""
    return np.asarray(samples.mean(axis=1))


def ratio_of_means(samples: Array) -> Array:
    """Compute mean of the first column / mean of the second, (B, N, 2) → (B,).

    NaN where the second mean is 0 up to rounding: terms of both signs rarely cancel exactly.
    """
    above, below = np.moveaxis(samples.mean(axis=1), -1, 0)
    is_defined = np.abs(below) > _ROUNDING * np.abs(samples[..., 1]).mean(axis=1)
    ratio: Array = np.divide(above, below, out=np.full(len(above), np.nan), where=is_defined)
    return ratio


def summary(
    values: ArrayLike,
    statistic: Statistic = mean,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    random_state: int | np.random.Generator | None = 0,
) -> Summary:
    """Compute a statistic of per-image values, with its percentile bootstrap interval over images.

    B. Efron, R. Tibshirani, "An Introduction to the Bootstrap", 1993, ch. 13. The same
    ``random_state`` draws the same images for every extractor (as long as none is undefined), so
    the interval of a difference is ``summary(values - values_of_another)``.

    Parameters
    ----------
    values : array-like of shape (N,) or (N, …)
        One row per image. A row with a NaN is undefined: left out, and counted.
    statistic : callable, default=mean
        `mean`, `ratio_of_means`, or another function (B, N, …) → (B,).
    confidence : float, default=0.95
        Share of the bootstrap's values within the interval, in (0, 1).
    resamples : int, default=2000
        Number of bootstrap samples.
    random_state : int, Generator or None, default=0

    Returns
    -------
    summary : Summary

    Raises
    ------
    ValueError
        If there are no rows, values are infinite, or ``confidence`` or ``resamples`` is out of
        range.

    Notes
    -----
    A `ratio_of_means` whose denominators have both signs (a network's accuracy above chance) is
    undefined unless the interval of their mean is above 0: the ratio could have any size and sign.
    """
    rows = np.asarray(values, np.float64)
    if rows.ndim == 0 or len(rows) == 0:
        raise ValueError(f"values must have one row per image, but have shape {rows.shape}")
    if np.isinf(rows).any():
        raise ValueError(
            "values must be finite, or NaN where they are undefined; some are infinite"
        )
    check_fraction("confidence", confidence)
    check_integer("resamples", resamples)
    defined = rows[~np.isnan(rows).any(axis=tuple(range(1, rows.ndim)))]
    undefined = len(rows) - len(defined)
    if not len(defined):
        return Summary(np.nan, np.nan, np.nan, undefined)
    value = float(statistic(defined[None])[0])
    if len(defined) < 2:
        return Summary(value, np.nan, np.nan, undefined)
    if statistic is ratio_of_means and defined[:, 1].min() < 0:
        below = _bootstrap(defined[:, 1], mean, resamples, np.random.default_rng(0))
        if percentile_interval(below, confidence)[0] <= 0:
            return Summary(np.nan, np.nan, np.nan, undefined)
    drawn = _bootstrap(defined, statistic, resamples, np.random.default_rng(random_state))
    drawn = drawn[~np.isnan(drawn)]  # a ratio may be undefined on a resample
    return Summary(value, *percentile_interval(drawn, confidence), undefined)


def percentile_interval(drawn: Array, confidence: float) -> tuple[float, float]:
    """Return the ends of the middle share ``confidence`` of bootstrap values; NaN of no values."""
    check_fraction("confidence", confidence)
    if not len(drawn):
        return np.nan, np.nan
    tail = (1.0 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1.0 - tail])
    return float(low), float(high)


def nan_mean(values: Array) -> float:
    """Return the mean of the values that are not NaN; NaN if there are none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")


def _bootstrap(
    rows: Array, statistic: Statistic, resamples: int, rng: np.random.Generator
) -> Array:
    values = []
    for part in slices(resamples, chunk_size(rows.size)):
        drawn = rng.integers(len(rows), size=(part.stop - part.start, len(rows)))
        values.append(statistic(rows[drawn]))
    return np.concatenate(values)


@dataclass(frozen=True)
class Metric:
    """A metric and how its values are read.

    Attributes
    ----------
    key : str
        Key of its values in results.
    name : str
        Printed name.
    higher_is_better : bool or None
        None: neither; the metric serves to judge the others.
    description : str
        One line: definition, unit or range, and source.
    kind : str
        The table it belongs to: "curves", "all off", "reconstruction", …
    statistic : callable, default=mean
        Reduces the values per image to one figure.
    decimals : int, default=3
        Of the printed figure.
    """

    key: str
    name: str
    higher_is_better: bool | None
    description: str
    kind: str
    statistic: Statistic = mean
    decimals: int = 3

    @property
    def arrow(self) -> str:
        """↑ where higher is better, ↓ where lower is, nothing where neither is."""
        return {True: "↑", False: "↓", None: ""}[self.higher_is_better]

    @property
    def header(self) -> str:
        """The printed name with the arrow."""
        return f"{self.name} {self.arrow}".rstrip()

    def summary(self, values: ArrayLike, resamples: int = 2000) -> Summary:
        """Compute this metric's figure with its interval (see `summary`); none of a single value.

        Parameters
        ----------
        values : array-like of shape (N,), (N, 2) or ()
        resamples : int, default=2000
            Number of bootstrap samples.
        """
        if np.ndim(values) == 0:
            return Summary(float(np.asarray(values)), np.nan, np.nan, 0)
        return summary(values, self.statistic, resamples=resamples)


#: By kind and key, in the order in which tables show them: the header, in which an arrow shows the
#: direction that is better, and the description.
_DECLARED: dict[str, dict[str, tuple[str, str]]] = {
    "curves": {
        "deletion": (
            "deletion ↓",
            "Area under the class probability as concepts are switched off one after the other, "
            "the most contributing first, in [0, 1]; after Petsiuk et al. 2018 and Fel et al. 2023",
        ),
        "insertion": (
            "insertion ↑",
            "Area under the class probability, at most the intact one, as concepts are switched on "
            "from the residual alone, in [0, 1]; after Petsiuk et al. 2018 and Fel et al. 2023",
        ),
        **{
            f"p_at_{fraction}": (
                f"P@{fraction} ↓",
                f"Class probability where deletion first changed the features by {fraction} of "
                "their norm (after the last step where it never did), in [0, 1]; defined by this "
                "project",
            )
            for fraction in (0.1, 0.2, 0.3)
        },
        "mu_fidelity": (
            "μ-fidelity ↑",
            "Correlation over random subsets of concepts of their summed contributions with the "
            "drop of the class's logit without them, in [−1, 1]; Bhatt et al. 2020",
        ),
    },
    "all off": {
        "all_off_norm": (
            "all-off norm",
            "Change of the features with every concept off, as a fraction of their norm, ≥ 0; "
            "defined by this project",
        ),
        "all_off_negative_mass": (
            "all-off negative mass ↓",
            "What lies outside the layer's range with every concept off, before clipping, as a "
            "fraction of the features' mass, ≥ 0; defined by this project",
        ),
        "all_off_probability": (
            "all-off probability",
            "Probability of the class with every concept off, where insertion begins, in [0, 1]: "
            "what the residual keeps of it; defined by this project",
        ),
        "all_off_entropy": (
            "all-off entropy",
            "Entropy of the prediction with every concept off, in bits, in [0, log2 K]; "
            "defined by this project",
        ),
    },
    "reconstruction": {
        "agreement": (
            "agreement ↑",
            "Share of the images that the reconstruction without residual leaves with the class "
            "the network predicts, in [0, 1]; defined by this project",
        ),
        "kl": (
            "KL ↓",
            "Divergence of the prediction from the reconstruction without residual, KL(p ‖ p̂) in "
            "bits, ≥ 0; defined by this project",
        ),
        "logit_r2": (
            "logit R² ↑",
            "Share of the logits' variance over the images that the reconstruction without "
            "residual explains; 0 the mean, 1 perfect; defined by this project",
        ),
        "activation_r2": (
            "activation R² ↑",
            "Share of the features' variance that the reconstruction without residual explains; 0 "
            "the mean of each feature, 1 perfect; defined by this project",
        ),
        "completeness": (
            "completeness ↑",
            "Accuracy above chance from the reconstruction without residual, as a fraction of the "
            "network's own; undefined where that is not clearly above chance; Yeh et al. 2020",
        ),
    },
    "dictionary": {
        "max_coherence": (
            "coherence ↓",
            "Largest |cosine| of two encoding directions, in [0, 1]; Donoho and Huo 2001",
        ),
        "stable_rank": (
            "stable rank",
            "‖D‖_F² / ‖D‖_2² of unit encoding directions, in [1, I]; Rudelson and Vershynin 2007",
        ),
        "hoyer": (
            "Hoyer",
            "Sparsity of a position's coefficients, each times the length of its direction, in "
            "[0, 1]; Hoyer 2004",
        ),
        "l0": ("L0", "Concepts that are on at a position, in [0, I]; method section 6"),
        "dead": (
            "dead ↓",
            "Concepts whose part in the features is nowhere above 1e-3 of the strongest one's; "
            "method section 6",
        ),
        "ood": (
            "OOD ↓",
            "1 − mean cosine of an encoding direction with the nearest feature, without the "
            "constant of the decoding, in [0, 2]; Fel et al. 2025",
        ),
        "plausibility": (
            "plausibility ↑",
            "Mean over the classes of the largest cosine of their weights with an encoding "
            "direction, in [−1, 1]; Fel et al. 2025",
        ),
        "cross_talk": (
            "cross-talk ↓",
            "Mean |cosine| of filters with the encoding directions of other concepts, in [0, 1]; "
            "method section 6",
        ),
        **{
            f"stability_{directions}": (
                f"stability ({directions}) ↑",
                f"Mean |cosine| of matched {directions} directions of two seeds, over all pairs of "
                "seeds, in [0, 1]; Fel et al. 2025",
            )
            for directions in ("encoding", "decoding")
        },
    },
    "interpretability": {
        "s1": (
            "S¹ ↑",
            "Sum over the detectors of the IoU with their label on images it is not from, in "
            "[0, I]; Doumanoglou et al. 2023",
        ),
        "s2": (
            "S² ↑",
            "Sum over the labels of the best IoU of a detector labelled so, in [0, C]; "
            "Doumanoglou et al. 2023",
        ),
        "linear_or": (
            "Linear-OR ↑",
            "Sum over the labels of the IoU of all detectors labelled so together, in [0, C]; "
            "Doumanoglou et al. 2024",
        ),
        **{
            f"label_{key}": (
                f"{name} ↑",
                f"Mean over the detectors of the {definition} with regard to their label, in "
                "[0, 1]; method section 6",
            )
            for key, name, definition in (
                ("precision", "precision", "share of their pixels that are of it"),
                ("recall", "recall", "share of its pixels where they fire"),
                ("f1", "F1", "harmonic mean of precision and recall"),
                ("ap", "AP", "average precision of their maps"),
            )
        },
        "interpretable": (
            "interpretable ↑",
            "Detectors with an IoU of at least 0.04 with their label; Bau et al. 2017",
        ),
    },
}
_RATIOS = ("logit_r2", "activation_r2", "completeness")
_DECIMALS = {
    **dict.fromkeys(("s1", "s2", "linear_or"), 2),
    **dict.fromkeys(("stable_rank", "l0", "dead"), 1),
    "interpretable": 0,
}

#: All metrics by key, in the order in which tables show them.
METRICS: dict[str, Metric] = {
    key: Metric(
        key,
        header.rstrip(" ↑↓"),
        {"↑": True, "↓": False}.get(header[-1]),
        description,
        kind,
        ratio_of_means if key in _RATIOS else mean,
        _DECIMALS.get(key, 3),
    )
    for kind, declared in _DECLARED.items()
    for key, (header, description) in declared.items()
}
#: All kinds of metrics: a table each.
KINDS = tuple(_DECLARED)
