"""One dictionary of concepts for several networks."""

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

from xplique_dirpairs import UniversalFactorizer, match_extractors
from xplique_dirpairs.datasets.planted_models import planted_models
from xplique_dirpairs.metrics.universality import universality

#: Fewer and larger steps than the default ones, to save time.
QUICK = {"steps": 1500, "learning_rate": 1e-2, "batch_size": 256, "k": 4, "random_state": 0}


def fit(data, **options):
    return UniversalFactorizer(32, **QUICK | options).fit(data.activations)


def banks(universal):
    return {name: universal[name].bank_ for name in universal}


def firing(universal, activations):
    fires = [universal[name].encode(activations[name]) > 0.1 for name in universal]
    return universality(np.stack(fires), permutations=0)


@pytest.fixture(scope="module")
def data():
    return planted_models(seed=0)


@pytest.fixture(scope="module")
def fresh(data):
    return data.fresh(6000, 1)


@pytest.fixture(scope="module")
def universal(data):
    return fit(data)


@pytest.fixture(scope="module")
def paper(data):
    return fit(data, update="selected", atoms="unit")


# ------------------------------------------------------------ planted concepts


def check_planted(universal, data, fresh):
    """Assert that shared concepts are found at one index, and private ones by themselves."""
    indices, cosine = data.shared_indices(banks(universal))
    assert (cosine > 0.9).sum() >= 15
    found = firing(universal, fresh.activations)
    assert np.median(found.firing_entropy[indices]) >= 0.95
    assert np.median(found.phi[indices]) >= 0.7 and (found.phi[indices] < 0.3).sum() <= 1
    assert np.median(found.cofire_iou[indices]) >= 0.6
    private = data.private_indices(banks(universal))
    assert len(private) >= 6
    assert found.phi[private].max() <= 0.15
    assert (found.firing_entropy[private] > 0.6).sum() <= 2
    r2, ceiling = universal.cross_r2(fresh.activations), data.ceiling()
    off = ~np.eye(2, dtype=bool)
    assert np.diag(r2).min() >= 0.93
    assert (r2[off] >= 0.85 * ceiling[off]).all() and (r2[off] <= ceiling[off] + 0.02).all()


def check_false_universality(paper, data, fresh):
    """Assert that private concepts of the two networks share indices, and fire independently."""
    private = data.private_indices(banks(paper))
    found = firing(paper, fresh.activations)
    entropy, phi = found.firing_entropy[private], found.phi[private]
    assert (entropy > 0.6).sum() >= 6
    assert (phi[entropy > 0.6] < 0.5).all() and np.median(phi[entropy > 0.6]) < 0.2


def test_shared_concepts_get_one_index_and_private_ones_their_own(universal, data, fresh):
    check_planted(universal, data, fresh)


def test_private_concepts_look_universal_under_the_update_of_the_paper(paper, data, fresh):
    check_false_universality(paper, data, fresh)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_both_hold_for_every_seed_with_the_steps_of_the_default(seed):
    data = planted_models(seed=seed)
    fresh = data.fresh(6000, 1)
    options = {"k": 4, "random_state": seed}
    check_planted(UniversalFactorizer(32, **options).fit(data.activations), data, fresh)
    paper = UniversalFactorizer(32, update="selected", atoms="unit", **options)
    check_false_universality(paper.fit(data.activations), data, fresh)


@pytest.mark.slow
def test_scale_and_rotation_of_a_network_change_little(data, universal, fresh):
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(32, 32)))[0].astype(np.float32)
    same = firing(universal, fresh.activations)
    indices, _ = data.shared_indices(banks(universal))
    for change in (lambda x: 10 * x, lambda x: x @ rotation):
        changed = {"a": data["a"].features, "b": change(data["b"].features)}
        other = UniversalFactorizer(32, **QUICK).fit(changed)
        given = {"a": fresh["a"].features, "b": change(fresh["b"].features)}
        found = firing(other, given)
        own, _ = data.shared_indices(
            {
                "a": other["a"].bank_,
                "b": np.linalg.lstsq(
                    change(np.eye(32, dtype=np.float32)).T, other["b"].bank_.T, rcond=None
                )[0].T,
            }
        )
        medians = [np.median(one[i]) for one, i in ((same.phi, indices), (found.phi, own))]
        assert abs(medians[0] - medians[1]) < 0.1
        medians = [
            np.median(one[i])
            for one, i in ((same.firing_entropy, indices), (found.firing_entropy, own))
        ]
        assert abs(medians[0] - medians[1]) < 0.05


@pytest.mark.slow
def test_networks_that_have_nothing_in_common_share_no_concept(data, fresh):
    apart = data.independent()
    universal = fit(apart)
    other = fresh.independent().activations
    found = firing(universal, other)
    assert np.abs(found.phi).max() < 0.08
    r2 = universal.cross_r2(other)
    assert r2[~np.eye(2, dtype=bool)].max() <= 0.02
    assert universal.cross_ceiling(other)[0, 1] < 0.02


