"""Plots of explanations show the given values, and their texts do not overlap."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.collections import PatchCollection

from xplique_dirpairs.plots.influence_diagram import MOST_CONCEPTS, plot_influence_diagram
from xplique_dirpairs.plots.model_explanation import (
    ConceptRow,
    PushRow,
    SharedRow,
    plot_class_report,
    plot_confusion,
    plot_shared_concepts,
)
from xplique_dirpairs.plots.palette import concept_colors
from xplique_dirpairs.plots.prediction import (
    ComparisonRow,
    PredictionRow,
    plot_prediction,
    plot_two_predictions,
    plot_waterfall,
)

LONG = "German_short-haired_pointer with $x$ and more"
NAME = "Concept names words that wrap"


def random_crops(rng, count=5):
    return rng.integers(0, 255, (count, 12, 12, 3)).astype(np.uint8)


def hidden_texts(ax):
    """Yield texts that are never drawn: labels of hidden axes and of ticks outside the limits."""
    for axis, limits in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
        for tick in axis.get_major_ticks() + axis.get_minor_ticks():
            if not ax.axison or not min(limits) <= tick.get_loc() <= max(limits):
                yield from (tick.label1, tick.label2)
        if not ax.axison:
            yield axis.label


def texts_of(figure):
    """Return all texts that are drawn in a figure."""
    figure.draw_without_rendering()
    hidden = {id(text) for ax in figure.axes for text in hidden_texts(ax)}
    words = figure.findobj(plt.Text)
    return [t for t in words if t.get_text().strip() and t.get_visible() and id(t) not in hidden]


def check_texts(figure):
    """Check that texts do not leave the figure and do not overlap."""
    renderer = figure.canvas.get_renderer()
    boxes = [(t.get_text(), t.get_window_extent(renderer)) for t in texts_of(figure)]
    bounds = figure.bbox
    for text, box in boxes:
        assert bounds.x0 - 1 <= box.x0 and box.x1 <= bounds.x1 + 1, text
        assert bounds.y0 - 1 <= box.y0 and box.y1 <= bounds.y1 + 1, text
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        over = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert min(over) < 1.5, (one, other)


# ------------------------------------------------------------------ the influence diagram


def diagram(changes, grades, class_names, concept_names, crops=None, **options):
    """Return an influence diagram with the default colours."""
    colors = concept_colors(len(changes))
    return plot_influence_diagram(
        changes, grades, class_names, concept_names, crops, colors=colors, **options
    )


def discs(figure):
    """Return (x, y, filled, colour) of every disc; x and y are fractions of the axes."""
    ax = figure.axes[0]
    width, height = ax.get_xlim()[1], ax.get_ylim()[0]
    drawn = next(one for one in ax.collections if isinstance(one, PatchCollection))
    return [
        (
            path.get_extents().intervalx.mean() / width,
            path.get_extents().intervaly.mean() / height,
            not np.allclose(inside[:3], 1.0),
            tuple(edge[:3]),
        )
        for path, inside, edge in zip(
            drawn.get_paths(), drawn.get_facecolors(), drawn.get_edgecolors(), strict=True
        )
    ]


@pytest.mark.parametrize(("concepts", "classes"), [(50, 12), (12, 50), (3, 3), (1, 1)])
def test_exactly_the_significant_influences_have_discs(concepts, classes, rng):
    changes = rng.normal(size=(concepts, classes))
    grades = rng.integers(0, 3, size=changes.shape)
    grades[0, 0] = 2
    names = [f"class number {k}" for k in range(classes)]
    crops = [random_crops(rng, k % 4) for k in range(concepts)]
    figure = diagram(
        changes, grades, names, [str(i) for i in range(concepts)], crops, title="Concept influence"
    )
    drawn = discs(figure)
    assert len(drawn) == (grades > 0).sum()
    assert sum(full for *_, full, _ in drawn) == (grades == 2).sum()
    red = sum(color[0] > color[2] for *_, color in drawn)
    assert red == ((grades > 0) & (changes > 0)).sum()
    check_texts(figure)


def test_each_disc_is_in_the_row_of_its_class_and_the_column_of_its_concept():
    changes = np.array([[0.0, 2.0], [1.0, -1.0], [0.5, 0.0]])
    figure = diagram(changes, (changes != 0) * 2, ["a", "b"], ["p", "q", "r"])
    # columns are sorted by the class they raise most: q, r (class a), then p (class b)
    names = [t.get_text() for t in figure.texts if t.get_text() in "pqr"]
    assert names == ["q", "r", "p"]
    places = {(round(3 * x - 0.5), round(2 * y - 0.5)) for x, y, *_ in discs(figure)}
    assert places == {(0, 0), (0, 1), (1, 0), (2, 1)}


def test_influences_that_are_not_significant_are_drawn_on_request(rng):
    changes, grades = rng.normal(size=(6, 4)), rng.integers(0, 3, size=(6, 4))
    figure = diagram(changes, grades, list("abcd"), list("uvwxyz"), significant_only=False)
    assert len(discs(figure)) == 24
    assert any("pale: not significant" in t.get_text() for t in texts_of(figure))
    check_texts(figure)


def test_concepts_that_are_left_out_are_counted(rng):
    count = MOST_CONCEPTS + 7
    changes, grades = rng.normal(size=(count, 4)), np.full((count, 4), 2)
    grades[:3] = 0
    figure = diagram(changes, grades, list("abcd"), [str(i) for i in range(count)])
    words = " ".join(t.get_text() for t in texts_of(figure))
    assert "3 concepts are significant for no tested class" in words
    assert "4 weaker concepts are left out" in words
    given = changes, 0 * grades, list("abcd"), list(map(str, range(count)))
    without_discs = diagram(*given, [random_crops(rng)] * count)
    without_crops = diagram(*given)
    assert without_discs.get_figheight() == without_crops.get_figheight()  # no space for crops
    assert any("no effect is significant" in t.get_text() for t in texts_of(without_discs))
    check_texts(without_discs)


def test_similar_classes_are_next_to_each_other(rng):
    pattern = rng.permutation(np.arange(20) % 2)  # two kinds of classes
    changes = np.where(pattern[None] == [[0], [1]], 2.0, -2.0)
    figure = diagram(changes, np.full((2, 20), 2), list(map(str, pattern)), ["x", "y"])
    kinds = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert sum(a != b for a, b in itertools.pairwise(kinds)) == 1


# ------------------------------------------------------------------ a class, a confusion


def concept_row(rng, k, sign, name=None):
    return ConceptRow(
        name or str(k), concept_colors(60)[k], random_crops(rng, k % 6), k % 2 == 0,
        sign * rng.exponential(), sign * rng.exponential(), rng.random() if k else np.nan,
        k % 4 - 1, rng.random(), rng.random(),
    )  # fmt: skip


@pytest.mark.parametrize(("ups", "downs"), [(5, 5), (1, 0), (0, 2), (12, 9)])
def test_a_class_report_has_a_row_for_each_concept(ups, downs, rng):
    supporting = [concept_row(rng, k, 1, NAME if k == 0 else None) for k in range(ups)]
    opposing = [concept_row(rng, 25 + k, -1) for k in range(downs)]
    figure = plot_class_report(LONG, "some details", supporting, opposing)
    check_texts(figure)
    words = [t.get_text() for t in texts_of(figure)]
    for row in supporting + opposing:
        text = f"{row.contribution:+.2f}".replace("-", "−")
        assert text in words
    assert ("supports the class" in words) == bool(ups)
    assert ("opposes the class" in words) == bool(downs)
    with pytest.raises(ValueError, match="at least one concept"):
        plot_class_report("a", "", [], [])


@pytest.mark.parametrize("confused", [True, False])
def test_a_confusion_shows_contributions_in_all_images_and_in_misclassified_ones(confused, rng):
    rows = [
        PushRow(
            str(k), concept_colors(9)[k], random_crops(rng), v, v + 0.1 if confused else np.nan, -v
        )
        for k, v in enumerate((1.5, 0.2, -0.3, -2.0))
    ]
    rows.append(PushRow("residual", (0.3,) * 3, None, -4.0, 1.0 if confused else np.nan, np.nan))
    figure = plot_confusion((LONG, LONG), "some details", rows)
    check_texts(figure)
    drawn = [p.get_width() for ax in figure.axes for p in ax.patches if len(ax.patches) == 5]
    np.testing.assert_allclose(drawn, [row.contribution for row in rows])
    marks = [ln for ax in figure.axes for ln in ax.lines if ln.get_marker() == "D"]
    if confused:
        shown = marks[0].get_xdata()
        np.testing.assert_allclose(shown, [row.confused for row in rows])
        low, high = marks[0].axes.get_xlim()
        assert low < min(shown) and max(shown) < high
    words = " ".join(t.get_text() for t in texts_of(figure))
    assert ("predicted as it" in words) == confused


def test_shared_concepts_list_their_classes_and_the_number_of_classes_left_out(rng):
    classes = [(f"class number {k}", 1.0 - 0.2 * k) for k in range(12)]
    rows = [
        SharedRow("3", concept_colors(2)[0], random_crops(rng), classes),
        SharedRow(NAME, concept_colors(2)[1], random_crops(rng, 0), classes[:2]),
    ]
    figure = plot_shared_concepts(rows, 0.05, 3)
    check_texts(figure)
    words = [t.get_text() for t in texts_of(figure)]
    number_listed = sum("class number" in text for text in words) - 2
    assert f"and {12 - number_listed} more" in words and number_listed >= 4
    assert any("2 of 3 shown" in text for text in words)
    assert "no concept" in plot_shared_concepts([], 0.05, 0).texts[0].get_text()


# ------------------------------------------------------------------ a prediction


def prediction_rows(rng, count, crops=True, shape=(5, 4)):
    rows = [
        PredictionRow(
            str(k), concept_colors(60)[k], random_crops(rng, 3) if crops else None, rng.normal(),
            np.maximum(rng.normal(size=shape), 0.0) * (k != 1), rng.normal(size=shape),
        )
        for k in range(count)
    ]  # fmt: skip
    grey = (0.3, 0.3, 0.3)
    rows.append(PredictionRow("20 others", grey, None, -0.4))
    return [*rows, PredictionRow("residual", grey, None, 2.5)]


def waterfall_bars(figure):
    """Return start and end of each bar of the waterfall."""
    ax = max(figure.axes, key=lambda ax: len(ax.patches) * (ax.get_xlabel() == "logits"))
    return [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in ax.patches]


@pytest.mark.parametrize(
    "count, crops, side",  # each two of the three together
    [
        (1, True, (40, 30)),
        (1, False, (30, 60)),
        (5, True, (30, 60)),
        (5, False, (40, 30)),
        (12, True, (40, 30)),
        (12, False, (30, 60)),
    ],
)
def test_a_prediction_is_a_waterfall_from_the_residual_to_the_score(count, crops, side, rng):
    rows = prediction_rows(rng, count, crops)
    score = sum(row.contribution for row in rows)
    likeliest = [(LONG, 0.5), ("b", 0.3), ("c", 0.1)]
    figure = plot_prediction(rng.random((*side, 3)), likeliest, f"logit of {LONG}", score, rows)
    check_texts(figure)
    bars = waterfall_bars(figure)
    assert len(bars) == len(rows)
    assert bars[-1][0] == pytest.approx(0.0) and bars[0][1] == pytest.approx(score)
    for upper, lower in itertools.pairwise(bars):
        assert upper[0] == pytest.approx(lower[1])
    written = [t.get_text() for t in texts_of(figure)]
    assert ("not\ndetected" in written) == (count > 1)
    images = [ax for ax in figure.axes if ax.images]
    # the image and, for each concept, its map, its contributions and, if given, its crops
    assert len(images) == 1 + (3 if crops else 2) * count


def test_plot_waterfall_draws_bars_from_the_residual_to_the_score(rng):
    rows = prediction_rows(rng, 30)
    score = sum(row.contribution for row in rows)
    check_texts(plot_waterfall("logit of " + 60 * "x", score, rows))
    figure = plot_waterfall("logit of x", score, rows)
    check_texts(figure)
    bars = waterfall_bars(figure)
    assert bars[0][1] == pytest.approx(score) and len(bars) == 32


@pytest.mark.parametrize("crops", [True, False])
@pytest.mark.parametrize("count", [1, 8])
def test_maps_of_two_predictions_have_the_same_colour_scale(count, crops, rng):
    rows = [
        ComparisonRow(
            str(k), concept_colors(60)[k], random_crops(rng, 3) if crops else None,
            (rng.normal(), rng.normal()),
            (rng.normal(size=(3, 4)), 10 * rng.normal(size=(3, 4))),
        )
        for k in range(count)
    ]  # fmt: skip
    rows.append(ComparisonRow("residual", (0.3, 0.3, 0.3), None, (1.0, 3.0)))
    pictures = rng.random((30, 50, 3)), rng.random((30, 30, 3))
    figure = plot_two_predictions(
        pictures, f"logit of {LONG}", (1.0, 2.0), ((LONG, 0.9), ("b", 0.2)), rows
    )
    check_texts(figure)
    maps = [ax.images[1] for ax in figure.axes if len(ax.images) == 2]
    assert len(maps) == 2 * count
    assert len({(m.norm.vmin, m.norm.vmax) for m in maps}) == 1


@pytest.mark.parametrize("values", [np.zeros((3, 3)), np.full((1, 1), 2.0), -np.ones((2, 2))])
def test_constant_and_zero_maps_are_drawn(values, rng):
    row = PredictionRow(
        "1", (1.0, 0.0, 0.0), None, float(values.sum()), np.maximum(values, 0), values
    )
    figure = plot_prediction(
        rng.random((8, 8, 3)), [("a", 1.0)], "logit of a", float(values.sum()),
        [row, PredictionRow("residual", (0.3,) * 3, None, 0.0)],
    )  # fmt: skip
    check_texts(figure)
    maps = [ax.images[1] for ax in figure.axes if len(ax.images) == 2]
    assert maps and all(np.isfinite([m.norm.vmin, m.norm.vmax]).all() for m in maps)
