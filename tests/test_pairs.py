"""Tests of direction pairs: how they read and write features."""

import copy
import dataclasses
import pickle

import numpy as np
import pytest
from small_pairs import GOOD, D, I, features, make, same

from xplique_dirpairs.pairs import WELL_CONDITIONED, DirectionPairs

OFF = ("absent", "undecided")
both_forms = pytest.mark.parametrize("off", OFF)


@pytest.fixture(params=range(3))
def pairs(request):
    return make(request.param)


@pytest.fixture
def ill_conditioned():
    signals = np.eye(3, 4) + 0.0
    signals[1] = signals[0] + 1e-3 * signals[1]
    return DirectionPairs(signals, np.zeros(3), signals, np.zeros(4), -np.ones(3))


# ------------------------------------------------------------------ the second writing


def test_reading_follows_the_formulas_of_the_method(pairs):
    x = features((4,))
    z, y, alpha, u, v = (np.zeros((4, I)) for _ in range(5))
    filters, signals = pairs.filters.astype(float), pairs.signals.astype(float)
    inverse = np.linalg.pinv(filters @ signals.T)
    for p in range(4):
        for i in range(I):
            z[p, i] = sum(filters[i, d] * x[p, d] for d in range(D))
            y[p, i] = 1 / (1 + np.exp(-(z[p, i] - pairs.biases[i])))
            gain = sum(filters[i, d] * signals[i, d] for d in range(D))
            alpha[p, i] = sum(filters[i, d] * (x[p, d] - pairs.mean[d]) for d in range(D)) / gain
            u[p, i] = max(z[p, i] - pairs.absent_levels[i], 0.0)
        v[p] = inverse @ (z[p] - pairs.biases)
    for computed, slow in [
        (pairs.project(x), z),
        (pairs.detect(x), y),
        (pairs.signal_values(x), alpha),
        (pairs.coefficients(x), u),
        (pairs.coefficients(x, off="undecided"), v),
        (pairs.margins, [1 / np.sqrt(sum(w * w)) for w in filters]),
    ]:
        np.testing.assert_allclose(computed, slow, rtol=1e-5, atol=1e-5)


