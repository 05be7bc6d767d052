"""The annotated scenes with one and with several pixels per unit."""

import hashlib

import cv2
import numpy as np
import pytest

from xplique_dirpairs.datasets.annotated_scenes import (
    annotated_scenes,
    draw_scene,
    scene_labels,
)
from xplique_dirpairs.datasets.scene_shapes import (
    TEXTURES,
    box,
    ellipse,
    finer,
    polygon,
    rounded,
    texture_pattern,
)

#: Of 96 scenes of seed 4, when they could be drawn with one pixel per unit only.
PICTURES = "412d45c77f9a1ba4be2a1e4ebefc2b233564745e20af71cca414b6200c1ecaa7"


def halved(region, pixels):
    """Return the share of each unit that a region covers."""
    shape = (region.shape[1] // pixels, region.shape[0] // pixels)
    return cv2.resize(region.astype(np.float32), shape, interpolation=cv2.INTER_AREA)


def test_scenes_of_one_pixel_per_unit_are_what_they_were():
    scenes = annotated_scenes(96, seed=4)
    drawn = [np.round(scenes.images * 255).astype(np.uint8), *scenes.masks.values()]
    assert hashlib.sha256(b"".join(part.tobytes() for part in drawn)).hexdigest() == PICTURES


@pytest.mark.parametrize(
    "draw",
    [
        lambda: ellipse(30.3, 21.8, 14.0, 9.5),
        lambda: polygon([(-12.2, 8.0), (0.3, 40.1), (17.5, 12.6)], 31.0),
        lambda: box(3.2, 40.6, 28.8, 61.1),
        lambda: rounded(10.0, 12.0, 50.0, 44.0),
    ],
    ids=["ellipse", "polygon", "box", "rounded"],
)
def test_a_finer_region_covers_the_same_place(draw):
    coarse = draw()
    with finer(4):
        fine = draw()
    assert coarse.shape == (64, 64)
    assert fine.shape == (256, 256)
    share = halved(fine, 4)
    near = np.ones((5, 5))
    edge = cv2.dilate(coarse.view(np.uint8), near) - cv2.erode(coarse.view(np.uint8), near)
    np.testing.assert_array_equal(share[edge == 0], coarse[edge == 0])
    assert fine.sum() / 16 == pytest.approx(coarse.sum(), rel=0.12)


@pytest.mark.parametrize("texture", TEXTURES)
@pytest.mark.parametrize("horizon", [None, 30.0])
def test_a_finer_texture_is_the_same_pattern(texture, horizon):
    patterns = []
    for pixels in (1, 4):
        with finer(pixels):
            patterns.append(texture_pattern(np.random.default_rng(5), texture, horizon))
    coarse, fine = patterns
    assert fine.shape == (256, 256)
    assert fine.min() >= 0
    assert fine.max() <= 1
    shown = slice(None) if horizon is None else slice(34, None)
    alike = np.corrcoef(coarse[shown].ravel(), halved(fine, 4)[shown].ravel())[0, 1]
    assert alike > (0.6 if horizon is None else 0.2)


def test_a_finer_scene_shows_the_same_things_in_the_same_places():
    labels = scene_labels(16, seed=3)
    for index, label in enumerate(labels.tolist()):
        coarse = draw_scene(3, index, label)
        with finer(2):
            fine = draw_scene(3, index, label)
        objects, finer_objects = coarse.masks[0].reshape(64, 64), fine.masks[0].reshape(128, 128)
        assert set(np.unique(objects)) == set(np.unique(finer_objects))
        assert np.mean(finer_objects[::2, ::2] == objects) > 0.93


def test_pixels_per_unit_are_one_again_afterwards():
    with pytest.raises(RuntimeError), finer(3):
        raise RuntimeError
    assert box(0, 0, 64, 64).shape == (64, 64)
