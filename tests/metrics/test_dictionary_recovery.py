import itertools
from dataclasses import astuple, dataclass

import numpy as np
import pytest

from xplique_dirpairs.datasets.planted_dictionary import planted_dictionary
from xplique_dirpairs.metrics.recovery import dictionary_recovery


@dataclass(frozen=True)
class Known:
    """Atoms, and where they are on."""

    atoms: np.ndarray
    present: np.ndarray


@pytest.fixture(params=range(4))
def rng(request):
    return np.random.default_rng(request.param)


def known(rng, atoms=4, channels=5, positions=(60,)):
    return Known(rng.normal(size=(atoms, channels)), rng.random((*positions, atoms)) < 0.3)


def best_sum(scores, keep):
    """Return the matched values ``keep`` of the one-to-one matching with the largest sum."""
    wide, kept = (scores, keep) if len(scores) <= len(scores[0]) else (scores.T, keep.T)
    chosen = max(
        itertools.permutations(range(wide.shape[1]), len(wide)),
        key=lambda columns: sum(wide[row, column] for row, column in enumerate(columns)),
    )
    return [kept[row, column] for row, column in enumerate(chosen)]


def slow_recovery(directions, detections, truth):
    """Measure the recovery with loops over pairs of concepts and atoms, and over positions."""
    concepts, atoms = len(directions), len(truth.atoms)
    cosine, phi = np.zeros((concepts, atoms)), np.zeros((concepts, atoms))
    for j, i in itertools.product(range(concepts), range(atoms)):
        a, b = directions[j], truth.atoms[i]
        cosine[j, i] = sum(a * b) / (sum(a * a) * sum(b * b)) ** 0.5
        ours, theirs = detections[:, j], truth.present[:, i]
        if 0 < ours.mean() < 1 and 0 < theirs.mean() < 1:
            phi[j, i] = np.corrcoef(ours, theirs)[0, 1]
    precisions, recalls, f1s, best_atoms = [], [], [], set()
    for j in range(concepts):
        best = max(range(atoms), key=lambda i, j=j: abs(cosine[j, i]))
        best_atoms.add(best)
        pairs = list(zip(detections[:, j], truth.present[:, best], strict=True))
        tp, fp, fn = (pairs.count(kind) for kind in ((1, 1), (1, 0), (0, 1)))
        precisions.append(tp / (tp + fp) if tp + fp else 0.0)
        recalls.append(tp / (tp + fn) if tp + fn else 0.0)
        f1s.append(2 * tp / (2 * tp + fp + fn) if tp else 0.0)
    return (
        sum(value >= 0.95 for value in best_sum(cosine, cosine)) / atoms,
        sum(best_sum(phi, phi)) / atoms,
        np.mean(best_sum(abs(cosine), abs(cosine))),
        len(best_atoms) / concepts,
        np.mean(precisions),
        np.mean(recalls),
        np.mean(f1s),
        np.mean([row.sum() for row in detections]),
        sum(not column.any() for column in detections.T),
    )


@pytest.mark.parametrize("concepts", [2, 4, 6])
def test_the_recovery_matches_loops(rng, concepts):
    truth = known(rng)
    near = truth.atoms[rng.integers(4, size=concepts)]
    directions = near * rng.choice([-1.0, 1.0, 1.0], (concepts, 1)) * rng.uniform(1, 3)
    directions += rng.choice([0.05, 0.8], (concepts, 1)) * rng.normal(size=directions.shape)
    detections = rng.random((60, concepts)) < rng.choice([0.0, 0.3, 1.0], concepts)
    detections[:, :2] = truth.present[:, :2] ^ (rng.random((60, 2)) < 0.1)
    found = dictionary_recovery(directions, detections, truth)
    np.testing.assert_allclose(astuple(found), slow_recovery(directions, detections, truth))


# ------------------------------------------------------------------ the ends of the range


def test_the_truth_recovers_itself():
    data = planted_dictionary(3, 16, 30, map_shape=(20, 30), probability=0.1)
    found = dictionary_recovery(data.atoms, data.present, data)
    np.testing.assert_allclose(astuple(found)[:7], 1.0)
    assert found.l0 == pytest.approx(data.present.sum(axis=-1).mean())
    assert found.dead == 0


def test_concepts_that_never_fire_detect_nothing(rng):
    truth = known(rng)
    found = dictionary_recovery(truth.atoms, np.zeros((60, 4)), truth)
    assert (found.phi, found.precision, found.recall, found.f1) == (0, 0, 0, 0)
    assert (found.l0, found.dead) == (0, 4)
    assert (found.share, found.mcc) == pytest.approx((1, 1))


