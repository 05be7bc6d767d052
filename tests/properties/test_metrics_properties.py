"""What holds for the pure functions of arrays, whatever the arrays."""

import numpy as np
import pytest
from hypothesis import strategies as st
from many_examples import UNITS, holds_for, matrices, sizes

from xplique_dirpairs.core.geometry import upsample
from xplique_dirpairs.core.linear_algebra import cosines, match, unit_rows
from xplique_dirpairs.core.validation import (
    check_activations,
    check_images,
    check_labels,
    check_limits,
)
from xplique_dirpairs.metrics import dictionary, importance, manipulation, significance
from xplique_dirpairs.metrics.attribution import permutation_design, shapley_values
from xplique_dirpairs.metrics.recovery import detector_iou


@st.composite
def dictionaries(draw):
    """Draw a dictionary (I, D), coefficients (5, I), and a generator."""
    concepts, channels = draw(sizes())
    unit = draw(UNITS)
    return (
        draw(matrices(concepts, channels, unit)),
        draw(matrices(5, concepts, draw(UNITS))),
        np.random.default_rng(draw(st.integers(0, 99))),
    )


def same(found, wanted, tolerance=1e-5):
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance)


def in_range(values, low, high):
    """Assert that values are undefined or lie in a range, up to rounding."""
    values = np.asarray(values, float)
    known = values[~np.isnan(values)]
    assert ((known >= low - 1e-5) & (known <= high + 1e-5)).all(), values


@holds_for(case=dictionaries())
def test_figures_of_a_dictionary_are_in_their_range_and_do_not_depend_on_the_order(case):
    rows, u, rng = case
    order = rng.permutation(len(rows))
    ranges = {
        dictionary.max_coherence: (0, 1),
        dictionary.stable_rank: (0, min(rows.shape)),
        lambda d: dictionary.dictionary_stability(d, rows): (0, 1),
        lambda d: dictionary.ood_score(d, rows): (0, 2),
        lambda d: dictionary.plausibility(d, rows): (-1, 1),
    }
    for figure, limits in ranges.items():
        in_range(figure(rows), *limits)
        same(figure(rows[order]), figure(rows))
    in_range(dictionary.cross_talk(rows, rows), 0, 1)
    in_range(dictionary.hoyer_sparsity(u), 0, 1)
    in_range(dictionary.l0(u), 0, u.shape[1])
    for figure in (dictionary.hoyer_sparsity, dictionary.l0):
        same(figure(u[:, order]), figure(u))
    dead = dictionary.dead_concepts(u, rows)
    np.testing.assert_array_equal(dictionary.dead_concepts(u[:, order], rows[order]), dead[order])
    assert set(dictionary.main_signs(u)) <= {-1, 1}


@holds_for(case=dictionaries())
def test_unit_rows_cosines_and_matches(case):
    rows, u, _ = case
    lengths = np.linalg.norm(unit_rows(rows), axis=1)
    in_range(lengths, 0, 1)
    assert np.isin(np.round(lengths, 4), (0, 1)).all()
    table = cosines(rows, rows)
    in_range(table, -1, 1)
    same(table, table.T)
    partners = match(np.abs(u))
    assert len(partners) == u.shape[1]


@holds_for(
    p=st.lists(st.one_of(st.floats(0, 1), st.just(float("nan"))), min_size=1, max_size=12),
    level=st.floats(1e-6, 1 - 1e-6),
    correction=st.sampled_from(["benjamini-hochberg", "bonferroni", "none"]),
)
def test_significant_tests_are_those_of_the_smallest_p(p, level, correction):
    p = np.array(p)
    found = significance.significant(p, level, correction)
    assert found.shape == p.shape and not found[np.isnan(p)].any()
    plain = significance.significant(p, level, "none")
    assert not (found & ~plain).any()
    if found.any():
        assert found[p <= p[found].max()].all()
    order = np.random.default_rng(len(p)).permutation(len(p))
    np.testing.assert_array_equal(
        significance.significant(p[order], level, correction), found[order]
    )


@holds_for(
    values=st.lists(st.floats(-1e6, 1e6), min_size=20, max_size=20),
    observed=st.floats(-1e6, 1e6),
    unit=UNITS,
)
def test_tail_p_values_are_probabilities_whatever_the_noise(values, observed, unit):
    noise = np.array(values)[:, None] * unit
    p = significance.tail_p_values(np.array([[observed * unit]]), noise)
    assert p.shape == (1, 1) and 0 <= p[0, 0] <= 1


@holds_for(
    concepts=st.integers(1, 6), n=st.sampled_from([2, 3, 8]), unit=UNITS, seed=st.integers(0, 9)
)
def test_sobol_indices_are_finite_and_those_of_an_unused_concept_are_zero(concepts, n, unit, seed):
    masks = next(importance.sobol_designs(concepts, n, seed))
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=concepts)
    weights[0] = 0
    scores = masks @ weights * unit
    found = importance.sobol_indices(scores, masks, degree=0)
    assert np.isfinite(found.total).all() and found.total[0] == pytest.approx(0, abs=1e-5)
    constant = importance.sobol_indices(np.full(len(masks), unit), masks, degree=0)
    np.testing.assert_allclose(constant.total, 0, atol=1e-6)


