"""The images in which detectors are strongest, as the interpretability benchmark shows them."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from annotated_maps import CONCEPTS, annotations, moved, slow_upsampled

from xplique_dirpairs.metrics.labelled_detectors import interpretability

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "detector_views.py"
FLAT = [(category, name) for category, names in CONCEPTS.items() for name in names]


def identity(maps):
    return maps


@pytest.fixture(scope="module")
def strongest_images():
    return runpy.run_path(str(SCRIPT))["strongest_images"]


@pytest.fixture
def data(rng):
    return annotations(rng, images=11)


@pytest.fixture
def scores(data):
    return interpretability(data, data, identity, np.full(5, 0.3))


@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_the_strongest_images_are_those_with_the_largest_values(
    strongest_images, data, scores, batch_size
):
    views = strongest_images(
        data, identity, scores, detectors=[3, 0], count=3, batch_size=batch_size
    )
    assert [view.detector for view in views] == [3, 0]
    for view in views:
        strength = data.maps[..., view.detector].max(axis=(1, 2))
        best = sorted(range(11), key=lambda n: -strength[n])[:3]
        np.testing.assert_array_equal(view.images, data.maps[best])
        category, name = FLAT[scores.labels[view.detector]]
        number = CONCEPTS[category].index(name) + 1
        np.testing.assert_array_equal(view.masks, data.masks[category][best] == number)
        for n, fires in zip(best, view.detections, strict=True):
            slow = slow_upsampled(data.maps[n, ..., view.detector], (10, 13)) > 0.3
            np.testing.assert_array_equal(fires, slow)
        assert name in view.name and f"{scores.iou[view.detector]:.2f}" in view.name


def test_a_shift_moves_the_detections(strongest_images, rng):
    data = annotations(rng, cells=(10, 13))
    scores = interpretability(data, data, identity, np.full(5, 0.3))
    view = strongest_images(data, identity, scores, detectors=[2], count=6, shift=(2, 1))[0]
    order = np.argsort(-data.maps[..., 2].max(axis=(1, 2)))
    np.testing.assert_array_equal(view.detections, moved(data, 2, 1).maps[order, ..., 2] > 0.3)


def test_the_best_detectors_come_first(strongest_images, data, scores):
    views = strongest_images(data, identity, scores)
    order = [view.detector for view in views]
    assert order == sorted(range(5), key=lambda i: -scores.iou[i])


def test_at_most_all_images_are_returned(strongest_images, data, scores):
    view = strongest_images(data, identity, scores, detectors=[1], count=20)[0]
    assert len(view.images) == len(view.masks) == len(view.detections) == 11


def test_a_detector_without_a_label_has_no_mask(strongest_images, data):
    scores = interpretability(data, data, identity, np.full(5, 1e6))
    view = strongest_images(data, identity, scores, count=2)[0]
    assert not view.masks.any() and not view.detections.any() and "no label" in view.name


def test_the_strongest_images_can_be_plotted(strongest_images, data, scores, detector_plots):
    images = np.random.default_rng(0).random((11, 10, 13, 3))
    data.maps, maps = images, data.maps
    views = strongest_images(data, identity, scores, count=2, activations=maps)
    columns = zip(*((v.images, v.masks, v.detections, v.name) for v in views), strict=True)
    assert len(detector_plots.plot_best_detectors(*map(list, columns)).axes) == 5 * 2 * 2


def test_invalid_arguments_are_refused(strongest_images, data, scores):
    with pytest.raises(ValueError, match="numbered 0 to 4"):
        strongest_images(data, identity, scores, detectors=[5])
    with pytest.raises(ValueError, match="count"):
        strongest_images(data, identity, scores, count=0)
