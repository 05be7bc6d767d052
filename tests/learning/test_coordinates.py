import numpy as np
import pytest

from xplique_dirpairs.datasets.synthetic import random_directions, synthetic_signals
from xplique_dirpairs.learning import coordinates, features
from xplique_dirpairs.learning.coordinates import (
    Moments,
    centred,
    floor_of_noise,
    signal_axes,
    standardised,
    whitened,
)
from xplique_dirpairs.learning.features import Features

P, D, I = 500, 6, 3
KINDS = {
    "standardised": lambda moments: standardised(moments),
    "whitened": lambda moments: whitened(moments, I),
    "centred": lambda moments: centred(moments, I),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def x(rng):
    """Return features of full rank with an offset and similar variances along all axes."""
    rotation = np.linalg.qr(rng.normal(size=(D, D)))[0]
    mixing = rotation * np.array([1.4, 1.3, 1.2, 1.1, 1.0, 0.9])
    return (rng.normal(size=(P, D)) @ mixing.T + 5.0).astype(np.float32)


def test_moments_are_mean_and_covariance_for_any_block_size(x, monkeypatch):
    for block in (7, P):
        monkeypatch.setattr(features, "BLOCK", block)
        moments = Moments.of(Features(x))
        np.testing.assert_allclose(moments.mean, x.astype(np.float64).mean(0))
        slow = np.cov(x.astype(np.float64).T, bias=True)
        np.testing.assert_allclose(moments.covariance, slow, atol=1e-5)


def test_moments_depend_on_the_order_of_positions_but_not_on_the_block_size(x, rng, monkeypatch):
    order = Moments.of(x).order
    with monkeypatch.context() as patched:
        patched.setattr(coordinates, "BLOCK", 7)
        np.testing.assert_allclose(Moments.of(x).order, order, rtol=1e-9)
    np.testing.assert_allclose(Moments.of(100.0 * x - 3.0).order, 100.0 * order, rtol=1e-3)
    assert np.abs(Moments.of(rng.permutation(x)).order - order).max() > 1.0 / np.sqrt(P)


@every_kind
def test_filters_have_the_same_projections_in_coordinates_and_in_features(kind, x, rng):
    coordinates = KINDS[kind](Moments.of(x))
    x_inside = coordinates.features(x)
    inside, raw = rng.normal(size=(2, I, coordinates.axes)), rng.normal(size=(2, I, D))
    centred_x = x - coordinates.mean
    np.testing.assert_allclose(
        x_inside @ np.swapaxes(inside, 1, 2),
        centred_x @ np.swapaxes(coordinates.filters_to_raw(inside), 1, 2),
        atol=1e-4,
    )
    np.testing.assert_allclose(
        centred_x @ np.swapaxes(raw, 1, 2),
        x_inside @ np.swapaxes(coordinates.filters_from_raw(raw), 1, 2),
        atol=1e-4,
    )
    back = coordinates.filters_from_raw(coordinates.filters_to_raw(inside))
    np.testing.assert_allclose(back, inside, atol=1e-9)


@every_kind
def test_signal_vectors_and_their_products_with_filters_survive_coordinates(kind, x, rng):
    coordinates = KINDS[kind](Moments.of(x))
    signals, filters = rng.normal(size=(I, D)), rng.normal(size=(I, D))
    inside = coordinates.signals_from_raw(signals)
    np.testing.assert_allclose(coordinates.signals_to_raw(inside), signals, atol=1e-9)
    np.testing.assert_allclose(
        coordinates.filters_from_raw(filters) @ inside.T, filters @ signals.T, atol=1e-9
    )


@every_kind
def test_covariances_with_features_are_the_same_vector_in_all_coordinates(kind, x, rng):
    coordinates = KINDS[kind](Moments.of(x))
    z = rng.normal(size=P)
    inside = (z - z.mean()) @ coordinates.features(x) / P
    np.testing.assert_allclose(
        coordinates.signals_to_raw(inside), (z - z.mean()) @ x / P, rtol=1e-3, atol=1e-5
    )


def test_detections_are_the_same_after_standardisation_is_undone(x, rng):
    # y = σ(ŵᵀx̃/M − b)  ⇒  w = (ŵ/σ)/M,  b_raw = b + ŵᵀ(μ/σ)/M
    coordinates = standardised(Moments.of(x))
    mu, sigma = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    unit = np.linalg.qr(rng.normal(size=(D, I)))[0].T
    margins, biases = np.array([0.1, 1.0, 4.0]), rng.normal(size=I)
    learned = (x - mu) / sigma @ (unit / margins[:, None]).T - biases

    filters = coordinates.filters_to_raw(unit / margins[:, None])
    raw_biases = biases + filters @ coordinates.mean
    np.testing.assert_allclose(filters, unit / sigma / margins[:, None], rtol=1e-5)
    np.testing.assert_allclose(raw_biases, biases + unit @ (mu / sigma) / margins, rtol=1e-5)
    np.testing.assert_allclose(x @ filters.T - raw_biases, learned, atol=1e-3)


def test_whitened_features_have_unit_covariance_and_centred_axes_are_orthonormal(x):
    moments = Moments.of(x)
    np.testing.assert_allclose(
        np.cov(whitened(moments, I).features(x).T, bias=True), np.eye(D), atol=1e-3
    )
    unscaled = centred(moments, I)
    total = (unscaled.features(x).std(0) ** 2).sum()
    np.testing.assert_allclose(total, D * unscaled.scale**2, 1e-3)
    np.testing.assert_allclose(unscaled.forward.T @ unscaled.forward, np.eye(D), atol=1e-9)


@every_kind
def test_filters_have_no_weight_on_channels_that_never_vary(kind, x, rng):
    x = np.insert(x, [0, 3], [7.0, 0.1], axis=1).astype(np.float32)
    coordinates = KINDS[kind](Moments.of(x))
    assert coordinates.axes == D
    filters = coordinates.filters_to_raw(rng.normal(size=(I, D)))
    np.testing.assert_allclose(filters[:, [0, 4]], 0.0, atol=1e-6)
    assert np.isfinite(filters).all()


@pytest.mark.parametrize("value", [0.0, 0.1, 1e4])
def test_constant_features_are_refused(value):
    with pytest.raises(ValueError, match="constant"):
        Moments.of(np.full((50, D), value, np.float32))


def test_features_whose_squares_overflow_are_refused(rng):
    with pytest.raises(ValueError, match="too large: their squares overflow"):
        Moments.of((1e18 * rng.normal(size=(500, D))).astype(np.float32))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize("rank", [3, 5, 9])
def test_the_rank_of_the_signal_is_found_above_the_floor_of_noise(rank, noise, scale, rng):
    signal = np.linalg.qr(rng.normal(size=(4000, rank)))[0] @ rng.normal(size=(rank, 20))
    x = scale * (signal / signal.std() + noise * rng.normal(size=signal.shape))
    if rank == 9:  # a clear step among the axes of signal is not a floor of noise
        left, s, right = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
        s[4:9] = s[4] / 2
        x = (left * s) @ right
    axes, deviations = signal_axes(Moments.of(x.astype(np.float32)), I)
    assert len(axes) == len(deviations) == rank
    np.testing.assert_allclose(axes @ axes.T, np.eye(rank), atol=1e-9)


def test_the_synthetic_experiment_has_five_axes_of_signal():
    ranks = []
    for seed in range(20):
        for directions in ((None, None), random_directions(seed)):
            x = synthetic_signals(300, seed, *directions).features.reshape(-1, 16)
            ranks.append(len(signal_axes(Moments.of(x), I)[0]))
    assert ranks == 40 * [5]


def test_without_a_floor_of_noise_the_number_of_axes_grows_with_the_concepts(rng):
    x = rng.normal(size=(3000, 300)).astype(np.float32)
    moments, least = Moments.of(x), coordinates.AXES
    kept = [len(signal_axes(moments, concepts)[0]) for concepts in (3, least, 200)]
    assert kept == [least, 2 * least, 300]


def test_there_are_at_least_as_many_axes_as_concepts(rng):
    x = (rng.normal(size=(2000, 8)) * 2.0 ** -np.arange(8)).astype(np.float32)
    assert len(signal_axes(Moments.of(x), 6)[0]) >= 6


def test_a_large_offset_of_the_features_costs_no_precision(rng):
    x = rng.normal(size=(2000, D))
    plain = standardised(Moments.of(x.astype(np.float32))).features(x.astype(np.float32))
    shifted = (x + 1000.0).astype(np.float32)
    # float32 itself rounds such features by up to 6e-5.
    np.testing.assert_allclose(
        standardised(Moments.of(shifted)).features(shifted), plain, atol=3e-4
    )


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.2])
def test_the_floor_of_noise_is_the_standard_deviation_of_noise_along_a_filter(noise, rng):
    clean = rng.gamma(0.5, size=(20_000, 6)) @ rng.normal(size=(6, 40))
    added = noise * rng.normal(size=clean.shape)
    moments = Moments.of((clean + added).astype(np.float32))
    coordinates = whitened(moments, 6)
    assert floor_of_noise(moments, 6) == pytest.approx(noise, rel=0.02, abs=1e-4)
    along = np.sqrt(np.mean((added @ coordinates.forward).var(axis=0)))
    assert coordinates.noise == pytest.approx(along, rel=0.02, abs=1e-4)
