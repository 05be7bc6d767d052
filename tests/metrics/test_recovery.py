import itertools

import numpy as np
import pytest

from xplique_dirpairs.core.linear_algebra import UNMATCHED, cosines, match
from xplique_dirpairs.metrics.recovery import detector_iou, recovery, signal_value_rmse


@pytest.fixture(params=range(4))
def rng(request):
    return np.random.default_rng(request.param)


def truth(rng, concepts=4, channels=7, pixels=(5, 1, 6)):
    masks = rng.random((*pixels, concepts)) < 0.4
    alpha = rng.normal(3.0, 1.0, size=(*pixels, concepts))
    return masks, rng.normal(size=(concepts, channels)), alpha


def recovered_exactly(masks, true_signals, alpha, order=slice(None)):
    return recovery(
        detected=masks[..., order],
        masks=masks,
        signals=true_signals[order],
        true_signals=true_signals,
        signal_values=(alpha - alpha.mean(axis=(0, 1, 2)))[..., order],
        alpha=alpha,
    )


# ------------------------------------------------------------------ against a reference


def test_iou_is_the_intersection_of_sets_of_pixels_over_their_union(rng):
    detected, masks = rng.random((5, 2, 3)) < 0.5, rng.random((5, 2, 4)) < 0.3
    slow = np.zeros((3, 4))
    for j, i in itertools.product(range(3), range(4)):
        ours = {tuple(p) for p in np.argwhere(detected[..., j])}
        theirs = {tuple(p) for p in np.argwhere(masks[..., i])}
        slow[j, i] = len(ours & theirs) / len(ours | theirs) if ours | theirs else 0.0
    np.testing.assert_allclose(detector_iou(detected, masks), slow)


@pytest.mark.parametrize("shape", [(4, 4), (5, 3), (3, 5)])
def test_the_matching_has_the_largest_sum_of_all_one_to_one_matchings(rng, shape):
    scores = rng.random(shape)
    matching = match(scores)
    matched = np.flatnonzero(matching != UNMATCHED)
    total = scores[matching[matched], matched].sum()
    few, many = min(shape), max(shape)
    wide = scores if shape[0] <= shape[1] else scores.T
    best = max(
        sum(wide[k, chosen[k]] for k in range(few))
        for chosen in itertools.permutations(range(many), few)
    )
    assert len(matched) == few
    assert len(set(matching[matched])) == few
    assert total == pytest.approx(best)


def test_cosines_match_those_of_pairs_of_vectors(rng):
    learned, true = rng.normal(size=(3, 6)), rng.normal(size=(2, 6))
    slow = [[sum(a * b) / (sum(a * a) ** 0.5 * sum(b * b) ** 0.5) for b in true] for a in learned]
    np.testing.assert_allclose(cosines(learned, true), slow)


def test_rmse_matches_a_loop_over_signal_values(rng):
    learned, alpha = rng.normal(size=(4, 3, 2)), rng.normal(5.0, size=(4, 3, 2))
    slow = []
    for i in range(2):
        ours, theirs = learned[..., i].ravel().tolist(), alpha[..., i].ravel().tolist()
        mean = sum(theirs) / len(theirs)
        errors = [(a - (b - mean)) ** 2 for a, b in zip(ours, theirs, strict=True)]
        slow.append((sum(errors) / len(errors)) ** 0.5)
    np.testing.assert_allclose(signal_value_rmse(learned, alpha), slow)


# ------------------------------------------------------------------ the ends of the range


def test_the_truth_recovers_itself(rng):
    result = recovered_exactly(*truth(rng))
    np.testing.assert_array_equal(result.matching, range(4))
    np.testing.assert_allclose(result.iou, 1.0)
    np.testing.assert_allclose(result.cosine, 1.0)
    np.testing.assert_allclose(result.rmse, 0.0, atol=1e-12)
    assert result.overall_rmse == pytest.approx(0.0, abs=1e-12)
    assert (result.iou_others < 1.0).all()


