"""Convex NMF: a slow second writing of its updates, planted clusters, the number of concepts."""

import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score

from xplique_dirpairs import ConvexNMFFactorizer
from xplique_dirpairs.factorizers.convex import cluster_number


def clusters(number, separation, count=150, channels=16, seed=0):
    """Return vectors (P, D) around centres of length ``separation``, and the cluster of each."""
    rng = np.random.default_rng(seed)
    centres = np.linalg.qr(rng.normal(size=(channels, channels)))[0][:number]
    labels = np.arange(count) % number
    noise = rng.normal(size=(count, channels))
    return (separation * np.sqrt(2) * centres[labels] + 0.4 * noise).astype(np.float32), labels


def slow_step(rows, codes, weights):
    """Return H and G after one update, entry by entry, of H (I, M) and G (M, I)."""
    gram = rows @ rows.T
    up, down = (np.abs(gram) + gram) / 2, (np.abs(gram) - gram) / 2

    def entry(matrix, p, i):
        return matrix[p, i]

    new = codes.copy()
    above = up @ weights + codes.T @ weights.T @ down @ weights
    below = down @ weights + codes.T @ weights.T @ up @ weights
    for i, p in np.ndindex(*codes.shape):
        new[i, p] *= np.sqrt(entry(above, p, i) / entry(below, p, i))
    above = up @ new.T + down @ weights @ new @ new.T
    below = down @ new.T + up @ weights @ new @ new.T
    moved = weights.copy()
    for p, i in np.ndindex(*weights.shape):
        moved[p, i] *= np.sqrt(entry(above, p, i) / entry(below, p, i))
    return new, moved


def test_iterations_are_those_of_the_paper():
    x, labels = clusters(3, 2.0, count=24)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        ours = ConvexNMFFactorizer(3, max_iter=3, random_state=0)
        ours.fit(x)
    # K-Means finds these clusters; the order of concepts is its own
    order = [int(labels[ours.weights_[:, i].argmax()]) for i in range(3)]
    one_hot = np.eye(3)[labels][:, order]
    rows = x.astype(np.float64) / np.sqrt(np.square(x.astype(np.float64)).mean())
    codes, weights = one_hot.T + 0.2, (0.01 + one_hot) / one_hot.sum(axis=0)
    for _ in range(3):
        codes, weights = slow_step(rows, codes, weights)
    np.testing.assert_allclose(ours.weights_, weights, rtol=1e-6)
    error = np.square(rows - codes.T @ weights.T @ rows).sum()
    scale = np.square(x.astype(np.float64)).mean()
    assert ours.objective_[-1] == pytest.approx(error * scale, rel=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_the_objective_never_rises_and_the_bank_lies_in_the_cone_of_the_data(seed):
    x = np.random.default_rng(seed).normal(size=(60, 8)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        ours = ConvexNMFFactorizer(5, max_iter=300, random_state=seed)
        ours.fit(x)
    steps = np.diff(ours.objective_)
    assert (steps <= 1e-9 * ours.objective_[0]).all() and steps[0] < 0
    assert (ours.weights_ >= 0).all() and np.isfinite(ours.weights_).all()
    centres = ours.weights_.T @ x[ours.positions_]
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    np.testing.assert_allclose(ours.bank_, centres, atol=1e-5)
    assert (ours.encode(x) >= 0).all()


@pytest.mark.parametrize(("separation", "bound"), [(4.0, 0.95), (1.5, 0.9)])
@pytest.mark.parametrize("number", [3, 5])
def test_planted_clusters_are_found(number, separation, bound):
    scores = []
    for seed in range(3):
        x, labels = clusters(number, separation, seed=seed)
        ours = ConvexNMFFactorizer(number, random_state=seed)
        ours.fit(x)
        scores.append(adjusted_rand_score(labels, ours.encode(x).argmax(axis=1)))
    assert np.mean(scores) >= bound


@pytest.mark.parametrize("number", [3, 5])
@pytest.mark.parametrize("separation", [2.0, 4.0])
def test_the_silhouette_counts_planted_clusters(number, separation):
    x, _ = clusters(number, separation)
    ours = ConvexNMFFactorizer(None, random_state=0)
    bank, u = ours.fit(x)
    assert ours.number_of_concepts_ == len(bank) == u.shape[1] == number
    assert ours.number_of_concepts is None and ours.is_fitted
    assert cluster_number(x, 14, "ratio", 0) in (number, number + 1)
    published = ConvexNMFFactorizer(None, most=14, rule="ratio", random_state=0)
    published.fit(x)
    assert published.number_of_concepts_ in (number, number + 1)


def test_the_number_stays_within_what_the_data_allow():
    x, _ = clusters(5, 4.0)
    assert cluster_number(x, 3, "silhouette", 0) <= 3 and cluster_number(x, 3, "ratio", 0) == 3
    pair = np.array([[0.0, 1.0], [1.0, 0.0]])
    assert cluster_number(pair, 15, "silhouette", 0) == 1
    assert cluster_number(pair, 15, "ratio", 0) == 2


def test_many_positions_are_sampled():
    x, labels = clusters(3, 4.0, count=900)
    ours = ConvexNMFFactorizer(3, most_positions=90, random_state=0)
    _, u = ours.fit(x)
    assert len(ours.positions_) == 90 == len(ours.weights_) and len(u) == 900
    assert adjusted_rand_score(labels, u.argmax(axis=1)) >= 0.95
    again = ConvexNMFFactorizer(3, most_positions=90, random_state=0)
    again.fit(x)
    np.testing.assert_array_equal(again.bank_, ours.bank_)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rule": "elbow"}, "rule must be one of"),
        ({"most": 0}, "most must be an integer"),
        ({"most_positions": 0}, "most_positions"),
        ({"max_iter": 0}, "max_iter"),
        ({"tol": -1.0}, "tol must be"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ConvexNMFFactorizer(None, **settings).fit(clusters(3, 4.0, count=30)[0])
