"""The list of all metrics, and the confidence interval of a metric's figure.

A metric has one row of values for every image, and a *statistic* reduces the rows to one figure:
their `mean`, or, for a quotient over the whole data set (R², completeness), the `ratio_of_means`
of two columns. The bootstrap draws images, each with all of its columns.

`METRICS` lists every metric for tables, figures and docs, with the direction that is better. The
functions that compute the metrics are in other modules, which do not import this list: they return
an array with one row per image (or a single figure) under a key of `METRICS`.
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

#: A sum that is smaller than this, relative to its terms, is treated as rounding error.
_ROUNDING = 1e-12


class Summary(NamedTuple):
    """A figure with its confidence interval.

    Attributes
    ----------
    value : float
        The statistic, such as the mean, over the rows of a metric's values (one for each image)
        without NaN. NaN if there are no such rows, or if it is a ratio whose denominator cannot be
        distinguished from 0 (see `summary`).
    low : float
        Lower end of the percentile bootstrap interval; NaN with fewer than two rows without NaN.
    high : float
        Upper end of that interval; NaN with fewer than two rows without NaN.
    undefined : int
        Number of rows that contain a NaN and were left out.
    """

    value: float
    low: float
    high: float
    undefined: int


def mean(samples: Array) -> Array:
    """Compute the mean over the images of each of B bootstrap samples, (B, N) → (B,)."""
    return np.asarray(samples.mean(axis=1))


def ratio_of_means(samples: Array) -> Array:
    """Compute the mean of the first column over the mean of the second, (B, N, 2) → (B,).

    The ratio is NaN where the second mean is 0 up to rounding, because terms of opposite signs
    rarely cancel exactly.
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

    The method is that of B. Efron, R. Tibshirani, "An Introduction to the Bootstrap", 1993, ch. 13.
    The same ``random_state`` draws the same images for every extractor (as long as no row is
    undefined), so the interval of a difference is ``summary(values - values_of_another)``.

    Parameters
    ----------
    values : array-like of shape (N,) or (N, …)
        One row per image. A row that contains a NaN is undefined: it is left out and counted.
    statistic : callable, default=mean
        `mean`, `ratio_of_means`, or another function that maps B bootstrap samples of shape
        (B, N, …) to B figures of shape (B,).
    confidence : float, default=0.95
        Share of the bootstrap figures that lie within the interval, in (0, 1).
    resamples : int, default=2000
        Number of bootstrap samples.
    random_state : int, Generator or None, default=0
        Seed or generator of the bootstrap.

    Returns
    -------
    summary : Summary
        The figure, its interval, and the number of undefined rows.

    Raises
    ------
    ValueError
        If there are no rows, values are infinite, or ``confidence`` or ``resamples`` is out of
        range.

    Notes
    -----
    A `ratio_of_means` whose denominators have both signs (such as a network's accuracy above
    chance) is undefined unless the interval of their mean lies above 0: otherwise the ratio could
    have any size and sign.
    """
    rows = np.asarray(values, np.float64)
    if rows.ndim == 0 or len(rows) == 0:
        raise ValueError(f"values must have one row per image, but have shape {rows.shape}")
    if np.isinf(rows).any():
        raise ValueError("values must be finite or NaN (undefined), but some are infinite")
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
    drawn = drawn[~np.isnan(drawn)]  # A ratio may be undefined on a bootstrap sample.
    return Summary(value, *percentile_interval(drawn, confidence), undefined)


def percentile_interval(drawn: Array, confidence: float) -> tuple[float, float]:
    """Return the interval that holds the central share ``confidence`` of bootstrap figures.

    Parameters
    ----------
    drawn : ndarray of shape (B,)
        Figures of B bootstrap samples.
    confidence : float
        Share of the figures that lie within the interval, in (0, 1).

    Returns
    -------
    low, high : float
        The ends of the interval; NaN if there are no figures.

    Raises
    ------
    ValueError
        If ``confidence`` does not lie between 0 and 1.
    """
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
    """Return the statistic of each bootstrap sample of the rows (N, …), (resamples,)."""
    values = []
    for part in slices(resamples, chunk_size(rows.size)):
        drawn = rng.integers(len(rows), size=(part.stop - part.start, len(rows)))
        values.append(statistic(rows[drawn]))
    return np.concatenate(values)


@dataclass(frozen=True)
class Metric:
    """A metric and how its values are interpreted.

    Attributes
    ----------
    key : str
        Key of the metric's values in results.
    name : str
        Name that is printed in tables and figures.
    higher_is_better : bool or None
        Whether a higher value is better; None if no direction is better, because the metric only
        helps to judge the others.
    description : str
        One line with the definition, the unit or range, and the source.
    kind : str
        The table that shows the metric: "curves", "all off", "reconstruction", "dictionary",
        "blending" or "interpretability".
    statistic : callable, default=mean
        Function that reduces the values per image to one figure.
    decimals : int, default=3
        Number of decimals of the printed figure.
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
        """The direction that is better: "↑" for higher, "↓" for lower, "" for neither."""
        return {True: "↑", False: "↓", None: ""}[self.higher_is_better]

    @property
    def header(self) -> str:
        """The printed name, followed by the arrow if there is one."""
        return f"{self.name} {self.arrow}".rstrip()

    def summary(self, values: ArrayLike, resamples: int = 2000) -> Summary:
        """Compute this metric's figure with its confidence interval.

        Parameters
        ----------
        values : array-like of shape (N,), (N, 2) or ()
            One row per image, or a single figure, which has no interval.
        resamples : int, default=2000
            Number of bootstrap samples.

        Returns
        -------
        summary : Summary
            As the function `summary` of this module returns it.
        """
        if np.ndim(values) == 0:
            return Summary(float(np.asarray(values)), np.nan, np.nan, 0)
        return summary(values, self.statistic, resamples=resamples)


