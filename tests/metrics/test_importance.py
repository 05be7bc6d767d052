"""Sobol indices against reference implementations and against functions with known indices."""

import numpy as np
import pytest

from xplique_dirpairs.metrics.importance import (
    sobol_designs,
    sobol_indices,
)


def sobol_design(*arguments):
    """Return the first of the designs that `sobol_designs` yields."""
    return next(sobol_designs(*arguments))


def plain_totals(scores, masks):
    """Return total indices by Jansen's estimator, without a polynomial."""
    return sobol_indices(scores, masks, degree=0).total


def jansen_slowly(f, a, b):
    """Return Σ_k (f(A_k) − f(C_k))² / 2nV, one concept and one point at a time."""
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


@pytest.mark.parametrize("concepts", [3, 20, 40])
def test_totals_of_an_additive_function_are_the_shares_of_its_variance(rng, concepts):
    weights = rng.uniform(0.0, 1.0, concepts)
    truth = weights**2 / (weights**2).sum()
    masks = sobol_design(concepts, 2048, 0)
    assert np.abs(plain_totals(masks @ weights, masks) - truth).sum() < 0.02


def test_totals_from_few_masks_are_unbiased_over_scramblings_of_many_concepts(rng):
    weights = rng.uniform(0.0, 1.0, 20)
    truth = weights**2 / (weights**2).sum()
    designs = [masks for masks, _ in zip(sobol_designs(20, 32, 0), range(40), strict=False)]
    mean = np.mean([plain_totals(masks @ weights, masks) for masks in designs], axis=0)
    assert np.abs(mean - truth).sum() < 0.1  # an unscrambled sequence is off by 0.7, every time


def test_an_interaction_is_in_the_totals_of_both_concepts():
    masks = sobol_design(3, 4096, 0)
    # f = (m₀ − ½)(m₁ − ½): all variance is interaction, so both totals are 1
    scores = (masks[:, 0] - 0.5) * (masks[:, 1] - 0.5)
    np.testing.assert_allclose(plain_totals(scores, masks), [1, 1, 0], atol=0.05)


@pytest.mark.parametrize("nb_design", [2, 10, 32])
def test_a_design_is_a_then_b_then_a_with_one_column_of_b(nb_design):
    masks = sobol_design(4, nb_design, 0)
    assert masks.shape == (nb_design * 6, 4) and masks.min() >= 0 and masks.max() <= 1
    a, b, *mixed = np.split(masks, 6)
    for i, block in enumerate(mixed):
        np.testing.assert_array_equal(block[:, i], b[:, i])
        np.testing.assert_array_equal(np.delete(block, i, axis=1), np.delete(a, i, axis=1))


def test_a_seed_fixes_the_masks():
    np.testing.assert_array_equal(sobol_design(4, 8, 3), sobol_design(4, 8, 3))
    assert (sobol_design(4, 8, 3) != sobol_design(4, 8, 4)).any()


def test_a_design_of_one_point_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        sobol_design(4, 1)


# ------------------------------------------------------------------ first-order and total indices


def saltelli_slowly(f, a, b):
    """Return Σ_k f(B_k) (f(C_k) − f(A_k)) / nV, with f about its mean over A and B."""
    points, concepts = a.shape
    mean, variance = np.mean([f(m) for m in [*a, *b]]), np.var([f(m) for m in [*a, *b]], ddof=1)
    indices = []
    for i in range(concepts):
        alone = 0.0
        for k in range(points):
            mixed = a[k].copy()
            mixed[i] = b[k, i]
            alone += (f(b[k]) - mean) * (f(mixed) - f(a[k]))
        indices.append(alone / (points * variance))
    return indices


def saltelli_with_control_slowly(f, a, b, degree):
    """Return `saltelli_slowly` of f, corrected by a fitted polynomial whose indices are known."""
    concepts = a.shape[1]
    parts, known = [], []
    for i in range(concepts):
        mixed = a.copy()
        mixed[:, i] = b[:, i]
        changes = np.array([f(x) - f(y) for x, y in zip(a, mixed, strict=True)])
        # Monomials span the same space as Legendre polynomials; the constant cancels.
        powers = np.arange(1, degree + 1)
        columns = a[:, i : i + 1] ** powers - b[:, i : i + 1] ** powers
        weights = np.linalg.lstsq(columns, changes, rcond=None)[0]
        parts.append(np.polynomial.Polynomial([0.0, *weights]))
        square, plain = (parts[-1] ** 2).integ(), parts[-1].integ()
        known.append(square(1.0) - square(0.0) - (plain(1.0) - plain(0.0)) ** 2)

    def g(mask):
        return sum(part(value) for part, value in zip(parts, mask, strict=True))

    def variance(h):
        return np.var([h(m) for m in [*a, *b]], ddof=1)

    corrected = np.multiply(saltelli_slowly(f, a, b), variance(f)) + known
    corrected -= np.multiply(saltelli_slowly(g, a, b), variance(g))
    return corrected / (variance(f) + sum(known) - variance(g))


