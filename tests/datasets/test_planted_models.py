"""Planted features of several networks are what their documentation says."""

from dataclasses import replace

import numpy as np
import pytest

from xplique_dirpairs.datasets.planted_models import planted_models


def test_features_are_sums_of_unit_atoms_if_there_is_no_noise():
    data = planted_models(300, channels=(5, 7, 6), private=(1, 0, 2), shared=3, noise=0)
    assert list(data.models) == ["a", "b", "c"]
    for model, width, concepts in zip(data.models.values(), (5, 7, 6), (4, 3, 5), strict=True):
        assert model.features.shape == (300, width) and model.atoms.shape == (concepts, width)
        np.testing.assert_allclose(np.linalg.norm(model.atoms, axis=1), 1)
        np.testing.assert_allclose(model.features, model.coefficients @ model.atoms, atol=1e-5)


def test_shared_concepts_are_on_at_the_same_positions_and_private_ones_by_themselves():
    data = planted_models(20_000)
    a, b = (model.present for model in data.models.values())
    np.testing.assert_array_equal(a[:, :16], b[:, :16])
    joint = a[:, :, None] & b[:, None]
    others = ~np.eye(20, dtype=bool)
    others[16:, 16:] = True
    assert np.abs(joint.mean(axis=0)[others] - 0.08**2).max() < 0.005
    assert np.abs(a.mean(axis=0) - 0.08).max() < 0.01


def test_coefficients_of_shared_concepts_differ_by_the_jitter_between_networks():
    for jitter in (0.0, 0.1):
        a, b = planted_models(20_000, jitter=jitter).models.values()
        on = a.present[:, :16]
        own, other = (one.coefficients[:, :16][on] for one in (a, b))
        assert np.std(np.log(own / other)) == pytest.approx(jitter * 2**0.5, rel=0.05)
    own = a.coefficients[a.present]
    assert own.mean() == pytest.approx(2, abs=0.02) and own.var() == pytest.approx(0.5, abs=0.06)


def test_noise_is_a_share_of_the_spread_of_the_features():
    clean, noisy = (planted_models(5000, noise=share)["b"].features for share in (0, 0.3))
    assert np.std(noisy - clean) == pytest.approx(0.3 * np.std(clean), rel=0.02)


def test_data_are_maps_if_a_shape_is_given():
    data = planted_models(11, map_shape=(3, 4))
    assert data["a"].features.shape == (11, 3, 4, 24) and data["a"].present.shape[:3] == (11, 3, 4)


def test_a_sample_has_other_positions_of_the_same_atoms():
    data = planted_models(50, seed=3)
    fresh, again, other = data.fresh(50, 1), data.fresh(50, 1), data.fresh(50, 2)
    np.testing.assert_array_equal(fresh["b"].atoms, data["b"].atoms)
    np.testing.assert_array_equal(fresh["b"].features, again["b"].features)
    for one in (data, other):
        assert not np.array_equal(fresh["b"].features, one["b"].features)
    assert not np.array_equal(planted_models(50, seed=4)["b"].atoms, data["b"].atoms)


def test_the_ceiling_is_near_the_share_of_the_concepts_that_are_shared():
    ceiling = planted_models().ceiling()
    assert ceiling.shape == (2, 2)
    assert np.all((ceiling > 0.75) & (ceiling < 0.82))  # 16 of 20 concepts
    assert ceiling[0, 1] < ceiling[1, 1] and ceiling[1, 0] < ceiling[0, 0]  # the jitter


def test_independent_networks_have_the_same_features_but_share_nothing():
    data = planted_models(4000)
    apart = data.independent()
    np.testing.assert_array_equal(apart["a"].features, data["a"].features)
    np.testing.assert_array_equal(np.sort(apart["b"].features, 0), np.sort(data["b"].features, 0))
    assert apart.shared == 0 and np.abs(apart.ceiling()).max() < 1e-6
    assert replace(apart, shared=16).ceiling()[0, 1] < 0.02
    a, b = (model.coefficients for model in apart.models.values())
    assert np.abs(np.corrcoef(a.T, b.T)[:20, 20:]).max() < 0.08


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": (24,), "private": (4,)}, "two or more networks"),
        ({"private": (4,)}, "two or more networks"),
        ({"probability": 1.0}, "probability"),
        ({"shared": 0}, "shared"),
        ({"noise": -1}, "noise"),
        ({"channels": (24, 0)}, "channels"),
    ],
)
def test_numbers_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        planted_models(10, **options)
