import numpy as np
import pytest
import tensorflow as tf

from xplique_dirpairs.learning.losses import dual_update, penalty

R, C = 4, 3


def test_the_penalty_equals_that_of_powell_hestenes_and_rockafellar(rng):
    g, multipliers = rng.normal(size=(R, C)), rng.uniform(0, 2, (R, C))
    weights = rng.uniform(0.5, 5, (R, C))
    slow = np.zeros(R)
    for r in range(R):
        for c in range(C):
            lam, mu = multipliers[r, c], weights[r, c]
            if lam + mu * g[r, c] > 0:
                slow[r] += lam * g[r, c] + mu / 2 * g[r, c] ** 2
            else:
                slow[r] -= lam**2 / (2 * mu)
    result = penalty(*map(tf.constant, (g, multipliers, weights)))
    np.testing.assert_allclose(result, slow)


@pytest.mark.parametrize(
    "g, previous, multiplier, weight, raised, grown",
    [
        (0.5, 0.6, 1.0, 2.0, 2.0, 2.6),  # violated and not halved: both grow
        (0.5, 1.1, 1.0, 2.0, 2.0, 2.0),  # violated but halved: only the multiplier grows
        (0.5, np.inf, 0.0, 1.0, 0.5, 1.0),  # the first update
        (-1.0, -0.9, 1.0, 2.0, 0.0, 2.0),  # the bound holds: the multiplier falls to 0
        (0.5, 0.5, 0.0, 90.0, 45.0, 100.0),  # the weight has a maximum
    ],
)
def test_the_dual_update_changes_multipliers_and_weights(
    g, previous, multiplier, weight, raised, grown
):
    updated = dual_update(*map(np.array, (g, previous, multiplier, weight)))
    assert updated == (pytest.approx(raised), pytest.approx(grown))


def test_a_constrained_problem_is_solved_with_the_right_multipliers():
    # min (u − 3)² + (v − 1)²  subject to  u ≤ 1 (λ = 4)  and  v ≤ 2 (not active: λ = 0)
    point = tf.Variable([[0.0, 0.0]], dtype=tf.float64)

    @tf.function
    def step(multipliers, weights):
        with tf.GradientTape() as tape:
            g = point - [[1.0, 2.0]]
            loss = tf.reduce_sum((point - [[3.0, 1.0]]) ** 2) + penalty(g, multipliers, weights)
        point.assign_sub(tape.gradient(loss, point) / (2.0 + tf.reduce_max(weights)))

    multipliers, weights = np.zeros((1, 2)), np.ones((1, 2))
    previous = np.full((1, 2), np.inf)
    for _ in range(40):
        for _ in range(60):
            step(tf.constant(multipliers), tf.constant(weights))
        g = point.numpy() - [[1.0, 2.0]]
        multipliers, weights = dual_update(g, previous, multipliers, weights)
        previous = g
    np.testing.assert_allclose(point.numpy(), [[1.0, 1.0]], atol=1e-4)
    np.testing.assert_allclose(multipliers, [[4.0, 0.0]], atol=1e-3)
