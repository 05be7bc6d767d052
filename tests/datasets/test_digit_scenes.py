import socket

import numpy as np
import pytest

from xplique_dirpairs.datasets import digit_scenes as module
from xplique_dirpairs.datasets.digit_scenes import (
    CLASS_NAMES,
    DIGITS,
    digit_masks,
    digit_scenes,
    small_cnn,
)

LUMINANCE = np.array([0.299, 0.587, 0.114])


@pytest.fixture(scope="module")
def scenes():
    images, labels, names = digit_scenes(120, seed=5)
    return images, labels, names, digit_masks(120, seed=5)


def test_pictures_labels_and_masks_have_the_documented_shapes_and_ranges(scenes):
    images, labels, names, masks = scenes
    assert images.shape == (120, 96, 96, 3)
    assert images.dtype == np.float32
    assert images.min() >= 0.0
    assert images.max() <= 1.0
    assert np.ptp(images, axis=(1, 2, 3)).min() > 0.3
    assert labels.shape == (120,)
    assert masks.shape == (120, 96, 96)
    assert names == CLASS_NAMES


def test_all_classes_have_the_same_number_of_pictures(scenes):
    np.testing.assert_array_equal(np.bincount(scenes[1]), [20] * len(CLASS_NAMES))


def test_a_class_is_a_photograph_and_a_digit():
    assert len(set(CLASS_NAMES)) == len(module.PHOTOGRAPHS) * len(DIGITS)
    for photograph in module.PHOTOGRAPHS:
        for digit in DIGITS:
            assert f"{photograph} + {digit}" in CLASS_NAMES


def test_the_ink_has_the_size_of_a_digit_and_does_not_touch_the_edges(scenes):
    masks = scenes[3]
    share = masks.mean(axis=(1, 2))
    assert share.min() > 0.01
    assert share.max() < 0.2
    for edge in (masks[:, 0], masks[:, -1], masks[:, :, 0], masks[:, :, -1]):
        assert not edge.any()
    height = masks.any(axis=2).sum(axis=1)
    assert height.min() >= 20
    assert height.max() <= 60


def test_the_ink_contrasts_with_its_surroundings(scenes):
    import cv2

    images, _, _, masks = scenes
    contrast = []
    for image, mask in zip(images, masks, strict=True):
        near = cv2.dilate(mask.astype(np.uint8), np.ones((9, 9))).astype(bool)
        luminance = image @ LUMINANCE
        contrast.append(abs(luminance[mask].mean() - luminance[near & ~mask].mean()))
    assert np.min(contrast) > 0.15
    assert np.median(contrast) > 0.3


def test_the_seed_determines_the_pictures_of_each_split():
    a, again, b = (digit_scenes(12, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(a[0], again[0])
    np.testing.assert_array_equal(a[1], again[1])
    assert not np.allclose(a[0], b[0])
    assert not np.allclose(a[0], digit_scenes(12, 1, "test")[0])


@pytest.mark.parametrize("digit", DIGITS)
def test_no_handwritten_sample_is_in_both_splits(digit):
    train, test = (
        {sample.tobytes() for sample in module.handwriting(digit, split)}
        for split in ("train", "test")
    )
    assert not train & test
    assert len(train) > 100
    assert len(test) > 30


def test_nothing_is_downloaded(monkeypatch):
    def refuse(*_):
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    module.photograph.cache_clear()
    module.handwriting.cache_clear()
    assert digit_scenes(6)[0].shape == (6, 96, 96, 3)


def test_invalid_arguments_are_refused():
    with pytest.raises(ValueError, match="n must be an integer of at least 1, not 0"):
        digit_scenes(0)
    with pytest.raises(ValueError, match=r"split must be one of \('train', 'test'\), not 'val'"):
        digit_scenes(3, split="val")


@pytest.mark.slow
def test_the_network_has_maps_of_8_by_8_and_soon_recognises_the_photograph():
    images, labels, _ = digit_scenes(300)
    model = small_cnn(images, labels, epochs=4, verbose=0)
    assert model.get_layer("last_conv").output.shape == (None, 8, 8, 48)
    assert model.output_shape == (None, len(CLASS_NAMES))
    fresh, truth, _ = digit_scenes(120, split="test")
    photograph = model.predict_on_batch(fresh).argmax(axis=1) // len(DIGITS)
    assert np.mean(photograph == truth // len(DIGITS)) > 0.8


@pytest.mark.slow
def test_the_seed_determines_the_training(scenes):
    images, labels, _, _ = scenes
    first, again = (
        small_cnn(images[:8], labels[:8], epochs=1, seed=3, verbose=0).predict_on_batch(images[:4])
        for _ in range(2)
    )
    np.testing.assert_allclose(first, again, rtol=1e-4, atol=1e-5)
