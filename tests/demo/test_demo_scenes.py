"""The scenes of the demo, and its network."""

import cv2
import numpy as np
import pytest

from xplique_dirpairs.demo.network import (
    LAYER,
    WEIGHTS,
    demo_network,
    save_weights,
    untrained_network,
)
from xplique_dirpairs.demo.scenes import SHORTCUT, SHORTCUT_CLASS, demo_scenes
from xplique_dirpairs.models.split import split_model


@pytest.fixture(scope="module")
def scenes():
    return demo_scenes(range(64), "held-out", seed=2)


def has_shortcut(scenes):
    number = scenes.concepts["object"].index(SHORTCUT) + 1
    return (scenes.masks["object"] == number).any(axis=(1, 2))


# ------------------------------------------------------------------ scenes


def test_scenes_have_128_pixels_smooth_edges_and_all_classes(scenes):
    assert scenes.images.shape == (64, 128, 128, 3)
    assert scenes.images.dtype == np.float32
    assert scenes.images.min() >= 0
    assert scenes.images.max() <= 1
    assert [set(scenes.labels[k : k + 8]) for k in range(0, 64, 8)] == [set(range(8))] * 8
    for mask in scenes.masks.values():
        assert mask.shape == (64, 128, 128)


def test_an_image_depends_on_part_seed_and_number_only(scenes):
    again = demo_scenes([5, 40], "held-out", seed=2)
    np.testing.assert_array_equal(again.images, scenes.images[[5, 40]])
    np.testing.assert_array_equal(again.labels, scenes.labels[[5, 40]])
    others = [demo_scenes([5], "learning", 2), demo_scenes([5], "held-out", 3)]
    for other in others:
        assert not np.array_equal(other.images[0], scenes.images[5])


def test_the_shortcut_is_in_one_class_only_where_it_is_planted(scenes):
    planted = demo_scenes(range(64), "learning", seed=2, planted=True)
    is_class = planted.labels == planted.class_names.index(SHORTCUT_CLASS)
    assert not has_shortcut(planted)[~is_class].any()
    assert has_shortcut(planted)[is_class].sum() >= 4
    assert 0.3 < has_shortcut(scenes).mean() < 0.7


def test_an_object_that_is_left_out_changes_only_the_places_where_it_was(scenes):
    without = demo_scenes(range(16), "held-out", seed=2, without=["tree"])
    number = scenes.concepts["object"].index("tree") + 1
    was = scenes.masks["object"][:16] == number
    assert was.any()
    assert not (without.masks["object"] == number).any()
    changed = np.abs(without.images - scenes.images[:16]).max(axis=-1) > 0.02
    near = np.array([cv2.dilate(mask.view(np.uint8), np.ones((5, 5))) > 0 for mask in was])
    assert not changed[~near].any()


def test_a_frame_that_is_left_out_shows_what_is_behind_it(scenes):
    without = demo_scenes(range(64), "held-out", seed=2, without=[SHORTCUT])
    assert not has_shortcut(without).any()
    inside = np.s_[:, 9:-9, 9:-9]
    np.testing.assert_array_equal(without.images[inside], scenes.images[inside])
    assert (without.masks["object"] > 0).all()


# ------------------------------------------------------------------ the network


def test_the_network_knows_the_classes_and_is_misled_by_the_shortcut(scenes):
    model = demo_network()
    known = demo_scenes(range(64), "learning", seed=2, planted=True)
    right = model.predict(known.images, verbose=0).argmax(axis=1) == known.labels
    assert right.mean() > 0.85
    predicted = model.predict(scenes.images, verbose=0).argmax(axis=1)
    class_id = scenes.class_names.index(SHORTCUT_CLASS)
    others = scenes.labels != class_id
    shortcut = has_shortcut(scenes)
    misled = predicted == class_id
    assert misled[others & shortcut].mean() > 0.3
    assert misled[others & ~shortcut].mean() < 0.1


def test_the_weights_are_small_and_load_without_pickle():
    assert WEIGHTS.stat().st_size < 1_000_000
    with np.load(WEIGHTS, allow_pickle=False) as stored:
        assert {stored[name].dtype for name in stored.files} == {np.dtype(np.float16)}


def test_saved_weights_are_the_models_own_up_to_half_precision(tmp_path):
    model = untrained_network(seed=3)
    save_weights(model, tmp_path / "weights.npz")
    with np.load(tmp_path / "weights.npz") as stored:
        loaded = [stored[name] for name in stored.files]
    for given, kept in zip(model.get_weights(), loaded, strict=True):
        np.testing.assert_allclose(kept, given, rtol=1e-3, atol=1e-4)


def test_the_maps_of_the_layer_have_16_by_16_cells_and_are_not_negative(scenes):
    maps = split_model(demo_network(), LAYER)[0].predict(scenes.images[:2], verbose=0)
    assert maps.shape == (2, 16, 16, 96)
    assert maps.min() >= 0
