"""Figures of a comparison, and the report folder."""

from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pytest
from small_comparison import (
    run_comparison,
    three_extractors,
)

from xplique_dirpairs import (
    Comparison,
    PCAFactorizer,
)
from xplique_dirpairs.comparison.extractor_result import (
    RANDOM,
)

pytestmark = pytest.mark.usefixtures("quick_learning")


@pytest.fixture
def run(halves):
    return partial(run_comparison, halves)


@pytest.fixture
def shared(halves):
    return three_extractors(halves)


def test_deletion_at_a_change_matches_the_metric_p_at(shared):
    result = shared.results["pairs"]
    at = result.deletion_at([0.0, 0.1, 0.3])
    assert at[0] == pytest.approx(result.fidelity.deletion.probabilities[:, 0].mean())
    assert at[1] == pytest.approx(result.values["p_at_0.1"].mean())
    assert at[2] == pytest.approx(result.values["p_at_0.3"].mean())


def test_maps_show_the_concepts_with_the_largest_contributions(shared):
    figure = shared.plot_maps(2, n=2)
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    for row, result in enumerate(shared.results.values()):
        contributions = result.fidelity.contributions[2]
        best = np.argsort(-contributions)[:2]
        assert titles[2 * row : 2 * row + 2] == [f"{i}: {contributions[i]:+.2f}" for i in best]
    for image in (6, -1, 1.5):
        with pytest.raises(ValueError, match="image must be"):
            shared.plot_maps(image)


def test_concepts_are_aligned_with_their_mirror_images(run, halves):
    class Mirrored(PCAFactorizer):
        """PCA with its components in reverse order and with opposite signs."""

        def fit(self, activations):
            fitted = super().fit(activations)
            self.bank_, self.filters_ = -self.bank_[::-1], -self.filters_[::-1]
            return fitted

    comparison = run({"a": PCAFactorizer(3), "b": Mirrored(3), "c": PCAFactorizer(2)})
    figure = comparison.plot_aligned("a", "b")
    texts = [text.get_text() for text in figure.texts]
    assert texts.count("r = 1.00") == 3
    numbers = [ax.texts[0].get_text() for ax in figure.axes]
    pairs = zip(numbers[::2], numbers[1::2], strict=True)
    assert all(int(ours) + int(theirs) == 2 for ours, theirs in pairs)
    # If the numbers of concepts differ, all concepts of the smaller extractor have a partner.
    for names, order in ((("b", "c"), 1), (("c", "b"), -1)):
        figure = comparison.plot_aligned(*names)
        assert [text.get_text() for text in figure.texts].count("r = 1.00") == 2
        numbers = [ax.texts[0].get_text() for ax in figure.axes]
        pairs = {pair[::order] for pair in zip(numbers[::2], numbers[1::2], strict=True)}
        assert pairs == {("2", "0"), ("1", "1")}
    with pytest.raises(KeyError, match="no result of 'd'"):
        comparison.plot_aligned("a", "d")


def test_plotting_unknown_metrics_is_refused(shared):
    with pytest.raises(ValueError, match="are not metrics"):
        shared.plot(["warmth"])


def test_a_report_is_a_folder_of_tables_and_figures_with_safe_file_names(shared, tmp_path):
    results = {
        "A/B: ../<script>": shared.results["CRAFT"],
        "PCA": shared.results["PCA"],
        "pca!": shared.results["pairs"],
        RANDOM: shared.results[RANDOM],
    }
    renamed = Comparison(results, {"x": "TypeError: y"}, shared.images, shared.class_ids)
    paths = renamed.save_report(tmp_path / "new" / "report")
    assert {path.parent for path in paths} == {tmp_path / "new" / "report"}
    stems = [
        "fidelity",
        "importances",
        "maps",
        "aligned_a-b-script_pca",
        "aligned_a-b-script_pca_2",
    ]
    figures = [f"{stem}.{ending}" for stem in stems for ending in ("png", "svg")]
    assert [path.name for path in paths] == ["table.md", "table.csv", *figures]
    assert all(path.stat().st_size > 100 for path in paths)
    assert "<script>" not in (paths[0]).read_text(encoding="utf-8")
    assert not plt.get_fignums()
