"""Direction pairs of several networks that are learned together."""

import numpy as np
import pytest

from xplique_dirpairs import LearningWarning, learn_universal_pairs, match_extractors
from xplique_dirpairs.datasets.planted_models import planted_models
from xplique_dirpairs.metrics.universality import universality


def learn(data, concepts=24, **options):
    options = {"random_state": 0, "verbose": 0} | options
    return learn_universal_pairs(data.activations, concepts, **options)


def signals(universal):
    """Return signal vectors (I, D_m) of all concepts by network; 0 where it has none."""
    return {
        name: np.where(own[:, None] >= 0, universal[name].signals[own], 0.0)
        for name, own in zip(universal, universal.concepts.T, strict=True)
    }


def detections(universal, activations):
    """Return where each concept is detected in each network, (M, P, I)."""
    return np.stack(
        [
            (universal[name].detect(activations[name]) > 0.5)[:, own] & (own >= 0)
            for name, own in zip(universal, universal.concepts.T, strict=True)
        ]
    )


@pytest.fixture(scope="module")
def data():
    return planted_models(seed=0)


@pytest.fixture(scope="module")
def universal(data):
    return learn(data)


# ------------------------------------------------------------ planted concepts


@pytest.mark.parametrize("seed", range(3))
def test_shared_concepts_are_one_concept_and_private_ones_are_not(seed):
    data = planted_models(seed=seed)
    universal = learn(data, random_state=seed)
    assert universal.recipe == "sparse" and universal.history is None
    indices, cosine = data.shared_indices(signals(universal))
    assert (cosine >= 0.95).sum() >= 15
    assert set(range(len(universal.shared))) == set(indices)
    # with two networks the shared concepts have the same indices in both pairs
    assert (universal.shared[:, 0] == universal.shared[:, 1]).all()
    fresh = data.fresh(6000, 1)
    fires = detections(universal, fresh.activations)
    found = universality(fires, permutations=0)
    assert found.phi[indices].min() > 0.9
    private = data.private_indices(signals(universal))
    assert len(private) >= 6 and found.phi[private].max() <= 0.15
    for m, model in enumerate(fresh.models.values()):
        agrees = fires[m][:, indices] == model.present[:, :16]
        assert agrees.mean() > 0.99
    assert max(universal[name].condition_number for name in universal) < 10


def test_three_thousand_positions_are_enough_to_recognise_sparse_concepts():
    universal = learn(planted_models(3000, seed=4))
    assert universal.recipe == "sparse" and len(universal.shared) == 16


def test_too_few_positions_to_recognise_sparse_concepts_are_said():
    data = planted_models(1500, seed=1)
    with pytest.warns(LearningWarning, match="too few to tell .* compare with recipe='sparse'"):
        universal = learn(data, n_init=1)
    assert universal.recipe == "soft"
    asked = learn(data, recipe="sparse")
    _, cosine = data.shared_indices(signals(asked))
    assert (cosine > 0.9).sum() == 16


def test_independent_networks_share_no_concept(data):
    universal = learn(data.independent())
    assert len(universal.shared) == 0 and len(universal.concepts) >= 20


def test_a_detector_of_one_network_alone_is_calibrated_to_the_joint_one(universal, data):
    found = match_extractors(
        {name: (universal[name], data[name].features) for name in universal},
        concepts=universal.shared,
        permutations=99,
        cross=True,
    )
    assert len(found) == 16 and found.holds.all() and found.phi.min() > 0.9
    off = ~np.eye(2, dtype=bool)
    assert (found.cross_r2[off] > 0.95 * data.ceiling()[off]).all()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::xplique_dirpairs.LearningWarning")  # hangs on the machine
def test_features_that_are_not_sparse_are_learned_with_another_recipe(data):
    universal = learn(data, recipe="soft")
    assert universal.recipe == "soft" and universal.history is not None
    indices, cosine = data.shared_indices(signals(universal))
    assert (cosine >= 0.9).sum() >= 14
    fires = detections(universal, data.fresh(6000, 1).activations)
    assert np.median(universality(fires, permutations=0).phi[indices]) > 0.7


def test_a_joint_fit_of_another_recipe_gives_pairs_of_each_network():
    data = planted_models(300)
    universal = learn(data, 5, recipe="soft")
    assert universal.recipe == "soft" and universal.history.recipe == "soft"
    assert (universal.correlation.max(axis=1) >= 0.3).all()
    for m, name in enumerate(universal):
        assert universal[name].number_of_concepts == (universal.concepts[:, m] >= 0).sum()
        assert universal[name].detect(data[name].features).shape[1] == len(universal[name].biases)


