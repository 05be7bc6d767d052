from itertools import combinations

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from xplique_dirpairs.datasets.planted_dictionary import (
    Coefficients,
    planted_dictionary,
)
from xplique_dirpairs.datasets.planted_firing import (
    Firing,
    Together,
    Trees,
    compensated_chances,
    zipf_probabilities,
)

N = 20_000  # more than one chunk


def make(atoms=6, n=N, **options):
    return planted_dictionary(n, 4, atoms, **options)


def assert_share(values, probability, positions=N):
    """Assert that shares of positions lie within four standard errors of probabilities."""
    probability = np.asarray(probability, float)
    error = np.sqrt(probability * (1.0 - probability) / positions)
    assert (np.abs(values - probability) <= 4.0 * error).all(), (values, probability)


def both(present):
    """Return the share of positions where two atoms are both on, (I, I)."""
    on = present.astype(float)
    return on.T @ on / len(on)


# ------------------------------------------------------------------ how often atoms are on


@pytest.mark.parametrize(
    "probability", [0.03, 1.0, np.linspace(0.01, 0.6, 6), zipf_probabilities(6)]
)
def test_atoms_are_on_with_their_probabilities_and_independently(probability):
    data = make(probability=probability, seed=1)
    wanted = np.broadcast_to(probability, 6)
    np.testing.assert_array_equal(data.probability, wanted)
    assert_share(data.present.mean(axis=0), wanted)
    off_diagonal = ~np.eye(6, dtype=bool)
    assert_share(both(data.present)[off_diagonal], np.outer(wanted, wanted)[off_diagonal])


@pytest.mark.parametrize("exactly", [1, 2, 6])
def test_exactly_k_atoms_are_on_at_each_position_all_equally_often(exactly):
    data = make(exactly=exactly)
    np.testing.assert_array_equal(data.present.sum(axis=1), exactly)
    np.testing.assert_array_equal(data.probability, exactly / 6)
    assert_share(data.present.mean(axis=0), np.full(6, exactly / 6))
    pairs = np.triu_indices(6, 1)
    assert_share(both(data.present)[pairs], exactly * (exactly - 1) / 30)


def test_zipf_probabilities_match_a_loop_and_end_at_both_ends():
    found = zipf_probabilities(9, 0.3, 0.02, 1.5)
    law = [1.0 / rank**1.5 for rank in range(1, 10)]
    slow = [0.02 + (0.3 - 0.02) * (value - law[-1]) / (law[0] - law[-1]) for value in law]
    np.testing.assert_allclose(found, slow)
    assert (found[0], found[-1]) == pytest.approx((0.3, 0.02))
    np.testing.assert_array_equal(zipf_probabilities(1, 0.3, 0.02), [0.3])


# ------------------------------------------------------------------ partners


@pytest.mark.parametrize("partner", [0.0, 0.4, 1.0])
def test_the_partner_of_an_atom_is_on_with_the_given_probability(partner):
    probability = np.array([0.2, 0.2, 0.05, 0.3, 0.3, 0.05, 0.1])  # the last atom has no partner
    present = make(7, probability=probability, together=Together(partner), seed=2).present
    assert_share(present.mean(axis=0), probability)
    joint = both(present)
    for first in (0, 2, 4):
        rarer = min(probability[first : first + 2])
        assert_share(joint[first, first + 1], partner * rarer)
    for one, other in ((0, 2), (1, 4), (3, 6), (5, 6)):
        assert_share(joint[one, other], probability[one] * probability[other])


def test_frequent_atoms_may_always_be_on_together():
    present = make(2, probability=1.0, together=Together(1.0)).present
    assert present.all()


# ------------------------------------------------------------------ the copula


def test_a_copula_keeps_the_probabilities_and_gives_the_joint_ones_of_normal_variables():
    probability = np.linspace(0.1, 0.5, 6)
    together = Together(rank=2, scale=0.5)
    data = make(n=20 * N, probability=probability, together=together, seed=3)
    assert_share(data.present.mean(axis=0), probability, 20 * N)
    loadings, joint = data.source.firing.loadings, both(data.present)
    thresholds = norm.isf(probability)
    for i, j in combinations(range(6), 2):
        correlation = loadings[i] @ loadings[j]
        covariance = [[1.0, correlation], [correlation, 1.0]]
        # P(z > t) = P(−z < −t), and −z is distributed like z
        expected = multivariate_normal.cdf(-thresholds[[i, j]], cov=covariance)
        assert_share(joint[i, j], expected, 20 * N)


