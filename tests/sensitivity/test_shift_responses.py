"""The closed form and the passes of shifted features equal plain loops, also for extreme shifts,
and do not depend on how the work is divided into chunks."""

import math

import numpy as np
import pytest
from scipy.special import log_softmax

from xplique_dirpairs.core.batching import CHUNK_FLOATS
from xplique_dirpairs.sensitivity.responses import WIDEST_MOVE, LinearResponse, PassedResponse

N, K, D, M = 9, 4, 5, 6
TIE = 1e-6


@pytest.fixture(params=range(2))
def rng(request):
    return np.random.default_rng(request.param)


class Problem:
    """Pooled features, a linear head and shifts; class 3 has no images."""

    def __init__(self, rng):
        self.x = rng.normal(size=(N, D)).astype(np.float32)
        self.rows = rng.normal(size=(K, D)).astype(np.float32)
        self.labels = rng.permutation(np.arange(N) % (K - 1))
        self.shifts = rng.normal(size=(M, D)).astype(np.float32)
        self.shifts[0] = 0.0

    def predict(self, x):
        return x.astype(np.float64) @ self.rows.T.astype(np.float64)

    def linear(self, labels, kind="softmax"):
        return LinearResponse(self.predict(self.x), labels, TIE, kind, self.rows)

    def passed(self, labels, kind="softmax"):
        return PassedResponse(self.predict(self.x), labels, TIE, kind, self.x, self.predict)


def slow_log_p(logits, k, kind):
    """Return log p of class k: reference implementation."""
    if kind == "sigmoid":
        return -math.log1p(math.exp(-logits[k]))
    return logits[k] - math.log(sum(math.exp(z) for z in logits))


def slow_statistics(problem, labels, kind):
    """Return SC and mean Δ: reference implementation, by shift, class and image."""
    scores, means = np.full((2, M, K), np.nan)
    for m, v in enumerate(problem.shifts.astype(float)):
        for k in range(K):
            changes = []
            for n, x in enumerate(problem.x.astype(float)):
                if labels is None or labels[n] == k:
                    before = [
                        sum(a * b for a, b in zip(x, row, strict=True)) for row in problem.rows
                    ]
                    after = [
                        sum(a * b for a, b in zip(x + v, row, strict=True)) for row in problem.rows
                    ]
                    changes.append(slow_log_p(after, k, kind) - slow_log_p(before, k, kind))
            if changes:
                signs = [int(c > TIE) - int(c < -TIE) for c in changes]
                scores[m, k] = sum(signs) / len(signs)
                means[m, k] = sum(changes) / len(changes)
    return scores, means


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
@pytest.mark.parametrize("regardless", [False, True], ids=["own", "any"])
@pytest.mark.parametrize("response", ["linear", "passed"])
def test_statistics_equal_plain_loops(rng, response, regardless, kind):
    problem = Problem(rng)
    labels = None if regardless else problem.labels
    scores, means = slow_statistics(problem, labels, kind)
    result = getattr(problem, response)(labels, kind).statistics(problem.shifts)
    np.testing.assert_allclose(result.scores, scores, atol=1e-12)
    np.testing.assert_allclose(result.changes, means, atol=1e-6)
    assert regardless == (not np.isnan(result.scores).any())
    assert (np.nan_to_num(result.scores[0]) == 0).all()  # the first shift is zero: ties


@pytest.mark.parametrize("regardless", [False, True], ids=["own", "any"])
@pytest.mark.parametrize(("response", "images"), [("linear", 10**6), ("passed", 180_000)])
def test_statistics_do_not_depend_on_the_division_into_chunks(response, images, regardless):
    problem = Problem(np.random.default_rng(0))
    assert max(M * images * (1 if response == "linear" else D), CHUNK_FLOATS) > CHUNK_FLOATS
    problem.x, problem.labels = (
        np.resize(values, (images, *values.shape[1:])) for values in (problem.x, problem.labels)
    )
    response = getattr(problem, response)(None if regardless else problem.labels)
    in_chunks = response.statistics(problem.shifts)
    for m in (0, M - 1):
        alone = response.statistics(problem.shifts[m : m + 1])
        np.testing.assert_array_equal(in_chunks.scores[m], alone.scores[0])
        np.testing.assert_allclose(in_chunks.changes[m], alone.changes[0], atol=1e-9)


def test_statistics_do_not_depend_on_the_order_of_images(rng):
    problem, order = Problem(rng), rng.permutation(N)
    before = problem.linear(problem.labels).statistics(problem.shifts)
    problem.x, labels = problem.x[order], problem.labels[order]
    after = problem.linear(labels).statistics(problem.shifts)
    np.testing.assert_array_equal(after.scores, before.scores)
    np.testing.assert_allclose(after.changes, before.changes, atol=1e-12)


def test_a_shift_that_changes_all_logits_equally_changes_no_class():
    rows = np.ones((K, D), np.float32)
    logits = np.random.default_rng(0).normal(size=(N, K))
    for labels in (None, np.arange(N) % K):
        result = LinearResponse(logits, labels, TIE, "softmax", rows).statistics(np.ones((1, D)))
        assert (result.scores == 0).all()
        np.testing.assert_allclose(result.changes, 0, atol=1e-12)


@pytest.mark.parametrize("labels", [None, np.arange(N) % K], ids=["any", "own"])
def test_statistics_are_right_for_shifts_whose_exponentials_overflow(rng, labels):
    rows = 400.0 * rng.normal(size=(K, D)).astype(np.float32)
    logits = 50.0 * rng.normal(size=(N, K))
    shifts = rng.normal(size=(M, D))
    response = LinearResponse(logits, labels, TIE, "softmax", rows)
    assert np.ptp(shifts @ rows.T, axis=1).max() > WIDEST_MOVE
    result = response.statistics(shifts)
    changes = log_softmax(logits + (shifts @ rows.T)[:, None], axis=-1) - log_softmax(
        logits, axis=-1
    )
    for k in range(K):
        own = changes[:, slice(None) if labels is None else labels == k, k]
        np.testing.assert_allclose(result.changes[:, k], own.mean(axis=1))
        signs = (own > TIE) * 1.0 - (own < -TIE)
        np.testing.assert_allclose(result.scores[:, k], signs.mean(axis=1))
