"""Dictionary metrics against reference implementations, at the ends of their ranges, invariant."""

import itertools

import numpy as np
import pytest

from xplique_dirpairs.metrics.dictionary import (
    cross_talk,
    dead_concepts,
    dictionary_stability,
    dictionary_values,
    hoyer_sparsity,
    l0,
    matched_cosines,
    max_coherence,
    ood_score,
    oriented,
    plausibility,
    stable_rank,
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
def test_stability_is_that_of_the_best_matching(rng, mine, theirs):
    a, b = rng.normal(size=(mine, 6)), rng.normal(size=(theirs, 6))
    few, many = (a, b) if mine <= theirs else (b, a)
    slow = max(
        np.mean([abs(cosine(few[i], many[j])) for i, j in enumerate(chosen)])
        for chosen in itertools.permutations(range(len(many)), len(few))
    )
    assert dictionary_stability(a, b) == pytest.approx(slow)
    assert dictionary_stability(b, a) == pytest.approx(slow)


@pytest.mark.parametrize("concepts", [1, 5, 9])
def test_stability_with_itself_is_one_for_any_order_signs_and_lengths(rng, concepts):
    dictionary = rng.normal(size=(concepts, 7))
    same = same_up_to_order_signs_and_lengths(rng, dictionary)
    assert dictionary_stability(dictionary, same) == pytest.approx(1.0)
    assert dictionary_stability(dictionary, same) <= 1.0


def test_stability_with_orthogonal_directions_is_zero(rng):
    both = orthonormal(rng, 6, 8)
    assert dictionary_stability(both[:3], both[3:]) == pytest.approx(0, abs=1e-12)


def test_additional_directions_of_the_larger_dictionary_do_not_lower_stability(rng):
    few, more = rng.normal(size=(3, 8)), rng.normal(size=(4, 8))
    assert dictionary_stability(few, np.concatenate([more, few])) == pytest.approx(1.0)


def test_directions_without_a_partner_have_no_cosine(rng):
    few = rng.normal(size=(2, 8))
    larger = np.concatenate([-3 * few[1:], orthonormal(rng, 3, 8), few[:1]])
    cosines = matched_cosines(larger, few)
    np.testing.assert_allclose(cosines[[0, 4]], 1)
    np.testing.assert_array_equal(np.isnan(cosines), [False, True, True, True, False])


def test_a_zero_direction_is_not_stable(rng):
    dictionary = orthonormal(rng, 4, 6)
    dictionary[2] = 0
    assert dictionary_stability(dictionary, dictionary) == pytest.approx(3 / 4)


# ------------------------------------------------------------------ one dictionary


def test_coherence_is_the_largest_of_all_pairs(rng):
    dictionary = rng.normal(size=(5, 4))
    pairs = [abs(cosine(a, b)) for a, b in itertools.combinations(dictionary, 2)]
    assert max_coherence(dictionary) == pytest.approx(max(pairs))


def test_stable_rank_is_the_sum_of_squared_singular_values_over_the_largest(rng):
    dictionary = rng.normal(size=(5, 4))
    unit = np.array([row / np.linalg.norm(row) for row in dictionary])
    singular = np.linalg.svd(unit, compute_uv=False)
    assert stable_rank(dictionary) == pytest.approx((singular**2).sum() / singular[0] ** 2)


def test_orthogonal_directions_have_coherence_zero_and_full_stable_rank(rng):
    dictionary = orthonormal(rng, 5, 8) * rng.uniform(0.1, 9, size=(5, 1))
    assert max_coherence(dictionary) == pytest.approx(0, abs=1e-12)
    assert stable_rank(dictionary) == pytest.approx(5)


def test_parallel_directions_have_coherence_one_and_stable_rank_one(rng):
    dictionary = np.outer([1.0, -2.0, 0.1], rng.normal(size=7))
    assert max_coherence(dictionary) == pytest.approx(1)
    assert stable_rank(dictionary) == pytest.approx(1)


def test_zero_directions_do_not_count_and_a_single_direction_has_no_coherence(rng):
    dictionary = np.concatenate([orthonormal(rng, 3, 5), np.zeros((1, 5))])
    assert max_coherence(dictionary) == pytest.approx(0, abs=1e-12)
    assert stable_rank(dictionary) == pytest.approx(3)
    assert stable_rank(np.zeros((2, 3))) == 0
    assert np.isnan(max_coherence([[1.0, 2.0]]))
    assert stable_rank([[1.0, 2.0]]) == pytest.approx(1)


@pytest.mark.parametrize("metric", [max_coherence, stable_rank])
def test_order_signs_and_lengths_of_the_directions_do_not_matter(rng, metric):
    dictionary = rng.normal(size=(6, 5))
    other = same_up_to_order_signs_and_lengths(rng, dictionary)
    assert metric(other) == pytest.approx(metric(dictionary))
    assert metric(other.astype(np.float32)) == pytest.approx(metric(dictionary), rel=1e-5)


# ------------------------------------------------------------------ coefficients


def test_hoyer_sparsity_matches_its_formula(rng):
    u = rng.normal(size=(3, 4, 6))
    for place in np.ndindex(3, 4):
        l1, l2 = sum(abs(v) for v in u[place]), sum(v * v for v in u[place]) ** 0.5
        slow = (6**0.5 - l1 / l2) / (6**0.5 - 1)
        assert hoyer_sparsity(u)[place] == pytest.approx(slow)


@pytest.mark.parametrize("scale", [1e-200, 1.0, -3.0, 1e200])
def test_hoyer_is_one_if_one_concept_is_on_and_zero_if_all_are_equal(scale):
    np.testing.assert_allclose(hoyer_sparsity(scale * np.eye(5)), 1)
    np.testing.assert_allclose(hoyer_sparsity(scale * np.array([[1, -1, 1.0]])), 0, atol=1e-12)


def test_hoyer_is_undefined_if_no_concept_is_on_and_for_a_single_concept():
    sparsity = hoyer_sparsity([[0.0, 0.0], [0.0, 2.0]])
    assert np.isnan(sparsity[0]) and sparsity[1] == 1
    assert np.isnan(hoyer_sparsity([[3.0], [0.0]])).all()


def test_l0_counts_active_concepts_relative_to_their_own_largest_value(rng):
    u = rng.uniform(0.1, 1.0, size=(50, 4, 6)) * rng.choice([-1.0, 1.0], size=(50, 4, 6))
    on = rng.random((50, 4, 6)) < 0.3
    on[0, 0] = u[0, 0] = 1  # Every concept reaches its largest value somewhere.
    units = np.array([1e-9, 1e-3, 1, 1e3, 1e6, 1e9])
    np.testing.assert_array_equal(l0(units * np.where(on, u, 1e-5 * u)), on.sum(axis=-1))
    np.testing.assert_array_equal(l0(np.zeros((3, 4))), 0)
    np.testing.assert_array_equal(l0(-np.ones((3, 4))), 4)


def test_concepts_without_a_contribution_are_dead(rng):
    u, dictionary = rng.normal(size=(10, 2, 4)), rng.normal(size=(4, 5))
    np.testing.assert_array_equal(dead_concepts(u, dictionary), False)
    u[..., 1] = 0  # never on
    dictionary[2] *= 1e-6  # on, but with a negligible contribution
    dictionary[3], u[..., 3] = dictionary[3] * 1e-6, u[..., 3] * 1e6  # the product is the same
    np.testing.assert_array_equal(dead_concepts(u, dictionary), [False, True, True, False])
    np.testing.assert_array_equal(dead_concepts(np.zeros((3, 4)), dictionary), True)


def test_oriented_gives_the_same_directions_for_any_initial_signs(rng):
    u, dictionary = rng.exponential(size=(200, 4)), rng.normal(size=(4, 5))
    np.testing.assert_array_equal(oriented(dictionary, u), dictionary)
    signs = rng.choice([-1.0, 1.0], 4)
    for centred in (0.0, u.mean(axis=0)):  # The long tail decides for centred coefficients.
        turned = oriented(signs[:, None] * dictionary, signs * (u - centred))
        np.testing.assert_array_equal(turned, dictionary)
    np.testing.assert_array_equal(oriented(dictionary, np.zeros((3, 4))), dictionary)


# ------------------------------------------------------------------ data and classes


def test_ood_is_one_minus_the_cosine_of_the_nearest_sample(rng):
    # There are more rows than are compared at once.
    dictionary, x = rng.normal(size=(3, 4)), rng.normal(size=(100, 10, 9, 4))
    rows = x.reshape(-1, 4) / np.linalg.norm(x.reshape(-1, 4), axis=1, keepdims=True)
    slow = 1 - np.mean([max(rows @ d) / np.linalg.norm(d) for d in dictionary])
    assert ood_score(dictionary, x) == pytest.approx(slow)


def test_ood_is_zero_for_samples_one_for_orthogonal_two_for_opposite_directions(rng):
    x = rng.normal(size=(20, 6))
    assert ood_score(5 * x[3:8], x) == pytest.approx(0, abs=1e-12)
    both = orthonormal(rng, 6, 6)
    assert ood_score(both[:3], both[3:]) == pytest.approx(1)
    assert ood_score(-both[:1], both[:1]) == pytest.approx(2)
    assert ood_score(np.zeros((2, 6)), x) == pytest.approx(1)


def test_plausibility_is_the_mean_cosine_of_classes_with_their_nearest_direction(rng):
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
def test_order_and_lengths_do_not_matter_to_ood_and_plausibility(rng, metric):
    dictionary, rows = rng.normal(size=(6, 5)), rng.normal(size=(30, 5))
    other = (dictionary * rng.uniform(0.1, 10, size=(6, 1)))[rng.permutation(6)]
    scaled = rows[rng.permutation(30)] * rng.uniform(0.1, 10, size=(30, 1))
    assert metric(other, scaled) == pytest.approx(metric(dictionary, rows))
    low = metric(other.astype(np.float32), scaled.astype(np.float32))
    assert low == pytest.approx(metric(dictionary, rows), rel=1e-5)


# ------------------------------------------------------------------ filters and signals


def test_cross_talk_is_the_mean_over_all_pairs_of_different_concepts(rng):
    filters, signals = rng.normal(size=(4, 6)), rng.normal(size=(4, 6))
    off = [cosine(filters[i], signals[j]) for i, j in itertools.permutations(range(4), 2)]
    assert cross_talk(filters, signals) == pytest.approx(np.mean(np.abs(off)))


def test_filters_that_respond_only_to_their_own_signal_have_no_cross_talk(rng):
    signals = rng.normal(size=(4, 6))
    filters = np.linalg.pinv(signals).T * rng.choice([-3.0, 0.5], size=(4, 1))
    assert cross_talk(filters, signals) == pytest.approx(0, abs=1e-12)
    same = np.tile(rng.normal(size=6), (4, 1))
    assert cross_talk(same, -same) == pytest.approx(1.0)
    assert cross_talk(np.zeros((4, 6)), signals) == 0
    assert np.isnan(cross_talk(signals[:1], signals[:1]))


def test_cross_talk_does_not_depend_on_order_signs_lengths_or_dtype(rng):
    filters, signals = rng.normal(size=(5, 6)), rng.normal(size=(5, 6))
    expected, order = cross_talk(filters, signals), rng.permutation(5)
    factors = rng.choice([-1.0, 1.0], size=(2, 5, 1)) * rng.uniform(0.1, 10, size=(2, 5, 1))
    filters, signals = (factors * [filters, signals])[:, order].astype(np.float32)
    assert cross_talk(filters, signals) == pytest.approx(expected, rel=1e-5)


# ------------------------------------------------------------------ one extractor


@pytest.fixture
def extractor(rng):
    """Return encoding, bank, coefficients and features; encoding and bank differ."""
    bank = rng.normal(size=(4, 6)) * np.array([[1.0], [20.0], [1e-6], [3.0]])
    u = np.where(rng.uniform(size=(50, 4)) < 0.5, rng.exponential(size=(50, 4)), 0.0)
    u[:, 3] *= -1.0
    u[0] = 0.0
    return rng.normal(size=(4, 6)), bank, u, rng.normal(size=(50, 6))


def test_every_metric_is_computed_from_the_right_arrays(extractor, rng):
    encoding, bank, u, x = extractor
    heads, filters = rng.normal(size=(3, 6)), rng.normal(size=(4, 6))
    turned = oriented(encoding, u)
    assert (turned[3] == -encoding[3]).all()
    sizes = u[u.any(axis=1)] * np.linalg.norm(bank, axis=1)
    expected = {
        "max_coherence": max_coherence(encoding),
        "stable_rank": stable_rank(encoding),
        "hoyer": hoyer_sparsity(sizes).mean(),
        "l0": l0(u).mean(),
        "dead": dead_concepts(u, bank).sum(),
        "ood": ood_score(turned, x),
        "plausibility": plausibility(turned, heads),
        "cross_talk": cross_talk(filters, encoding),
    }
    values = dictionary_values(encoding, bank, u, x, head_rows=heads, filters=filters)
    assert values.keys() == expected.keys() and values["dead"] == 1
    for key, value in expected.items():
        assert values[key] == pytest.approx(value), key


def test_metrics_without_their_arrays_are_left_out_and_undefined_ones_are_nan(extractor):
    encoding, bank, u, x = extractor
    values = dictionary_values(encoding, bank, np.zeros_like(u), x)
    assert not {"plausibility", "cross_talk"} & values.keys()
    assert np.isnan(values["hoyer"]) and values["l0"] == 0 and values["dead"] == 4
