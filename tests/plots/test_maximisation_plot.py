import matplotlib.pyplot as plt
import numpy as np
import pytest

from xplique_dirpairs.plots.maximisation import plot_maximised
from xplique_dirpairs.plots.palette import concept_colors


def texts(figure):
    return [text.get_text() for text in figure.findobj(plt.Text) if text.get_text()]


def draw(rng, count, crops=3, **how):
    made = {
        "filter": rng.uniform(size=(count, 8, 8, 3)),
        "signal": rng.uniform(size=(count, 8, 8, 3)),
    }
    found = [rng.uniform(size=(crops, 4, 4, 3)) for _ in range(count)]
    return made, plot_maximised(made, found, np.arange(count) + 5, limits=(0, 1), **how)


def test_a_row_holds_the_pictures_and_the_crops_of_its_concept(rng):
    made, figure = draw(rng, 3, notes=["a", "b", "c"], title="a title")
    assert len(figure.axes) == 3 * 3
    for k in range(3):
        first, second, sheet = figure.axes[3 * k : 3 * k + 3]
        np.testing.assert_allclose(first.images[0].get_array(), made["filter"][k], atol=1e-6)
        np.testing.assert_allclose(second.images[0].get_array(), made["signal"][k], atol=1e-6)
        assert len(sheet.images) == 1
    assert {"5\na", "6\nb", "7\nc", "filter", "signal", "best crops", "a title"} <= set(
        texts(figure)
    )


def test_a_concept_without_crops_says_so(rng):
    _, figure = draw(rng, 2, crops=0)
    assert texts(figure).count("not detected in any crop") == 2


def test_a_concept_has_its_colour_also_where_only_some_are_drawn(rng):
    _, figure = draw(rng, 3)
    assert [text.get_color() for text in figure.texts[:3]] == concept_colors(8)[5:]


@pytest.mark.parametrize("count", [1, 10, 24])
def test_nothing_lies_on_anything_else_or_outside(rng, count):
    _, figure = draw(rng, count)
    boxes = np.array([ax.get_position(original=True).extents for ax in figure.axes])
    assert (boxes > 0).all() and (boxes < 1).all()
    apart = (boxes[:, None, :2] >= boxes[None, :, 2:] - 1e-9).any(-1)
    assert (apart | apart.T | np.eye(len(boxes), dtype=bool)).all()


def test_pictures_and_crops_are_wanted_of_every_concept(rng):
    made = {"filter": rng.uniform(size=(2, 8, 8, 3))}
    for pictures, crops, concepts in (
        (made, [], [0, 1]),
        (made, [np.zeros((0, 4, 4, 3))] * 3, [0, 1, 2]),
        ({}, [], []),
    ):
        with pytest.raises(ValueError, match="are wanted for each of"):
            plot_maximised(pictures, crops, concepts)