def test_the_sign_of_a_correlation_is_that_of_the_product_of_the_loadings():
    data = make(8, probability=0.3, together=Together(rank=1, scale=0.6), seed=4)
    product = data.source.firing.loadings @ data.source.firing.loadings.T
    correlation = np.corrcoef(data.present, rowvar=False)
    strong = (np.abs(product) > 0.2) & ~np.eye(8, dtype=bool)
    assert strong.sum() > 4
    np.testing.assert_array_equal(np.sign(correlation[strong]), np.sign(product[strong]))


def test_loadings_that_are_too_large_are_shortened():
    loadings = make(50, n=1, together=Together(rank=10, scale=2.0)).source.firing.loadings
    np.testing.assert_allclose(np.square(loadings).sum(axis=1), 0.99)
    small = make(2000, n=1, together=Together(rank=10, scale=0.1)).source.firing.loadings
    assert small.std() == pytest.approx(0.1, abs=4 * 0.1 / np.sqrt(2 * small.size))


# ------------------------------------------------------------------ trees


def slow_parents(atoms, number, branching, depth):
    """Return parents by a queue of atoms that still need children."""
    parents = [-1] * atoms
    queue, following = [(root, 0) for root in range(min(number, atoms))], number
    while queue:
        atom, level = queue.pop(0)
        for _ in range(branching if level < depth else 0):
            if following < atoms:
                parents[following] = atom
                queue.append((following, level + 1))
                following += 1
    return parents


@pytest.mark.parametrize(
    "sizes",
    [(40, 2, 3, 2), (192, 16, 4, 2), (7, 2, 4, 3), (3, 3, 2, 1), (30, 1, 2, 4), (9, 1, 1, 3)],
)
def test_atoms_are_numbered_level_by_level(sizes):
    atoms, number, branching, depth = sizes
    found = Trees(number, branching, depth).parents(atoms)
    np.testing.assert_array_equal(found, slow_parents(*sizes))


@pytest.fixture(scope="module")
def grown():
    together = Together(trees=Trees(2, branching=3, depth=2))
    return make(28, probability=zipf_probabilities(28, 0.6, 0.05), together=together, seed=5)


def test_a_child_is_on_only_where_its_parent_is(grown):
    children = np.flatnonzero(grown.source.firing.parents >= 0)
    assert len(children) == 24
    for child in children:
        parent = grown.source.firing.parents[child]
        assert grown.present[:, child].any()
        assert not (grown.present[:, child] & ~grown.present[:, parent]).any()


def test_siblings_exclude_each_other(grown):
    parents = grown.source.firing.parents
    for parent in np.unique(parents[parents >= 0]):
        assert grown.present[:, parents == parent].sum(axis=1).max() == 1


def test_atoms_in_no_tree_are_on_with_their_probabilities(grown):
    free = np.flatnonzero(grown.source.firing.parents < 0)
    np.testing.assert_array_equal(free, [0, 1, 26, 27])
    assert_share(grown.present[:, free].mean(axis=0), grown.probability[free])


def test_of_siblings_that_fire_a_random_one_is_on():
    probability = np.array([0.6, 0.5, 0.3])
    trees = Trees(1, branching=2, depth=1, compensated=False)
    present = make(3, probability=probability, together=Together(trees=trees)).present
    tie = 0.5 * 0.3 / 2
    assert_share(present.mean(axis=0), [0.6, 0.6 * (0.5 * 0.7 + tie), 0.6 * (0.3 * 0.5 + tie)])


