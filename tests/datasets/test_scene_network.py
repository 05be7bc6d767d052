import numpy as np
import pytest

from xplique_dirpairs.datasets.annotated_scenes import (
    LAYER,
    annotated_scenes,
    random_scene_network,
    train_scene_network,
)
from xplique_dirpairs.models.split import split_model


@pytest.fixture(scope="module")
def halves():
    return split_model(random_scene_network(seed=1), LAYER)


def test_the_network_has_maps_of_8_by_8_and_8_logits(halves, rng):
    maps = halves[0].predict_on_batch(rng.random((2, 64, 64, 3)))
    assert maps.shape == (2, 8, 8, 128)
    assert maps.min() >= 0.0
    assert maps.max() > 0.0
    assert halves[1].output_shape == (None, 8)


def test_a_uniform_image_has_uniform_maps_without_padding_artefacts(halves):
    maps = halves[0].predict_on_batch(np.full((1, 64, 64, 3), [0.8, 0.3, 0.5]))
    np.testing.assert_allclose(maps, np.broadcast_to(maps[:, :1, :1], maps.shape), atol=1e-5)


def test_cells_are_centred_on_their_receptive_fields(halves, rng):
    image = rng.random((64, 64, 3)).astype(np.float32)
    changed = np.repeat(image[None], 64, axis=0)
    changed[np.arange(64), np.arange(64)] = 0.5  # row k of image k is grey
    maps = halves[0].predict_on_batch(np.concatenate([image[None], changed]))
    for cell in (3, 4):
        differs = (np.abs(maps[1:, cell] - maps[0, cell]) > 1e-6).any(axis=(1, 2))
        seen = np.flatnonzero(differs)
        assert (seen.min() + seen.max()) / 2 == 8 * cell + 3.5


def test_the_seed_determines_the_random_weights():
    one, again, other = (random_scene_network(seed).get_weights() for seed in (4, 4, 5))
    for a, b in zip(one, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(one[0], other[0])


@pytest.mark.slow
def test_the_seed_determines_the_training():
    scenes = annotated_scenes(32, seed=1)
    first, again = (
        train_scene_network(
            scenes.images, scenes.labels, epochs=1, seed=3, verbose=0
        ).predict_on_batch(scenes.images[:4])
        for _ in range(2)
    )
    np.testing.assert_allclose(first, again, rtol=1e-3, atol=1e-4)


def test_invalid_arguments_are_refused():
    images = np.zeros((2, 64, 64, 3))
    with pytest.raises(ValueError, match=r"images have shape \(8, 8, 3\), but .* \(64, 64"):
        train_scene_network(images[:, :8, :8], [0, 1])
    with pytest.raises(ValueError, match=r"labels must be one for each of 2 images, .*\(3,\)"):
        train_scene_network(images, [0, 1, 2])
