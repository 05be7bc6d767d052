"""Total Sobol indices against a second writing and against functions whose indices are known."""

import numpy as np
import pytest

from xplique_dirpairs.metrics.importance import sobol_design, sobol_designs, total_sobol_indices


def jansen_slowly(f, a, b):
    """Σ_k (f(A_k) − f(C_k))² / 2nV, one concept and one point at a time."""
    points, concepts = a.shape
    values = [f(row) for row in a] + [f(row) for row in b]
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    indices = []
    for i in range(concepts):
        total = 0.0
        for k in range(points):
            mixed = a[k].copy()
            mixed[i] = b[k, i]
            total += (f(a[k]) - f(mixed)) ** 2
        indices.append(total / (2 * points * variance))
    return indices


def test_indices_are_those_of_a_slow_second_writing(rng):
    weights = rng.normal(size=(5, 5))

    def f(masks):
        return np.sin(masks @ weights).sum(axis=-1) + masks[..., 0] * masks[..., 1]

    masks = sobol_design(5, 16, 0).astype(np.float64)
    slow = jansen_slowly(f, masks[:16], masks[16:32])
    np.testing.assert_allclose(total_sobol_indices(f(masks), 5), slow, rtol=1e-10)


@pytest.mark.parametrize("concepts", [3, 20, 40])
def test_of_an_additive_function_they_are_the_shares_of_its_variance(rng, concepts):
    weights = rng.uniform(0.0, 1.0, concepts)
    truth = weights**2 / (weights**2).sum()
    masks = sobol_design(concepts, 2048, 0)
    assert np.abs(total_sobol_indices(masks @ weights, concepts) - truth).sum() < 0.02


def test_few_masks_are_right_on_average_over_scrambles_with_many_concepts(rng):
    weights = rng.uniform(0.0, 1.0, 20)
    truth = weights**2 / (weights**2).sum()
    designs = [masks for masks, _ in zip(sobol_designs(20, 32, 0), range(40), strict=False)]
    mean = np.mean([total_sobol_indices(masks @ weights, 20) for masks in designs], axis=0)
    assert np.abs(mean - truth).sum() < 0.1  # an unscrambled sequence is off by 0.7, every time


def test_an_interaction_counts_for_both_concepts():
    masks = sobol_design(3, 4096, 0)
    # f = (m₀ − ½)(m₁ − ½): all variance is interaction, so both totals are 1
    scores = (masks[:, 0] - 0.5) * (masks[:, 1] - 0.5)
    np.testing.assert_allclose(total_sobol_indices(scores, 3), [1, 1, 0], atol=0.05)


@pytest.mark.parametrize("level", [0.0, 3.0, -1e4])
def test_scores_that_do_not_vary_give_zero_and_no_warning(rng, level):
    scores = np.float32(level) * (1 + 1e-7 * rng.normal(size=8 * 5))
    np.testing.assert_array_equal(total_sobol_indices(scores, 3), 0)


def test_many_sets_of_scores_are_read_at_once(rng):
    scores = rng.normal(size=(2, 4, 8 * 5))
    indices = total_sobol_indices(scores, 3)
    assert indices.shape == (2, 4, 3) and (indices >= 0).all()
    np.testing.assert_allclose(indices[1, 2], total_sobol_indices(scores[1, 2], 3))


@pytest.mark.parametrize("nb_design", [2, 10, 32])
def test_masks_are_a_then_b_then_a_with_one_column_of_b(nb_design):
    masks = sobol_design(4, nb_design, 0)
    assert masks.shape == (nb_design * 6, 4) and masks.min() >= 0 and masks.max() <= 1
    a, b, *mixed = np.split(masks, 6)
    for i, block in enumerate(mixed):
        np.testing.assert_array_equal(block[:, i], b[:, i])
        np.testing.assert_array_equal(np.delete(block, i, axis=1), np.delete(a, i, axis=1))


def test_a_seed_fixes_the_masks():
    np.testing.assert_array_equal(sobol_design(4, 8, 3), sobol_design(4, 8, 3))
    assert (sobol_design(4, 8, 3) != sobol_design(4, 8, 4)).any()


def test_designs_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="at least 2"):
        sobol_design(4, 1)
    with pytest.raises(ValueError, match="multiple of 6"):
        total_sobol_indices(np.zeros(13), 4)
