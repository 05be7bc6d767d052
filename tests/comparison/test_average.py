"""Averages of comparisons with several seeds."""

import csv
import io
from dataclasses import replace
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pytest
from small_comparison import run_comparison, several_seeds

from xplique_dirpairs import (
    PCAFactorizer,
    average,
)
from xplique_dirpairs.comparison.extractor_result import (
    CONTROLS,
)
from xplique_dirpairs.metrics.dictionary import (
    dictionary_stability,
)

pytestmark = pytest.mark.usefixtures("quick_learning")


@pytest.fixture
def run(halves):
    return partial(run_comparison, halves)


@pytest.fixture
def seeds(halves):
    return several_seeds(halves)


def test_values_of_an_average_are_means_over_seeds_image_by_image(seeds):
    comparison = average(seeds)
    assert list(comparison.results) == ["PCA", "random", *CONTROLS]
    for key in ("deletion", "logit_r2", "l0"):
        expected = np.mean([seed.results["random"].values[key] for seed in seeds], axis=0)
        np.testing.assert_allclose(comparison.results["random"].values[key], expected)
    figures = [seed.results["random"].summaries["deletion"].value for seed in seeds]
    spread = comparison.results["random"].seed_spread("deletion")
    assert spread == pytest.approx(np.std(figures, ddof=1))
    assert comparison.results["PCA"].seed_spread("deletion") == pytest.approx(0.0, abs=1e-9)
    assert np.isnan(seeds[0].results["PCA"].seed_spread("deletion"))
    row = next(row for row in comparison.table("curves").rows if row[0].text == "random")
    assert f"(± {spread:.3f})" in row[1].text and row[1].numbers[3] == spread
    assert any("from seed to seed" in line for line in comparison.table().caption)
    line = list(csv.DictReader(io.StringIO(comparison.table().formatted("csv"))))[1]
    assert float(line["deletion ↓ (seeds SD)"]) == pytest.approx(np.std(figures, ddof=1))
    assert line["coherence ↓"] and line["coherence ↓ (low)"] == ""
    assert "seed" not in str(seeds[0])
    crossed = [np.full((6, 3), seed > 0) for seed in range(3)]
    for seed, changed in zip(seeds, crossed, strict=True):
        one = seed.results["PCA"]
        seed.results["PCA"] = replace(one, fidelity=replace(one.fidelity, crossed=changed))
    assert not average(seeds).results["PCA"].fidelity.crossed.any()


def test_stability_is_the_mean_over_all_pairs_of_seeds(seeds):
    comparison = average(seeds)
    banks = [seed.results["random"].encoding for seed in seeds]
    pairs = [(0, 1), (0, 2), (1, 2)]
    expected = np.mean([dictionary_stability(banks[i], banks[j]) for i, j in pairs])
    assert comparison.results["random"].values["stability_encoding"] == pytest.approx(expected)
    assert comparison.results["PCA"].values["stability_encoding"] == pytest.approx(1.0)
    assert comparison.results["PCA"].values["stability_decoding"] == pytest.approx(1.0)
    headers = comparison.table("dictionary").headers
    assert headers[-2:] == ["stability (encoding) ↑", "stability (decoding) ↑"]
    assert "stability" not in str(seeds[0])


def test_curves_of_an_average_are_means_over_seeds(seeds):
    comparison, changes = average(seeds), [0.0, 0.05, 0.1]
    expected = np.mean([s.results["random"].deletion_at(changes) for s in seeds], axis=0)
    np.testing.assert_allclose(comparison.results["random"].deletion_at(changes), expected)
    curves = [s.results["random"].fidelity.insertion.probabilities for s in seeds]
    mean_curves = comparison.results["random"].fidelity.insertion.probabilities
    np.testing.assert_allclose(mean_curves, np.mean(curves, axis=0))
    figures = (
        comparison.plot(),
        comparison.plot_importances(),
        comparison.plot_maps(0),
        comparison.plot_aligned("PCA", "random"),
    )
    assert all(isinstance(figure, plt.Figure) for figure in figures)


def test_an_extractor_that_failed_with_one_seed_is_missing_in_the_average(seeds):
    first = seeds[0]
    rest = {name: r for name, r in first.results.items() if name != "PCA"}
    lost = replace(first, results=rest, errors={"PCA": "ValueError: no"})
    comparison = average([lost, *seeds[1:]])
    assert list(comparison.results) == ["random", *CONTROLS]
    assert comparison.errors == {"PCA": "missing in 1 of 3: ValueError: no"}


def test_comparisons_of_different_images_or_numbers_of_concepts_are_not_averaged(
    seeds, run, images
):
    with pytest.raises(ValueError, match="at least two comparisons, not 1"):
        average(seeds[:1])
    other = run({"PCA": PCAFactorizer(2)}, images=images("conv_gap", 6, 9))
    with pytest.raises(ValueError, match="same images and classes"):
        average([seeds[0], other])
    larger = run({"PCA": PCAFactorizer(3)}, controls=False)
    with pytest.raises(ValueError, match="fits of 'PCA' must have the same number of concepts"):
        average([seeds[0], larger])
