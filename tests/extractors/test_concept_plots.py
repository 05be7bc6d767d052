"""The plot methods of `CraftTf` work for every kind of network and check their arguments."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import SHAPES
from matplotlib.figure import Figure
from sklearn.exceptions import NotFittedError
from xplique.concepts import DisplayImportancesOrder

from xplique_dirpairs.extractors.craft import DirectionPairsTf
from xplique_dirpairs.plots.palette import concept_colors, line_color, readable

pytestmark = pytest.mark.usefixtures("quick_learning")


@pytest.fixture
def shows(monkeypatch):
    """Figures that were current whenever ``plt.show()`` was called."""
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(plt.gcf()))
    return shown


@pytest.fixture
def ready(halves, images):
    def make(name="conv_gap", concepts=5, count=3, convert=lambda x: x):
        """Return a fitted extractor with estimated importances, and its images."""
        pairs = DirectionPairsTf(*halves(name), concepts, 16, 16, random_state=0, verbose=0)
        x = convert(images(name, count))
        pairs.fit(x, class_id=1)
        pairs.estimate_importance(nb_design=4)
        return pairs, x

    return make


@pytest.mark.parametrize("name", SHAPES)
def test_every_plot_works_for_every_shape_of_images_and_layers(ready, shows, name):
    pairs, x = ready(name, concepts=12, count=2)  # more concepts than channels
    figures = [
        pairs.plot_concepts_importances(),
        pairs.plot_concepts_crops(),
        pairs.plot_concept_attribution_legend(),
        pairs.plot_concept_attribution_maps(x),
        pairs.plot_concept_attribution_map(x[0], [0, 1]),
        pairs.plot_image_concepts(x[0]),
    ]
    for figure in figures:
        assert isinstance(figure, Figure) and figure.axes
    figures[-1].canvas.draw()


@pytest.mark.parametrize("concepts", [1, 24])
def test_every_plot_works_for_any_number_of_concepts(ready, shows, tmp_path, concepts):
    pairs, x = ready(concepts=concepts, count=1)
    pairs.plot_concepts_importances().canvas.draw()
    assert len(pairs.plot_concepts_crops(nb_crops=20).axes) == concepts
    pairs.plot_concept_attribution_maps(x, nb_most_important_concepts=concepts)
    pairs.plot_image_concepts(
        x[0], nb_most_important_concepts=min(concepts, 20), filepath=tmp_path / "image.png"
    )
    assert (tmp_path / "image.png").stat().st_size > 10_000


@pytest.mark.parametrize("name", ["conv_gap", "grayscale", "tall"])
def test_uint8_images_are_drawn_like_float_images(ready, shows, name):
    pairs, x = ready(name, convert=lambda images: (255 * images).astype(np.uint8))
    axes = pairs.plot_concept_attribution_map(x[0], [0]).axes[0]
    np.testing.assert_allclose(axes.images[0].get_array()[..., :1], x[0][..., :1] / 255, atol=1e-6)


def test_the_same_plots_are_shown_as_by_craft(ready, shows, tmp_path):
    pairs, x = ready()
    pairs.plot_concepts_importances()
    pairs.plot_concept_attribution_map(x[0], [0])
    pairs.plot_image_concepts(x[0], filepath=tmp_path / "image.png")
    assert not shows
    for plot, figures in [
        (lambda: pairs.plot_concepts_crops(), 1),
        (lambda: pairs.plot_concept_attribution_legend(), 1),
        (lambda: pairs.plot_concept_attribution_maps(x), 1),  # its legend
        (lambda: pairs.plot_image_concepts(x[0]), 1),
    ]:
        shows.clear()
        plot()
        assert len(shows) == figures


def test_plots_before_fit_or_estimate_importance_raise_not_fitted_error(halves, images):
    pairs = DirectionPairsTf(*halves("conv_gap"), 3, verbose=0)
    x = images("conv_gap")
    plots = [
        lambda: pairs.plot_concepts_importances(),
        lambda: pairs.plot_concepts_crops(),
        lambda: pairs.plot_concept_attribution_legend(),
        lambda: pairs.plot_concept_attribution_maps(x),
        lambda: pairs.plot_concept_attribution_map(x[0], [0]),
        lambda: pairs.plot_image_concepts(x[0]),
    ]
    for plot in plots:
        with pytest.raises(NotFittedError, match="call fit"):
            plot()
    pairs.fit(x)
    for plot in plots:
        with pytest.raises(NotFittedError, match="estimate_importance"):
            plot()
    assert not plt.get_fignums()


def test_a_second_fit_discards_the_importances(ready, images):
    pairs, x = ready()
    pairs.fit(x)
    with pytest.raises(NotFittedError, match="estimate_importance"):
        pairs.plot_concepts_importances()


def test_the_map_of_a_concept_that_is_not_detected_is_not_drawn(ready, images):
    pairs, x = ready(concepts=3)
    factorizer = pairs.factorizer
    pairs.factorizer = type(factorizer).from_pairs(
        type(factorizer.pairs_)(
            factorizer.pairs_.filters,
            [1e6, 0, 0],
            factorizer.pairs_.signals,
            factorizer.pairs_.mean,
            [-1e6, 0, 0],  # large coefficients everywhere, but no detections
        )
    )
    assert pairs.transform(x)[..., 0].min() > 0
    axes = pairs.plot_concept_attribution_map(x[0], [0]).axes[0]
    assert len(axes.images) == 1 and not axes.collections


def test_a_concept_has_the_same_colour_in_bars_legend_and_crops(ready, shows):
    pairs, _ = ready()
    order = pairs.sensitivity.most_important_concepts
    expected = [line_color(pairs.sensitivity.cmaps[rank]) for rank in range(5)]
    bars = pairs.plot_concepts_importances(nb_most_important_concepts=5).axes[0]
    assert [bar.get_facecolor()[:3] for bar in bars.patches] == expected
    assert [tick.get_text() for tick in bars.get_xticklabels()] == [str(c) for c in order]
    legend = pairs.plot_concept_attribution_legend(5)
    assert [axes.title.get_color() for axes in legend.axes] == [readable(c) for c in expected]
    # colours are chosen by the number of a concept, as in explanations and reports
    np.testing.assert_allclose(expected, np.array(concept_colors(5))[order], atol=1e-6)
    crops = pairs.plot_concepts_crops()
    assert [axes.spines["top"].get_edgecolor()[:3] for axes in crops.axes] == expected
    by_number = pairs.plot_concepts_importances().axes[0]
    assert [bar.get_facecolor()[:3] for bar in by_number.patches] == [
        expected[rank] for rank in np.argsort(order)
    ]


def test_local_order_uses_the_importances_for_the_image(ready, tmp_path):
    pairs, x = ready()
    local = pairs.estimate_importance(x[2])
    figure = pairs.plot_image_concepts(
        x[2], DisplayImportancesOrder.LOCAL, 3, filepath=tmp_path / "image.png"
    )
    bars = figure.axes[-1]
    np.testing.assert_allclose([bar.get_height() for bar in bars.patches], np.sort(local)[:-4:-1])
    assert bars.get_title() == "Local Concept Importance"


def test_plots_use_the_current_axes_if_they_are_empty(ready):
    pairs, x = ready()
    figure, (left, right) = plt.subplots(1, 2)
    plt.sca(left)
    assert pairs.plot_concepts_importances() is figure and left.patches
    plt.sca(right)
    assert pairs.plot_concept_attribution_map(x[0], [0]) is figure and right.images
    assert (
        pairs.plot_concepts_importances() is not figure
    )  # axes that hold a picture are not reused


def test_importances_are_printed_on_request(ready, shows, capsys):
    pairs, _ = ready()
    pairs.plot_concepts_crops(nb_most_important_concepts=2, verbose=True)
    pairs.plot_concepts_importances(nb_most_important_concepts=2, verbose=True)
    assert capsys.readouterr().out.count("has an importance value of") == 4


def test_importances_of_another_length_are_refused(ready):
    pairs, _ = ready()
    with pytest.raises(ValueError, match="5 finite numbers"):
        pairs.plot_concepts_importances(np.ones(4))
    with pytest.raises(ValueError, match="at least 1"):
        pairs.plot_concepts_crops(nb_most_important_concepts=0)


@pytest.mark.parametrize("concepts", [[], [0.5], [5], [-1]])
def test_invalid_numbers_of_concepts_are_refused(ready, concepts):
    pairs, x = ready()
    with pytest.raises(ValueError, match=r"must be indices of concepts|are numbered 0 to 4"):
        pairs.plot_concept_attribution_map(x[0], concepts)
    assert not plt.get_fignums()


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(cols=0), "cols must be an integer of at least 1, not 0"),
        (dict(cols=1.5), "cols must be an integer"),
        (dict(img_size=0), "img_size must be more than 0"),
        (dict(img_size=float("nan")), "img_size must be a finite number"),
        (dict(nb_most_important_concepts=1.5), "nb_most_important_concepts must be an integer"),
    ],
)
def test_an_invalid_layout_is_refused_before_anything_is_drawn(ready, shows, options, message):
    pairs, x = ready()
    with pytest.raises(ValueError, match=message):
        pairs.plot_concept_attribution_maps(x, **options)
    assert not shows and not plt.get_fignums()


def test_border_width_and_number_of_crops_must_be_integers(ready):
    pairs, _ = ready()
    with pytest.raises(ValueError, match="border_width must be an integer of at least 0, not -1"):
        pairs.plot_concept_attribution_legend(border_width=-1)
    with pytest.raises(ValueError, match="nb_crops must be an integer"):
        pairs.plot_concepts_crops(nb_crops=1.5)