def test_concepts_that_always_fire_have_recall_one_and_the_precision_of_chance(rng):
    truth = known(rng)
    found = dictionary_recovery(truth.atoms, np.ones((60, 4)), truth)
    assert found.phi == 0
    assert found.recall == 1
    assert found.precision == pytest.approx(truth.present.mean())
    assert (found.l0, found.dead) == (4, 0)


def test_detections_of_the_opposite_have_phi_minus_one():
    truth = Known(np.eye(1), np.array([[True], [False], [True]]))
    assert dictionary_recovery([[1.0]], ~truth.present, truth).phi == pytest.approx(-1)


def test_mirrored_directions_find_no_atom_although_their_mcc_is_one(rng):
    truth = known(rng)
    found = dictionary_recovery(-truth.atoms, truth.present, truth)
    assert found.share == 0
    assert found.mcc == pytest.approx(1)
    assert (found.uniqueness, found.f1) == pytest.approx((1, 1))


@pytest.mark.parametrize(("cosine", "share"), [(0.96, 1), (0.94, 0), (-1.0, 0)])
def test_an_atom_is_found_from_a_signed_cosine_of_0_95(cosine, share):
    truth = Known(np.eye(2)[:1], np.array([[True], [False]]))
    found = dictionary_recovery([[cosine, np.sqrt(1 - cosine**2)]], truth.present, truth)
    assert found.share == share


def test_missing_concepts_count_for_the_share_and_phi_but_not_for_the_mcc(rng):
    truth = known(rng)
    found = dictionary_recovery(truth.atoms[:3], truth.present[:, :3], truth)
    assert (found.share, found.phi) == pytest.approx((0.75, 0.75))
    assert (found.mcc, found.uniqueness, found.f1) == pytest.approx((1, 1, 1))


def test_a_concept_found_twice_lowers_only_the_uniqueness(rng):
    truth, order = known(rng), [0, 1, 2, 3, 3]
    found = dictionary_recovery(truth.atoms[order], truth.present[:, order], truth)
    assert found.uniqueness == 4 / 5
    assert (found.share, found.phi, found.mcc, found.f1) == pytest.approx((1, 1, 1, 1))


# ------------------------------------------------------------------ invariance


def noisy(rng, truth):
    directions = truth.atoms + 0.3 * rng.normal(size=truth.atoms.shape)
    return directions, truth.present ^ (rng.random(truth.present.shape) < 0.1)


def test_the_order_and_the_lengths_of_the_concepts_change_nothing(rng):
    truth = known(rng)
    directions, detections = noisy(rng, truth)
    order = rng.permutation(4)
    plain = dictionary_recovery(directions, detections, truth)
    lengths = rng.uniform(0.1, 10, (4, 1))
    other = dictionary_recovery((lengths * directions)[order], detections[:, order], truth)
    np.testing.assert_allclose(astuple(other), astuple(plain))


def test_the_order_of_the_atoms_and_of_the_positions_changes_nothing(rng):
    truth = known(rng)
    directions, detections = noisy(rng, truth)
    plain = dictionary_recovery(directions, detections, truth)
    atoms, positions = rng.permutation(4), rng.permutation(60)
    shuffled = Known(truth.atoms[atoms], truth.present[positions][:, atoms])
    other = dictionary_recovery(directions, detections[positions], shuffled)
    np.testing.assert_allclose(astuple(other), astuple(plain))


def test_maps_are_measured_like_their_positions(rng):
    maps = known(rng, positions=(3, 4, 5))
    directions, detections = noisy(rng, maps)
    flat = Known(maps.atoms, maps.present.reshape(60, 4))
    assert dictionary_recovery(directions, detections, maps) == dictionary_recovery(
        directions, detections.reshape(60, 4), flat
    )


# ------------------------------------------------------------------ invalid arguments


def test_values_that_are_not_boolean_are_refused(rng):
    truth = known(rng)
    with pytest.raises(ValueError, match="or codes != 0 are, not float64"):
        dictionary_recovery(truth.atoms, 0.5 * truth.present, truth)
    with pytest.raises(ValueError, match=r"truth.present must be boolean, not float64"):
        dictionary_recovery(truth.atoms, truth.present, Known(truth.atoms, 0.5 * truth.present))


@pytest.mark.parametrize(
    ("directions", "detections"),
    [
        (np.ones((4, 6)), np.ones((60, 4))),
        (np.ones(5), np.ones((60, 4))),
        (np.ones((0, 5)), np.ones((60, 0))),
        (np.ones((4, 5)), np.ones((60, 3))),
        (np.ones((4, 5)), np.ones((50, 4))),
        (np.ones((4, 5)), np.ones((6, 10, 4))),
    ],
)
def test_shapes_that_do_not_belong_together_are_refused(directions, detections):
    with pytest.raises(ValueError, match=r"directions must have shape \(J, D\) and detections"):
        dictionary_recovery(directions, detections, known(np.random.default_rng(0)))
