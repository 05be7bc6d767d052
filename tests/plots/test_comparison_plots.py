"""Plots that compare extractors show all values, without overlaps, in one colour per extractor."""

from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

from xplique_dirpairs.plots.comparison import (
    AlignedConcept,
    ConceptMap,
    ExtractorBars,
    ExtractorCurves,
    counterparts,
    extractor_styles,
    plot_aligned_concepts,
    plot_extractor_importances,
    plot_extractor_maps,
    plot_fidelity,
)

CONTROLS = ("random directions", "no learning")
CHANGES = np.linspace(0.0, 0.6, 7)
METRICS = ("deletion ↓", "insertion ↑", "R² ↑")


def extractor_names(count):
    """Return ``count`` names, of which the last two are those of controls."""
    return [f"extractor number {k}" for k in range(count - 2)] + list(CONTROLS)


def fidelity_figure(count, concepts, bars=None):
    names = extractor_names(count)
    falling = np.linspace(0.9, 0.1, concepts + 1)
    curves = [
        ExtractorCurves(name, falling, falling[::-1], np.linspace(0.9, 0.2, len(CHANGES)))
        for name in names
    ]
    if bars is None:
        bars = {title: np.array([[0.5, 0.4, 0.7]] * count) for title in METRICS}
    return plot_fidelity(curves, CHANGES, bars, extractor_styles(names, CONTROLS))


def texts_overlap(figure, texts):
    """Return whether any two non-empty texts overlap."""
    boxes = [text.get_window_extent() for text in texts if text.get_text()]
    return any(a.overlaps(b) for a, b in combinations(boxes, 2))


# ------------------------------------------------------------------ styles


def test_extractors_have_different_colours_and_controls_are_grey_and_dashed():
    styles = extractor_styles(extractor_names(14), CONTROLS)
    assert list(styles) == extractor_names(14)
    assert len({style.color for style in styles.values()}) == 14
    for name, style in styles.items():
        is_grey = len(set(style.color)) == 1
        assert is_grey == (name in CONTROLS)
        assert style.line != "-" or name not in CONTROLS


def test_controls_do_not_change_the_colours_of_other_extractors():
    mixed = extractor_styles(["a", "no learning", "b"], CONTROLS)
    alone = extractor_styles(["a", "b"], CONTROLS)
    assert mixed["a"] == alone["a"] and mixed["b"] == alone["b"]


def test_lines_of_similar_colours_have_different_dashes():
    styles = list(extractor_styles([str(k) for k in range(12)]).values())
    assert [style.line for style in styles[:7]] == ["-"] * 7
    assert len({str(style.line) for style in styles[7:10]}) == 3


# ------------------------------------------------------------------ fidelity


def test_curves_show_the_given_values_in_the_extractors_colours():
    figure = fidelity_figure(4, 5)
    deletion, insertion, by_change = figure.axes[:3]
    styles = extractor_styles(extractor_names(4), CONTROLS)
    for ax in (deletion, insertion, by_change):
        assert [line.get_color() for line in ax.lines] == [s.color for s in styles.values()]
    np.testing.assert_allclose(deletion.lines[0].get_ydata(), np.linspace(0.9, 0.1, 6))
    np.testing.assert_allclose(insertion.lines[0].get_ydata(), np.linspace(0.1, 0.9, 6))
    np.testing.assert_allclose(deletion.lines[0].get_xdata(), range(6))
    np.testing.assert_allclose(by_change.lines[0].get_xdata(), CHANGES)
    assert by_change.get_xlim() == (0.0, 0.6)


@pytest.mark.parametrize("count, concepts", [(3, 3), (14, 50)])
def test_there_is_one_legend_and_no_labels_overlap(count, concepts):
    figure = fidelity_figure(count, concepts)
    figure.canvas.draw()
    assert len(figure.legends) == 1 and all(ax.get_legend() is None for ax in figure.axes)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == extractor_names(count)
    assert not texts_overlap(figure, figure.legends[0].get_texts())
    for ax in figure.axes:
        assert not texts_overlap(figure, ax.get_xticklabels())
    assert not texts_overlap(figure, figure.axes[3].get_yticklabels())
    legend = figure.legends[0].get_window_extent()
    assert all(legend.y1 <= ax.get_tightbbox().y0 + 1 for ax in figure.axes)


def test_bars_show_intervals_and_bars_far_below_zero_are_cut_off_and_labelled():
    intervals = np.array([[0.5, 0.4, 0.7], [-7.0, -9.0, -5.0], [np.nan, np.nan, np.nan]])
    ax = fidelity_figure(3, 3, {"R² ↑": intervals}).axes[3]
    widths = [bar.get_width() for bar in ax.patches]
    assert widths[0] == 0.5 and -1.0 < widths[1] < 0.0
    assert [text.get_text().strip() for text in ax.texts] == ["-7.0", "–"]
    segments = ax.collections[0].get_segments()
    assert len(segments) == 1
    np.testing.assert_allclose(segments[0][:, 0], [0.4, 0.7])


def test_without_bars_only_the_curves_are_drawn():
    assert len(fidelity_figure(3, 3, {}).axes) == 3


# ------------------------------------------------------------------ importances


def bars(name, concepts):
    values = np.linspace(0.6, 0.1, concepts)
    return ExtractorBars(name, np.arange(concepts)[::-1], values, values / 10)


