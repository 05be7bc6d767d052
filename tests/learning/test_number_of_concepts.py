import numpy as np
import pytest

from xplique_dirpairs.data.shards import ActivationShards
from xplique_dirpairs.datasets.planted_dictionary import planted_dictionary
from xplique_dirpairs.datasets.synthetic import random_directions, signal_maps
from xplique_dirpairs.learning import number_of_concepts
from xplique_dirpairs.learning.number_of_concepts import SkewnessCount, count_skewed_sources


def maps(concepts, distractors=4, seed=0, channels=32, images=10_000, cosine=0.0, **settings):
    """Return features (N, 1, 2, D) with one concept on each pixel."""
    directions = random_directions(seed, concepts, distractors, channels, cosine)
    return signal_maps(images, *directions, seed=seed, **settings).features


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"absent": (0.0, 0.5)},
        {"cosine": 0.5},
        {"zipf": 0.5},
        {"noise": 0.1},
        {"map_shape": (4, 5), "patches": 3, "images": 1500},
    ],
    ids=str,
)
@pytest.mark.parametrize("seed", [0, 1])
def test_concepts_are_counted_and_distractors_are_not(settings, seed):
    count = count_skewed_sources(maps(8, seed=seed, **settings))
    assert count.number == 8, count.reason
    assert len(count.skewnesses) == 8 + 4
    # the most frequent concept of a Zipf distribution may be found by free optimisation only
    certain = 7 if "zipf" in settings else 8
    assert count.skewnesses[certain - 1] > count.threshold > count.skewnesses[8]


def test_all_axes_are_concepts_without_distractors():
    assert count_skewed_sources(maps(8, distractors=0)).number == 8


def test_a_concept_excluded_by_orthogonality_is_counted():
    """The most frequent concept of a Zipf distribution is present where all others are absent."""
    count = count_skewed_sources(maps(16, channels=64, zipf=1.0, images=25_000))
    assert (count.skewnesses > count.threshold).sum() == 15
    assert count.number == 16


@pytest.mark.parametrize("size", [30.0, 1e4, 1e12])
def test_one_outlier_image_does_not_change_the_count(size):
    features = maps(8)
    without = count_skewed_sources(features)
    features[17] *= size
    count = count_skewed_sources(features)
    assert count.number == 8, count.reason
    np.testing.assert_allclose(count.skewnesses[:8], without.skewnesses[:8], atol=0.05)


def test_many_outlier_images_cause_no_numpy_warnings():
    features = maps(8)
    features[:200] *= 1e5
    assert count_skewed_sources(features).reason


@pytest.mark.parametrize("settings", [{}, {"map_shape": (6, 6), "patches": 3, "images": 2500}])
def test_shards_give_the_same_count_as_activations_in_memory(settings, tmp_path):
    """If there are more positions than are used, the same images are chosen."""
    features = maps(8, **settings)
    shards = ActivationShards.write(tmp_path, features, megabytes=1.0)
    held, streamed = count_skewed_sources(features), count_skewed_sources(shards)
    assert streamed.number == held.number == 8
    np.testing.assert_allclose(streamed.skewnesses, held.skewnesses, atol=1e-5)


def test_gaussian_features_have_no_gap(rng):
    features = rng.normal(size=(4000, 6)) @ rng.normal(size=(6, 20))
    count = count_skewed_sources(features.astype(np.float32))
    assert count.number is None and "gap" in count.reason
    assert np.isnan(count.threshold)


def test_no_number_is_given_for_a_smooth_spectrum(rng):
    """Sources of decreasing strength in all directions; rare ones are counted as sparse."""
    scales = np.exp(-np.arange(20) / 5)
    features = rng.normal(size=(4000, 20)) * scales
    count = count_skewed_sources(features.astype(np.float32))
    assert count.number is None and "floor" in count.reason
    assert len(count.skewnesses) == 20, "the skewnesses can be plotted nevertheless"
    features = rng.gamma(0.3, size=(4000, 20)) * scales
    count = count_skewed_sources(features.astype(np.float32))
    assert count.number == 20 and "sparse" in count.reason and "floor" in count.reason


