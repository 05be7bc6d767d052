from itertools import combinations

import numpy as np
import pytest

from xplique_dirpairs.plots.correction import plot_correction


@pytest.mark.parametrize("names", [["a", "b", "c"], ["a class of digits", "another", "$x$" * 30]])
@pytest.mark.parametrize("classes", [2, 3, 12, 30])
def test_names_of_classes_do_not_overlap(names, classes):
    counts = np.eye(classes, dtype=int)
    names = [names[k % 3] for k in range(classes)]
    figure = plot_correction({"all": (counts, counts)}, names)
    figure.canvas.draw()
    for ax in figure.axes:
        for labels in (ax.get_xticklabels(), ax.get_yticklabels()):
            boxes = [label.get_window_extent() for label in labels]
            assert len(boxes) == classes
            assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