def test_the_table_of_matches_of_one_index_shows_entropy_beside_phi(universal, data, fresh):
    given = {name: (universal[name], fresh.activations[name]) for name in universal}
    found = match_extractors(
        given, concepts=universal.concepts, threshold=0.1, permutations=99, cross=False
    )
    assert len(found) == 32 and (found.concepts[:, 0] == found.concepts[:, 1]).all()
    indices, cosine = data.shared_indices(banks(universal))
    row_of = np.argsort(found.concepts[:, 0])
    assert found.holds[row_of[indices[cosine > 0.9]]].mean() > 0.9
    assert not found.holds[row_of[data.private_indices(banks(universal))]].any()
    # the measuring half, read once more
    shown = firing(universal, fresh.activations)
    often = shown.firing_rate.max(axis=0) > 0.02
    np.testing.assert_allclose(found.phi[row_of][often], shown.phi[often], atol=0.1)
    entropies = found.firing_entropy[row_of], shown.firing_entropy
    np.testing.assert_allclose(*(one[often] for one in entropies), atol=0.1)
    assert {"φ", "entropy"} <= set(found.table().headers)


# ------------------------------------------------------------ reconstruction


def test_cross_r2_follows_its_formula(universal, fresh):
    given = {name: one[:300] for name, one in fresh.activations.items()}
    r2 = universal.cross_r2(given)
    for i, source in enumerate(universal):
        for j, target in enumerate(universal):
            view, x = universal[target], given[target].astype(np.float64)
            predicted = universal[source].encode(given[source]) @ view.bank_ + view.constant_
            expected = 1 - ((x - predicted) ** 2).sum() / ((x - x.mean(axis=0)) ** 2).sum()
            np.testing.assert_allclose(r2[i, j], expected, atol=1e-5)


def test_the_ceiling_bounds_what_linear_maps_can_explain(universal, data, fresh):
    ceiling = universal.cross_ceiling(fresh.activations)
    np.testing.assert_array_equal(np.diag(ceiling), 1)
    off = ~np.eye(2, dtype=bool)
    assert np.abs(ceiling - data.ceiling())[off].max() < 0.06
    table = str(universal.cross_table(fresh.activations))
    assert f"({ceiling[0, 1]:.2f})" in table and "ridge" in table


# ------------------------------------------------------------ errors


def test_a_view_is_not_fitted_by_itself(universal, data):
    with pytest.raises(TypeError, match="for all networks together"):
        universal["a"].fit(data["a"].features)


def test_before_fit_every_use_raises_not_fitted(data):
    universal = UniversalFactorizer()
    for use in (
        lambda: universal["a"],
        lambda: universal.concepts,
        lambda: universal.cross_r2(data.activations),
        lambda: list(universal),
    ):
        with pytest.raises(NotFittedError, match="fit"):
            use()


def test_activations_that_do_not_fit_are_refused(universal, data, rng):
    x = data["a"].features
    quick = UniversalFactorizer(4, steps=2)
    with pytest.raises(ValueError, match="two or more networks"):
        quick.fit({"a": x})
    with pytest.raises(TypeError, match="activations must be a mapping"):
        quick.fit(x)
    with pytest.raises(TypeError, match="activations must be a mapping"):
        universal.cross_r2([x, x])
    with pytest.raises(ValueError, match="the same images"):
        quick.fit({"a": x, "b": x[:10]})
    with pytest.raises(ValueError, match="b: the activations must not be constant"):
        quick.fit({"a": x[:9], "b": np.ones((9, 3))})
    with pytest.raises(ValueError, match="finer"):
        quick.fit({"a": rng.normal(size=(9, 2, 2, 3)), "b": x[:9]}, grid=(2, 2))
    with pytest.raises(ValueError, match="networks"):
        universal.cross_r2({"a": x, "c": x})
    with pytest.raises(ValueError, match="b: the concepts were learned in 32 channels"):
        universal.cross_r2({"a": x, "b": x})
    with pytest.raises(ValueError, match="4 or more images"):
        universal.cross_ceiling({name: one[:3] for name, one in data.activations.items()})
    with pytest.raises(ValueError, match="name must be"):
        universal["c"]


@pytest.mark.parametrize(
    ("concepts", "message"),
    [
        ([[0, 0, 0]], "a column for each of the 2"),
        ([[0.0, 1.0]], "must be integers"),
        ([[0, 1], [0, 2]], "two rows"),
        ([[0, 32]], "numbered 0 to 31"),
        ([[0, -1]], "two networks or more"),
    ],
)
def test_claims_that_name_no_concepts_are_refused(universal, data, concepts, message):
    given = {name: (universal[name], data.activations[name]) for name in universal}
    with pytest.raises(ValueError, match=message):
        match_extractors(given, concepts=concepts)
