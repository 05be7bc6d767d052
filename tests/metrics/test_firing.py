import numpy as np
import pytest

from xplique_dirpairs.metrics.firing import firing


def slowly(excess, concepts, scales):
    """The definitions, a loop for each."""
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


def fast(found):
    return np.array(
        [
            found.own_share,
            found.own_excess,
            found.others_firing,
            found.others_share,
            found.stronger,
            found.rival,
        ]
    )


@pytest.mark.parametrize("spatial", [(4, 3), (7,), ()])
def test_the_figures_are_those_of_a_slow_second_writing(rng, spatial):
    excess = rng.normal(size=(6, *spatial, 5)) - 0.5
    concepts, scales = rng.integers(5, size=6), rng.uniform(0.3, 3.0, size=5)
    found = firing(excess, concepts, scales)
    np.testing.assert_allclose(fast(found), slowly(excess, concepts, scales), atol=1e-12)
    np.testing.assert_array_equal(found.fires, found.own_share > 0)
    np.testing.assert_array_equal(found.strongest, found.stronger == 0)


def test_an_image_that_is_its_concept_everywhere_and_nothing_else_is_at_one_end():
    excess = np.full((1, 2, 2, 4), -1.0)
    excess[..., 2] = 3.0
    found = firing(excess, [2])
    assert (found.own_share, found.others_firing, found.others_share) == (1.0, 0.0, 0.0)
    assert found.alone and found.strongest and found.own_excess == 3.0


def test_an_image_of_everything_but_its_concept_is_at_the_other_end():
    excess = np.full((1, 2, 2, 4), 1.0)
    excess[..., 2] = -1.0
    found = firing(excess, [2])
    assert (found.own_share, found.others_firing, found.others_share) == (0.0, 1.0, 1.0)
    assert not found.fires and not found.alone and not found.strongest
    assert found.stronger == 3


def test_the_bias_itself_does_not_fire_and_a_tie_is_not_the_strongest():
    found = firing(np.zeros((1, 2, 2)), [0])
    assert not found.fires and found.stronger == 1


def test_a_single_detector_has_no_others():
    found = firing(np.ones((2, 3, 1)), [0, 0])
    assert np.isnan(found.others_firing).all() and np.isnan(found.others_share).all()
    assert found.strongest.all() and found.alone.all() and (found.rival == -1).all()


def test_scales_decide_who_is_stronger_and_not_who_fires(rng):
    excess = rng.normal(size=(5, 4, 3))
    one, other = firing(excess, [0] * 5), firing(excess, [0] * 5, [1e-3, 1.0, 1.0])
    np.testing.assert_array_equal(one.others_share, other.others_share)
    np.testing.assert_array_equal(one.own_share, other.own_share)
    np.testing.assert_allclose(other.own_excess, 1e3 * one.own_excess)
    assert other.strongest[one.own_excess > 0].all()


def test_the_order_of_images_positions_and_dtype_change_nothing(rng):
    excess, concepts = rng.normal(size=(6, 8, 3)).astype(np.float32), rng.integers(3, size=6)
    order = rng.permutation(6)
    found = fast(firing(excess, concepts))
    moved = firing(excess[order][:, ::-1].astype(np.float64), concepts[order])
    np.testing.assert_array_equal(fast(moved), found[:, order])


def test_renumbering_the_concepts_changes_nothing_else(rng):
    excess, concepts = rng.normal(size=(6, 8, 4)), rng.integers(4, size=6)
    order = rng.permutation(4)
    found = firing(excess, concepts)
    moved = firing(excess[..., order], np.argsort(order)[concepts])
    np.testing.assert_allclose(fast(moved)[:5], fast(found)[:5])
    np.testing.assert_array_equal(order[moved.rival], found.rival)
