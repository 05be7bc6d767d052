"""Sparse concepts are found however many of them are at a position."""

import warnings

import numpy as np
import pytest
from scipy.stats import norm

from xplique_dirpairs.datasets.planted_dictionary import planted_dictionary, synthsae_small
from xplique_dirpairs.datasets.planted_firing import Together, Trees, zipf_probabilities
from xplique_dirpairs.datasets.synthetic import random_directions, signal_maps
from xplique_dirpairs.learning.coordinates import Moments, whitened
from xplique_dirpairs.learning.history import LearningWarning
from xplique_dirpairs.learning.learner import learn_pairs
from xplique_dirpairs.learning.presence import presence_of
from xplique_dirpairs.learning.signals import regression
from xplique_dirpairs.learning.sparse import (
    energy_maxima,
    excess_maxima,
    follows_the_model,
    sparse_start,
)
from xplique_dirpairs.metrics.recovery import dictionary_recovery


def planted(n=8000, channels=24, atoms=16, probability=0.08, noise=0.02, seed=0, **options):
    if "exactly" not in options:
        options["probability"] = probability
    return planted_dictionary(n, channels, atoms, noise=noise, seed=seed, **options)


def fit(data, concepts, **settings):
    return learn_pairs(data.features, concepts, random_state=0, verbose=0, **settings)


def fit_with_warnings(data, concepts):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LearningWarning)
        return fit(data, concepts)


def scores(pairs, data, seed=1):
    """Return how well pairs recover the atoms, on fresh data."""
    fresh = data.fresh(8000, seed)
    return dictionary_recovery(pairs.signals, pairs.detect(fresh.features) > 0.5, fresh)


def whitened_features(x, concepts):
    x = x.reshape(-1, x.shape[-1]).astype(np.float32)
    coordinates = whitened(Moments.of(x), concepts)
    return coordinates.features(x), coordinates.backward


PROBLEMS = {
    "several at a position": {"probability": 0.2},
    "often none": {"probability": 0.02, "n": 20_000},
    "exactly two": {"exactly": 2},
    "as many as channels": {"channels": 16, "probability": 0.05, "noise": 0.01},
    "offset": {"offset": 3.0},
    "lognormal": {"coefficients": "lognormal"},
    "pairs that come together": {"together": Together(partner=0.8)},
    "unequal frequencies": {"probability": zipf_probabilities(16, 0.3, 0.04, 1.0), "n": 20_000},
}


@pytest.mark.parametrize("options", PROBLEMS.values(), ids=PROBLEMS)
def test_every_atom_is_recovered_and_no_problem_is_said(options):
    data = planted(**options)
    pairs, history = fit(data, 16)
    assert history.recipe == "sparse" and "recipe 'sparse'" in history.notes[1]
    recovered = scores(pairs, data)
    assert recovered.share == 1.0 and recovered.phi > 0.95
    said = [p for p in history.problems() if "ill-conditioned" not in p]
    assert said == []


def test_children_and_parents_are_told_apart():
    together = Together(trees=Trees(number=6, branching=2, depth=1, compensated=True))
    data = planted(20_000, 40, 18, 0.1, together=together)
    pairs, history = fit_with_warnings(data, 18)
    recovered = scores(pairs, data)
    assert history.recipe == "sparse" and recovered.f1 > 0.9 and recovered.mcc > 0.8


def test_more_atoms_than_channels_are_recovered_but_cannot_be_switched_off_one_by_one():
    data = planted(14_000, 64, 96, 0.02)
    with pytest.warns(LearningWarning, match="cannot be switched off one by one"):
        pairs, history = fit(data, 96)
    recovered = scores(pairs, data)
    assert history.recipe == "sparse" and recovered.share > 0.9 and recovered.phi > 0.8


def test_fewer_concepts_than_atoms_are_atoms_and_the_history_notes_the_others():
    data = planted()
    pairs, history = fit(data, 6)
    recovered = scores(pairs, data)
    assert recovered.share == 6 / 16 and recovered.uniqueness == 1.0
    assert any("about 16 concepts were found, of which 6 are learned" in n for n in history.notes)