@holds_for(
    concepts=st.integers(1, 6), n=st.sampled_from([4, 8]), unit=UNITS, seed=st.integers(0, 9)
)
def test_shapley_values_sum_to_the_difference_of_all_and_none(concepts, n, unit, seed):
    masks = permutation_design(concepts, n, seed)
    table = np.random.default_rng(seed).normal(size=2**concepts) * unit
    scores = table[(masks > 0.5) @ 2 ** np.arange(concepts)]
    values, errors = shapley_values(scores, masks)
    assert values.sum() == pytest.approx(table[-1] - table[0], rel=1e-3, abs=1e-4 * unit)
    assert np.isfinite(errors).all() or np.isnan(errors).all()


@holds_for(
    case=st.tuples(st.integers(1, 5), st.integers(1, 5)).flatmap(
        lambda shape: st.tuples(matrices(*shape), matrices(*shape))
    ),
    unit=st.sampled_from([1e-6, 1.0, 1e6]),
    activation=st.sampled_from(["softmax", "sigmoid"]),
)
def test_probabilities_and_divergences_of_any_logits(case, unit, activation):
    logits, other = (values * unit for values in case)
    p = manipulation.class_probabilities(logits, activation)
    in_range(p, 0, 1)
    if activation == "softmax":
        same(p.sum(axis=-1), 1)
    assert manipulation.entropy_bits(logits, activation).min() >= -1e-6
    assert manipulation.kl_bits(logits, other, activation).min() >= -1e-6
    same(manipulation.kl_bits(logits, logits, activation), 0)
    same(manipulation.agreement(logits, logits, activation), 1)


@holds_for(case=sizes(), fill=st.sampled_from([0, 1, None]), seed=st.integers(0, 99))
def test_detections_agree_with_themselves(case, fill, seed):
    rng = np.random.default_rng(seed)
    masks = rng.random((30, case[0])) < 0.4 if fill is None else np.full((30, case[0]), bool(fill))
    overlaps = detector_iou(masks, masks)
    in_range(overlaps, 0, 1)
    diagonal = np.diag(overlaps)
    assert np.isin(np.round(diagonal[masks.any(axis=0)], 6), 1).all()


@holds_for(
    cells=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    pixels=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    unit=UNITS,
)
def test_enlarged_maps_stay_between_the_lowest_and_the_highest_value(cells, pixels, unit):
    maps = np.random.default_rng(sum(cells)).normal(size=(*cells, 3)) * unit
    large = upsample(maps.astype(np.float32), pixels)
    assert large.shape == (*pixels, 3)
    assert large.min() >= maps.min() - 1e-5 * unit and large.max() <= maps.max() + 1e-5 * unit


@holds_for(
    count=st.integers(1, 5),
    classes=st.integers(2, 4),
    kind=st.sampled_from(["indices", "column", "one-hot", "floats", "list"]),
    dtype=st.sampled_from([np.uint8, np.int32, np.int64, np.float32, np.float64]),
    seed=st.integers(0, 99),
)
def test_labels_are_the_same_in_every_form(count, classes, kind, dtype, seed):
    wanted = np.random.default_rng(seed).integers(classes, size=count)
    given = {
        "indices": wanted.astype(dtype),
        "column": wanted.astype(dtype)[:, None],
        "one-hot": np.eye(classes, dtype=dtype)[wanted],
        "floats": wanted.astype(float),
        "list": wanted.tolist(),
    }[kind]
    np.testing.assert_array_equal(check_labels(given, count, classes), wanted)


_ANYTHING = st.one_of(
    st.none(),
    st.text(max_size=3),
    st.floats(),
    st.integers(-(2**70), 2**70),
    st.lists(st.one_of(st.floats(), st.integers(-9, 9), st.text(max_size=2)), max_size=4),
    st.lists(st.lists(st.floats(), max_size=3), max_size=3),
    st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)).flatmap(
        lambda shape: st.sampled_from(
            [
                np.zeros(shape),
                np.full(shape, np.nan),
                np.full(shape, 1e300),
                np.zeros(shape, np.uint8),
                np.zeros(shape, complex),
                np.zeros(shape, "M8[s]"),
                np.zeros(shape, object),
                np.zeros(shape, np.float16),
            ]
        )
    ),
)


@holds_for(value=_ANYTHING)
def test_anything_given_for_an_array_is_an_array_or_a_clear_error(value):
    for check in (check_activations, check_images):
        try:
            array = check(value)
        except ValueError as error:
            assert 10 < len(str(error)) < 500
        else:
            assert array.dtype == np.float32 and np.isfinite(array).all() and array.size
    try:
        labels = check_labels(value, 3, 4)
    except (ValueError, TypeError) as error:
        assert "labels" in str(error)
    else:
        assert labels.shape == (3,) and labels.min() >= 0 and labels.max() < 4
    try:
        low, high = check_limits(value)
    except ValueError as error:
        assert "limits" in str(error)
    else:
        assert low is None or high is None or low < high