@pytest.mark.parametrize("count, concepts", [(1, 3), (14, 25)])
def test_importances_are_drawn_in_one_panel_per_extractor_with_a_common_scale(count, concepts):
    names = extractor_names(count) if count > 1 else ["a"]
    styles = extractor_styles(names, CONTROLS)
    figure = plot_extractor_importances([bars(name, concepts) for name in names], styles)
    figure.canvas.draw()
    panels = [ax for ax in figure.axes if ax.axison]
    assert [ax.get_title() for ax in panels] == names
    assert len({ax.get_ylim() for ax in panels}) == 1 and panels[0].get_ylim()[1] >= 0.66
    for ax, style in zip(panels, styles.values(), strict=True):
        assert {bar.get_facecolor()[:3] for bar in ax.patches} == {style.color}
        np.testing.assert_allclose(
            [bar.get_height() for bar in ax.patches], np.linspace(0.6, 0.1, concepts)
        )
        labels = [label.get_text() for label in ax.get_xticklabels()]
        assert labels == [str(k) for k in range(concepts)][::-1]
        assert not texts_overlap(figure, ax.get_xticklabels())
        np.testing.assert_allclose(ax.collections[0].get_segments()[0][:, 1], [0.54, 0.66])


def test_extractors_with_different_numbers_of_concepts_or_zero_importances_are_drawn():
    flat = ExtractorBars("flat", np.arange(2), np.zeros(2), np.zeros(2))
    figure = plot_extractor_importances([bars("a", 5), flat], extractor_styles(["a", "flat"]))
    assert [len(ax.patches) for ax in figure.axes] == [5, 2]
    plot_extractor_importances([flat], extractor_styles(["flat"])).canvas.draw()


# ------------------------------------------------------------------ pictures


def test_images_are_bright_only_where_the_concept_is_present():
    shown = np.zeros((4, 4))
    shown[0, 0] = 50.0  # maps are scaled to their maximum
    rows = {
        "a": [ConceptMap(7, 1.234, shown), ConceptMap(2, -0.5, np.zeros((4, 4)))],
        "no learning": [ConceptMap(0, 0.0, -shown)],
    }
    picture = np.full((16, 24, 3), 0.8)
    figure = plot_extractor_maps(picture, rows, extractor_styles(list(rows), CONTROLS), "title")
    images = [ax.images[0].get_array() for ax in figure.axes if ax.images]
    assert len(images) == 5  # the picture in both rows, and three maps
    np.testing.assert_array_equal(images[0], picture)
    assert images[1][1, 1].min() > 0.6 and images[1][-1, -1].max() < 0.3
    assert images[2].max() < 0.3 and images[4].max() < 0.3
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    assert titles == ["7: +1.23", "2: -0.50", "0: +0.00"]


def test_names_beside_rows_do_not_overlap_or_leave_the_figure():
    names = [*extractor_names(8), "a name that is much longer than there is room for, $x$ and_y"]
    concept = ConceptMap(1, 0.5, np.eye(4))
    figure = plot_extractor_maps(
        np.zeros((16, 16, 3)), {name: [concept] * 5 for name in names},
        extractor_styles(names, CONTROLS), "title",
    )  # fmt: skip
    figure.canvas.draw()
    labels = [ax.texts[0] for ax in figure.axes if ax.texts]
    assert len(labels) == len(names) and not texts_overlap(figure, labels)
    assert all(label.get_window_extent().x0 >= 0 for label in labels)
    assert labels[-1].get_text().endswith("…") and "$" not in labels[-1].get_text()


def test_matching_concepts_are_drawn_side_by_side_with_their_correlation(rng):
    crops = rng.random((3, 8, 8, 3))
    aligned = [
        AlignedConcept(4, 1, 0.9, crops, crops[:1]),
        AlignedConcept(0, 2, -0.1, crops[:0], crops),
    ]
    figure = plot_aligned_concepts("a", "b", aligned, 3, extractor_styles(["a", "b"]))
    figure.canvas.draw()
    assert [ax.get_title() for ax in figure.axes] == ["a", "b", "", ""]
    assert [ax.texts[-1].get_text() for ax in figure.axes] == ["4", "1", "0", "2"]
    assert figure.axes[2].texts[0].get_text() == "not detected in any crop"
    values = [text for text in figure.texts if text.get_text().startswith("r =")]
    assert [text.get_text() for text in values] == ["r = 0.90", "r = -0.10"]
    left, right = (ax.get_window_extent() for ax in figure.axes[:2])
    for text in values:
        box = text.get_window_extent()
        assert left.x1 < box.x0 and box.x1 < right.x0


def test_plots_do_not_call_show(monkeypatch):
    shown = []
    monkeypatch.setattr(plt, "show", lambda *_: shown.append(True))
    figures = [
        fidelity_figure(3, 3),
        plot_extractor_importances([bars("a", 5)], extractor_styles(["a"])),
    ]
    assert not shown and all(isinstance(figure, Figure) for figure in figures)


def test_counterparts_undo_a_permutation_at_any_scale_of_the_maps(rng):
    maps = rng.random((3, 4, 4, 5))
    order = rng.permutation(5)
    partners, correlations = counterparts(maps, 2.0 + 3.0 * maps[..., order])
    np.testing.assert_array_equal(order[partners], range(5))
    np.testing.assert_allclose(correlations, 1.0)


def test_counterparts_among_fewer_concepts_are_refused(rng):
    with pytest.raises(ValueError, match="at least the 4 concepts of maps, not 3"):
        counterparts(rng.random((2, 4, 4, 4)), rng.random((2, 4, 4, 3)))


def test_counterparts_are_one_to_one_and_a_constant_map_has_no_correlation(rng):
    maps = rng.random((3, 4, 4, 3))
    maps[..., 0] = 0.0
    partners, correlations = counterparts(maps, rng.random((3, 4, 4, 3)))
    assert sorted(partners) == [0, 1, 2]
    assert correlations[0] == 0.0
    assert np.abs(correlations).max() < 1.0
