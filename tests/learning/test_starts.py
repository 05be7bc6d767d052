import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from xplique_dirpairs.datasets.synthetic import random_directions, signal_maps
from xplique_dirpairs.learning import starts
from xplique_dirpairs.learning.coordinates import Moments, whitened
from xplique_dirpairs.learning.starts import (
    has_gap,
    make_start,
    random_filters,
    separating_thresholds,
    skewness_filters,
)

every_start = pytest.mark.parametrize("name", ["skewness", "consensus", "random"])


def start(name, features, concepts, seed=0):
    rng = np.random.default_rng(seed)
    return make_start(name, features, concepts, rng, backward=np.eye(features.shape[1]))


@pytest.fixture(scope="module")
def mixture():
    """Sources and whitened features: four skewed sources, and Gaussian and uniform distractors."""
    rng = np.random.default_rng(1)
    count = 20_000
    concepts = rng.gamma(0.5, size=(count, 4))
    gaussian, uniform = rng.normal(size=(count, 4)), rng.uniform(-1, 1, size=(count, 4))
    sources = np.concatenate([concepts, gaussian, uniform], axis=1)
    x = (sources @ rng.normal(size=(12, 40))).astype(np.float32)
    return concepts, whitened(Moments.of(x), 12).features(x)


def correlations(features, filters, sources):
    count = sources.shape[1]
    return np.corrcoef(features @ filters.T, sources, rowvar=False)[:-count, -count:]


def test_the_skewness_start_finds_skewed_sources_with_their_signs(mixture):
    sources, features = mixture
    filters = start("skewness", features, 4).filters
    result = correlations(features, filters, sources)
    assert sorted(result.argmax(axis=1)) == [0, 1, 2, 3]
    assert result.max(axis=1).min() > 0.97, "correlations are signed"


def test_a_random_start_does_not_find_the_skewed_sources(mixture):
    sources, features = mixture
    filters = start("random", features, 4).filters
    assert correlations(features, filters, sources).max(axis=1).min() < 0.9


@pytest.fixture(scope="module")
def crowded():
    """Whitened positions whose directions form eight loose clusters."""
    rng = np.random.default_rng(2)
    centres = rng.normal(size=(8, 12))
    x = centres[rng.integers(8, size=3000)] * rng.gamma(4.0, size=(3000, 1))
    x += 1.5 * rng.normal(size=x.shape)
    return whitened(Moments.of(x.astype(np.float32)), 8).features(x.astype(np.float32))


def agreement(first, second):
    cosines = np.abs(first @ second.T)
    rows, columns = linear_sum_assignment(-cosines)
    return cosines[rows, columns].mean()


def test_a_consensus_depends_less_on_the_seed_than_one_clustering(crowded, monkeypatch):
    def mean_agreement():
        result = [start("consensus", crowded, 12, seed).filters for seed in range(4)]
        return np.mean([agreement(result[i], result[j]) for i in range(4) for j in range(i)])

    many = mean_agreement()
    monkeypatch.setattr(starts, "CLUSTERINGS", 1)
    one = mean_agreement()
    assert many > one + 0.05, (many, one)


def test_a_consensus_clusters_directions_and_ignores_lengths(rng):
    """Positions along one of three directions are very long: Euclidean clusters would split it."""
    direction = rng.integers(3, size=3000)
    x = np.eye(3)[direction] + 0.05 * rng.normal(size=(3000, 3))
    x *= np.where(direction == 0, 20.0 * rng.uniform(0.1, 1.0, 3000), 1.0)[:, None]
    filters = start("consensus", x.astype(np.float32), 3).filters
    assert agreement(filters, np.eye(3)) > 0.99


def test_random_filters_are_orthonormal_and_uniform(rng):
    features = np.zeros((10, 7), np.float32)
    first, second = (random_filters(features, 5, rng) for _ in range(2))
    np.testing.assert_allclose(first @ first.T, np.eye(5), atol=1e-12)
    assert np.abs(first - second).max() > 0.1
    many = np.stack([random_filters(features, 5, rng) for _ in range(200)])
    assert np.abs(many.mean(axis=0)).max() < 0.2, "no direction is preferred"


