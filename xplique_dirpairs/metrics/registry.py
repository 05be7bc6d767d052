"""Every metric by its name: what tables, figures and docs list, and which direction is better.

The functions stand elsewhere and know nothing of this list: a metric is what they return, an array
with one row per image (or one figure), under a key of `METRICS`.
"""

from __future__ import annotations

from dataclasses import dataclass

from numpy.typing import ArrayLike

from xplique_dirpairs.metrics.summary import Statistic, Summary, mean, ratio_of_means, summary


@dataclass(frozen=True)
class Metric:
    """What is measured, and how its values are read.

    Attributes
    ----------
    key : str
        Under which results hold it.
    name : str
        As it is printed.
    higher_is_better : bool or None
        None: neither, it is there to judge the others by.
    description : str
        One line: what it is, its unit or range, and its source.
    kind : str
        Table it belongs to: "curves", "all off", "reconstruction", …
    statistic : callable
        Makes one figure of the values per image; see `metrics.summary`.
    decimals : int
        Of the figure where it is printed.
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

    def summary(self, values: ArrayLike, **options) -> Summary:
        """This metric's figure and its confidence interval; see `metrics.summary.summary`."""
        return summary(values, self.statistic, **options)


#: All metrics by key, in the order in which tables show them.
METRICS: dict[str, Metric] = {}


def register(metric: Metric) -> Metric:
    """Add a metric to `METRICS`.

    Raises
    ------
    ValueError
        If its key or its printed name is taken.
    """
    for other in METRICS.values():
        if metric.key == other.key or metric.name == other.name:
            raise ValueError(
                f"metric {metric.key!r} ({metric.name!r}) has the key or the name of "
                f"{other.key!r} ({other.name!r}), which is registered already"
            )
    METRICS[metric.key] = metric
    return metric