def test_three_networks_share_what_each_two_share():
    data = planted_models(6000, channels=(24, 28, 32), private=(3, 3, 3), shared=12)
    universal = learn(data, 21)
    assert universal.names == ("a", "b", "c") and len(universal.shared) == 12
    assert (universal.shared == np.arange(12)[:, None]).all()
    _, cosine = data.shared_indices(signals(universal))
    assert cosine.min() > 0.95


# ------------------------------------------------------------ formulas and invariances


def test_filters_are_those_of_a_regression_of_the_joint_amounts(universal, data):
    name, model = "a", data["a"]
    x = model.features.astype(np.float64) - model.features.mean(axis=0)
    # of perfect detections of a planted concept the joint amounts are its coefficients
    indices, _ = data.shared_indices(signals(universal))
    for concept, row in enumerate(indices[:5]):
        c = model.coefficients[:, concept] - model.coefficients[:, concept].mean()
        expected = np.linalg.solve(x.T @ x, x.T @ c)
        own = universal[name].filters[universal.concepts[row, 0]]
        cosine = own @ expected / np.linalg.norm(own) / np.linalg.norm(expected)
        assert cosine > 0.98


def test_units_and_orientation_of_a_network_do_not_matter(universal, data):
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(32, 32)))[0].astype(np.float32)
    a, b = data["a"].features, data["b"].features
    changed = {"a": a, "b": 100 * b @ rotation + 5}
    other = learn_universal_pairs(changed, 24, random_state=0, verbose=0)
    assert len(other.shared) == 16
    one = detections(universal, {"a": a, "b": b})[0, :, :16].astype(float)
    two = detections(other, changed)[0, :, :16]
    # each concept is detected where one of the other fit is
    agreement = one.T @ two / one.sum(axis=0)[:, None]
    assert (agreement.max(axis=1) > 0.9).sum() >= 15


def test_the_same_seed_gives_the_same_pairs(universal, data):
    again = learn(data)
    for name in universal:
        np.testing.assert_array_equal(again[name].filters, universal[name].filters)
        np.testing.assert_array_equal(again[name].biases, universal[name].biases)
    np.testing.assert_array_equal(again.concepts, universal.concepts)


def test_maps_of_different_grids_are_averaged_to_the_coarsest():
    data = planted_models(200, map_shape=(4, 4))
    fine = data["a"].features.repeat(2, axis=1).repeat(2, axis=2)
    given = {"fine": fine, "coarse": data["b"].features}
    options = {"recipe": "sparse", "random_state": 0, "verbose": 0}
    universal = learn_universal_pairs(given, 24, **options)
    plain = learn_universal_pairs(
        {"fine": data["a"].features, "coarse": given["coarse"]}, 24, **options
    )
    assert universal.grid == (4, 4)
    np.testing.assert_allclose(universal["fine"].filters, plain["fine"].filters, atol=1e-4)


# ------------------------------------------------------------ errors


def test_fewer_concepts_than_asked_for_are_said(data):
    with pytest.warns(LearningWarning, match="24 concepts were found, not the 40"):
        universal = learn(data, 40)
    assert len(universal.concepts) == 24


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"number_of_concepts": 0}, "number_of_concepts"),
        ({"at_least": 0.0}, "at_least"),
        ({"at_least": 0.9999}, "lower at_least"),
        ({"grid": (2, 2)}, "finer"),
        ({"recipe": "unknown"}, "recipe"),
        ({"random_state": -1}, "random_state"),
    ],
)
def test_invalid_arguments_are_refused(data, options, message):
    options = {"number_of_concepts": 24, "random_state": 0, "verbose": 0} | options
    with pytest.raises(ValueError, match=message):
        learn_universal_pairs(data.activations, **options)


def test_activations_that_do_not_fit_are_refused(universal, data):
    x = data["a"].features
    with pytest.raises(ValueError, match="two or more networks"):
        learn_universal_pairs({"a": x}, 4)
    with pytest.raises(ValueError, match="the same images"):
        learn_universal_pairs({"a": x, "b": x[:10]}, 4)
    with pytest.raises(TypeError, match="activations must be a mapping"):
        learn_universal_pairs([x, x], 4)
    with pytest.raises(ValueError, match="b: the activations must not be constant"):
        learn_universal_pairs({"a": x, "b": np.ones_like(x)}, 4)
    with pytest.raises(ValueError, match="4 or more images"):
        learn_universal_pairs({"a": x[:3], "b": x[:3]}, 4)
    with pytest.raises(ValueError, match="name must be"):
        universal["c"]