def test_more_concepts_than_atoms_are_said_to_be_random():
    data = planted()
    with pytest.warns(LearningWarning, match="only 16 distinct concepts were found"):
        pairs, _ = fit(data, 20)
    assert scores(pairs, data).share == 1.0


class PointingAway(np.random.Generator):
    """Draws random filters that no feature is above 0 along."""

    def standard_normal(self, shape):
        return -np.abs(super().standard_normal(shape))


def test_a_random_filter_that_is_detected_nowhere_stays_one(rng):
    sources = rng.gamma(2.0, size=(4000, 5)) * (rng.random((4000, 5)) < 0.08)
    features = ((sources - sources.mean(axis=0)) / sources.std(axis=0)).astype(np.float32)
    start = sparse_start(features, 6, PointingAway(np.random.PCG64(0)), np.eye(5))
    assert start.found == 5
    np.testing.assert_allclose(np.linalg.norm(start.filters, axis=1), 1.0, rtol=1e-5)


def test_the_seed_changes_nothing():
    data = planted(4000)
    one, _ = learn_pairs(data.features, 16, random_state=0, verbose=0)
    other, _ = learn_pairs(data.features, 16, random_state=7, verbose=0)
    np.testing.assert_array_equal(one.filters, other.filters)


def test_the_order_of_positions_changes_only_the_order_of_concepts():
    features, backward = whitened_features(planted().features, 16)
    turned = np.random.default_rng(3).permutation(features)
    rng = np.random.default_rng(0)
    one = sparse_start(features, 16, rng, backward).filters
    other = sparse_start(turned, 16, rng, backward).filters
    cosines = one @ other.T
    assert cosines.max(axis=1).min() > 0.99
    assert len(set(cosines.argmax(axis=1))) == 16


def test_without_a_stage_a_fit_can_be_resumed_and_has_no_losses(tmp_path):
    data = planted(4000)
    _, history = fit(data, 16, resume=tmp_path)
    pairs, again = fit(data, 16, resume=tmp_path)
    assert history.stages == again.stages == {}
    assert "condition number" in again.summary() and pairs.number_of_concepts == 16


# ------------------------------------------------------------------ which features are sparse?


def test_sparse_features_follow_the_model():
    for options in PROBLEMS.values():
        features, _ = whitened_features(planted(**options).features, 16)
        assert follows_the_model(features, np.random.default_rng(0)), options


def others(rng):
    """Features that are not sparse, by name."""
    normal = rng.normal(size=(8000, 16))
    scales = rng.chisquare(3, size=(8000, 1)) ** -0.5
    present = random_directions(0, 12, 4, 32)
    return {
        "normal": normal,
        "few normal": normal[:400],
        "heavy tails in all directions": normal * scales,
        "symmetric heavy tails": rng.laplace(size=(8000, 16)),
        "uniform": rng.random((8000, 16)),
        "one concept at each position, absent ones vary": signal_maps(4000, *present).features,
        "too few positions": planted(300).features,
    }


def test_other_features_do_not():
    for name, x in others(np.random.default_rng(0)).items():
        features, _ = whitened_features(np.asarray(x), 12)
        assert not follows_the_model(features, np.random.default_rng(0)), name


# ------------------------------------------------------------------ present or absent?


def test_presence_begins_where_it_is_as_likely_as_absence(rng):
    present = rng.random(200_000) < 0.1
    z = np.where(present, rng.normal(1.0, 0.15, 200_000), rng.normal(0.0, 0.1, 200_000))
    presence = presence_of(z[:, None])

    def log_odds(at):
        off = 0.9 * norm.pdf(at, 0.0, 0.1)
        return np.log(0.1 * norm.pdf(at, 1.0, 0.15) / off)

    threshold, slope = presence.thresholds[0], presence.slopes[0]
    assert abs(log_odds(threshold)) < 1.0
    expected = (log_odds(threshold + 1e-4) - log_odds(threshold - 1e-4)) / 2e-4
    assert slope == pytest.approx(expected, rel=0.15)
    assert presence.absent[0] == pytest.approx(0.0, abs=0.02)
    assert presence.kurtosis[0] == pytest.approx(3.0, abs=0.2) and presence.one_sided[0] > 0.99