def interacting(weights):
    return lambda masks: np.sin(masks @ weights).sum(axis=-1) + masks[..., 0] * masks[..., 1]


def test_without_a_polynomial_indices_are_saltellis_and_jansens_estimates(rng):
    f, masks = interacting(rng.normal(size=(5, 5))), sobol_design(5, 16, 0).astype(np.float64)
    indices = sobol_indices(f(masks), masks, degree=0)
    slow = saltelli_slowly(f, masks[:16], masks[16:32])
    np.testing.assert_allclose(indices.first, slow, rtol=1e-9, atol=1e-12)
    slow = jansen_slowly(f, masks[:16], masks[16:32])
    np.testing.assert_allclose(indices.total, slow, rtol=1e-9)


def test_known_indices_of_the_polynomial_replace_their_estimates(rng):
    f, masks = interacting(rng.normal(size=(4, 4))), sobol_design(4, 16, 0).astype(np.float64)
    slow = saltelli_with_control_slowly(f, masks[:16], masks[16:32], degree=2)
    np.testing.assert_allclose(sobol_indices(f(masks), masks).first, slow, rtol=1e-7)


EFFECTS = {  # of one concept, as its mask goes from 0 to 1
    "linear": lambda m: m,
    "bent": lambda m: m**3 - m,
    "saturating": lambda m: 1 / (1 + np.exp(-10 * (m - 0.4))),
    "rectified": lambda m: np.maximum(m - 0.5, 0),
}


def additive_head(rng, effect):
    """Return an additive score of 20 concepts, and the share of each in its variance."""
    weights = rng.uniform(0.0, 1.0, 20) * rng.choice([-1.0, 1.0], 20)
    return lambda masks: EFFECTS[effect](masks) @ weights, weights**2 / (weights**2).sum()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("effect", "points_for_total", "points_for_first"),
    [("linear", 8, 8), ("bent", 32, 32), ("saturating", 64, 512), ("rectified", 128, 512)],
)
def test_indices_of_20_additive_concepts_are_within_2_percent(
    effect, points_for_total, points_for_first, seed
):
    head, truth = additive_head(np.random.default_rng(seed), effect)
    masks = sobol_design(20, points_for_total, seed)
    total = sobol_indices(head(masks), masks).total
    masks = sobol_design(20, points_for_first, seed)
    first = sobol_indices(head(masks), masks).first
    for estimate in (total, first, total / total.sum(), first / first.sum()):
        assert np.abs(estimate - truth).sum() < 0.02


@pytest.mark.parametrize("seed", range(3))
def test_indices_are_right_where_xpliques_own_estimator_is_off_by_0_7(seed):
    from xplique.attributions.global_sensitivity_analysis import HaltonSequenceRS, JansenEstimator

    weights = np.random.default_rng(seed).uniform(0.0, 1.0, 20)  # every concept raises the score
    truth = weights**2 / (weights**2).sum()
    masks = np.asarray(HaltonSequenceRS()(20, nb_design=32))
    theirs = np.asarray(JansenEstimator()(masks, masks @ weights.astype(np.float32), 32))
    assert np.abs(theirs - truth).sum() > 0.7
    masks = sobol_design(20, 32, seed)  # the same number of evaluations
    assert np.abs(sobol_indices(masks @ weights, masks).total - truth).sum() < 0.001


def test_an_interaction_is_in_the_totals_but_not_in_the_first_order():
    masks = sobol_design(3, 2048, 0)
    # m₀ m₁ has the variance 7/144: 1/48 of each mask, 1/144 of both together
    indices = sobol_indices(masks[:, 0].astype(float) * masks[:, 1], masks)
    np.testing.assert_allclose(indices.first, [3 / 7, 3 / 7, 0], atol=0.01)
    np.testing.assert_allclose(indices.total, [4 / 7, 4 / 7, 0], atol=0.01)
    assert (indices.total - indices.first)[:2].min() > 0.1


