"""What holds for any direction pairs and any features, whatever their size and unit."""

import copy
import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume
from hypothesis import strategies as st
from many_examples import UNITS, holds_for, matrices, sizes

from xplique_dirpairs.pairs import DirectionPairs


@st.composite
def pairs_and_features(draw):
    """Draw valid arguments of `DirectionPairs`, and features (4, D) in the same unit."""
    concepts, channels = draw(sizes())
    unit = draw(UNITS)
    filters = draw(matrices(concepts, channels)) / unit
    signals = draw(matrices(concepts, channels))
    if draw(st.booleans()):
        signals = filters * unit + 0.1 * signals  # filters that respond to their own signals
    assume((np.abs(filters * unit).max(axis=1) > 1e-3).all())
    assume((np.abs(signals).max(axis=1) > 1e-3).all())
    biases, absent = draw(matrices(2, concepts))
    mean = draw(matrices(1, channels, unit))[0]
    features = draw(matrices(4, channels, unit))
    return (filters, biases, signals, mean, absent), features


def read(pairs, x):
    """Return everything that pairs read from features."""
    z = pairs.project(x)
    y = pairs.detect(x)
    u = pairs.coefficients(x)
    return {"projections": z, "detections": y, "coefficients": u}


def close(found, wanted, tolerance=1e-4):
    scale = max(float(np.abs(wanted).max()), 1e-30)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * scale)


@holds_for(case=pairs_and_features())
def test_what_is_read_is_finite_and_in_its_range(case):
    arguments, x = case
    pairs = DirectionPairs(*arguments)
    found = read(pairs, x)
    for values in found.values():
        assert values.shape == (4, pairs.number_of_concepts) and np.isfinite(values).all()
    assert found["detections"].min() >= 0 and found["detections"].max() <= 1
    assert found["coefficients"].min() >= 0
    assert np.isfinite(pairs.bank()).all() and np.isfinite(pairs.bank("undecided")).all()
    assert pairs.condition_number >= 1 - 1e-6 and pairs.bank_error >= 0
    np.testing.assert_allclose(np.linalg.norm(pairs.signals, axis=1), 1, atol=1e-5)


@holds_for(case=pairs_and_features())
def test_signal_values_are_finite_or_the_concept_is_named_whose_filter_ignores_its_signal(case):
    arguments, x = case
    pairs = DirectionPairs(*arguments)
    try:
        values = pairs.signal_values(x)
    except ValueError as error:
        assert "orthogonal" in str(error)
    else:
        assert np.isfinite(values).all()


@holds_for(case=pairs_and_features(), seed=st.integers(0, 99))
def test_other_orders_of_concepts_and_positions_give_the_same_values_in_that_order(case, seed):
    (filters, biases, signals, mean, absent), x = case
    pairs = DirectionPairs(filters, biases, signals, mean, absent)
    rng = np.random.default_rng(seed)
    order, rows = rng.permutation(len(filters)), rng.permutation(len(x))
    other = DirectionPairs(filters[order], biases[order], signals[order], mean, absent[order])
    first, again = read(pairs, x), read(other, x[rows])
    for name, values in first.items():
        close(again[name], values[np.ix_(rows, order)])
    if pairs.condition_number < 1e3:
        close(other.bank(), pairs.bank()[order], 1e-3)


@holds_for(case=pairs_and_features())
def test_any_leading_axes_read_the_same(case):
    arguments, x = case
    pairs = DirectionPairs(*arguments)
    flat, maps = read(pairs, x), read(pairs, x.reshape(2, 2, -1))
    for name, values in flat.items():
        close(maps[name].reshape(values.shape), values, 1e-6)
    assert pairs.combine(maps["coefficients"]).shape == (2, 2, pairs.channels)
    both = pairs.read(x)
    close(both[0], flat["coefficients"], 1e-6)
    close(both[1], flat["detections"], 1e-6)


@holds_for(case=pairs_and_features(), data=st.data())
def test_suppressed_concepts_are_not_detected_and_other_positions_stay(case, data):
    arguments, x = case
    pairs = DirectionPairs(*arguments)
    concepts = data.draw(st.sets(st.integers(0, pairs.number_of_concepts - 1), min_size=1))
    chosen = sorted(concepts)
    moved = pairs.suppress(x, chosen)
    assert moved.shape == x.shape and np.isfinite(moved).all()
    silent = (pairs.project(x)[:, chosen] <= pairs.biases[chosen]).all(axis=1)
    np.testing.assert_array_equal(moved[silent], x[silent])
    part = DirectionPairs(
        pairs.filters[chosen], pairs.biases[chosen], pairs.signals[chosen], pairs.mean,
        pairs.absent_levels[chosen],
    )  # fmt: skip
    if part.condition_number < 20:
        excess = part.project(moved) - part.biases
        scale = np.abs(part.project(x)).max() + np.abs(part.biases).max()
        assert excess.max() <= 1e-3 * max(float(scale), 1e-6)
    low, high = float(x.min()), float(x.max()) + 1e-30
    clipped = pairs.suppress(x, chosen, (low, high))
    assert clipped.min() >= low and clipped.max() <= high


@holds_for(case=pairs_and_features())
def test_files_pickles_and_copies_hold_the_same_pairs(case):
    pairs = DirectionPairs(*case[0])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pairs"
        pairs.save(path)
        twins = [DirectionPairs.load(path), pickle.loads(pickle.dumps(pairs)), copy.deepcopy(pairs)]
    for twin in twins:
        for name in ("filters", "biases", "signals", "mean", "absent_levels"):
            np.testing.assert_array_equal(getattr(twin, name), getattr(pairs, name))


@holds_for(
    case=pairs_and_features(),
    place=st.integers(0, 4),
    bad=st.sampled_from([np.nan, np.inf, -np.inf, 1e39, "text", None]),
)
def test_values_that_are_no_finite_numbers_are_refused(case, place, bad):
    arguments = [np.array(values) for values in case[0]]
    assume(not (bad == 1e39 and place == 2))  # signal vectors are normalised in float64
    if isinstance(bad, float):
        arguments[place].flat[0] = bad
    else:
        arguments[place] = np.full(arguments[place].shape, bad, dtype=object)
    with pytest.raises(ValueError, match=r"finite|real numbers"):
        DirectionPairs(*arguments)
