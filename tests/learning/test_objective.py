"""The objective of a stage against a reference implementation on raw features."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from xplique_dirpairs.learning.coordinates import Moments, centred, standardised, whitened
from xplique_dirpairs.learning.features import RandomBatches
from xplique_dirpairs.learning.objective import Objective
from xplique_dirpairs.learning.recipe import Stage
from xplique_dirpairs.learning.state import Detectors
from xplique_dirpairs.models.head import Head

N, H, W, D, I, R, K = 12, 2, 3, 6, 3, 2, 4
KAPPA, TAU, RHO, GAMMA = 0.7, 0.8, 1.5, 1.1
COORDINATES = {
    "standardised": standardised,
    "whitened": lambda moments: whitened(moments, I),
    "centred": lambda moments: centred(moments, I),
}
EVERYTHING = dict.fromkeys(("s", "sb", "ma", "mm", "ic", "eac", "fso", "uur", "cur"), 1.0)


@pytest.fixture
def activations(rng):
    x = rng.normal(size=(N, H, W, D)) * [2.0, 1.0, 1.0, 0.8, 0.7, 0.5] + 4.0
    return x.astype(np.float32)


@pytest.fixture
def start(rng):
    filters = rng.normal(size=(R, I, D)) * np.array([[0.5], [1.0], [3.0]])
    return Detectors(filters, rng.normal(size=(R, I)), rng.normal(size=(R, I, D)))


def head(pools=True, activation=None):
    inputs = keras.Input((H, W, D))
    pooled = layers.GlobalAveragePooling2D()(inputs)
    x = pooled if pools else layers.Flatten()(inputs)
    # Small weights, so that the network is neither certain nor at chance on the moved features.
    small = keras.initializers.RandomNormal(stddev=0.1, seed=1)
    outputs = layers.Dense(K, activation=activation, kernel_initializer=small)(x)
    return Head(keras.Model(inputs, outputs))


def objective(activations, start, coordinates="centred", head=None, stage=None, **changes):
    coordinates = COORDINATES[coordinates](Moments.of(activations.reshape(-1, D)))
    stage = stage or Stage("d", EVERYTHING, signals="free", tau=TAU, rho=RHO, kappa=(KAPPA, KAPPA))
    settings = dict(gamma=GAMMA, steps=10, full_batch=True, network_every=1, seed=0)
    model = Objective(stage, coordinates, start, head=head, **{**settings, **changes})
    batch = {"positions": tf.constant(coordinates.features(activations.reshape(-1, D)))}
    if head is not None:
        batch["maps"] = tf.constant(head.pool(activations))
    return model, batch


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def entropy(p):
    return -np.sum(p * np.log2(p), axis=-1)


def soft_maximum(values):
    return np.sum(values**5) / np.sum(values**4) if values.any() else 0.0


def slow_losses(activations, filters, biases, signals, model, scale):
    """Compute all losses of one restart, whose biases belong to centred features."""
    x = activations.reshape(-1, D).astype(float)
    mean = x.mean(axis=0)
    y = sigmoid((x - mean) @ filters.T - biases)
    q = y / y.sum(axis=1, keepdims=True)
    nu, rho = TAU / I, RHO * TAU / I
    activity = np.mean(y**GAMMA, axis=0)
    unit = filters / np.linalg.norm(filters, axis=1, keepdims=True)
    signals = signals / np.linalg.norm(signals, axis=1, keepdims=True)
    cross = (unit @ signals.T) * (1 - np.eye(I))

    def off(move):
        moved = np.empty_like(activations, dtype=float)
        for place in np.ndindex(N, H, W):
            excess = filters @ (activations[place] - mean) - biases
            moved[place] = activations[place] - KAPPA * move(excess)
        logits = model(moved).numpy().astype(float)
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        return -entropy(p).mean()

    cross_inverse = np.linalg.inv(filters @ signals.T)
    return {
        "s": entropy(q).mean(),
        "sb": soft_maximum(entropy(q)),
        "ma": np.mean(-np.sum(q * np.log2(y), axis=1)),
        "mm": scale * np.linalg.norm(filters, axis=1).mean(),
        "ic": np.mean(np.maximum(nu - activity, 0) / nu),
        "eac": soft_maximum(np.maximum(activity - rho, 0) / (1 - rho)),
        "fso": np.sqrt(np.mean(cross**2)),
        "uur": off(lambda excess: np.linalg.pinv(filters) @ excess),
        "cur": off(lambda excess: signals.T @ cross_inverse @ excess),
        "fired": off(lambda e: (np.maximum(e, 0) / np.sum(filters**2, axis=1)) @ filters),
    }


@pytest.mark.parametrize("pools", [True, False])
def test_every_loss_equals_the_reference_on_raw_features(pools, activations, start):
    rest = head(pools)
    model, batch = objective(activations, start, head=rest)
    values = model.losses_of(batch)
    assert set(values) == set(EVERYTHING)
    scale = np.sqrt(activations.reshape(-1, D).var(axis=0).mean())
    for r in range(R):
        one = (start.filters[r], start.biases[r], start.signals[r])
        slow = slow_losses(activations, *one, rest.model, scale)
        for name in EVERYTHING:
            # The ridge of the pseudo-inverses changes the results by a few per mille.
            assert float(values[name][r]) == pytest.approx(slow[name], rel=5e-3, abs=1e-4), name


@pytest.mark.parametrize("pools", [False, True])
def test_the_loss_fired_of_cbe_equals_the_reference_on_raw_features(pools, activations, start):
    rest, stage = head(pools), Stage("a", {"fired": 1.0}, kappa=(KAPPA, KAPPA))
    model, batch = objective(activations, start, head=rest, stage=stage)
    batch["maps"] = tf.constant(activations)  # the ReLU of "fired" does not commute with pooling
    one = (start.filters[0], start.biases[0], start.signals[0])
    slow = slow_losses(activations, *one, rest.model, 1.0)["fired"]
    assert float(model.losses_of(batch)["fired"][0]) == pytest.approx(slow, rel=1e-4)


def test_a_head_with_softmax_outputs_has_the_losses_of_its_logits(activations, start):
    of_logits, of_probabilities = [
        model.losses_of(batch)
        for model, batch in (
            objective(activations, start, head=head(activation=activation))
            for activation in (None, "softmax")
        )
    ]
    for name in ("uur", "cur"):
        np.testing.assert_allclose(of_logits[name], of_probabilities[name], rtol=1e-4)


@pytest.mark.parametrize("coordinates", COORDINATES)
def test_a_stage_begins_with_the_given_detectors(coordinates, activations, start):
    model, _ = objective(activations, start, coordinates)
    initial = model.detectors()
    np.testing.assert_allclose(initial.filters, start.filters, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(initial.biases, start.biases, rtol=1e-4, atol=1e-5)
    cosines = np.sum(initial.signals * start.signals, axis=-1)
    cosines /= np.linalg.norm(initial.signals, axis=-1) * np.linalg.norm(start.signals, axis=-1)
    np.testing.assert_allclose(cosines, 1.0, rtol=1e-5)


def test_margins_and_biases_are_equal_in_a_shared_stage(activations, start):
    stage = Stage("a", {"s": 1.0}, coordinates="standardised", shared=True, orthonormal=True)
    model, _ = objective(activations, start, "standardised", stage=stage)
    detectors, sigma = model.detectors(), activations.reshape(-1, D).std(axis=0)
    standardised_filters = detectors.filters * sigma
    for r in range(R):
        gram = standardised_filters[r] @ standardised_filters[r].T
        np.testing.assert_allclose(gram, gram[0, 0] * np.eye(I), atol=1e-3 * gram[0, 0])
        np.testing.assert_allclose(detectors.biases[r], detectors.biases[r, 0], rtol=1e-5)


def trained(activations, start, stage, steps=5, **settings):
    stage = dataclasses.replace(stage, learning_rate=0.05, schedule="constant")
    model, batch = objective(activations, start, "whitened", stage=stage, **settings)
    model.run_epoch({name: RandomBatches(rows, None, 0) for name, rows in batch.items()}, steps)
    return model


def test_restarts_do_not_influence_each_other(activations, start):
    stage = Stage("a", {"s": 1.0, "ma": 1.0, "ic": 5.0, "fso": 1.0}, signals="joint")
    both = trained(activations, start, stage).detectors()
    alone = trained(activations, start.keep(np.array([1])), stage).detectors()
    np.testing.assert_allclose(alone.filters[0], both.filters[1], rtol=1e-3, atol=1e-3)


def test_filters_stay_orthonormal_in_learning(activations, start):
    stage = Stage("a", {"s": 1.0, "ma": 1.0}, orthonormal=True)
    rows = trained(activations, start, stage).unit_directions().numpy()
    np.testing.assert_allclose(rows @ np.swapaxes(rows, 1, 2), np.stack(R * [np.eye(I)]), atol=1e-5)


def test_sharpness_rises_geometrically_to_its_last_value(activations, start):
    stage = Stage("a", {"s": 1.0}, sharpness=(4.0, 64.0))
    model, _ = objective(activations, start, "whitened", stage=stage, steps=100)
    sharpness = {}
    for step in (0, 35, 70, 100):
        model.step.assign(float(step))
        sharpness[step] = float(1.0 / model.margins()[0, 0])
    assert sharpness == pytest.approx({0: 4.0, 35: 16.0, 70: 64.0, 100: 64.0}, rel=1e-4)


def test_the_objective_has_the_penalty_of_constraints_with_updated_multipliers(activations, start):
    stage = Stage("a", {"s": 2.0}, {"ma": 0.1, "ic": 2.0})
    model = trained(activations, start, stage)
    reported = model.reported()
    excess = reported["ma"] - 0.1
    assert (excess > 0).all()
    np.testing.assert_allclose(model.violations()["ma"], excess)
    np.testing.assert_array_equal(model.violations()["ic"], 0.0)
    model.update_multipliers()
    values = {"s": tf.constant([1.0, 1.0]), "ma": tf.constant([0.5, 0.1]), "ic": tf.zeros(R)}
    # μ = 1; λ = μ·g = excess for "ma", and 0 for "ic", whose bound holds: its penalty is 0.
    slow = 2.0 + excess * np.array([0.4, 0.0]) + np.array([0.4, 0.0]) ** 2 / 2
    np.testing.assert_allclose(model.objective_of(values), slow, rtol=1e-5)


def test_an_epoch_reports_the_mean_over_its_steps(activations, start):
    stage = Stage("a", {"s": 1.0, "ma": 1.0})
    after = trained(activations, start, stage, steps=2)
    last = 2 * after.reported()["ma"]
    model, batch = objective(activations, start, "whitened", stage=stage)
    last -= model.losses_of(batch)["ma"].numpy()  # leaves the second step
    assert (after.losses_of(batch)["ma"].numpy() < last).all()
    assert (last < model.losses_of(batch)["ma"].numpy()).all()


def test_a_network_loss_is_constant_between_the_steps_that_compute_it(activations, start):
    rest, stage = head(pools=False), Stage("a", {"uur": 1.0}, kappa=(KAPPA, KAPPA))
    model, batch = objective(activations, start, head=rest, stage=stage, network_every=3)
    with tf.GradientTape() as tape:
        first = model.losses_of(batch)["uur"]
        total = tf.reduce_sum(first)
    gradient = tape.gradient(total, model.directions.value)
    model.step.assign(1.0)
    with tf.GradientTape() as tape:
        again = model.losses_of(batch)["uur"]
        total = tf.reduce_sum(again)
    np.testing.assert_allclose(again, first)
    assert tape.gradient(total, model.directions.value) is None or not np.any(
        tape.gradient(total, model.directions.value)
    )
    plain, _ = objective(activations, start, head=rest, stage=stage)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(plain.losses_of(batch)["uur"])
    np.testing.assert_allclose(
        gradient, 3 * tape.gradient(total, plain.directions.value), rtol=1e-3
    )


def test_running_activities_move_by_a_tenth_with_the_gradient_of_the_minibatch(activations, start):
    stage = Stage("a", {"ic": 1.0}, tau=3.0)
    model, batch = objective(activations, start, stage=stage, full_batch=False)
    plain, _ = objective(activations, start, stage=stage)
    other = {"positions": 2.0 * batch["positions"][:20]}
    first, second = (plain.losses_of(b)["ic"].numpy() for b in (batch, other))
    np.testing.assert_allclose(model.losses_of(batch)["ic"], first, rtol=1e-5)
    model.step.assign(1.0)

    def gradient(objective):
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(objective.losses_of(other)["ic"])
        return tape.gradient(total, objective.directions.value)

    np.testing.assert_allclose(gradient(model), gradient(plain), rtol=1e-4, atol=1e-7)
    # No activity is above ν = 1, so the loss is linear in the activities.
    model, _ = objective(activations, start, stage=stage, full_batch=False)
    model.losses_of(batch)
    model.step.assign(1.0)
    value = model.losses_of(other)["ic"]
    np.testing.assert_allclose(value, 0.9 * first + 0.1 * second, rtol=1e-4)


def test_sharpness_stays_below_the_limit_of_each_concept(activations, start):
    limits = np.full(start.biases.shape, 1000.0)
    limits[0, 1] = 10.0
    stage = Stage("a", {"s": 1.0}, sharpness=(4.0, 64.0))
    limited = dataclasses.replace(start, sharpest=limits)
    model, _ = objective(activations, limited, stage=stage, steps=100)
    for step, others in ((0, 4.0), (100, 64.0)):
        model.step.assign(float(step))
        sharpness = 1.0 / model.margins().numpy()
        assert sharpness[0, 1] == pytest.approx(min(others, 10.0))
        assert np.delete(sharpness.ravel(), 1) == pytest.approx(others)