@pytest.mark.parametrize("nb_design", [16, 32, 64])
def test_errors_match_the_scatter_of_the_estimates(nb_design):
    rng = np.random.default_rng(1)
    hidden, out = rng.normal(size=(8, 20)), rng.normal(size=20)

    def f(masks):
        return np.maximum(masks @ hidden - 0.5, 0) @ out

    truth = sobol_indices(f(sobol_design(8, 2**14, 99)), sobol_design(8, 2**14, 99))
    designs = [masks for masks, _ in zip(sobol_designs(8, nb_design, 0), range(200), strict=False)]
    estimates = [sobol_indices(f(masks), masks) for masks in designs]
    for name in ("first", "total"):
        values = np.array([getattr(indices, name) for indices in estimates])
        errors = np.array([getattr(indices, name + "_error") for indices in estimates])
        scatter = np.sqrt(np.mean((values - getattr(truth, name)) ** 2))
        assert 0.4 < scatter / np.sqrt(np.mean(errors**2)) < 1.25


def test_errors_match_a_bootstrap_over_the_rows_of_the_design(rng):
    masks = sobol_design(3, 256, 0)
    scores = masks[:, 0] + 0.5 * masks[:, 1] ** 4 + masks[:, 1] * masks[:, 2]
    rows = scores.reshape(5, 256)
    again = [rows[:, rng.integers(256, size=256)].ravel() for _ in range(1000)]
    scatter = {"total_error": np.std([plain_totals(drawn, masks) for drawn in again], axis=0)}
    scatter["first_error"] = np.std([first_slowly(drawn, 3) for drawn in again], axis=0)
    indices = sobol_indices(scores, masks, degree=0)
    for name, expected in scatter.items():
        np.testing.assert_allclose(getattr(indices, name), expected, rtol=0.15)


def first_slowly(scores, concepts):
    """Return first-order indices by Saltelli's estimator, from scores alone."""
    count = len(scores) // (concepts + 2)
    blocks = (scores - scores[: 2 * count].mean()).reshape(-1, count)
    a, b, *mixed = blocks
    return [np.mean(b * (c - a)) / np.var([*a, *b], ddof=1) for c in mixed]


@pytest.mark.parametrize("nb_design", [2, 8, 16, 48])
def test_totals_are_not_negative_and_zero_for_a_concept_without_effect(rng, nb_design):
    hidden = rng.normal(size=(30, 6, 8))
    hidden[:, 2] = 0
    masks = sobol_design(6, nb_design, 0)
    scores = np.maximum(np.einsum("mi,sih->smh", masks, hidden) - 0.5, 0).sum(axis=-1)
    total = sobol_indices(scores, masks).total
    assert total.min() > -1e-12 and total.max() > 0.1
    np.testing.assert_allclose(total[:, 2], 0, atol=1e-12)


def test_errors_average_out_over_images_with_designs_of_their_own(rng):
    head, truth = additive_head(rng, "saturating")
    designs = [masks for masks, _ in zip(sobol_designs(20, 32, 0), range(64), strict=False)]
    first = np.array([sobol_indices(head(masks), masks).first for masks in designs])
    one = np.abs(first - truth).sum(axis=1).mean()
    assert np.abs(first.mean(axis=0) - truth).sum() < one / 3


@pytest.mark.parametrize("degree", [0, 5])
@pytest.mark.parametrize("level", [0.0, 3.0, -1e4])
def test_constant_scores_have_neither_indices_nor_errors(rng, level, degree):
    masks = sobol_design(3, 16, 0)
    scores = np.float32(level) * (1 + 1e-7 * rng.normal(size=len(masks)))
    indices = sobol_indices(scores, masks, degree)
    for values in vars(indices).values():
        np.testing.assert_array_equal(values, 0)


def test_scale_and_offset_of_the_scores_do_not_matter(rng):
    masks = sobol_design(4, 32, 0)
    scores = interacting(rng.normal(size=(4, 4)))(masks)
    one, other = sobol_indices(scores, masks), sobol_indices(100 - 7 * scores, masks)
    for name, values in vars(one).items():
        np.testing.assert_allclose(getattr(other, name), values, rtol=1e-6, atol=1e-9)


def test_several_sets_of_scores_give_the_same_indices_as_each_alone(rng):
    masks = sobol_design(3, 16, 0)
    scores = rng.normal(size=(2, 4, len(masks)))
    scores[0, 1] = 5.0  # one that does not vary among others that do
    together, alone = sobol_indices(scores, masks), sobol_indices(scores[1, 2], masks)
    for name, values in vars(together).items():
        assert values.shape == (2, 4, 3) and np.isfinite(values).all()
        np.testing.assert_allclose(values[1, 2], getattr(alone, name))
    np.testing.assert_array_equal(together.total[0, 1], 0)
