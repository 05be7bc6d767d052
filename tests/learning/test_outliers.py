import numpy as np
import pytest

from xplique_dirpairs.learning.coordinates import Moments
from xplique_dirpairs.learning.features import HeldFeatures, StreamedFeatures
from xplique_dirpairs.learning.outliers import leave_out_far
from xplique_dirpairs.shards import ActivationShards


@pytest.fixture(params=["held", "streamed"])
def make(request, tmp_path):
    """Activations as features."""

    def features(activations):
        if request.param == "held":
            return HeldFeatures(activations)
        parts = np.array_split(activations, 5)
        return StreamedFeatures(ActivationShards.write(tmp_path, parts, 0.01, tokens=True))

    return features


@pytest.fixture
def clean():
    return np.random.default_rng(0).normal(size=(700, 2, 5)).astype(np.float32) + 3.0


def left_out(features):
    return leave_out_far(features, Moments.of(features), 2)


def test_nothing_is_left_out_of_clean_features(make, clean):
    features = make(clean)
    kept, _, images = left_out(features)
    assert kept is features and not images.size


@pytest.mark.parametrize("image", [0, 333, 699])
def test_an_image_with_a_far_position_is_left_out(make, clean, image):
    clean[image, 1] *= 30
    kept, moments, images = left_out(make(clean))
    assert images.tolist() == [image]
    others = np.delete(clean, image, axis=0)
    assert kept.shape == others.shape and len(kept) == 1398
    np.testing.assert_array_equal(np.concatenate(list(kept.blocks())), others.reshape(-1, 5))
    np.testing.assert_allclose(moments.mean, others.reshape(-1, 5).mean(axis=0), rtol=1e-5)


def test_an_outlier_does_not_hide_another(make):
    clean = np.random.default_rng(0).normal(size=(3000, 1, 5)).astype(np.float32)
    clean[7, 0, 0], clean[8, 0, 0] = 1e4, 100.0
    assert left_out(make(clean))[2].tolist() == [7, 8]


def test_what_many_images_show_is_no_outlier(make, clean):
    clean[:4, 0] += 300.0
    features = make(clean)
    kept, _, images = left_out(features)
    assert kept is features and not images.size


def test_few_features_are_all_kept(make):
    few = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    assert not left_out(make(few))[2].size
