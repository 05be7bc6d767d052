"""Ridge regression from sums equals that from the data themselves."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from xplique_dirpairs.metrics.cross_reconstruction import RIDGES, Moments, ridge_r2


def data(seed=0, positions=300, sources=6, targets=4, noise=0.5):
    """Return (positions, sources + targets) values, where targets are linear in the sources."""
    weights = np.random.default_rng(99).normal(size=(sources, targets))
    rng = np.random.default_rng(seed)
    x = 5.0 + rng.normal(size=(positions, sources)) * np.geomspace(0.1, 10, sources)
    y = x @ weights + noise * rng.normal(size=(positions, targets)) + 100.0
    return np.hstack([x, y])


def moments(values, centre=None):
    """Return the moments of values that are added in three blocks."""
    result = Moments(values.mean(axis=0) if centre is None else centre)
    for part in np.array_split(values, 3):
        result.add(part)
    return result


X, Y = np.arange(6), np.arange(6, 10)


def reference_r2(learning, choosing, scoring):
    """Return R² with scikit-learn's ridge on standardised sources."""

    def r2(fitted_on, ridge, scored_on):
        scale = fitted_on[:, X].std(axis=0)
        model = Ridge(alpha=ridge * len(fitted_on)).fit(fitted_on[:, X] / scale, fitted_on[:, Y])
        rest = scored_on[:, Y] - model.predict(scored_on[:, X] / scale)
        about = scored_on[:, Y] - scored_on[:, Y].mean(axis=0)
        return 1 - np.sum(rest**2) / np.sum(about**2)

    ridge = max(RIDGES, key=lambda one: r2(learning, one, choosing))
    return r2(np.vstack([learning, choosing]), ridge, scoring)


@pytest.mark.parametrize("noise", [0.5, 30.0])
def test_r2_equals_that_of_ridge_regression_on_the_data(noise):
    parts = [data(seed, 30, noise=noise) for seed in range(3)]
    centre = parts[0].mean(axis=0)
    found = ridge_r2(*(moments(part, centre) for part in parts), X, Y)
    assert found == pytest.approx(reference_r2(*parts), abs=1e-4)


def test_what_is_linear_is_explained_and_what_is_independent_is_not():
    exact = [moments(data(seed, noise=0.0), np.zeros(10)) for seed in range(3)]
    assert ridge_r2(*exact, X, Y) == pytest.approx(1.0, abs=1e-3)
    rng = np.random.default_rng(0)
    noise = [moments(rng.normal(size=(2000, 10)), np.zeros(10)) for _ in range(3)]
    assert abs(ridge_r2(*noise, X, Y)) < 0.01


def test_r2_does_not_depend_on_units_and_offsets_of_the_sources():
    parts = [data(seed) for seed in range(3)]
    scaled = [part * np.r_[np.geomspace(0.1, 10, 6), np.ones(4)] - 3.0 for part in parts]
    found = [
        ridge_r2(*(moments(part, which[0].mean(axis=0)) for part in which), X, Y)
        for which in (parts, scaled)
    ]
    assert found[0] == pytest.approx(found[1], abs=1e-4)


def test_sources_that_do_not_vary_are_ignored_and_no_sources_explain_nothing():
    parts = [np.hstack([data(seed), np.full((300, 1), 7.0)]) for seed in range(3)]
    known = [moments(part, parts[0].mean(axis=0)) for part in parts]
    with_constant = ridge_r2(*known, np.r_[X, 10], Y)
    assert with_constant == pytest.approx(ridge_r2(*known, X, Y), abs=1e-6)
    assert ridge_r2(*known, [], Y) == 0.0
    assert np.isnan(ridge_r2(*known, X, [10]))


def test_fewer_positions_than_sources_and_sources_that_differ_by_rounding_are_no_error():
    rng = np.random.default_rng(0)
    for positions in (2, 3, 5):
        parts = [rng.normal(size=(positions, 10)) for _ in range(3)]
        for part in parts:
            part[:, 3] = 1 + 1e-7 * rng.normal(size=positions)
            part[:, 4] = part[:, 2]
        found = [moments(part, np.zeros(10)) for part in parts]
        assert np.isfinite(ridge_r2(*found, X, Y))
        assert (found[0].correlation([3], Y) == 0).all()


def test_moments_of_parts_add_up_and_equal_those_of_numpy():
    values = data()
    centre = values.mean(axis=0)
    total = moments(values[:100], centre) + moments(values[100:], centre)
    everything = np.arange(10)
    covariance = np.cov(values.T, bias=True)
    np.testing.assert_allclose(
        total.covariance(everything, everything), covariance, rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(total.correlation(X, Y), np.corrcoef(values.T)[:6, 6:], atol=1e-5)
    turned = moments(values, centre)
    turned.turn([0])
    np.testing.assert_allclose(turned.correlation([0], Y), -total.correlation([0], Y), atol=1e-6)


def test_large_means_do_not_spoil_correlations():
    values = data() + 1e4
    found = moments(values, values[:20].mean(axis=0)).correlation(X, Y)
    np.testing.assert_allclose(found, np.corrcoef(values.T)[:6, 6:], atol=1e-3)