def test_more_sparse_concepts_than_channels_are_counted():
    data = planted_dictionary(8000, 24, 36, probability=0.03, noise=0.01, seed=0)
    count = count_skewed_sources(data.features)
    assert 31 <= count.number <= 41 and "sparse concepts" in count.verdict


@pytest.mark.parametrize("seed", range(4))
def test_no_number_is_given_for_three_concepts(seed):
    """One concept is the absence of the other two, so that no direction is a maximum."""
    count = count_skewed_sources(maps(3, distractors=2, seed=seed, channels=16, images=3000))
    assert count.number is None and count.reason


def test_the_count_is_invariant_to_scale_offset_and_rotation(rng):
    features = maps(8)
    rotation = np.linalg.qr(rng.normal(size=(32, 32)))[0].astype(np.float32)
    count, moved = (count_skewed_sources(x) for x in (features, 100 * features @ rotation - 7))
    assert count.number == moved.number
    # the directions of distractors are arbitrary and disturb the others a little
    np.testing.assert_allclose(count.skewnesses[:8], moved.skewnesses[:8], atol=0.04)


def test_skewnesses_are_sorted_and_measured_on_held_out_positions(rng):
    features = rng.normal(size=(400, 30)).astype(np.float32)
    count = count_skewed_sources(np.pad(features, [(0, 0), (0, 30)]))
    assert (np.diff(count.skewnesses) <= 0).all()
    # on the fitted half, all skewnesses would be above 0.5
    assert np.median(count.skewnesses) < 0.3


def test_errors_of_gaussian_features_follow_the_known_formula(rng):
    """The error is sqrt(6/P) for P independent normal values; repeated positions do not count."""
    features = rng.normal(size=(20_000, 1, 4)).astype(np.float32)
    for repeats in (1, 5):
        count = count_skewed_sources(features.repeat(repeats, axis=1)[: 60_000 // repeats])
        images = min(20_000, 60_000 // repeats)
        np.testing.assert_allclose(count.errors, np.sqrt(6 / images), rtol=0.15)


def test_errors_of_skewed_sources_agree_with_repeated_samples(rng):
    features = rng.exponential(size=(20_000, 1, 4)).astype(np.float32)
    count = count_skewed_sources(features)
    samples = rng.exponential(size=(500, 20_000))
    samples -= samples.mean(axis=1, keepdims=True)
    skewnesses = (samples**3).mean(axis=1) / samples.std(axis=1) ** 3
    np.testing.assert_allclose(count.errors, skewnesses.std(), rtol=0.3)


@pytest.mark.parametrize(
    "counted, number, reason",
    [([8, 8, 8], 8, "found 8"), ([8, 8, 7], None, "disagree: 7, 8"), ([8, 8, None], None, "none")],
)
def test_all_splits_must_agree(counted, number, reason, monkeypatch):
    none, counts = np.zeros(0), iter(counted)

    def count(*_):
        number = next(counts)
        return SkewnessCount(number, "none" if number is None else f"found {number}", none, none)

    monkeypatch.setattr(number_of_concepts, "count_in_halves", count)
    result = count_skewed_sources(maps(4, images=100))
    assert result.number == number and reason in result.reason


def test_the_result_depends_only_on_the_seed():
    features = maps(8)
    first, again, other = (count_skewed_sources(features, random_state=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(first.skewnesses, again.skewnesses)
    assert np.abs(first.skewnesses - other.skewnesses).max() > 1e-4


def test_no_number_is_given_for_fewer_than_forty_images():
    count = count_skewed_sources(maps(4, images=39))
    assert count.number is None and "40 images" in count.reason


def test_invalid_arguments_are_refused():
    with pytest.raises(ValueError):
        count_skewed_sources(np.full((50, 4), np.nan))
    with pytest.raises(ValueError, match="random_state must be None or an integer"):
        count_skewed_sources(np.ones((50, 4)), random_state="a")
    with pytest.raises(ValueError, match="constant"):
        count_skewed_sources(np.ones((50, 4)))