@every_start
@pytest.mark.parametrize("concepts", [1, 4, 30])
def test_every_start_gives_unit_filters_with_equal_shares(name, concepts, mixture):
    features = mixture[1][:3000]
    result = start(name, features, concepts)
    filters, thresholds = result.filters, result.thresholds
    assert filters.shape == (concepts, features.shape[1]) and thresholds.shape == (concepts,)
    np.testing.assert_allclose(np.linalg.norm(filters, axis=1), 1.0, rtol=1e-6)
    share = (features @ filters.T > thresholds).mean(axis=0)
    if not result.clear:
        np.testing.assert_allclose(share, 1 / max(concepts, 2), atol=0.01)


@every_start
def test_a_start_depends_only_on_the_generator(name, mixture):
    first, again, other = (start(name, mixture[1], 3, seed).filters for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-6


@pytest.mark.parametrize("concepts, clear", [(2, False), (4, True), (5, False), (30, False)])
def test_the_start_is_clear_for_the_true_number_of_concepts_only(concepts, clear, mixture):
    rng = np.random.default_rng(0)
    filters = skewness_filters(mixture[1], mixture[1].shape[1], rng)
    assert (concepts <= len(filters) and has_gap(mixture[1], filters, filters[:concepts])) is clear
    assert start("skewness", mixture[1], concepts).clear is clear


def test_thresholds_separate_rare_and_frequent_concepts_of_any_scale(rng):
    shares = np.array([0.6, 0.3, 0.08, 0.02])
    present = np.eye(4)[rng.choice(4, size=20_000, p=shares)] > 0
    z = np.where(present, rng.uniform(2.5, 5, present.shape), rng.uniform(0, 2.5, present.shape))
    lengths = np.array([1.0, 20.0, 0.3, 4.0])
    thresholds, separation = separating_thresholds(z / lengths, lengths)
    np.testing.assert_allclose(thresholds * lengths, 2.5, atol=0.05)
    assert separation == pytest.approx(1.0, abs=0.01)


def sources_of(concepts=8, **options):
    """Return masks of the concepts, whitened features and the matrix backward."""
    data = signal_maps(15_000, *random_directions(3, concepts, 2, 48), seed=3, **options)
    x = data.features.reshape(-1, 48)
    coordinates = whitened(Moments.of(x), concepts)
    return data.masks.reshape(-1, concepts), coordinates.features(x), coordinates.backward


def ious(result, features, masks):
    """Return the IoU of the detections with the mask of each matched concept."""
    on = features @ result.filters.T.astype(np.float32) > result.thresholds
    both = on.T.astype(float) @ masks
    iou = both / (on.sum(axis=0)[:, None] + masks.sum(axis=0) - both)
    return iou[linear_sum_assignment(-iou)]


@pytest.mark.parametrize("per_position", [1, 2])
def test_the_start_finds_the_number_of_concepts_per_position(per_position):
    masks, features, backward = sources_of(concepts_per_pixel=per_position)
    result = make_start("skewness", features, 8, np.random.default_rng(0), backward)
    assert result.clear and result.per_position == per_position
    assert result.separation > 0.9 and ious(result, features, masks).min() > 0.9


def test_the_start_finds_a_frequent_concept_excluded_by_orthogonality():
    masks, features, backward = sources_of(24, zipf=1.0)
    frequent = masks[:, masks.sum(axis=0).argmax()]

    def best(filters):
        return max(np.corrcoef(row, frequent)[0, 1] for row in filters @ features.T)

    all_filters = skewness_filters(features, features.shape[1], np.random.default_rng(0))
    orthogonal = all_filters[:24]
    result = make_start("skewness", features, 24, np.random.default_rng(0), backward)
    assert not has_gap(features, all_filters, orthogonal)
    assert best(orthogonal) < 0.1
    assert result.clear and best(result.filters) > 0.8


def test_gaussian_features_have_no_clear_start(rng):
    features = rng.normal(size=(20_000, 24)).astype(np.float32)
    assert not start("skewness", features, 16).clear