def test_disjoint_masks_and_dead_detectors_have_iou_zero():
    masks = np.array([[1, 0], [0, 1], [0, 1]], dtype=bool)
    np.testing.assert_array_equal(detector_iou(~masks, masks), [[0, 1], [1, 0]])
    np.testing.assert_array_equal(detector_iou(np.zeros((3, 1), bool), masks), [[0, 0]])
    np.testing.assert_array_equal(detector_iou(np.zeros((3, 1), bool), np.zeros((3, 1), bool)), 0)


def test_a_mirrored_signal_vector_has_cosine_minus_one_and_a_zero_one_zero(rng):
    true = rng.normal(size=(1, 5))
    assert cosines(-3.0 * true, true) == pytest.approx(-1.0)
    assert cosines(0.0 * true, true) == 0.0


def test_the_rmse_of_zero_signal_values_is_their_standard_deviation(rng):
    alpha = rng.normal(4.0, 2.0, size=(50, 3))
    np.testing.assert_allclose(signal_value_rmse(np.zeros_like(alpha), alpha), alpha.std(axis=0))


def test_iou_others_excludes_the_matched_concept():
    masks = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], dtype=bool)
    detected = np.array([[1, 0], [1, 0], [1, 0], [0, 1]], dtype=bool)
    result = recovery(
        detected=detected,
        masks=masks,
        signals=np.eye(2),
        true_signals=np.eye(2),
        signal_values=np.zeros((4, 2)),
        alpha=np.zeros((4, 2)),
    )
    np.testing.assert_allclose(result.iou, [2 / 3, 1 / 2])
    np.testing.assert_allclose(result.iou_others, [1 / 4, 0.0])


# ------------------------------------------------------------------ invariance


def test_the_order_of_the_detectors_changes_only_the_matching(rng):
    order = rng.permutation(4)
    plain, shuffled = (recovered_exactly(*truth(np.random.default_rng(9)), o) for o in
                       (slice(None), order))  # fmt: skip
    np.testing.assert_array_equal(order[shuffled.matching], plain.matching)
    for name in ("iou", "iou_others", "cosine", "rmse"):
        np.testing.assert_allclose(getattr(shuffled, name), getattr(plain, name), atol=1e-12)


def test_the_order_of_the_pixels_changes_nothing(rng):
    masks, signals, alpha = truth(rng)
    order = rng.permutation(len(masks))
    plain = recovered_exactly(masks, signals, alpha)
    shuffled = recovered_exactly(masks[order], signals, alpha[order])
    for name in ("matching", "iou_matrix", "iou", "iou_others", "cosine", "rmse"):
        np.testing.assert_allclose(getattr(shuffled, name), getattr(plain, name), atol=1e-12)


# ------------------------------------------------------------------ too few or too many detectors


def test_a_concept_without_a_detector_is_not_recovered(rng):
    result = recovered_exactly(*truth(rng), order=[2, 0, 1])
    np.testing.assert_array_equal(result.matching, [1, 2, 0, UNMATCHED])
    np.testing.assert_allclose(result.iou, [1, 1, 1, 0])
    np.testing.assert_allclose(result.cosine, [1, 1, 1, 0])
    assert np.isnan(result.rmse[3])
    assert np.isnan(result.overall_rmse)


def test_a_surplus_detector_does_not_change_the_recovery(rng):
    masks, signals, alpha = truth(rng)
    result = recovered_exactly(masks, signals, alpha, order=[3, 0, 1, 2, 2])
    np.testing.assert_allclose(result.iou, 1.0)
    np.testing.assert_allclose(result.cosine, 1.0)


# ------------------------------------------------------------------ invalid arguments


def test_detections_and_masks_that_are_not_boolean_are_refused(rng):
    masks, signals, alpha = truth(rng)
    given = dict(
        detected=masks,
        masks=masks,
        signals=signals,
        true_signals=signals,
        signal_values=alpha,
        alpha=alpha,
    )
    with pytest.raises(ValueError, match=r"boolean, as pairs.detect\(x\) > 0.5 is, not float64"):
        recovery(**given | {"detected": 0.9 * masks})
    with pytest.raises(ValueError, match="masks must be boolean"):
        recovery(**given | {"masks": np.where(masks, np.nan, 0.0)})
    ones = recovery(**given | {"detected": masks.astype(float), "masks": masks.astype(int)})
    np.testing.assert_array_equal(ones.iou, 1.0)
