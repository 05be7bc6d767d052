"""All figures follow one style sheet, have a limited size, and can be read without colours."""

import importlib
import pkgutil
import re
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import LinearSegmentedColormap, to_rgb

from xplique_dirpairs import plots
from xplique_dirpairs.plots.comparison import (
    AlignedConcept,
    ConceptMap,
    ExtractorBars,
    extractor_styles,
    plot_aligned_concepts,
    plot_extractor_importances,
    plot_extractor_maps,
)
from xplique_dirpairs.plots.concepts import (
    RankedConcept,
    draw_concept_map,
    draw_importances,
    plot_class_importances,
    plot_crop_rows,
    plot_image_concepts,
    plot_maximised,
)
from xplique_dirpairs.plots.connectome import MOST_NODES, plot_connectome, plot_diagnosis
from xplique_dirpairs.plots.influence_diagram import MOST_CLASSES, plot_influence_diagram
from xplique_dirpairs.plots.interventions import plot_correction, plot_counterfactual, plot_moves
from xplique_dirpairs.plots.learning import LOSS_NAMES, plot_learning
from xplique_dirpairs.plots.matching import plot_matches, plot_shared_pictures
from xplique_dirpairs.plots.model_explanation import (
    ConceptRow,
    SharedRow,
    plot_class_report,
    plot_shared_concepts,
)
from xplique_dirpairs.plots.palette import concept_colors, readable
from xplique_dirpairs.plots.position import plot_position
from xplique_dirpairs.plots.style import SMALLEST, TITLE, most_rows, some_of
from xplique_dirpairs.plots.video import plot_shares
from xplique_dirpairs.plots.video_pictures import plot_over_time, plot_strips

PACKAGE = Path(plots.__file__).parents[1]
LONG = "German_short-haired_pointer"
CROPS = np.random.default_rng(0).random((3, 6, 6, 3))


def texts_of(figure):
    """Return the texts of a figure that are drawn, with their boxes."""
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    shown = [t for t in figure.findobj(plt.Text) if t.get_text().strip() and t.get_visible()]
    hidden = {
        id(text)
        for ax in figure.axes
        for axis, limits in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim()))
        for tick in axis.get_major_ticks() + axis.get_minor_ticks()
        for text in (tick.label1, tick.label2)
        if not ax.axison or not min(limits) <= tick.get_loc() <= max(limits)
    }
    hidden |= {
        id(axis.label) for ax in figure.axes if not ax.axison for axis in (ax.xaxis, ax.yaxis)
    }
    return [(t, t.get_window_extent(renderer)) for t in shown if id(t) not in hidden]


def words(figure):
    """Return all texts of a figure as one."""
    return "\n".join(text.get_text() for text in figure.findobj(plt.Text))


def names(n):
    return ["striped fur of large animals" if i % 7 == 0 else f"concept {i}" for i in range(n)]


def cmap(color):
    return LinearSegmentedColormap.from_list("", [(*color, 0.0), (*color, 1.0)])


def ranked(n):
    return [RankedConcept(i, 1 / (i + 1), cmap(c), CROPS) for i, c in enumerate(concept_colors(n))]


def crop_rows(n, rng):
    return plot_crop_rows(ranked(n), 3)


def importances(n, rng):
    _, ax = plt.subplots(figsize=(6, 4), layout="constrained")
    draw_importances(ax, range(n), rng.random(n), concept_colors(n), "title")
    return ax.figure


def image_concepts(n, rng):
    return plot_image_concepts(rng.random((16, 16, 3)), rng.random((4, 4, n)), ranked(n), "title")


def maximised(n, rng):
    return plot_maximised({"filter": rng.random((n, 6, 6, 3))}, [CROPS] * n, range(n))


def class_importances(n, rng):
    return plot_class_importances(
        rng.random((n, n)), rng.normal(size=(n, n)), [f"{LONG} {i}" for i in range(n)],
        [CROPS] * n, concept_colors(n), "a",
    )  # fmt: skip


def extractor_importances(n, rng):
    bars = [ExtractorBars(x, np.arange(n), rng.random(n), np.zeros(n)) for x in "ab"]
    return plot_extractor_importances(bars, extractor_styles("ab"))


def extractor_maps(n, rng):
    rows = {x: [ConceptMap(i, 0.1, rng.random((4, 4))) for i in range(n)] for x in "ab"}
    title = f"Image 3: concepts by contribution to the logit of {LONG}"
    return plot_extractor_maps(rng.random((9, 9, 3)), rows, extractor_styles("ab"), title)


