import numpy as np
import pytest

from xplique_dirpairs.metrics.firing import firing


def reference_firing(excess, concepts, scales):
    """Return the figures, computed with loops from their definitions, as rows of an array."""
    figures = []
    for image, own in zip(excess, concepts, strict=True):
        positions = image.reshape(-1, image.shape[-1])
        detectors = range(positions.shape[1])
        share = [sum(z[j] > 0 for z in positions) / len(positions) for j in detectors]
        largest = [max(z[j] for z in positions) / scales[j] for j in detectors]
        others = [j for j in detectors if j != own]
        figures.append(
            (
                share[own],
                largest[own],
                sum(share[j] > 0 for j in others) / len(others),
                sum(share[j] for j in others) / len(others),
                sum(largest[j] >= largest[own] for j in others),
                max(others, key=lambda j: largest[j]),
            )
        )
    return np.array(figures).T


def as_rows(result):
    return np.array(
        [
            result.own_share,
            result.own_excess,
            result.others_firing,
            result.others_share,
            result.stronger,
            result.rival,
        ]
    )


@pytest.mark.parametrize("spatial", [(4, 3), (7,), ()])
def test_figures_match_a_reference_implementation(rng, spatial):
    excess = rng.normal(size=(6, *spatial, 5)) - 0.5
    concepts, scales = rng.integers(5, size=6), rng.uniform(0.3, 3.0, size=5)
    result = firing(excess, concepts, scales)
    np.testing.assert_allclose(
        as_rows(result), reference_firing(excess, concepts, scales), atol=1e-12
    )
    np.testing.assert_array_equal(result.fires, result.own_share > 0)
    np.testing.assert_array_equal(result.strongest, result.stronger == 0)


def test_only_the_concepts_own_detector_fires_in_an_image_of_the_concept_alone():
    excess = np.full((1, 2, 2, 4), -1.0)
    excess[..., 2] = 3.0
    result = firing(excess, [2])
    assert (result.own_share, result.others_firing, result.others_share) == (1.0, 0.0, 0.0)
    assert result.alone and result.strongest and result.own_excess == 3.0


def test_all_other_detectors_fire_in_an_image_of_everything_but_the_concept():
    excess = np.full((1, 2, 2, 4), 1.0)
    excess[..., 2] = -1.0
    result = firing(excess, [2])
    assert (result.own_share, result.others_firing, result.others_share) == (0.0, 1.0, 1.0)
    assert not result.fires and not result.alone and not result.strongest
    assert result.stronger == 3


def test_an_excess_of_zero_does_not_fire_and_a_tie_is_not_strongest():
    result = firing(np.zeros((1, 2, 2)), [0])
    assert not result.fires and result.stronger == 1


def test_a_single_detector_has_no_others():
    result = firing(np.ones((2, 3, 1)), [0, 0])
    assert np.isnan(result.others_firing).all() and np.isnan(result.others_share).all()
    assert result.strongest.all() and result.alone.all() and (result.rival == -1).all()


def test_scales_change_which_detector_is_strongest_but_not_which_fire(rng):
    excess = rng.normal(size=(5, 4, 3))
    one, other = firing(excess, [0] * 5), firing(excess, [0] * 5, [1e-3, 1.0, 1.0])
    np.testing.assert_array_equal(one.others_share, other.others_share)
    np.testing.assert_array_equal(one.own_share, other.own_share)
    np.testing.assert_allclose(other.own_excess, 1e3 * one.own_excess)
    assert other.strongest[one.own_excess > 0].all()


def test_order_of_images_and_positions_and_dtype_do_not_matter(rng):
    excess, concepts = rng.normal(size=(6, 8, 3)).astype(np.float32), rng.integers(3, size=6)
    order = rng.permutation(6)
    result = as_rows(firing(excess, concepts))
    moved = firing(excess[order][:, ::-1].astype(np.float64), concepts[order])
    np.testing.assert_array_equal(as_rows(moved), result[:, order])


def test_renumbering_the_concepts_only_renumbers_the_rival(rng):
    excess, concepts = rng.normal(size=(6, 8, 4)), rng.integers(4, size=6)
    order = rng.permutation(4)
    result = firing(excess, concepts)
    moved = firing(excess[..., order], np.argsort(order)[concepts])
    np.testing.assert_allclose(as_rows(moved)[:5], as_rows(result)[:5])
    np.testing.assert_array_equal(order[moved.rival], result.rival)