def test_symmetric_noise_is_not_one_sided_and_uniform_noise_not_peaked(rng):
    z = np.stack([rng.normal(size=50_000), rng.random(50_000)], axis=1)
    presence = presence_of(z)
    assert abs(presence.one_sided[0]) < 0.3 and presence.kurtosis[1] < 2.4


def test_constant_projections_are_finite():
    presence = presence_of(np.zeros((500, 2)))
    assert all(np.isfinite(values).all() for values in vars(presence).values())


def test_each_step_of_the_search_raises_the_mean_cube_of_the_excess():
    features, _ = whitened_features(planted().features, 16)
    start = np.random.default_rng(0).normal(size=(10, features.shape[1])).astype(np.float32)
    start /= np.linalg.norm(start, axis=1, keepdims=True)
    values = []
    for steps in range(6):
        directions = excess_maxima(features, start, steps)
        np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1.0, atol=1e-5)
        values.append((np.maximum(features @ directions.T - 1.0, 0.0) ** 3).mean(axis=0))
    assert (np.diff(np.array(values), axis=0) > -1e-4).all()


# ------------------------------------------------------------------ what rare concepts hide


def test_a_concept_on_many_positions_is_found_beside_rare_ones():
    probability = [0.4, 0.3, *[0.05] * 14]
    data = planted(20_000, probability=probability)
    pairs, _ = fit_with_warnings(data, 16)
    assert scores(pairs, data).share == 1.0


def test_parents_that_their_children_hide_are_found():
    data = synthsae_small(20_000)
    pairs, history = fit_with_warnings(data, 64)
    recovered = scores(pairs, data)
    assert history.recipe == "sparse" and recovered.f1 > 0.7 and recovered.mcc > 0.7


@pytest.mark.parametrize("seed", range(3))
def test_two_concepts_that_often_come_together_are_not_found_a_third_time(seed):
    data = planted(probability=0.05, together=Together(partner=0.5), seed=seed)
    features, backward = whitened_features(data.features, 16)
    start = sparse_start(features, 16, np.random.default_rng(0), backward)
    assert start.found == 16


def test_each_step_towards_energy_stays_on_the_sphere_and_ends_at_a_fixed_point():
    x = planted().features
    x = (x - x.mean(axis=0)).astype(np.float32)
    start = np.random.default_rng(0).normal(size=(6, x.shape[1])).astype(np.float32)
    start /= np.linalg.norm(start, axis=1, keepdims=True)
    found = energy_maxima(x, start, 60)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose((found * energy_maxima(x, found, 1)).sum(axis=1), 1.0, atol=1e-3)
    for u, after in zip(start, energy_maxima(x, start, 1), strict=True):
        z = x @ u
        slow = sum((max(v - z.std(), 0.0)) * row for v, row in zip(z, x, strict=True))
        slow -= np.maximum(z - z.std(), 0.0).mean() * x.sum(axis=0)
        np.testing.assert_allclose(after, slow / np.linalg.norm(slow), atol=1e-4)


def test_regression_is_least_squares_of_centred_values(rng):
    amounts = rng.random((500, 5)) * [1, 10, 0.1, 1, 0]
    x = amounts @ rng.normal(size=(5, 7)) + rng.normal(size=(500, 7)) + 3.0
    centred = amounts - amounts.mean(axis=0)
    expected = np.linalg.lstsq(centred[:, :4], x - x.mean(axis=0), rcond=None)[0]
    found = regression(amounts, x)
    np.testing.assert_allclose(found[:4], expected, rtol=1e-2, atol=1e-2)
    assert not found[4].any()