def aligned(n, rng):
    pairs = [AlignedConcept(i, i, 0.5, CROPS, CROPS) for i in range(n)]
    return plot_aligned_concepts("a", "b", pairs, 3, extractor_styles("ab"))


def influence(n, rng):
    effects = rng.normal(size=(n, n + 5))
    grades = rng.integers(1, 3, effects.shape)
    classes = [f"class {k}" for k in range(n + 5)]
    return plot_influence_diagram(effects, grades, classes, names(n), colors=concept_colors(n))


def class_report(n, rng):
    colors = concept_colors(n)
    rows = [
        ConceptRow(name, color, CROPS, False, *rng.normal(size=2), 0.1, 1, 0.5, 0.2)
        for name, color in zip(names(n), colors, strict=True)
    ]
    return plot_class_report(LONG, "details", rows[: n // 2], rows[n // 2 :])


def shared(n, rng):
    color = concept_colors(1)[0]
    rows = [SharedRow(name, color, CROPS, [(LONG, 1.0), ("a", -1.0)]) for name in names(n)]
    return plot_shared_concepts(rows, 0.05, n)


def counterfactual(n, rng):
    path = np.linspace(0, 1, 5)
    probabilities = np.stack([1 - path, path, 0 * path, 0 * path], axis=1)
    distances = {k: (0.1, 0.2, rng.random(9)) for k in ("of its positions", "of the image")}
    return plot_counterfactual(
        "title", rng.random((9, 9, 3)), (0, 1), [LONG, LONG, "c", "d"], path, probabilities,
        [(name, "raised") for name in names(n)], rng.random((2, n)), rng.random((2, 3, 3, n)),
        distances,
    )  # fmt: skip


def moves(n, rng):
    return plot_moves(rng.normal(size=(4, n)), list("abcd"), names(n), "title")


def correction(n, rng):
    table = rng.integers(0, 9, (n, n))
    classes = [f"{LONG} {i}" for i in range(n)]
    return plot_correction({"with the watermark": (table, table)}, classes)


def matches(n, rng):
    values, networks = rng.random(n), ["resnet50", "mobilenet_v2 of keras applications", "vgg"]
    named = [[name] * 3 for name in names(n)]
    title = "Found again in another network: " + ", ".join(f"12 of 60 of {x}" for x in networks)
    return plot_matches(
        title, named, values, values, values, values > 0.5, networks, *rng.random((2, 3, 3))
    )


def position(n, rng):
    values = {name: (rng.random(n), rng.random((2, n))) for name in ("rolled", "inside", "edge")}
    verdicts = ["not measured: never detected"] * n
    return plot_position("title", "details", names(n), rng.random((n, 3, 3)), values, verdicts)


def shares(n, rng):
    parts = dict(zip(("static", "dynamic", "joint", "rest"), rng.random((4, n)) / 4, strict=True))
    return plot_shares("title", names(n), parts, {name: np.full(n, 0.01) for name in parts})


def connectome(n, rng):
    n = min(n, MOST_NODES)
    concepts = [(name, CROPS[0]) for name in names(n)]
    edges = [rng.normal(size=(n, n)), rng.normal(size=(n, 2))]
    columns = [concepts, concepts, [(LONG, None), ("a", None)]]
    return plot_connectome(["block_3", "block_6", "class"], columns, edges)


def diagnosis(n, rng):
    n = min(n, 12)  # layers
    maps, layers = rng.integers(-1, 4, (n, 3, 4)), [f"{LONG} {k}" for k in range(n)]
    return plot_diagnosis(rng.random((9, 12, 3)), maps, layers, [LONG, "b", LONG, "d"])


def shared_pictures(n, rng):
    pictures = {name: rng.random((n, 6, 6, 3)) for name in ("mobilenet_v2 of keras", "b")}
    return plot_shared_pictures("title", np.tile(np.arange(n)[:, None], 2), pictures)


def strips(n, rng):
    videos = [rng.random((3, 5, 5, 3)) for _ in range(n)]
    return plot_strips("a title of a few words", videos, 2, [f"{LONG} {k}" for k in range(n)])


def over_time(n, rng):
    n = min(n, 9)  # curves
    names, values = [f"{LONG} {k}" for k in range(n)], rng.normal(size=(8, n))
    title = f"Contributions to the logit of {LONG} − {LONG} over time"
    return plot_over_time(title, rng.random((16, 5, 5, 3)), names, concept_colors(n), values)


FIGURES = (
    crop_rows, importances, image_concepts, maximised, class_importances, extractor_importances,
    extractor_maps, aligned, influence, class_report, shared, counterfactual, moves, correction,
    matches, position, shares, connectome, shared_pictures, diagnosis,
    strips, over_time,
)  # fmt: skip


@pytest.mark.parametrize("draw", FIGURES, ids=lambda draw: draw.__name__)
@pytest.mark.parametrize("n", [3, 60])
def test_a_figure_of_few_or_many_concepts_has_a_limited_size_and_readable_whole_texts(draw, n, rng):
    figure = draw(n, rng)
    assert max(figure.get_size_inches()) <= 30
    for text, box in texts_of(figure):
        assert text.get_fontsize() >= SMALLEST, text
        assert figure.bbox.x0 - 1 <= box.x0 and box.x1 <= figure.bbox.x1 + 1, text
        assert figure.bbox.y0 - 1 <= box.y0 and box.y1 <= figure.bbox.y1 + 1, text


@pytest.mark.parametrize(
    ("draw", "note"),
    [
        (crop_rows, r"the first \d+ of 90 concepts"),
        (image_concepts, r"crops: the first 20 of 90 concepts"),
        (class_importances, r"first 40 of 90 classes; the 30 most important of 90 concepts"),
        (extractor_maps, r"the first 12 of 90 concepts"),
        (aligned, r"the first 27 of 90 pairs"),
        (influence, r"40 weaker concepts are left out; 35 classes with weaker effects"),
        (class_report, r"details; the first 37 of 90 concepts"),
        (shared, r"37 of 90 shown"),
        (counterfactual, r"40 more were moved"),
        (moves, r"the 50 most changed of 90 concepts"),
        (matches, r"the first 40 of 90 matches"),
        (strips, r"the first 22 of 90 videos"),
        (shared_pictures, r"the first 26 of 90 concepts"),
        (position, r"details; the first 37 of 90 concepts"),
        (importances, r"one in \d has its number"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_figure_says_what_it_leaves_out(draw, note, rng):
    assert re.search(note, words(draw(90, rng)).replace("\n", " "))


def test_nothing_is_said_where_nothing_is_left_out():
    assert (
        some_of(3, 3, "concepts") == "" and some_of(2, 3, "concepts") == "the first 2 of 3 concepts"
    )
    assert most_rows(100.0) == 1 and most_rows(1.0) == 26


# ------------------------------------------------------------------ one style sheet


def plot_functions():
    """Return all functions of the plots that return a figure."""
    modules = [
        importlib.import_module(f"{plots.__name__}.{one.name}")
        for one in pkgutil.iter_modules(plots.__path__)
    ]
    return {
        name: value
        for module in modules
        for name, value in vars(module).items()
        if name.startswith("plot_")
    }


def test_every_plot_is_drawn_with_the_style_sheet():
    functions = plot_functions()
    assert len(functions) > 15
    assert [name for name, one in functions.items() if not hasattr(one, "__wrapped__")] == []


def test_sizes_of_texts_are_in_the_style_sheet_only():
    sizes = re.compile(r"(font|label|title)_?size\"?\s*[=:]\s*[\d.]+")
    scattered = [p.name for p in PACKAGE.rglob("*.py") if sizes.search(p.read_text())]
    assert scattered == []


def test_plots_do_not_change_the_users_settings_and_are_not_changed_by_them(rng):
    odd = {"font.size": 31.0, "axes.titlesize": 33.0, "xtick.labelsize": 32.0, "axes.grid": True}
    with mpl.rc_context(odd):
        before = dict(mpl.rcParams)
        figure = matches(3, rng)
        assert dict(mpl.rcParams) == before
    assert max(text.get_fontsize() for text, _ in texts_of(figure)) <= TITLE
    assert not any(line.get_visible() for ax in figure.axes for line in ax.get_xgridlines())


def test_names_are_written_in_colours_that_can_be_read_on_white():
    def luminance(color):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color]
        return np.dot(linear, (0.2126, 0.7152, 0.0722))

    for color in concept_colors(200):
        text = readable(color)
        assert 1.05 / (luminance(text) + 0.05) >= 4.5
        if 1.05 / (luminance(color) + 0.05) >= 4.5:
            assert text == color
        else:  # the same hue, no darker than needed
            np.testing.assert_allclose(np.multiply(text, max(color)), np.multiply(color, max(text)))
            assert 1.05 / (luminance(np.divide(text, 0.95)) + 0.05) < 4.5


# ------------------------------------------------------------------ without colours


def test_curves_of_extractors_differ_in_their_markers():
    styles = extractor_styles([*"abcdefghij", "random"], ["random"]).values()
    assert len({style.marker for style in styles}) == 11


def test_losses_with_similar_greys_differ_in_their_dashes():
    figure = plot_learning({"a": {name: [2.0, 1.0] for name in LOSS_NAMES}}, "title")
    lines = figure.legends[0].get_lines()
    looks = [
        (np.dot(to_rgb(one.get_color()), (0.3, 0.59, 0.11)), one.get_linestyle()) for one in lines
    ]
    assert len({dashes for _, dashes in looks[:-1]}) == 4
    for (grey, dashes), (next_grey, next_dashes) in pairwise(looks[:-1]):
        assert dashes != next_dashes or abs(grey - next_grey) > 0.2


def test_influences_that_lower_a_class_have_a_minus_sign():
    effects = np.array([[1.0, -1.0], [-0.1, 0.5], [0.0, -2.0]])
    figure = plot_influence_diagram(
        effects, np.full((3, 2), 2), ["a", "b"], list("pqr"), colors=concept_colors(3)
    )
    minuses = figure.axes[0].collections[-1].get_segments()
    assert len(minuses) == 3
    discs = figure.axes[0].collections[-2].get_paths()
    middles = {tuple(np.round(path.get_extents().get_points().mean(axis=0), 6)) for path in discs}
    assert {tuple(np.round(line.mean(axis=0), 6)) for line in minuses} <= middles
    assert MOST_CLASSES >= 50


def test_decreases_have_a_minus_sign_in_the_table_of_moves():
    changes = np.array([[1.0, -1.0, 0.0], [-0.5, 0.2, -0.001]])
    figure = plot_moves(changes, ["a", "b"], ["p", "q", "r"])
    places = [text.get_position() for text in figure.axes[0].texts]
    assert places == [(1, 0), (0, 1)]  # (column, row)


def test_parts_of_a_diagnosis_differ_in_their_hatches(rng):
    figure = plot_diagnosis(
        rng.random((8, 8, 3)), [np.array([[0, 1], [-1, 2]])], ["a"], list("pqr")
    )
    parts = figure.axes[1].collections
    assert len(parts) == 3 and len({part.get_hatch() for part in parts}) == 3
    assert [part.get_array().count() for part in parts] == [1, 1, 1]


def test_edges_of_a_connectome_end_before_the_names_of_classes(rng):
    figure = connectome(3, rng)
    lengths = [line.get_xdata() for line in figure.axes[0].lines if len(line.get_xdata())]
    ends = figure.axes[0].transData.transform([(max(x[-1] for x in lengths), 0.0)])[0, 0]
    (name,) = (box for text, box in texts_of(figure) if text.get_text().startswith("German"))
    assert ends <= name.x0


def test_matches_that_are_not_found_again_are_hollow(rng):
    holds = np.array([True, False])
    figure = plot_matches(
        "", [["p", "q"]] * 2, rng.random(2), rng.random(2), rng.random(2), holds, ["a", "b"],
        None, None,
    )  # fmt: skip
    faces = [bar.get_facecolor()[:3] for bar in figure.axes[0].patches]
    assert (np.array(faces[1]) == 1).all() and (np.array(faces[0]) < 1).any()


def test_shares_differ_in_their_hatches_and_measures_of_the_place_in_their_markers(rng):
    bars = shares(4, rng).axes[0].patches
    assert len({bar.get_hatch() for bar in bars}) == 4
    figure = position(3, rng)
    legend = next(ax.get_legend() for ax in figure.axes if ax.get_legend())
    assert len({line.get_marker() for line in legend.get_lines()}) == 3


def test_maps_on_an_image_are_labelled_at_different_places_where_concepts_are():
    maps = np.zeros((4, 4, 3))
    maps[1, 2, :2] = 2.0
    maps[3, 0, 1] = 1.0
    _, ax = plt.subplots()
    cmaps = [cmap(color) for color in concept_colors(3)]
    draw_concept_map(ax, np.zeros((8, 16, 3)), maps, cmaps, labels=["7", "8", "9"])
    assert [text.get_text() for text in ax.texts] == ["7", "8"]  # the third concept is nowhere
    assert [text.get_position() for text in ax.texts] == [(10.0, 3.0), (2.0, 7.0)]
