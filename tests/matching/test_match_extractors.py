"""Concepts that networks share are matched with themselves, and nothing else is."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

from xplique_dirpairs.core.linear_algebra import match
from xplique_dirpairs.datasets.planted_models import planted_models
from xplique_dirpairs.factorizers.decompositions import (
    FastICAFactorizer,
    KMeansFactorizer,
    PCAFactorizer,
)
from xplique_dirpairs.factorizers.direction_pairs import DirectionPairsFactorizer
from xplique_dirpairs.learning.learner import learn_pairs
from xplique_dirpairs.matching.match_extractors import match_extractors
from xplique_dirpairs.pairs import DirectionPairs

#: The order in which the concepts of each network are numbered by `oracles`.
ORDERS = {name: np.random.default_rng(ord(name)).permutation(20) for name in "ab"}


def oracle(atoms, order):
    """Return direction pairs whose filters read the coefficients of given atoms, in an order."""
    return DirectionPairs(
        filters=np.linalg.pinv(atoms).T[order],
        biases=np.full(len(order), 0.5),
        signals=atoms[order],
        mean=np.zeros(atoms.shape[1]),
        absent_levels=np.zeros(len(order)),
    )


def fitted(kind, data, **options):
    """Return a factorizer of each network, fitted on its features."""
    extractors = {}
    for name, model in data.models.items():
        extractors[name] = kind(len(model.atoms), **options)
        extractors[name].fit(model.features.reshape(-1, model.features.shape[-1]))
    return extractors


def matched(extractors, data, **options):
    """Return the matches of extractors of planted networks."""
    return match_extractors({k: (extractors[k], data[k].features) for k in data.models}, **options)


def recovered(extractor, model, shared):
    """Return which concept reads each shared one best, and their |correlation|."""
    u = np.asarray(extractor.encode(model.features))
    r = np.abs(np.corrcoef(u.T, model.coefficients.T)[: u.shape[1], u.shape[1] :])[:, :shared]
    rows = match(r)
    return rows, r[rows, np.arange(shared)]


def shared_and_matched(extractors, data, matches):
    """Return which shared concepts all networks have recovered, and which are one match."""
    truth = {k: recovered(extractors[k], data[k], data.shared) for k in data.models}
    good = np.all([r > 0.8 for _, r in truth.values()], axis=0)
    rows = {tuple(one) for one in matches.concepts[matches.holds].tolist()}
    own = zip(*(which.tolist() for which, _ in truth.values()), strict=True)
    return good, np.array([one in rows for one in own])


@pytest.fixture(scope="module")
def data():
    return planted_models(2000)


@pytest.fixture(scope="module")
def oracles(data):
    return {k: oracle(one.atoms, ORDERS[k]) for k, one in data.models.items()}


@pytest.fixture(scope="module")
def found(oracles, data):
    return matched(oracles, data)


# ------------------------------------------------------------ what is matched


@pytest.mark.parametrize("kind", [PCAFactorizer, FastICAFactorizer])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_shared_concepts_that_were_recovered_are_matched_with_themselves(kind, seed):
    data = planted_models(6000, seed=seed)
    extractors = fitted(kind, data, random_state=0)
    matches = matched(extractors, data, permutations=199)
    good, own = shared_and_matched(extractors, data, matches)
    assert own[good].all()
    apart = data.independent()
    assert len(matched(extractors, apart, permutations=0)) == 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_separately_learned_pairs_share_at_least_fourteen_of_sixteen_concepts(seed):
    data = planted_models(6000, seed=seed)
    extractors = {
        name: DirectionPairsFactorizer.from_pairs(
            learn_pairs(model.features, len(model.atoms), random_state=seed, verbose=0)[0]
        )
        for name, model in data.models.items()
    }
    for by in ("coefficients", "detections"):
        matches = matched(extractors, data, by=by)
        good, own = shared_and_matched(extractors, data, matches)
        assert own[good].all() and own.sum() >= 14
        assert np.median(matches.phi) >= 0.7
    assert len(matched(extractors, data.independent())) == 0


def test_all_shared_concepts_are_matched_in_any_order_and_private_ones_are_not(found, data):
    assert len(found) == 16 and found.holds.all()
    numbers = [ORDERS[name][found.concepts[:, m]] for m, name in enumerate("ab")]
    np.testing.assert_array_equal(*numbers)
    assert sorted(numbers[0]) == list(range(16))
    np.testing.assert_allclose(found.shares(), 16 / 20)
    assert np.median(found.phi) >= 0.7 and np.median(found.cofire_iou) >= 0.6
    assert np.median(found.firing_entropy) >= 0.95
    assert (found.correlation > 0.8).all()


def test_detections_can_be_compared_instead_of_coefficients(oracles, data, found):
    by_detections = matched(oracles, data, by="detections")
    assert {tuple(one) for one in by_detections.concepts} == {tuple(one) for one in found.concepts}


def test_cross_reconstruction_is_near_the_ceiling_of_the_true_codes_and_not_above(found, data):
    ceiling = data.ceiling()
    assert (found.cross_r2 >= 0.85 * ceiling).all()
    assert (found.cross_r2 <= ceiling + 0.02).all()
    np.testing.assert_array_equal(np.diag(found.ceiling), 1)
    assert (found.cross_r2 <= found.ceiling + 0.02).all()


def test_nothing_of_independent_networks_is_matched_or_reconstructed(oracles, data):
    matches = matched(oracles, data.independent())
    assert len(matches) == 0 and (matches.shares() == 0).all()
    np.testing.assert_array_equal(matches.cross_r2, 0)
    off_diagonal = matches.ceiling[~np.eye(2, dtype=bool)]
    assert np.abs(off_diagonal).max() <= 0.02
    assert "0 of 20" in str(matches)
    matches.plot()


def test_a_match_that_is_not_found_again_does_not_hold(found):
    assert found.holds.all()
    strict = replace(found, at_least=0.999)
    assert not strict.holds.any()
    measures = replace(found.universality, p_value=np.full(len(found), 0.5))
    assert not replace(found, universality=measures).holds.any()


def test_scales_and_rotations_of_features_leave_the_matches_as_they_are(data, found):
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(32, 32)))
    features = {"a": 10 * data["a"].features, "b": data["b"].features @ rotation}
    atoms = {"a": data["a"].atoms, "b": data["b"].atoms @ rotation}
    extractors = {name: oracle(atoms[name], ORDERS[name]) for name in "ab"}
    extractors["a"] = replace(extractors["a"], filters=extractors["a"].filters / 10)
    matches = match_extractors({k: (extractors[k], features[k]) for k in "ab"})
    np.testing.assert_array_equal(
        np.unique(matches.concepts, axis=0), np.unique(found.concepts, axis=0)
    )
    np.testing.assert_allclose(np.sort(matches.phi), np.sort(found.phi), atol=0.05)


def test_concepts_with_two_ends_are_turned_to_fit_and_those_with_one_are_not(data):
    extractors = fitted(FastICAFactorizer, data, random_state=0)
    ica = matched(extractors, data)
    good, own = shared_and_matched(extractors, data, ica)
    assert own[good].all() and good.sum() >= 12
    for name in "ab":
        u = np.asarray(extractors[name].encode(data[name].features))
        turned = ica.signs["ab".index(name)]
        assert set(np.unique(turned)) == {-1.0, 1.0}
        which = ica.concepts[:, "ab".index(name)]
        skewness = ((u - u.mean(axis=0)) ** 3).mean(axis=0) * turned
        assert (skewness[which] > 0).all()  # the end that stands out is what fires
    assert np.median(ica.phi) > 0.6


def test_three_networks_form_groups_and_one_that_lacks_a_concept_has_none():
    data = planted_models(2000, channels=(24, 32, 28), private=(4, 4, 4))
    extractors = {k: oracle(one.atoms, np.arange(20)) for k, one in data.models.items()}
    extractors["c"] = oracle(data["c"].atoms, np.arange(3, 20))
    matches = matched(extractors, data)
    assert len(matches) == 16 and matches.holds.all()
    np.testing.assert_array_equal(matches.concepts[:, 0], matches.concepts[:, 1])
    lacking = matches.concepts[:, 2] == -1
    assert set(matches.concepts[lacking, 0].tolist()) == {0, 1, 2}
    np.testing.assert_array_equal(matches.concepts[~lacking, 2] + 3, matches.concepts[~lacking, 0])
    assert not lacking[:13].any()  # those of all networks come first
    assert matches.cross_r2.shape == (3, 3) and (matches.cross_r2[:2, :2] > 0.65).all()
    assert "–" in str(matches)


def test_maps_of_other_sizes_are_compared_on_the_coarser_grid():
    data = planted_models(60, map_shape=(4, 4), probability=0.1)
    fine = data["b"].features.repeat(2, axis=1).repeat(2, axis=2)
    own = {k: oracle(one.atoms, ORDERS[k]) for k, one in data.models.items()}
    tokens = data["a"].features.reshape(60, 16, -1)
    matches = match_extractors({"a": (own["a"], tokens), "b": (own["b"], fine)})
    same = matched(own, data)
    assert matches.grid == (4, 4)
    np.testing.assert_array_equal(matches.concepts, same.concepts)
    np.testing.assert_allclose(matches.phi, same.phi, atol=1e-6)
    coarse = matched(own, data, grid=(2, 2))
    assert coarse.grid == (2, 2) and len(coarse) >= 12


def test_blocks_of_images_give_the_same_result(oracles, data, found, monkeypatch):
    monkeypatch.setattr("xplique_dirpairs.matching.match_extractors.chunk_size", lambda *_: 37)
    again = matched(oracles, data)
    np.testing.assert_array_equal(again.concepts, found.concepts)
    np.testing.assert_array_equal(again.phi, found.phi)
    np.testing.assert_array_equal(again.p_value, found.p_value)
    np.testing.assert_allclose(again.cross_r2, found.cross_r2, atol=1e-5)


@pytest.mark.parametrize("by", ["coefficients", "detections"])
def test_clusters_which_have_no_largest_positions_match_themselves(by):
    features = planted_models(40, map_shape=(6, 6))["a"].features
    clusters = KMeansFactorizer(5, random_state=0)
    clusters.fit(features.reshape(-1, features.shape[-1]))
    matches = match_extractors({"a": (clusters, features), "b": (clusters, features)}, by=by)
    assert len(matches) == 5 and matches.holds.all()
    np.testing.assert_allclose(matches.phi, 1)


@pytest.mark.parametrize("images", [8, 12, 16])
def test_few_vectors_are_enough_where_most_concepts_never_vary(oracles, data, images):
    few = {k: (oracles[k], data[k].features[:images]) for k in "ab"}
    matches = match_extractors(few, permutations=99)
    assert np.isfinite(matches.cross_r2).all() and (matches.cross_r2 <= 1).all()
    assert np.isfinite(matches.ceiling).all()


# ------------------------------------------------------------ the result


def test_the_nearest_concept_is_the_matched_one_and_its_figures_are_those_of_the_match(found):
    for name, other in ("ab", "ba"):
        nearest = found.nearest(name, other)
        own, partner = found.concepts[:, [found.names.index(one) for one in (name, other)]].T
        np.testing.assert_array_equal(nearest.concepts[own], partner)
        np.testing.assert_allclose(nearest.phi[own], found.phi)
        np.testing.assert_allclose(nearest.correlation[own], found.correlation)
        assert nearest.same[own].all() and nearest.same.sum() == 16
    with pytest.raises(ValueError, match="other must be one of"):
        found.nearest("a", "a")


def test_the_nearest_component_may_have_the_other_sign_where_signs_are_free():
    rng = np.random.default_rng(0)
    features = {"a": rng.normal(size=(400, 12)) * np.geomspace(1, 10, 12)}
    features["b"] = features["a"] + 0.3 * rng.normal(size=(400, 12))
    extractors = {name: PCAFactorizer(12) for name in features}
    for name, x in features.items():
        extractors[name].fit(x)
    given = {name: (extractors[name], x) for name, x in features.items()}
    found = match_extractors(given, concepts=[[0, 0]], cross=False)  # the others are not matched
    nearest = found.nearest("a", "b")
    np.testing.assert_array_equal(nearest.concepts, np.arange(12))
    assert (nearest.correlation < -0.8).any()


def test_tables_name_every_match_and_the_ceilings(found):
    table = found.table()
    assert len(table.rows) == 16 and "16 of 20 concepts of a" in str(table)
    assert table.headers[:3] == ["match", "a", "b"]
    assert len(found.table(at_most=3).rows) == 3 and "first 3 of 16" in str(found.table(at_most=3))
    assert f"({found.ceiling[0, 1]:.2f})" in str(found.cross_table())


def test_the_figure_has_a_bar_for_each_match(found):
    figure = found.plot()
    bars, entropy, cross = figure.axes
    np.testing.assert_allclose([bar.get_width() for bar in bars.patches], found.phi)
    assert "16 of 20" in figure.get_suptitle()
    assert len(cross.texts) == 4 and entropy.get_xlabel().startswith("φ")


def test_matches_can_be_pickled(found):
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(found)).phi, found.phi)


def test_cross_reconstruction_and_the_test_can_be_left_out(oracles, data):
    matches = matched(oracles, data, cross=False, permutations=0)
    assert matches.cross_r2 is None and np.isnan(matches.p_value).all() and matches.holds.all()
    with pytest.raises(ValueError, match="cross=True"):
        matches.cross_table()
    assert len(matches.plot().axes) == 2


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda x: x[:-1], {}, "same images"),
        (lambda x: x[:, :-1], {}, "b: the concepts were learned in 32 channels"),
        (lambda x: x, {"by": "names"}, "by must be one of"),
        (lambda x: x, {"at_least": 0.0}, "at_least"),
        (lambda x: x, {"rate": 1.0}, "rate"),
        (lambda x: x, {"null": "none"}, "null"),
        (lambda x: x, {"grid": (2, 2)}, "finer"),
    ],
)
def test_what_does_not_belong_together_is_refused(oracles, data, change, options, message):
    given = {"a": (oracles["a"], data["a"].features)}
    given["b"] = oracles["b"], change(data["b"].features)
    with pytest.raises(ValueError, match=message):
        match_extractors(given, **options)


def test_too_few_images_and_extractors_that_are_not_fitted_are_refused(oracles, data):
    few = {k: (oracles[k], data[k].features[:7]) for k in "ab"}
    with pytest.raises(ValueError, match="8 or more images, not 7"):
        match_extractors(few)
    with pytest.raises(ValueError, match="two or more networks"):
        match_extractors({"a": few["a"]})
    with pytest.raises(NotFittedError, match="a: this PCAFactorizer is not fitted"):
        match_extractors(few | {"a": (PCAFactorizer(3), few["a"][1])})
    with pytest.raises(TypeError, match="a: the extractor must be"):
        match_extractors(few | {"a": ("nothing", few["a"][1])})


def test_what_is_not_given_by_name_is_refused_and_errors_name_the_network(oracles, data):
    given = {k: (oracles[k], data[k].features) for k in "ab"}
    for wrong, message in (
        (list(given.values()), "extractors must be a mapping"),
        ({0: given["a"], 1: given["b"]}, "names of networks must be str"),
        (oracles, r"a: give \(concepts, activations\), not only DirectionPairs"),
    ):
        with pytest.raises(TypeError, match=message):
            match_extractors(wrong)
    with pytest.raises(ValueError, match="b: activations hold NaN"):
        match_extractors(given | {"b": (oracles["b"], np.nan * data["b"].features)})


def test_a_test_that_cannot_reach_its_level_says_so(oracles, data, found):
    few = {k: (oracles["a"], data["a"].features[:8]) for k in ("one", "other")}
    assert "Even identical concepts have a p of about 0.043" in str(match_extractors(few))
    assert "Even identical" in str(matched(oracles, data, permutations=9, cross=False))
    for fine in (found, matched(oracles, data, permutations=0, cross=False)):
        assert "Even identical" not in str(fine)
    with pytest.raises(ValueError, match="one cell only: take null='images'"):
        matched(oracles, data, null="shifts")
