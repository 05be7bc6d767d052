"""Tests of distances to training features: formulas and percentiles."""

import numpy as np
import pytest

from xplique_dirpairs.interventions import distance as module
from xplique_dirpairs.interventions.distance import TrainingDistance


@pytest.fixture
def x(rng):
    """Return two clusters of images, (80, 2, 3, 6), with one channel that is always 0."""
    mixing = rng.normal(size=(6, 6))
    x = rng.normal(size=(80, 2, 3, 6)) @ mixing + 4.0
    x[::2] += 6.0
    x[..., 5] = 0.0
    return x.astype(np.float32)


def reference_distances(training, images):
    """Compute both distances image by image, with an eigendecomposition."""
    flat = training.reshape(-1, training.shape[-1]).astype(np.float64)
    mean = flat.mean(axis=0)
    variances, axes = np.linalg.eigh(np.cov(flat.T, bias=True))
    floor = module.VARIANCE_FLOOR * variances.mean()
    positions, nearest = [], []
    for image in images.astype(np.float64):
        total = 0.0
        for position in image.reshape(-1, image.shape[-1]):
            for variance, axis in zip(variances, axes.T, strict=True):
                total += ((position - mean) @ axis) ** 2 / max(variance, floor)
        positions.append(np.sqrt(total / (image.size // len(mean)) / len(mean)))
        own = image.reshape(-1, len(mean)).mean(axis=0)
        others = training.reshape(len(training), -1, len(mean)).mean(axis=1)
        nearest.append(min(np.linalg.norm(own - other) for other in others))
    return np.array(positions), np.array(nearest)


def test_distances_agree_with_the_reference_implementation(x):
    fresh = x[:5] + np.float32(0.7)
    measured = TrainingDistance(x)(fresh)
    positions, image = reference_distances(x, fresh)
    np.testing.assert_allclose(measured.positions, positions, rtol=1e-4)
    np.testing.assert_allclose(measured.image, image, rtol=1e-4)


def test_a_training_image_is_not_its_own_neighbour(x):
    distance = TrainingDistance(x)
    _, nearest = reference_distances(x[1:], x[:1])
    assert distance.training.image[0] == pytest.approx(nearest[0], rel=1e-4)
    assert distance(x).image.max() < 1e-3  # as a new image, it is its own neighbour


@pytest.mark.parametrize("places", [6, 1])
def test_positions_of_a_training_image_use_the_covariance_of_the_others(x, places):
    """Few images of many channels: with its own positions in it, the covariance would be blind."""
    part = x[:30].reshape(30, 6, 6)[:, :places, :5]
    distance = TrainingDistance(part)
    alone = np.array(
        [
            reference_distances(np.delete(part, k, axis=0), part[k : k + 1])[0][0]
            for k in range(len(part))
        ]
    )
    error = np.abs(distance.training.positions - alone).mean()
    assert error < 0.5 * np.abs(distance(part).positions - alone).mean()  # the mean is that of all
    np.testing.assert_allclose(distance.training.positions, alone, rtol=0.12)


def test_new_images_have_the_percentiles_of_training_images_in_many_channels(rng):
    mixing = rng.normal(size=(60, 60))
    x = (rng.normal(size=(120, 4, 60)) @ mixing).astype(np.float32)
    distance = TrainingDistance(x[:60])
    assert 20 < np.median(distance(x[60:]).positions_percentile) < 80
    with_itself = distance(x[:60]).positions_percentile
    assert np.median(with_itself) < 5


def test_training_images_rank_from_the_lowest_to_the_highest(x):
    distance = TrainingDistance(x)
    for ranks in (distance.training.positions_percentile, distance.training.image_percentile):
        assert ranks.min() == 0.0
        assert ranks.max() == pytest.approx(100 * 79 / 80)
        assert np.mean(ranks <= 99) == pytest.approx(0.99, abs=0.02)


def test_very_different_features_are_farther_than_every_training_image(x):
    far = TrainingDistance(x)(x[:3] + np.float32(100.0))
    assert (far.percentile == 100.0).all()


def test_the_mean_of_all_positions_is_nearer_than_any_image(x):
    mean = np.broadcast_to(x.mean(axis=(0, 1, 2)), x[:1].shape)
    measured = TrainingDistance(x)(mean)
    assert measured.positions[0] < 1e-3
    assert measured.positions_percentile[0] == 0.0
    # between two clusters: every position is ordinary, the image is not
    assert measured.image_percentile[0] == 100.0
    assert measured.percentile[0] == 100.0


def test_a_constant_channel_that_moves_is_far_but_not_infinitely(x):
    odd = x[:1].copy()
    odd[..., 5] = 5.0
    measured = TrainingDistance(x)(odd)
    assert np.isfinite(measured.positions[0])
    assert measured.positions_percentile[0] == 100.0


def test_order_and_batches_do_not_matter(x, monkeypatch, rng):
    at_once = TrainingDistance(x)
    order = rng.permutation(len(x))
    monkeypatch.setattr(module, "chunk_size", lambda *_: 3)
    parts = TrainingDistance(x[order])
    fresh = x[:7] * np.float32(1.2)
    for name in ("positions", "image", "positions_percentile", "image_percentile"):
        there, here = getattr(parts(fresh[::-1]), name)[::-1], getattr(at_once(fresh), name)
        np.testing.assert_allclose(there, here, rtol=1e-4, atol=1e-4)


def test_scale_of_the_features_does_not_change_ranks(x):
    fresh = x[:9] + np.float32(0.5)
    small, large = TrainingDistance(x), TrainingDistance(1000 * x)
    np.testing.assert_allclose(
        large(1000 * fresh).percentile, small(fresh).percentile, atol=100 / 80 + 1e-6
    )


def test_float64_and_vectors_without_positions_are_accepted(x):
    vectors = x[:, 0, 0].astype(np.float64)
    measured = TrainingDistance(vectors)(vectors[:4])
    np.testing.assert_allclose(
        measured.positions, reference_distances(vectors, vectors[:4])[0], rtol=1e-4
    )


def test_many_training_images_are_sampled(x, monkeypatch):
    monkeypatch.setattr(module, "MOST_NEIGHBOURS", 20)
    distance = TrainingDistance(x)
    assert len(distance.training.image) == 20
    with pytest.raises(ValueError, match="random_state"):
        TrainingDistance(x, random_state="no")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[:1], "at least 2 training images"),
        (lambda x: x[:4] * np.nan, "NaN"),
        (lambda x: "images", "numeric"),
    ],
)
def test_invalid_training_features_are_refused(x, change, message):
    with pytest.raises(ValueError, match=message):
        TrainingDistance(change(x))


def test_features_with_another_number_of_channels_are_refused(x):
    with pytest.raises(ValueError, match="6 channels"):
        TrainingDistance(x)(x[..., :4])
