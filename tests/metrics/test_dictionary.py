"""Dictionary metrics against slow second writings, at the ends of their ranges, and unchanged."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from xplique_dirpairs.learning.losses import filter_signal_orthogonality
from xplique_dirpairs.metrics import dictionary as metrics
from xplique_dirpairs.metrics.dictionary import (
    chance_stability,
    cross_talk,
    cross_talk_rms,
    dead_concepts,
    dictionary_stability,
    hoyer_sparsity,
    l0,
    matched_cosines,
    max_coherence,
    mean_coherence,
    ood_score,
    oriented,
    plausibility,
    soft_identifiability,
    stable_rank,
    threshold_accuracies,
)


@pytest.fixture(params=range(3))
def rng(request):
    return np.random.default_rng(request.param)


def cosine(a, b):
    return float(np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)))


def orthonormal(rng, concepts, channels):
    return np.linalg.qr(rng.normal(size=(channels, concepts)))[0].T


def same_up_to_order_signs_and_lengths(rng, dictionary):
    count = len(dictionary)
    signs, lengths = rng.choice([-1.0, 1.0], count), rng.uniform(0.1, 10.0, count)
    return (dictionary * (signs * lengths)[:, None])[rng.permutation(count)]


# ------------------------------------------------------------------ stability


@pytest.mark.parametrize(("mine", "theirs"), [(4, 4), (3, 5), (5, 3), (1, 4)])
def test_stability_is_that_of_the_best_of_all_matchings(rng, mine, theirs):
    a, b = rng.normal(size=(mine, 6)), rng.normal(size=(theirs, 6))
    few, many = (a, b) if mine <= theirs else (b, a)
    slow = max(
        np.mean([abs(cosine(few[i], many[j])) for i, j in enumerate(chosen)])
        for chosen in itertools.permutations(range(len(many)), len(few))
    )
    assert dictionary_stability(a, b) == pytest.approx(slow)
    assert dictionary_stability(b, a) == pytest.approx(slow)


@pytest.mark.parametrize("concepts", [1, 5, 9])
def test_stability_with_itself_in_any_order_signs_and_lengths_is_one(rng, concepts):
    dictionary = rng.normal(size=(concepts, 7))
    same = same_up_to_order_signs_and_lengths(rng, dictionary)
    assert dictionary_stability(dictionary, same) == pytest.approx(1.0)
    assert dictionary_stability(dictionary, same) <= 1.0


def test_stability_with_orthogonal_directions_is_zero(rng):
    both = orthonormal(rng, 6, 8)
    assert dictionary_stability(both[:3], both[3:]) == pytest.approx(0, abs=1e-12)


def test_directions_that_one_dictionary_has_besides_cost_nothing(rng):
    few, more = rng.normal(size=(3, 8)), rng.normal(size=(4, 8))
    assert dictionary_stability(few, np.concatenate([more, few])) == pytest.approx(1.0)


def test_those_left_over_have_no_cosine_and_the_others_their_partners(rng):
    few = rng.normal(size=(2, 8))
    larger = np.concatenate([-3 * few[1:], orthonormal(rng, 3, 8), few[:1]])
    cosines = matched_cosines(larger, few)
    np.testing.assert_allclose(cosines[[0, 4]], 1)
    np.testing.assert_array_equal(np.isnan(cosines), [False, True, True, True, False])


def test_a_zero_direction_is_not_stable(rng):
    dictionary = orthonormal(rng, 4, 6)
    dictionary[2] = 0
    assert dictionary_stability(dictionary, dictionary) == pytest.approx(3 / 4)


def test_by_chance_two_dictionaries_agree_the_more_the_larger_they_are(rng):
    levels = [chance_stability((size, size), 16, random_state=rng) for size in (2, 16, 64)]
    assert 0.1 < levels[0] < levels[1] < levels[2] < 0.8
    assert chance_stability((3, 5), 1) == pytest.approx(1.0)  # there is one line to be on
    assert chance_stability((3, 5), 8, random_state=1) == chance_stability(
        (3, 5), 8, random_state=1
    )


# ------------------------------------------------------------------ one dictionary


def test_coherences_are_the_largest_and_the_mean_of_all_pairs(rng):
    dictionary = rng.normal(size=(5, 4))
    pairs = [abs(cosine(a, b)) for a, b in itertools.combinations(dictionary, 2)]
    assert max_coherence(dictionary) == pytest.approx(max(pairs))
    assert mean_coherence(dictionary) == pytest.approx(np.mean(pairs))


def test_stable_rank_is_the_squares_of_all_singular_values_over_the_largest(rng):
    dictionary = rng.normal(size=(5, 4))
    unit = np.array([row / np.linalg.norm(row) for row in dictionary])
    singular = np.linalg.svd(unit, compute_uv=False)
    assert stable_rank(dictionary) == pytest.approx((singular**2).sum() / singular[0] ** 2)


def test_orthogonal_directions_have_coherence_zero_and_full_stable_rank(rng):
    dictionary = orthonormal(rng, 5, 8) * rng.uniform(0.1, 9, size=(5, 1))
    assert max_coherence(dictionary) == pytest.approx(0, abs=1e-12)
    assert mean_coherence(dictionary) == pytest.approx(0, abs=1e-12)
    assert stable_rank(dictionary) == pytest.approx(5)


def test_parallel_directions_have_coherence_one_and_stable_rank_one(rng):
    dictionary = np.outer([1.0, -2.0, 0.1], rng.normal(size=7))
    assert max_coherence(dictionary) == pytest.approx(1)
    assert mean_coherence(dictionary) == pytest.approx(1)
    assert stable_rank(dictionary) == pytest.approx(1)


def test_a_zero_direction_counts_for_nothing_and_one_alone_has_no_coherence(rng):
    dictionary = np.concatenate([orthonormal(rng, 3, 5), np.zeros((1, 5))])
    assert max_coherence(dictionary) == pytest.approx(0, abs=1e-12)
    assert stable_rank(dictionary) == pytest.approx(3)
    assert stable_rank(np.zeros((2, 3))) == 0
    assert np.isnan(max_coherence([[1.0, 2.0]])) and np.isnan(mean_coherence([[1.0, 2.0]]))
    assert stable_rank([[1.0, 2.0]]) == pytest.approx(1)


@pytest.mark.parametrize("metric", [max_coherence, mean_coherence, stable_rank])
def test_neither_order_nor_signs_nor_lengths_of_the_directions_matter(rng, metric):
    dictionary = rng.normal(size=(6, 5))
    other = same_up_to_order_signs_and_lengths(rng, dictionary)
    assert metric(other) == pytest.approx(metric(dictionary))
    assert metric(other.astype(np.float32)) == pytest.approx(metric(dictionary), rel=1e-5)


# ------------------------------------------------------------------ coefficients


def test_hoyer_is_its_formula(rng):
    u = rng.normal(size=(3, 4, 6))
    for place in np.ndindex(3, 4):
        l1, l2 = sum(abs(v) for v in u[place]), sum(v * v for v in u[place]) ** 0.5
        slow = (6**0.5 - l1 / l2) / (6**0.5 - 1)
        assert hoyer_sparsity(u)[place] == pytest.approx(slow)


@pytest.mark.parametrize("scale", [1e-200, 1.0, -3.0, 1e200])
def test_hoyer_is_one_with_one_concept_on_and_zero_with_all_equally(scale):
    np.testing.assert_allclose(hoyer_sparsity(scale * np.eye(5)), 1)
    np.testing.assert_allclose(hoyer_sparsity(scale * np.array([[1, -1, 1.0]])), 0, atol=1e-12)


def test_hoyer_is_not_defined_where_nothing_is_on_or_for_a_single_concept():
    sparsity = hoyer_sparsity([[0.0, 0.0], [0.0, 2.0]])
    assert np.isnan(sparsity[0]) and sparsity[1] == 1
    assert np.isnan(hoyer_sparsity([[3.0], [0.0]])).all()


def test_l0_counts_what_is_on_each_concept_in_its_own_units(rng):
    u = rng.uniform(0.1, 1.0, size=(50, 4, 6)) * rng.choice([-1.0, 1.0], size=(50, 4, 6))
    on = rng.random((50, 4, 6)) < 0.3
    on[0, 0] = u[0, 0] = 1  # so that every concept is on somewhere, at the full
    units = np.array([1e-9, 1e-3, 1, 1e3, 1e6, 1e9])
    np.testing.assert_array_equal(l0(units * np.where(on, u, 1e-5 * u)), on.sum(axis=-1))
    np.testing.assert_array_equal(l0(np.zeros((3, 4))), 0)
    np.testing.assert_array_equal(l0(-np.ones((3, 4))), 4)


def test_dead_is_what_never_adds_anything(rng):
    u, dictionary = rng.normal(size=(10, 2, 4)), rng.normal(size=(4, 5))
    np.testing.assert_array_equal(dead_concepts(u, dictionary), False)
    u[..., 1] = 0  # never on
    dictionary[2] *= 1e-6  # on, and next to nothing
    dictionary[3], u[..., 3] = dictionary[3] * 1e-6, u[..., 3] * 1e6  # lengths are made up for
    np.testing.assert_array_equal(dead_concepts(u, dictionary), [False, True, True, False])
    np.testing.assert_array_equal(dead_concepts(np.zeros((3, 4)), dictionary), True)


def test_oriented_turns_a_dictionary_so_that_the_signs_it_came_with_do_not_matter(rng):
    u, dictionary = rng.exponential(size=(200, 4)), rng.normal(size=(4, 5))
    np.testing.assert_array_equal(oriented(dictionary, u), dictionary)
    signs = rng.choice([-1.0, 1.0], 4)
    for centred in (0.0, u.mean(axis=0)):  # about the mean there are as many on either side
        turned = oriented(signs[:, None] * dictionary, signs * (u - centred))
        np.testing.assert_array_equal(turned, dictionary)
    np.testing.assert_array_equal(oriented(dictionary, np.zeros((3, 4))), dictionary)


# ------------------------------------------------------------------ data and classes


def test_ood_is_one_minus_the_cosine_of_the_nearest_sample(rng, monkeypatch):
    monkeypatch.setattr(metrics, "_ROWS_AT_ONCE", 7)  # the last part is a smaller one
    dictionary, x = rng.normal(size=(3, 4)), rng.normal(size=(5, 2, 3, 4))
    slow = 1 - np.mean([max(cosine(d, row) for row in x.reshape(-1, 4)) for d in dictionary])
    assert ood_score(dictionary, x) == pytest.approx(slow)


def test_ood_is_zero_for_samples_one_for_what_is_orthogonal_two_for_the_opposite(rng):
    x = rng.normal(size=(20, 6))
    assert ood_score(5 * x[3:8], x) == pytest.approx(0, abs=1e-12)
    both = orthonormal(rng, 6, 6)
    assert ood_score(both[:3], both[3:]) == pytest.approx(1)
    assert ood_score(-both[:1], both[:1]) == pytest.approx(2)
    assert ood_score(np.zeros((2, 6)), x) == pytest.approx(1)


def test_plausibility_is_the_mean_over_the_classes_of_the_nearest_direction(rng):
    dictionary, heads = rng.normal(size=(5, 4)), rng.normal(size=(3, 4))
    slow = np.mean([max(cosine(d, head) for d in dictionary) for head in heads])
    assert plausibility(dictionary, heads) == pytest.approx(slow)


def test_plausibility_is_one_if_the_classes_weights_are_among_the_directions(rng):
    heads = orthonormal(rng, 3, 8)
    dictionary = np.concatenate([rng.normal(size=(4, 8)), 7 * heads[::-1]])
    assert plausibility(dictionary, heads) == pytest.approx(1)
    assert plausibility(-heads[:1], heads[:1]) == pytest.approx(-1)
    assert plausibility(np.zeros((2, 8)), heads) == 0


@pytest.mark.parametrize("metric", [ood_score, plausibility])
def test_order_and_lengths_do_not_matter_to_what_data_and_classes_are_like(rng, metric):
    dictionary, rows = rng.normal(size=(6, 5)), rng.normal(size=(30, 5))
    other = (dictionary * rng.uniform(0.1, 10, size=(6, 1)))[rng.permutation(6)]
    scaled = rows[rng.permutation(30)] * rng.uniform(0.1, 10, size=(30, 1))
    assert metric(other, scaled) == pytest.approx(metric(dictionary, rows))
    low = metric(other.astype(np.float32), scaled.astype(np.float32))
    assert low == pytest.approx(metric(dictionary, rows), rel=1e-5)


def accuracy_slowly(values, there):
    """The best of all thresholds between, below and above the values, either way round."""
    best = 0.0
    for threshold in [min(values) - 1, *values]:
        hits = [bool(value > threshold) == bool(t) for value, t in zip(values, there, strict=True)]
        best = max(best, np.mean(hits), 1 - np.mean(hits))
    return best


@pytest.mark.parametrize("ties", [False, True])
def test_accuracies_are_those_of_the_best_of_all_thresholds(rng, ties):
    u, factors = rng.normal(size=(7, 3, 4)), rng.random((7, 3, 2)) < 0.4
    u = np.round(u) if ties else u
    slow = [
        [
            accuracy_slowly(u[..., i].ravel(), factors[..., f].ravel())
            for f in range(factors.shape[-1])
        ]
        for i in range(u.shape[-1])
    ]
    np.testing.assert_allclose(threshold_accuracies(u, factors), slow)
    np.testing.assert_allclose(soft_identifiability(u, factors), np.max(slow, axis=0))


def test_a_factor_some_concept_tells_is_identified_by_any_monotone_reading(rng):
    u, factors = rng.normal(size=(80, 5)), rng.random((80, 2)) < 0.4
    u[:, 3] = np.where(factors[:, 0], 1.0, -1.0) * rng.uniform(0.1, 1, 80) + 5
    u[:, 1] = -np.exp(10 * factors[:, 1])
    np.testing.assert_array_equal(soft_identifiability(u, factors), 1)


def test_what_says_nothing_has_the_share_of_the_commoner_case():
    factors = np.arange(10)[:, None] < np.array([0, 1, 5, 7, 10])
    constant = soft_identifiability(np.full((10, 3), 2.0), factors)
    np.testing.assert_allclose(constant, [1, 0.9, 0.5, 0.7, 1])


def test_identifiability_does_not_depend_on_order_signs_scale_or_dtype(rng):
    u, factors = rng.normal(size=(60, 4)), rng.random((60, 3)) < 0.5
    order, signs = rng.permutation(4), rng.choice([-1.0, 1.0], 4)
    other = (u * signs * rng.uniform(0.1, 10, 4))[:, order].astype(np.float32)
    expected = threshold_accuracies(u, factors)
    np.testing.assert_allclose(threshold_accuracies(other, factors.astype(int)), expected[order])


# ------------------------------------------------------------------ filters and signals


def test_cross_talk_is_the_mean_and_the_root_mean_square_of_what_is_off_the_diagonal(rng):
    filters, signals = rng.normal(size=(4, 6)), rng.normal(size=(4, 6))
    off = [cosine(filters[i], signals[j]) for i, j in itertools.permutations(range(4), 2)]
    assert cross_talk(filters, signals) == pytest.approx(np.mean(np.abs(off)))
    assert cross_talk_rms(filters, signals) == pytest.approx(np.sqrt(np.sum(np.square(off)) / 16))


def test_the_root_mean_square_is_the_loss_that_learning_makes_small(rng):
    filters, signals = rng.normal(size=(5, 7)), rng.normal(size=(5, 7))
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (filters, signals)]
    loss = filter_signal_orthogonality(tf.constant(unit[0] @ unit[1].T))
    assert cross_talk_rms(filters, signals) == pytest.approx(float(loss), rel=1e-6)


def test_filters_that_read_their_own_signal_only_have_no_cross_talk(rng):
    signals = rng.normal(size=(4, 6))
    filters = np.linalg.pinv(signals).T * rng.choice([-3.0, 0.5], size=(4, 1))
    for metric in (cross_talk, cross_talk_rms):
        assert metric(filters, signals) == pytest.approx(0, abs=1e-12)
        same = np.tile(rng.normal(size=6), (4, 1))
        expected = 1.0 if metric is cross_talk else np.sqrt(12 / 16)
        assert metric(same, -same) == pytest.approx(expected)
        assert metric(np.zeros((4, 6)), signals) == 0
    assert np.isnan(cross_talk(signals[:1], signals[:1]))
    assert cross_talk_rms(signals[:1], signals[:1]) == 0


@pytest.mark.parametrize("metric", [cross_talk, cross_talk_rms])
def test_cross_talk_does_not_depend_on_order_signs_lengths_or_dtype(rng, metric):
    filters, signals = rng.normal(size=(5, 6)), rng.normal(size=(5, 6))
    expected, order = metric(filters, signals), rng.permutation(5)
    factors = rng.choice([-1.0, 1.0], size=(2, 5, 1)) * rng.uniform(0.1, 10, size=(2, 5, 1))
    filters, signals = (factors * [filters, signals])[:, order].astype(np.float32)
    assert metric(filters, signals) == pytest.approx(expected, rel=1e-5)


# ------------------------------------------------------------------ what cannot be


@pytest.mark.parametrize("wrong", [np.zeros(4), np.zeros((0, 4)), np.zeros((2, 3, 4))])
@pytest.mark.parametrize("metric", [max_coherence, mean_coherence, stable_rank])
def test_what_is_no_dictionary_is_refused(metric, wrong):
    with pytest.raises(ValueError, match=r"\(I, D\)"):
        metric(wrong)


def test_what_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="finite"):
        stable_rank([[1.0, np.nan]])
    with pytest.raises(ValueError, match="finite"):
        l0([[1.0, np.inf]])


@pytest.mark.parametrize(
    "metric", [dictionary_stability, plausibility, cross_talk, cross_talk_rms, ood_score]
)
def test_other_channels_are_refused(metric):
    with pytest.raises(ValueError, match=r"channels|\(\.\.\., 4\)"):
        metric(np.ones((3, 4)), np.ones((3, 5)))


@pytest.mark.parametrize("metric", [dead_concepts, lambda u, d: oriented(d, u)])
def test_coefficients_of_other_concepts_are_refused(metric):
    with pytest.raises(ValueError, match="about 3 concepts, not 4"):
        metric(np.ones((6, 4)), np.ones((3, 5)))


@pytest.mark.parametrize("metric", [hoyer_sparsity, l0])
def test_coefficients_without_samples_are_refused(metric):
    for wrong in (np.ones(4), np.ones((0, 4))):
        with pytest.raises(ValueError, match=r"\(\.\.\., I\)"):
            metric(wrong)


def test_filters_need_a_signal_each():
    with pytest.raises(ValueError, match="about 4 concepts, not 3"):
        cross_talk(np.ones((3, 5)), np.ones((4, 5)))


def test_factors_must_be_true_or_false_and_of_the_same_samples():
    with pytest.raises(ValueError, match="same samples"):
        threshold_accuracies(np.ones((6, 4)), np.ones((5, 2), bool))
    with pytest.raises(ValueError, match="true or false"):
        threshold_accuracies(np.ones((6, 4)), np.full((6, 2), 0.5))