def test_writing_follows_the_formulas_of_the_method(pairs):
    filters, signals = pairs.filters.astype(float), pairs.signals.astype(float)
    basis = signals.T @ np.linalg.inv(filters @ signals.T)
    np.testing.assert_allclose(pairs.bank(), basis.T, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(pairs.bank("undecided"), pairs.signals)
    x = features((4,))
    np.testing.assert_allclose(pairs.steer(x, 1, 5.0), x + 5 * signals[1], rtol=1e-6)
    chosen = [2, 0]
    part = signals[chosen].T @ np.linalg.inv(filters[chosen] @ signals[chosen].T)
    slow = [row - part @ np.maximum(filters[chosen] @ row - pairs.biases[chosen], 0) for row in x]
    np.testing.assert_allclose(pairs.suppress(x, chosen), slow, rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------ what it is for


def cases():
    return {
        "well-conditioned": make(0),
        "one concept": make(1, concepts=1),
        "as many as channels": make(2, concepts=D),
        "more than channels": make(3, concepts=2 * D),
    }


@both_forms
@pytest.mark.parametrize("case", cases())
def test_coefficients_and_residual_give_the_features_back(case, off):
    pairs, x = cases()[case], features()
    u = pairs.coefficients(x, off)
    combined = pairs.combine(u, off)
    np.testing.assert_allclose(combined, u @ pairs.bank(off), rtol=1e-6)
    # the residual depends on u: switched back on, nothing may be missing
    off_state = x - combined
    np.testing.assert_allclose(off_state + pairs.combine(u, off), x, atol=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_with_all_concepts_absent_projections_do_not_exceed_their_absent_level(seed):
    pairs, x = make(seed), features()
    off_state = x - pairs.combine(pairs.coefficients(x))
    z = np.minimum(pairs.project(x), pairs.absent_levels)
    np.testing.assert_allclose(pairs.project(off_state), z, atol=2e-4)


@pytest.mark.parametrize("seed", range(5))
def test_with_all_concepts_undecided_every_detector_is_on_its_hyperplane(seed):
    pairs, x = make(seed), features()
    off_state = x - pairs.combine(pairs.coefficients(x, "undecided"), "undecided")
    np.testing.assert_allclose(pairs.detect(off_state), 0.5, atol=1e-4)


def test_switching_one_concept_off_moves_no_other_projection(pairs):
    x = features()
    before = pairs.project(x)
    for i in range(I):
        u = pairs.coefficients(x)
        u[..., [j for j in range(I) if j != i]] = 0.0
        moved = pairs.project(x - pairs.combine(u)) - before
        moved[..., i] = 0.0
        np.testing.assert_allclose(moved, 0.0, atol=1e-4)


def test_absent_coefficients_are_never_negative_and_undecided_ones_are_signed(pairs):
    x = features((400,))
    assert (pairs.coefficients(x) >= 0).all()
    assert (pairs.coefficients(x, "undecided") < 0).any()


def test_a_well_conditioned_bank_is_dual_to_the_filters(pairs):
    assert 1.0 <= pairs.condition_number <= WELL_CONDITIONED
    product = pairs.filters.astype(float) @ pairs.bank().astype(float).T
    np.testing.assert_allclose(product, np.eye(I), atol=1e-4)
    assert pairs.bank_error < 1e-4


def test_margins_do_not_enter_the_condition_number():
    plain = make()
    factor = np.array([[1e-3], [1.0], [1e3]])
    scaled = DirectionPairs(
        plain.filters * factor, plain.biases, plain.signals, plain.mean, plain.absent_levels
    )
    assert scaled.condition_number == pytest.approx(plain.condition_number, rel=1e-5)


def test_ill_conditioned_pairs_use_a_regularised_inverse_and_report_its_error(ill_conditioned):
    pairs = ill_conditioned
    assert pairs.condition_number > 1000
    exact = np.linalg.inv(pairs.filters @ pairs.signals.T)
    assert np.abs(pairs.cross_inverse).max() < 0.1 * np.abs(exact).max(), "regularised"
    slow = np.abs(pairs.filters @ pairs.bank().T - np.eye(3)).max()
    assert pairs.bank_error == pytest.approx(slow, rel=1e-4)
    assert pairs.bank_error > 0.1


def test_more_concepts_than_channels_use_a_regularised_inverse():
    pairs = make(concepts=2 * D)
    assert pairs.condition_number == float("inf")
    assert np.isfinite(pairs.bank()).all() and pairs.bank_error > 0.1


def test_suppressed_concepts_are_not_detected_and_positions_without_them_stay(pairs):
    x = features((300,))
    suppressed = pairs.suppress(x, [0, 2])
    z = pairs.project(suppressed)[:, [0, 2]]
    before = pairs.project(x)[:, [0, 2]]
    np.testing.assert_allclose(z, np.minimum(before, pairs.biases[[0, 2]]), atol=2e-4)
    untouched = (before <= pairs.biases[[0, 2]]).all(axis=1)
    assert 0 < untouched.sum() < 300
    np.testing.assert_array_equal(suppressed[untouched], x[untouched])
    clipped = pairs.suppress(x, [0, 2], limits=(0.0, None))
    np.testing.assert_array_equal(clipped, np.maximum(suppressed, 0.0))


def test_suppress_accepts_one_concept_or_a_repeated_one(pairs):
    x = features()
    np.testing.assert_array_equal(pairs.suppress(x, 1), pairs.suppress(x, [1]))
    np.testing.assert_array_equal(pairs.suppress(x, [2, 1, 2]), pairs.suppress(x, [2, 1]))


def test_suppressing_nothing_changes_nothing(pairs):
    np.testing.assert_array_equal(pairs.suppress(features(), []), features())


# ------------------------------------------------------------------ invariances


def test_permuting_the_concepts_permutes_the_results(pairs):
    order = np.array([2, 0, 1])
    turned = DirectionPairs(
        pairs.filters[order],
        pairs.biases[order],
        pairs.signals[order],
        pairs.mean,
        pairs.absent_levels[order],
    )
    x = features()
    for read in ("project", "detect", "signal_values"):
        computed = getattr(turned, read)(x)
        np.testing.assert_allclose(computed, getattr(pairs, read)(x)[..., order], rtol=1e-6)
    for off in OFF:
        u, v = turned.coefficients(x, off), pairs.coefficients(x, off)
        np.testing.assert_allclose(u, v[..., order], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(
            turned.combine(u, off), pairs.combine(v, off), rtol=1e-5, atol=1e-5
        )


READINGS = {
    "project": lambda pairs, x: pairs.project(x),
    "detect": lambda pairs, x: pairs.detect(x),
    "signal_values": lambda pairs, x: pairs.signal_values(x),
    "absent": lambda pairs, x: pairs.coefficients(x, "absent"),
    "undecided": lambda pairs, x: pairs.coefficients(x, "undecided"),
    "suppress": lambda pairs, x: pairs.suppress(x, [0, 1]),
    "steer": lambda pairs, x: pairs.steer(x, 0, 2.0),
}


@pytest.mark.parametrize("name", READINGS)
def test_leading_axes_and_batches_do_not_matter(name, pairs):
    read, x = READINGS[name], features()
    flat = read(pairs, x.reshape(-1, D))
    np.testing.assert_allclose(read(pairs, x).reshape(flat.shape), flat, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(read(pairs, x[0, 0, 0]), flat[0], rtol=1e-9, atol=1e-9)
    one_by_one = np.concatenate([read(pairs, x[n : n + 1]) for n in range(len(x))])
    np.testing.assert_allclose(one_by_one, read(pairs, x), rtol=1e-9, atol=1e-9)
    assert read(pairs, x[:0]).shape == (0, *read(pairs, x).shape[1:])


@pytest.mark.parametrize("name", READINGS)
def test_single_precision_is_kept_and_is_close_to_double(name, pairs):
    read, x = READINGS[name], features()
    single = read(pairs, x.astype(np.float32))
    assert single.dtype == np.float32 and read(pairs, x).dtype == np.float64
    np.testing.assert_allclose(single, read(pairs, x), rtol=1e-4, atol=1e-4)
    assert read(pairs, (10 * x).astype(np.int64)).dtype == np.float32
    assert read(pairs, x.astype(np.float16)).dtype == np.float32
    assert read(pairs, x[0].tolist()).shape == read(pairs, x[0]).shape


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", READINGS)
def test_features_that_are_not_finite_are_refused(name, bad, pairs):
    x = features()
    x[1, 1, 1, 3] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        READINGS[name](pairs, x)
    with pytest.raises(ValueError, match="NaN or infinite"):
        pairs.suppress(x, [])


@pytest.mark.parametrize("name", READINGS)
def test_features_that_are_not_real_numbers_are_refused(name, pairs):
    for x in (features() + 0j, np.full((2, D), "1"), [None] * D):
        with pytest.raises(ValueError, match="features must be real numbers"):
            READINGS[name](pairs, x)
    with pytest.raises(ValueError, match="coefficients must be real numbers"):
        pairs.combine(np.ones(I, complex))


@pytest.mark.parametrize("amount", [np.nan, -np.inf])
def test_an_amount_that_is_not_finite_is_refused(amount, pairs):
    with pytest.raises(ValueError, match="amount must be a finite number"):
        pairs.steer(features(), 0, amount)


def test_detection_neither_overflows_nor_warns():
    sharp = DirectionPairs(1e4 * np.eye(2), np.zeros(2), np.eye(2), np.zeros(2), np.zeros(2))
    np.testing.assert_array_equal(sharp.detect([[9.0, -9.0]]), [[1.0, 0.0]])


def test_signal_vectors_are_normalised_and_keep_their_direction():
    pairs, long = make(), make(scale=1e3)
    np.testing.assert_allclose(np.linalg.norm(pairs.signals, axis=1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(long.signals, pairs.signals, rtol=1e-5)


def test_even_very_short_signal_vectors_are_normalised():
    np.testing.assert_allclose(make(scale=1e-25).signals, make().signals, rtol=1e-5)


# ------------------------------------------------------------------ a value


def test_pairs_copy_their_arrays_and_are_read_only():
    filters = np.eye(2, dtype=np.float32)
    pairs = DirectionPairs(filters, np.zeros(2), np.eye(2), np.zeros(2), np.zeros(2))
    filters[:] = 5.0
    np.testing.assert_array_equal(pairs.filters, np.eye(2))
    for name in ("filters", "biases", "signals", "mean", "absent_levels"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(pairs, name)[0] = 1.0
    with pytest.raises(AttributeError):
        pairs.filters = filters


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda pairs: pickle.loads(pickle.dumps(pairs))]
)
@pytest.mark.parametrize("recurrence", [True, False])
def test_copies_are_identical_and_read_only(copied, recurrence):
    pairs = make() if recurrence else dataclasses.replace(make(), recurrence=None)
    twin = copied(pairs)
    assert same(twin, pairs) and (twin.recurrence is None) is not recurrence
    for name in ("filters", "biases", "signals", "mean", "absent_levels"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(twin, name)[0] = 1.0


@pytest.mark.parametrize("derived", ["bank", "margins", "cross_inverse"])
def test_arrays_derived_from_pairs_are_read_only(derived):
    pairs = make()
    array = pairs.bank() if derived == "bank" else getattr(pairs, derived)
    with pytest.raises(ValueError, match="read-only"):
        array[...] = 0.0


def test_the_repr_names_the_numbers_of_concepts_and_channels():
    assert (make().number_of_concepts, make().channels) == (I, D)
    assert repr(make()) == "DirectionPairs(3 concepts, 7 channels)"


@pytest.mark.parametrize("name", GOOD)
def test_values_of_a_wrong_shape_or_not_finite_are_refused_by_name(name):
    with pytest.raises(ValueError, match=rf"{name}.*must have shape"):
        DirectionPairs(**{**GOOD, name: np.ones((3, 3, 3))})
    for bad in (np.nan, np.inf):
        array = GOOD[name].copy()
        array.flat[0] = bad
        with pytest.raises(ValueError, match=f"{name} must be finite"):
            DirectionPairs(**{**GOOD, name: array})


@pytest.mark.parametrize("values", [np.ones(2, complex), ["a", "b"], None])
def test_values_that_are_not_real_numbers_are_refused_by_name(values):
    with pytest.raises(ValueError, match="biases must be real numbers"):
        DirectionPairs(**{**GOOD, "biases": values})


@pytest.mark.parametrize("name", ["filters", "signals"])
def test_zero_directions_are_refused_with_their_rows(name):
    array = GOOD[name].copy()
    array[1] = 0.0
    with pytest.raises(ValueError, match=rf"{name} must have no zero row, but rows \[1\]"):
        DirectionPairs(**{**GOOD, name: array})


@pytest.mark.parametrize("shape", [(0, 4), (2, 0)])
def test_no_concepts_or_no_channels_are_refused(shape):
    with pytest.raises(ValueError, match="filters must have shape"):
        DirectionPairs(**{**GOOD, "filters": np.ones(shape)})


def test_features_coefficients_and_concepts_that_do_not_fit_are_refused(pairs):
    for read in READINGS.values():
        with pytest.raises(ValueError, match=r"7 channels.*\(2, 6\)"):
            read(pairs, np.ones((2, 6)))
        with pytest.raises(ValueError, match="7 channels"):
            read(pairs, 3.0)
    with pytest.raises(ValueError, match=r"3 concepts.*\(2, 4\)"):
        pairs.combine(np.ones((2, 4)))
    for concept in (-1, I):
        with pytest.raises(ValueError, match=f"numbered 0 to 2, not {concept}"):
            pairs.steer(features(), concept, 1.0)
        with pytest.raises(ValueError, match="numbered 0 to 2"):
            pairs.suppress(features(), [0, concept])
    for call, values in ((pairs.coefficients, features()), (pairs.combine, np.ones(I))):
        with pytest.raises(ValueError, match=r"'absent', 'undecided'.*not 'of'"):
            call(values, off="of")
    with pytest.raises(ValueError, match="not None"):
        pairs.bank(None)


def test_filters_and_signals_of_any_length_have_finite_margins():
    for length in (1e-25, 1e25):
        pairs = DirectionPairs([[0, length]], [0], [[0, length]], [0, 0], [0])
        np.testing.assert_allclose(pairs.margins, 1 / length, rtol=1e-5)
        np.testing.assert_array_equal(pairs.signals, [[0, 1]])


def test_a_filter_that_ignores_its_signal_vector_has_no_signal_values():
    pairs = DirectionPairs([[1, 0], [1, 1]], [0, 0], [[0, 1], [1, 1]], [0, 0], [0, 0])
    with pytest.raises(ValueError, match=r"filters \[0\] are orthogonal"):
        pairs.signal_values([[1, 2]])


def test_values_beyond_float32_are_refused_without_a_warning():
    with pytest.raises(ValueError, match="mean must be finite"):
        DirectionPairs([[1, 0]], [0], [[1, 0]], [1e39, 0], [0])