for _metric in (
    Metric(
        "deletion",
        "deletion",
        False,
        "Area under the class probability as concepts are switched off one after the other, the "
        "most contributing first, in [0, 1]; after Petsiuk et al. 2018 and Fel et al. 2023",
        "curves",
    ),
    Metric(
        "insertion",
        "insertion",
        True,
        "Area under the class probability, at most the intact one, as concepts are switched on "
        "from the residual alone, in [0, 1]; after Petsiuk et al. 2018 and Fel et al. 2023",
        "curves",
    ),
    *(
        Metric(
            f"p_at_{fraction}",
            f"P@{fraction}",
            False,
            f"Class probability where deletion first changed the features by {fraction} of their "
            "norm (after the last step where it never did), in [0, 1]; defined by this project",
            "curves",
        )
        for fraction in (0.1, 0.2, 0.3)
    ),
    Metric(
        "mu_fidelity",
        "μ-fidelity",
        True,
        "Correlation over random subsets of concepts of their summed contributions with the drop "
        "of the class's logit without them, in [−1, 1]; Bhatt et al. 2020",
        "curves",
    ),
    Metric(
        "all_off_norm",
        "all-off norm",
        None,
        "Change of the features with every concept off, as a fraction of their norm, ≥ 0; "
        "defined by this project",
        "all off",
    ),
    Metric(
        "all_off_negative_mass",
        "all-off negative mass",
        False,
        "What lies outside the layer's range with every concept off, before clipping, as a "
        "fraction of the features' mass, ≥ 0; defined by this project",
        "all off",
    ),
    Metric(
        "all_off_probability",
        "all-off probability",
        None,
        "Probability of the class with every concept off, where insertion begins, in [0, 1]: what "
        "the residual keeps of it; defined by this project",
        "all off",
    ),
    Metric(
        "all_off_entropy",
        "all-off entropy",
        None,
        "Entropy of the prediction with every concept off, in bits, in [0, log2 K]; "
        "defined by this project",
        "all off",
    ),
    Metric(
        "agreement",
        "agreement",
        True,
        "Share of the images that the reconstruction without residual leaves with the class the "
        "network predicts, in [0, 1]; defined by this project",
        "reconstruction",
    ),
    Metric(
        "kl",
        "KL",
        False,
        "Divergence of the prediction from the reconstruction without residual, KL(p ‖ p̂) in "
        "bits, ≥ 0; defined by this project",
        "reconstruction",
    ),
    Metric(
        "logit_r2",
        "logit R²",
        True,
        "Share of the logits' variance over the images that the reconstruction without residual "
        "explains; 0 the mean, 1 perfect; defined by this project",
        "reconstruction",
        ratio_of_means,
    ),
    Metric(
        "activation_r2",
        "activation R²",
        True,
        "Share of the features' variance that the reconstruction without residual explains; 0 the "
        "mean of each feature, 1 perfect; defined by this project",
        "reconstruction",
        ratio_of_means,
    ),
    Metric(
        "completeness",
        "completeness",
        True,
        "Accuracy above chance from the reconstruction without residual, as a fraction of the "
        "network's own; undefined where that is not clearly above chance; Yeh et al. 2020",
        "reconstruction",
        ratio_of_means,
    ),
    Metric(
        "max_coherence",
        "coherence",
        False,
        "Largest |cosine| of two encoding directions, in [0, 1]; Donoho and Huo 2001",
        "dictionary",
    ),
    Metric(
        "stable_rank",
        "stable rank",
        None,
        "‖D‖_F² / ‖D‖_2² of unit encoding directions, in [1, I]; Rudelson and Vershynin 2007",
        "dictionary",
        decimals=1,
    ),
    Metric(
        "hoyer",
        "Hoyer",
        None,
        "Sparsity of a position's coefficients, each times the length of its direction, in [0, 1]; "
        "Hoyer 2004",
        "dictionary",
    ),
    Metric(
        "l0",
        "L0",
        None,
        "Concepts that are on at a position, in [0, I]; method section 6",
        "dictionary",
        decimals=1,
    ),
    Metric(
        "dead",
        "dead",
        False,
        "Concepts whose part in the features is nowhere above 1e-3 of the strongest one's; method "
        "section 6",
        "dictionary",
        decimals=1,
    ),
    Metric(
        "ood",
        "OOD",
        False,
        "1 − mean cosine of an encoding direction with the nearest feature, without the constant "
        "of the decoding, in [0, 2]; Fel et al. 2025",
        "dictionary",
    ),
    Metric(
        "plausibility",
        "plausibility",
        True,
        "Mean over the classes of the largest cosine of their weights with an encoding direction, "
        "in [−1, 1]; Fel et al. 2025",
        "dictionary",
    ),
    Metric(
        "cross_talk",
        "cross-talk",
        False,
        "Mean |cosine| of filters with the encoding directions of other concepts, in [0, 1]; "
        "method section 6",
        "dictionary",
    ),
    *(
        Metric(
            f"stability_{which}",
            f"stability ({which})",
            True,
            f"Mean |cosine| of matched {which} directions of two seeds, over all pairs of seeds, "
            "in [0, 1]; Fel et al. 2025",
            "dictionary",
        )
        for which in ("encoding", "decoding")
    ),
    Metric(
        "s1",
        "S¹",
        True,
        "Sum over the detectors of the IoU with their label on images it is not from, in [0, I]; "
        "Doumanoglou et al. 2023",
        "interpretability",
        decimals=2,
    ),
    Metric(
        "s2",
        "S²",
        True,
        "Sum over the labels of the best IoU of a detector labelled so, in [0, C]; Doumanoglou et "
        "al. 2023",
        "interpretability",
        decimals=2,
    ),
    Metric(
        "linear_or",
        "Linear-OR",
        True,
        "Sum over the labels of the IoU of all detectors labelled so together, in [0, C]; "
        "Doumanoglou et al. 2024",
        "interpretability",
        decimals=2,
    ),
    *(
        Metric(
            f"label_{key}",
            name,
            True,
            f"Mean over the detectors of the {what} with regard to their label, in [0, 1]; method "
            "section 6",
            "interpretability",
        )
        for key, name, what in (
            ("precision", "precision", "share of their pixels that are of it"),
            ("recall", "recall", "share of its pixels where they fire"),
            ("f1", "F1", "harmonic mean of precision and recall"),
            ("ap", "AP", "average precision of their maps"),
        )
    ),
    Metric(
        "interpretable",
        "interpretable",
        True,
        "Detectors with an IoU of at least 0.04 with their label; Bau et al. 2017",
        "interpretability",
        decimals=0,
    ),
):
    register(_metric)
