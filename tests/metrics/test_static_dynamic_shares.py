"""Shares of appearance, motion and content: planted units, a slow second writing, invariances."""

import warnings

import numpy as np
import pytest

from xplique_dirpairs.metrics.static_dynamic import (
    PAIR_KINDS,
    correlations_of_percentages,
    published_percentages,
    static_dynamic_shares,
)

UNITS = ("static", "dynamic", "content", "sum", "product")


def planted(count, seed=0, noise=0.3, shift=0.0):
    """Return pooled values of planted units; ``shift`` is added to the second side."""
    rng = np.random.default_rng(seed)

    def side(video, style, motion):
        values = [style, motion, video, (style + motion) / 2**0.5, style * motion]
        values = np.stack(values, axis=1)
        return values + noise * rng.normal(size=values.shape)

    pooled = {}
    for kind in PAIR_KINDS:
        video, style, motion, other_style, other_motion = rng.normal(size=(5, count))
        first = side(video, style, motion)
        second = side(
            video,
            style if kind == "static" else other_style,
            motion if kind == "dynamic" else other_motion,
        )
        pooled[kind] = (first, second + shift)
    return pooled


def slow_correlation(a, b, centring):
    """Return ρ of one unit, pair by pair."""
    n = len(a)
    mean_a, mean_b = sum(a) / n, sum(b) / n
    if centring == "shared":
        mean_a = mean_b = 0.5 * (mean_a + mean_b)
    covariance = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True)) / n
    both = [(x - mean_a) ** 2 for x in a] + [(y - mean_b) ** 2 for y in b]
    return covariance / (sum(both) / (2 * n))


@pytest.mark.parametrize(("count", "bound"), [(600, 0.15), (3000, 0.07)])
def test_planted_units_get_the_shares_that_they_were_made_of(count, bound):
    noise = 0.09 / 1.09  # the noise is part of the interaction
    expected = {
        "static": [1 - noise, 0, 0, 0.5 * (1 - noise), 0],
        "dynamic": [0, 1 - noise, 0, 0.5 * (1 - noise), 0],
        "content": [0, 0, 1 - noise, 0, 0],
        "interaction": [noise, noise, noise, noise, 1],
    }
    errors = []
    for seed in range(5):
        shares = static_dynamic_shares(planted(count, seed), resamples=2)
        errors += [np.abs(getattr(shares, name) - expected[name]) for name in expected]
    errors = np.array(errors)
    assert np.sqrt((errors**2).mean()) <= bound / 3
    assert np.quantile(errors, 0.95) <= bound


@pytest.mark.parametrize("centring", ["shared", "side"])
def test_correlations_equal_a_slow_reference(centring):
    pooled = planted(40, shift=0.5)
    shares = static_dynamic_shares(pooled, centring=centring, resamples=2)
    for kind, (a, b) in pooled.items():
        expected = [slow_correlation(a[:, k], b[:, k], centring) for k in range(len(UNITS))]
        np.testing.assert_allclose(shares.correlations[kind], expected, atol=1e-12)
    assert shares.centring == centring


def test_shares_of_a_unit_sum_to_one():
    shares = static_dynamic_shares(planted(50))
    total = shares.static + shares.dynamic + shares.content + shares.interaction
    np.testing.assert_allclose(total, 1.0, atol=1e-12)


def test_scale_shift_sign_dtype_and_order_of_units_and_pairs_change_nothing():
    pooled = planted(80)
    plain = static_dynamic_shares(pooled)
    scales = np.array([2.0, -3.0, 1e-3, 1e4, -1.0])
    moved = {kind: tuple(x * scales + 7.0 for x in sides) for kind, sides in pooled.items()}
    order = np.random.default_rng(0).permutation(80)
    other = {
        "scaled": static_dynamic_shares(moved),
        "float32": static_dynamic_shares(
            {kind: tuple(x.astype(np.float32) for x in sides) for kind, sides in pooled.items()}
        ),
        "pairs": static_dynamic_shares(
            {kind: tuple(x[order] for x in sides) for kind, sides in pooled.items()}
        ),
        "sides": static_dynamic_shares({kind: sides[::-1] for kind, sides in pooled.items()}),
    }
    for shares in other.values():
        np.testing.assert_allclose(shares.static, plain.static, atol=1e-5)
        np.testing.assert_allclose(shares.content, plain.content, atol=1e-5)
    turned = static_dynamic_shares({k: tuple(x[:, ::-1] for x in v) for k, v in pooled.items()})
    np.testing.assert_allclose(turned.dynamic[::-1], plain.dynamic, atol=1e-12)


def test_a_network_without_noise_leaves_nothing_to_interaction_for_additive_units():
    shares = static_dynamic_shares(planted(3000, noise=0.0))
    assert np.abs(shares.interaction[:4]).max() < 0.1 and shares.interaction[4] > 0.9


def test_identical_sides_are_content_alone():
    a = np.random.default_rng(0).normal(size=(30, 2))
    shares = static_dynamic_shares({kind: (a, a) for kind in PAIR_KINDS})
    np.testing.assert_allclose(shares.content, 1.0)
    np.testing.assert_allclose(shares.static, 0.0, atol=1e-12)
    np.testing.assert_allclose(shares.published().static, 1.0)