@pytest.mark.parametrize(("compensated", "wanted"), [(True, 0.1), (False, 0.5 * 0.2 * 0.1)])
def test_a_chain_is_on_as_often_as_asked_for_if_it_is_compensated(compensated, wanted):
    trees = Trees(1, branching=1, depth=2, compensated=compensated)
    data = make(3, probability=[0.5, 0.2, 0.1], together=Together(trees=trees))
    assert_share(data.present[:, 2].mean(), wanted)
    np.testing.assert_array_equal(data.probability, [0.5, 0.2, 0.1])


def test_compensated_chances_match_a_loop():
    probability = np.random.default_rng(0).uniform(0.05, 0.5, 17)
    parents = Trees(2, branching=3, depth=2).parents(17)
    slow = []
    for atom, parent in enumerate(parents):
        chance = probability[atom]
        if parent >= 0:
            siblings = [k for k in range(17) if parents[k] == parent and k != atom]
            chance /= probability[parent]
            chance *= 1.0 + sum(probability[k] for k in siblings) / probability[parent]
        slow.append(min(chance, 1.0))
    found = compensated_chances(probability, parents)
    np.testing.assert_allclose(found, slow)
    assert found.max() == 1.0  # some children would have to fire more often than always
    assert (found < 1.0).any()


def test_growing_matches_a_loop_over_positions():
    rng = np.random.default_rng(6)
    trees, means = Trees(2, branching=3, depth=2), rng.uniform(0.5, 2.0, 20)
    firing = Firing.of(rng, np.full(20, 0.5), together=Together(trees=trees))
    coefficients = rng.gamma(2.0, size=(300, 20)) * (rng.random((300, 20)) < 0.7)
    slow, lots = coefficients.copy(), np.random.default_rng(7)
    for parent in range(20):
        children = [k for k in range(20) if firing.parents[k] == parent]
        draws = lots.random((300, len(children))) if children else None
        for position in range(300):
            row = slow[position]
            candidates = [
                (draws[position, k], child)
                for k, child in enumerate(children)
                if row[child] > 0 and row[parent] > 0
            ]
            winner = max(candidates)[1] if candidates else None
            for child in children:
                row[child] = row[child] * row[parent] / means[parent] if child == winner else 0.0
    firing.grow(np.random.default_rng(7), coefficients, means)
    np.testing.assert_allclose(coefficients, slow)


def test_coefficients_of_children_are_scaled_with_those_of_their_parents():
    threes = Coefficients(lambda rng, shape: np.full(shape, 3.0), mean=2.0)
    trees = Together(trees=Trees(1, branching=1, depth=2))
    data = make(3, n=500, probability=0.5, together=trees, coefficients=threes)
    for atom, value in enumerate((3.0, 3.0 * 1.5, 3.0 * 1.5**2)):
        np.testing.assert_allclose(data.coefficients[data.present[:, atom], atom], value)


# ------------------------------------------------------------------ invalid arguments


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda: Trees(0), "number must be an integer of at least 1, not 0"),
        (lambda: Trees(2, branching=1.5), "branching must be an integer"),
        (lambda: Trees(2, depth=0), "depth must be an integer of at least 1"),
        (lambda: Together(rank=-1), "rank must be an integer of at least 0, not -1"),
        (lambda: Together(rank=2, scale=-0.1), "scale must be at least 0"),
        (lambda: Together(1.5), "partner must be a probability, not 1.5"),
        (lambda: Together(0.5, rank=3), "partner cannot be combined with rank or trees"),
        (lambda: Together(0.5, trees=Trees(1)), "partner cannot be combined with rank or trees"),
        (
            lambda: make(4, probability=[0.1, 0.2, 0.8, 0.9], together=Together(0.5)),
            "atoms 2 and 3 are both on at 0.7 of the positions or more: partner=0.5 asks for 0.4",
        ),
        (lambda: make(4, together=Together(trees=Trees(5))), "there are 5 trees for 4 atoms"),
        (lambda: zipf_probabilities(0), "atoms must be an integer of at least 1"),
        (lambda: zipf_probabilities(3, 0.1, 0.2), "0 < lowest < highest <= 1"),
        (lambda: zipf_probabilities(3, exponent=0), "exponent must be more than 0"),
    ],
)
def test_invalid_arguments_are_refused(make_it, message):
    with pytest.raises(ValueError, match=message):
        make_it()
