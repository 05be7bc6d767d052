"""Measures of firing together equal their definitions, and are tested against the right chance."""

from itertools import combinations

import numpy as np
import pytest

from xplique_dirpairs.metrics.significance import significant
from xplique_dirpairs.metrics.universality import (
    FiringCounts,
    firing_entropy,
    phi_of_counts,
    universality,
)


def random_fires(models=3, positions=240, concepts=5, seed=0):
    """Return firings of related concepts of different rates."""
    rng = np.random.default_rng(seed)
    common = rng.random((1, positions, concepts))
    own = rng.random((models, positions, concepts))
    return np.where(rng.random(own.shape) < 0.6, common, own) < np.linspace(0.1, 0.6, concepts)


def reference(fires):
    """Return the measures, computed with loops from their definitions."""
    models, _, concepts = fires.shape
    entropy, proportion, iou, phi = [], np.zeros((models, concepts)), [], []
    for u in range(concepts):
        sets = [set(np.flatnonzero(fires[m, :, u])) for m in range(models)]
        total = sum(map(len, sets))
        shares = [len(one) / total for one in sets]
        entropy.append(-sum(p * np.log(p) for p in shares if p) / np.log(models))
        common, union = set.intersection(*sets), set.union(*sets)
        proportion[:, u] = [len(common) / len(one) for one in sets]
        iou.append(len(common) / len(union))
        pairs = combinations(range(models), 2)
        phi.append(np.mean([np.corrcoef(fires[a, :, u], fires[b, :, u])[0, 1] for a, b in pairs]))
    return entropy, proportion, iou, phi


@pytest.mark.parametrize("models", [2, 3, 4])
def test_all_measures_equal_their_definitions(models):
    fires = random_fires(models)
    found = universality(fires, permutations=0)
    entropy, proportion, iou, phi = reference(fires)
    np.testing.assert_allclose(found.firing_entropy, entropy)
    np.testing.assert_allclose(found.cofire_proportion, proportion)
    np.testing.assert_allclose(found.cofire_iou, iou)
    np.testing.assert_allclose(found.phi, phi)
    np.testing.assert_allclose(found.firing_rate, fires.mean(axis=1))
    assert np.isnan(found.p_value).all()


def test_concepts_that_fire_everywhere_together_or_never_together_are_at_the_ends():
    one = np.arange(40) < 10
    fires = np.stack([np.stack([one, one], axis=1), np.stack([one, ~one], axis=1)])
    found = universality(fires, permutations=0)
    np.testing.assert_allclose(found.phi, [1, -1])
    np.testing.assert_allclose(found.cofire_iou, [1, 0])
    np.testing.assert_allclose(found.cofire_proportion, [[1, 0], [1, 0]])
    np.testing.assert_allclose(found.firing_entropy[0], 1)


def test_concepts_that_never_fire_have_no_entropy_and_zeros_elsewhere():
    fires = np.zeros((2, 30, 2), bool)
    fires[0, :9, 1] = True
    found = universality(fires)
    assert np.isnan(found.firing_entropy[0]) and found.firing_entropy[1] == 0
    for values in (found.phi, found.cofire_iou, found.cofire_proportion):
        np.testing.assert_array_equal(values, 0)
    np.testing.assert_array_equal(found.p_value, 1)


def test_entropy_is_high_although_concepts_never_fire_together():
    rng = np.random.default_rng(0)
    fires = rng.random((2, 4000, 1)) < 0.1
    found = universality(fires)
    assert found.firing_entropy > 0.99 and abs(found.phi) < 0.06


def test_measures_do_not_depend_on_the_order_of_models_or_positions():
    fires = random_fires()
    shuffled = fires[[2, 0, 1]][:, np.random.default_rng(0).permutation(fires.shape[1])]
    one, other = (universality(f, permutations=0) for f in (fires, shuffled))
    for name in ("firing_entropy", "cofire_iou", "phi"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name))
    np.testing.assert_allclose(one.cofire_proportion[[2, 0, 1]], other.cofire_proportion)


def test_blocks_of_positions_add_up():
    fires = random_fires()
    counts = FiringCounts(np.ones((3, 5), bool))
    for part in (slice(0, 7), slice(7, 100), slice(100, None)):
        counts.add(fires[:, part])
    whole = universality(fires, permutations=0)
    for name, value in vars(counts.universality()).items():
        np.testing.assert_array_equal(value, getattr(whole, name))


def test_a_concept_that_a_model_lacks_is_measured_over_the_others():
    fires = random_fires()
    present = np.ones((3, 5), bool)
    present[1] = False
    counts = FiringCounts(present)
    counts.add(fires)
    found, pair = counts.universality(), universality(fires[[0, 2]], permutations=0)
    for name in ("firing_entropy", "cofire_iou", "phi"):
        np.testing.assert_allclose(getattr(found, name), getattr(pair, name))
    np.testing.assert_allclose(found.cofire_proportion[[0, 2]], pair.cofire_proportion)


def test_phi_of_a_variable_that_does_not_vary_is_zero():
    np.testing.assert_array_equal(phi_of_counts([0, 5, 10], [0, 5, 10], [5, 10, 10], 10), 0)