def test_a_constant_unit_has_no_shares_and_no_warning():
    pooled = {
        kind: tuple(np.column_stack([x, np.full(len(x), 0.1)]) for x in sides)
        for kind, sides in planted(20).items()
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shares = static_dynamic_shares(pooled)
    for values in (shares.static, shares.dynamic, shares.content, shares.interaction):
        assert np.isnan(values[-1]) and np.isfinite(values[:-1]).all()
    assert all(np.isnan(error[-1]) for error in shares.standard_error.values())
    assert shares.published().classes[-1] == "residual"
    assert np.isfinite(list(shares.layer_correlations.values())).all()


def test_standard_errors_tell_how_far_estimates_are_off():
    spread = np.std([static_dynamic_shares(planted(300, s), resamples=2).static
                     for s in range(40)], axis=0)  # fmt: skip
    error = np.mean([static_dynamic_shares(planted(300, s)).standard_error["static"]
                     for s in range(5)], axis=0)  # fmt: skip
    np.testing.assert_allclose(error, spread, rtol=0.5, atol=0.01)


def test_pairs_of_few_videos_have_the_errors_of_few_videos():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(12, 1)).repeat(50, axis=0)
    pooled = {kind: (values, values + 0.1 * rng.normal(size=values.shape)) for kind in PAIR_KINDS}
    pooled["neither"] = (values, rng.normal(size=(12, 1)).repeat(50, axis=0))
    together = static_dynamic_shares(pooled, np.arange(12).repeat(50))
    alone = static_dynamic_shares(pooled)
    assert together.standard_error["content"] > 3 * alone.standard_error["content"]


def test_centring_by_side_ignores_a_shift_that_shared_centring_counts():
    pooled = planted(3000, shift=2.0)
    shared = static_dynamic_shares(pooled, resamples=2)
    side = static_dynamic_shares(pooled, resamples=2, centring="side")
    plain = static_dynamic_shares(planted(3000), resamples=2, centring="side")
    np.testing.assert_allclose(side.static, plain.static, atol=1e-10)
    assert shared.correlations["static"][0] < 0.1 < side.correlations["static"][0]


# ------------------------------------------------------------ as published


def test_published_classes_hide_content_and_sums():
    published = static_dynamic_shares(planted(3000)).published()
    assert list(published.classes) == ["static", "dynamic", "joint", "residual", "residual"]


def test_joint_units_answer_to_content():
    shares = static_dynamic_shares(planted(3000))
    both = shares.published()
    joint = both.classes == "joint"
    assert joint.any()
    least = both.static + both.dynamic - 1 + np.minimum(shares.interaction, 0)
    assert (shares.content[joint] >= least[joint] - 1e-12).all()


@pytest.mark.parametrize(
    ("dynamic", "static", "expected"),
    [
        (21.4, 38.4, (0.37, 0.95)), (27.3, 30.9, (0.57, 0.70)), (23.1, 34.0, (0.38, 0.77)),
        (23.8, 27.3, (0.28, 0.42)), (28.2, 30.7, (0.62, 0.71)), (31.6, 21.9, (0.61, 0.25)),
    ],
)  # fmt: skip
def test_percentages_of_the_paper_stand_for_these_correlations(dynamic, static, expected):
    correlations = correlations_of_percentages(dynamic, static)
    np.testing.assert_allclose(correlations, expected, atol=0.011)
    back = published_percentages(*correlations)
    np.testing.assert_allclose([back["dynamic"], back["static"]], [dynamic, static])
    assert sum(back.values()) == pytest.approx(100)


def test_percentages_are_squeezed():
    assert published_percentages(0, 0)["static"] == pytest.approx(21.2, abs=0.05)
    assert published_percentages(0, 1)["static"] == pytest.approx(42.2, abs=0.05)
    assert published_percentages(1, 1)["dynamic"] == pytest.approx(100 / 3)


# ------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"neither": None}, "'neither' is missing"),
        ({"static": (np.zeros((5, 2)), np.zeros((4, 2)))}, r"'static' pairs must be two arrays"),
        ({"dynamic": (np.zeros((1, 5)), np.zeros((1, 5)))}, "n ≥ 2"),
        ({"dynamic": (np.zeros((5, 2)), np.zeros((5, 2)))}, "same units"),
        ({"static": (np.full((5, 5), np.nan), np.zeros((5, 5)))}, "NaN"),
    ],
)
def test_bad_pairs_are_refused(change, message):
    pooled = {k: v for k, v in {**planted(5), **change}.items() if v is not None}
    with pytest.raises(ValueError, match=message):
        static_dynamic_shares(pooled)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"centring": "both"}, "centring must be one of"),
        ({"resamples": 1}, "resamples must be an integer"),
        ({"videos": np.arange(3)}, "videos must be one number"),
        ({"random_state": -1}, "random_state"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        static_dynamic_shares(planted(5), **settings)
    with pytest.raises(ValueError, match="above 0"):
        correlations_of_percentages(60, 50)