#: The header and the description of every metric, by kind and key, in the order in which tables
#: show them. The arrow of the header shows the direction that is better.
_DECLARED: dict[str, dict[str, tuple[str, str]]] = {
    "curves": {
        "deletion": (
            "deletion ↓",
            "Area under the class probability as concepts are switched off one after the other, "
            "the most contributing first, in [0, 1]; after Petsiuk et al. 2018 and Fel et al. 2023",
        ),
        "insertion": (
            "insertion ↑",
            "Area under the class probability, capped at that of the intact image, as concepts are "
            "switched on one after the other, starting from the residual alone, in [0, 1]; after "
            "Petsiuk et al. 2018 and Fel et al. 2023",
        ),
        **{
            f"p_at_{fraction}": (
                f"P@{fraction} ↓",
                f"Class probability where deletion has first changed the features by {fraction} of "
                "their norm (or after the last step, if it never does), in [0, 1]",
            )
            for fraction in (0.1, 0.2, 0.3)
        },
        "mu_fidelity": (
            "μ-fidelity ↑",
            "Correlation, over random subsets of concepts, between their summed contributions and "
            "the drop of the class's logit without them, in [−1, 1]; Bhatt et al. 2020",
        ),
    },
    "all off": {
        "all_off_norm": (
            "all-off norm",
            "Change of the features with every concept off, as a fraction of their norm, ≥ 0",
        ),
        "all_off_negative_mass": (
            "all-off negative mass ↓",
            "Mass of the features that lies outside the layer's range with every concept off, "
            "before clipping, as a fraction of their total mass, ≥ 0",
        ),
        "all_off_probability": (
            "all-off probability",
            "Probability of the class with every concept off, where insertion begins: the class "
            "evidence that remains in the residual, in [0, 1]",
        ),
        "all_off_entropy": (
            "all-off entropy",
            "Entropy of the prediction with every concept off, in bits, in [0, log2 K]",
        ),
    },
    "reconstruction": {
        "agreement": (
            "agreement ↑",
            "Share of the images whose predicted class stays the same when the network is given "
            "the reconstruction without residual, in [0, 1]",
        ),
        "kl": (
            "KL ↓",
            "Divergence between the prediction p and the prediction p̂ from the reconstruction "
            "without residual, KL(p ‖ p̂) in bits, ≥ 0",
        ),
        "logit_r2": (
            "logit R² ↑",
            "Share of the logits' variance over the images that the reconstruction without "
            "residual explains: 0 for predicting the mean, 1 for a perfect reconstruction",
        ),
        "activation_r2": (
            "activation R² ↑",
            "Share of the features' variance that the reconstruction without residual explains: "
            "0 for predicting the mean of each feature, 1 for a perfect reconstruction",
        ),
        "completeness": (
            "completeness ↑",
            "Accuracy above chance from the reconstruction without residual, as a fraction of the "
            "network's own, which must be clearly above chance (otherwise undefined); Yeh et al. "
            "2020",
        ),
    },
    "dictionary": {
        "max_coherence": (
            "coherence ↓",
            "Largest |cosine| between two encoding directions, in [0, 1]; Donoho and Huo 2001",
        ),
        "stable_rank": (
            "stable rank",
            "‖D‖_F² / ‖D‖_2² of unit encoding directions, in [1, min(I, D)]; Rudelson and "
            "Vershynin 2007",
        ),
        "hoyer": (
            "Hoyer",
            "Sparsity of the coefficients at a position, each multiplied by the length of its "
            "direction, in [0, 1]; Hoyer 2004",
        ),
        "l0": ("L0", "Mean number of concepts that are on at a position, in [0, I]"),
        "dead": (
            "dead ↓",
            "Number of concepts whose contribution to the features never exceeds 1e-3 of that of "
            "the strongest concept, in [0, I]",
        ),
        "ood": (
            "OOD ↓",
            "1 − mean cosine between an encoding direction and the nearest feature vector, less "
            "the constant part of the decoding, in [0, 2]; Fel et al. 2025",
        ),
        "plausibility": (
            "plausibility ↑",
            "Mean over the classes of the largest cosine between their weights and an encoding "
            "direction, in [−1, 1]; Fel et al. 2025",
        ),
        "cross_talk": (
            "cross-talk ↓",
            "Mean |cosine| between filters and the encoding directions of other concepts, in "
            "[0, 1]",
        ),
        **{
            f"stability_{directions}": (
                f"stability ({directions}) ↑",
                f"Mean |cosine| between matched {directions} directions of two seeds, over all "
                "pairs of seeds, in [0, 1]; Fel et al. 2025",
            )
            for directions in ("encoding", "decoding")
        },
    },
    "blending": {
        "blend_recall": (
            "blend recall ↑",
            "Share of what fires in either of two images that fires in their blend, in [0, 1]",
        ),
        "blend_false": (
            "blend false ↓",
            "Share of what fires in neither of two images that fires in their blend, in [0, 1]",
        ),
        "blend_r2": (
            "blend R² ↑",
            "Share of the coefficients' variance over blends of two images that the blend of both "
            "images' coefficients explains, at most 1",
        ),
        "blend_ceiling": (
            "blend R² (features)",
            "The same if the features of both images are blended instead of their pixels: what the "
            "network up to the layer has no part in, at most 1",
        ),
    },
    "interpretability": {
        "s1": (
            "S¹ ↑",
            "Sum over the detectors of the IoU with their label, on images other than those that "
            "gave the label, in [0, I]; Doumanoglou et al. 2023",
        ),
        "s2": (
            "S² ↑",
            "Sum over the labels of the best IoU of a detector with that label, in [0, C] for C "
            "concepts; Doumanoglou et al. 2023",
        ),
        "linear_or": (
            "Linear-OR ↑",
            "Sum over the labels of the IoU of the union of all detectors with that label, in "
            "[0, C] for C concepts; Doumanoglou et al. 2024",
        ),
        **{
            f"label_{key}": (f"{name} ↑", f"Mean over the detectors of the {definition}, in [0, 1]")
            for key, name, definition in (
                ("precision", "precision", "share of their pixels that belong to their label"),
                ("recall", "recall", "share of their label's pixels where they fire"),
                ("f1", "F1", "harmonic mean of their precision and recall"),
                ("ap", "AP", "average precision of their maps for their label"),
            )
        },
        "interpretable": (
            "interpretable ↑",
            "Number of detectors with an IoU of at least 0.04 with their label, in [0, I]; Bau et "
            "al. 2017",
        ),
    },
}
#: Metrics with two columns per image, whose statistic is `ratio_of_means` instead of `mean`.
_RATIOS = ("logit_r2", "activation_r2", "completeness", "blend_r2", "blend_ceiling")
#: Decimals of the printed figure, where they are not 3.
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
        description if "; " in description else f"{description}; defined by this project",
        kind,
        ratio_of_means if key in _RATIOS else mean,
        _DECIMALS.get(key, 3),
    )
    for kind, declared in _DECLARED.items()
    for key, (header, description) in declared.items()
}
#: All kinds of metrics; each kind is one table.
KINDS = tuple(_DECLARED)