def test_entropy_of_one_model_of_two_is_zero_and_of_two_of_three_is_that_of_a_pair():
    np.testing.assert_allclose(firing_entropy([[5, 0], [0, 7]]), 0)
    np.testing.assert_allclose(firing_entropy([[5], [5], [0]]), np.log(2) / np.log(3))


# ------------------------------------------------------------ significance


def reference_p(fires, images, permutations, seed):
    """Return p for two models by permuting the images of the second one, with loops."""
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    by_image = fires.reshape(2, images, -1, fires.shape[-1])
    observed = universality(fires, permutations=0).phi
    exceeded = np.zeros(fires.shape[-1])
    for _ in range(permutations):
        other = by_image[1][rng.permutation(images)].reshape(fires[1].shape)
        noise = universality(np.stack([fires[0], other]), permutations=0).phi
        exceeded += noise >= observed - 1e-9
    return (1 + exceeded) / (1 + permutations)


@pytest.mark.parametrize("null", ["images", "shifts"])
def test_p_is_near_that_of_permutations_made_one_by_one(null):
    fires = random_fires(2, 240, 6, seed=1)
    weak = np.random.default_rng(5).random(fires.shape[1:]) < 0.93
    fires[1] = np.where(weak, np.roll(fires[1], 31, axis=0), fires[1])
    found = universality(fires, 40, permutations=1999, null=null, grid=(2, 3)).p_value
    if null == "images":
        expected = reference_p(fires, 40, 400, seed=2)
    else:
        rng, exceeded = np.random.default_rng(7), np.zeros(6)
        observed = universality(fires, permutations=0).phi
        maps = fires[1].reshape(40, 2, 3, 6)
        for _ in range(400):
            steps = zip(rng.integers(0, 2, 40), rng.integers(0, 3, 40), strict=True)
            rolled = [
                np.roll(one, step, axis=(0, 1)) for one, step in zip(maps, steps, strict=True)
            ]
            both = np.stack([fires[0], np.stack(rolled).reshape(fires[1].shape)])
            exceeded += universality(both, permutations=0).phi >= observed - 1e-9
        expected = (1 + exceeded) / 401
    assert np.abs(found - expected).max() < 0.1  # four standard errors of 400 permutations


def smooth_fires(images, seed):
    """Return firings of 40 concepts of two independent models, alike within an image."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(2, images, 1, 40)) + 0.2 * rng.normal(size=(2, images, 49, 40))
    return (values > 0.0).reshape(2, -1, 40)


def test_positions_of_an_image_that_are_alike_do_not_make_independent_concepts_significant():
    fires = smooth_fires(40, 0)
    by_image, by_position = universality(fires, 40).p_value, universality(fires).p_value
    assert np.mean(by_image <= 0.05) <= 0.15  # 5 % expected of 40
    assert np.mean(by_position <= 0.05) >= 0.2  # the mistake: positions are no observations


def test_concepts_at_the_same_places_of_all_images_agree_only_against_shifted_maps():
    rng = np.random.default_rng(0)
    border = np.zeros((6, 6))
    border[0] = 1.0
    fires = rng.random((2, 40, 6, 6, 8)) < 0.05 + 0.7 * border[..., None]
    fires = fires.reshape(2, -1, 8)
    assert np.median(universality(fires, 40).p_value) > 0.2
    assert (universality(fires, 40, null="shifts", grid=(6, 6)).p_value <= 0.01).all()


def test_shared_concepts_of_three_models_are_significant_and_the_p_value_is_reproducible():
    fires = random_fires(3, 400, 4)
    found, again = universality(fires, 100), universality(fires, 100)
    assert significant(found.p_value).all() and found.p_value.min() == 0.001
    np.testing.assert_array_equal(found.p_value, again.p_value)
    apart = fires.copy()
    for m in (1, 2):
        apart[m] = np.roll(apart[m], 40 * m, axis=0)
    assert universality(apart, 100).p_value.min() > 0.001


@pytest.mark.parametrize(
    ("fires", "options", "message"),
    [
        (np.zeros((2, 4, 1)), {}, "must be boolean"),
        (np.zeros((1, 4, 1), bool), {}, "two or more models"),
        (np.zeros((2, 4, 1), bool), {"images": 3}, "equal parts"),
        (np.zeros((2, 4, 1), bool), {"images": 2, "grid": (3, 1)}, "grid"),
        (np.zeros((2, 4, 1), bool), {"null": "noise"}, "null must be one of"),
        (np.zeros((2, 4, 1), bool), {"permutations": -1}, "permutations"),
    ],
)
def test_wrong_arguments_are_refused(fires, options, message):
    with pytest.raises(ValueError, match=message):
        universality(fires, **options)


def test_a_test_without_anything_to_exchange_is_refused():
    fires = np.random.default_rng(0).random((2, 16, 3)) > 0.5
    with pytest.raises(ValueError, match="there is only one: give more"):
        universality(fires, 1)
    with pytest.raises(ValueError, match="one cell only: take null='images'"):
        universality(fires, 16, null="shifts")
    assert np.isnan(universality(fires, 1, permutations=0).p_value).all()


@pytest.mark.parametrize("grid", [5, (-2, -2), (2.0, 2), (2, 2, 1)])
def test_a_grid_that_is_no_rows_and_columns_is_refused(grid):
    with pytest.raises(ValueError, match="grid must be"):
        universality(np.zeros((2, 16, 3), bool), 4, grid=grid)
