import numpy as np
import pytest

from xplique_dirpairs.data.shards import ActivationShards
from xplique_dirpairs.datasets.synthetic import random_directions, signal_maps
from xplique_dirpairs.learning import features as features_
from xplique_dirpairs.learning.coordinates import Moments
from xplique_dirpairs.learning.features import Features
from xplique_dirpairs.learning.outliers import distinct_images, leave_out_far


@pytest.fixture(params=["held", "streamed"])
def make(request, tmp_path):
    """Function that returns activations as features, in memory or from shards."""

    def features(activations):
        if request.param == "held":
            return Features(activations)
        parts = np.array_split(activations, 5)
        return Features(ActivationShards.write(tmp_path, parts, 0.01, tokens=True))

    return features


@pytest.fixture
def clean():
    return np.random.default_rng(0).normal(size=(700, 2, 5)).astype(np.float32) + 3.0


def left_out(features):
    return leave_out_far(features, Moments.of(features), 2)


def test_nothing_is_left_out_of_clean_features(make, clean):
    features = make(clean)
    kept, _, images, far = left_out(features)
    assert kept is features and not images.size and not far


@pytest.mark.parametrize(
    "make_tail",
    [
        lambda rng: np.maximum(rng.normal(size=(900, 3, 3, 30)) - 1.5, 0.0),
        lambda rng: np.maximum(
            rng.normal(size=(400, 2, 2, 40)) * rng.lognormal(0, 0.5, (400, 1, 1, 1)) - 1.0, 0.0
        ),
        lambda rng: rng.gamma(0.3, size=(600, 2, 2, 40)) @ rng.normal(size=(40, 40)),
        lambda rng: rng.standard_exponential((2000, 20)) ** 2,
        lambda rng: rng.normal(size=(30, 200)),
        lambda rng: rng.normal(size=(400, 1)) * (rng.random((400, 8)) < 0.02),
    ],
    ids=["rectified", "rectified, of brightness", "skewed", "heavy", "few images", "mostly zero"],
)
def test_images_in_a_heavy_tail_are_not_outliers(make_tail, rng):
    features = Features(make_tail(rng).astype(np.float32))
    kept, _, images, far = left_out(features)
    assert kept is features and not images.size and not far


@pytest.mark.parametrize("size", [1.5, 3.0, 30.0, 1e12])
@pytest.mark.parametrize("images", [[3], [3, 77], list(range(10))])
def test_bright_images_are_left_out_up_to_one_in_a_hundred(size, images):
    features = signal_maps(1000, *random_directions(0, 4, 2, 32), seed=1).features
    features[images] *= size
    assert left_out(Features(features))[2].tolist() == images


def test_one_bright_map_among_few_images_is_left_out():
    """The outlier contributes to the moments that its distance is measured with."""
    directions = random_directions(0, 4, 2, 32)
    features = signal_maps(200, *directions, seed=1, map_shape=(7, 7)).features
    features[3] *= 3
    assert left_out(Features(features))[2].tolist() == [3]


@pytest.mark.parametrize("image", [0, 333, 699])
def test_an_image_with_one_distant_position_is_left_out(make, clean, image):
    clean[image, 1] *= 30
    kept, moments, images, _ = left_out(make(clean))
    assert images.tolist() == [image]
    others = np.delete(clean, image, axis=0)
    assert kept.shape == others.shape and len(kept) == 1398
    np.testing.assert_array_equal(np.concatenate(list(kept.blocks())), others.reshape(-1, 5))
    np.testing.assert_allclose(moments.mean, others.reshape(-1, 5).mean(axis=0), rtol=1e-5)


def test_an_outlier_does_not_hide_a_smaller_one(make):
    clean = np.random.default_rng(0).normal(size=(3000, 1, 5)).astype(np.float32)
    clean[7, 0, 0], clean[8, 0, 0] = 1e4, 100.0
    assert left_out(make(clean))[2].tolist() == [7, 8]


def test_three_outliers_of_falling_size_are_found(make):
    clean = np.random.default_rng(0).normal(size=(3000, 1, 5)).astype(np.float32)
    clean[[7, 8, 9], 0, 0] = 1e12, 1e6, 100.0
    assert left_out(make(clean))[2].tolist() == [7, 8, 9]


def test_too_many_distant_images_are_kept_and_counted(make, clean):
    clean[:8, 0] += 300.0
    features = make(clean)
    kept, _, images, far = left_out(features)
    assert kept is features and not images.size and far == 8


def test_features_that_are_constant_in_most_images_are_kept(make):
    features = np.ones((200, 1, 3), np.float32)
    features[:2] += np.random.default_rng(0).normal(size=(2, 1, 3))
    assert not left_out(make(features))[2].size


def test_nothing_is_left_out_of_very_few_images(make):
    few = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    assert not left_out(make(few))[2].size


@pytest.mark.parametrize("copies", [1, 20])
def test_copies_of_images_are_counted_once(copies, make, clean, monkeypatch):
    monkeypatch.setattr(features_, "BLOCK", 7)  # blocks end within images
    assert distinct_images(make(clean[:50].repeat(copies, axis=0))) == 50


def test_all_workers_leave_out_the_same_images_as_the_chief(make, clean):
    features = make(clean)
    theirs = np.zeros(len(clean))
    theirs[7] = 1.0
    arguments = features, Moments.of(features), 2
    near, _, left_out, _ = leave_out_far(*arguments, agree=lambda ours: theirs)
    assert left_out.tolist() == [7] and near.shape[0] == len(clean) - 1
    assert not leave_out_far(*arguments)[2].size, "without a cluster, nothing is left out"
