"""Time of a training step, term by term, compared with its matrix products.

    python benchmarks/step_profile.py
    python benchmarks/step_profile.py --positions 4096 --channels 512 --concepts 64 --repeat 40

Every row is a compiled function of its own (`tf.function`, as Keras compiles the step):

    rate        float32 matrix products of the step's two shapes, of 4·P·A·I flops together, and of
                square ones: the machine's rate
    step        `Objective.train_step` of a stage of a recipe: losses, gradient, Adam
    losses      the same stage's losses alone, without gradient
    gradient    losses and gradient, without Adam
    without …   the step of a stage with that loss left out; its share is what the step saves. Two
                losses that share a pass over the positions save less than they cost together

A product takes 2·P·A·I flops; a step needs two of them, z = Wᵀx and the gradient of W. The share of
the rate is 4·P·A·I flops in the time of the step, over the rate of the best of the products.
Detectors are learned in A axes: as many as channels vary (A = D, the worst case, --axes) or, where
the spectrum shows a floor of noise, the I + F axes that carry signal: what the default recipe does.

Timings of all rows are interleaved, so that a busy machine slows all of them alike; the shortest of
many repetitions is printed, with the median in brackets. Milliseconds. Shares are medians over the
repetitions, each against the rate of the same moment.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable
from dataclasses import replace

import keras
import numpy as np
import tensorflow as tf

from xplique_dirpairs.learning.coordinates import Coordinates
from xplique_dirpairs.learning.objective import Objective
from xplique_dirpairs.learning.presets import DEFAULT, SOFT
from xplique_dirpairs.learning.recipe import Stage
from xplique_dirpairs.learning.signals import damped_inverse, excess_covariance, joint_signals
from xplique_dirpairs.learning.state import Detectors
from xplique_dirpairs.models.head import Head

CLASSES, DISTRACTORS = 1000, 16
#: Feature maps that a step passes through a head that pools first, and through one that does not.
POOLED_MAPS, MAPS, MAP_SHAPE = 32, 4, (7, 7)


class Timings:
    """Rows of named calls, timed in turn."""

    def __init__(self):
        self._calls: dict[str, tuple[Callable, int]] = {}
        self._seconds: dict[str, list[float]] = {}

    def add(self, name: str, call: Callable, calls: int = 5) -> None:
        """Add a function to time, called ``calls`` times in a row."""
        self._calls[name] = call, calls

    def run(self, repeat: int) -> None:
        """Run all of them ``repeat`` times."""
        for call, _ in self._calls.values():
            call()
            call()
        self._seconds = {name: [] for name in self._calls}
        for _ in range(repeat):
            for name, (call, calls) in self._calls.items():
                start = time.perf_counter()
                for _ in range(calls):
                    call()
                self._seconds[name].append((time.perf_counter() - start) / calls)

    def best(self, name: str) -> float:
        """Return the shortest time, in seconds."""
        return min(self._seconds[name])

    def share(self, name: str, fastest: dict[str, float], flops: float) -> float:
        """Return the median share of the rate of the products (name → flops) over the rounds."""
        rates = [flops / np.array(self._seconds[key]) for key, flops in fastest.items()]
        own = flops / np.array(self._seconds[name])
        return float(np.median(own / np.max(rates, axis=0)))

    def show(self, name: str) -> str:
        """Return milliseconds: the shortest, and the median."""
        return f"{1e3 * self.best(name):.2f} ({1e3 * float(np.median(self._seconds[name])):.2f})"


def compiled(function: Callable, *arguments) -> Callable:
    """Compile a function; arguments are inputs, so that nothing is folded into a constant."""
    function = tf.function(function)
    return lambda: function(*arguments)


def objective(stage: Stage, axes: int, concepts: int, head: Head | None, gamma: float) -> Objective:
    """Return the objective of a stage in some axes, with detectors that fire now and then."""
    rng = np.random.default_rng(0)
    filters = rng.standard_normal((1, concepts, axes))
    filters /= np.linalg.norm(filters, axis=-1, keepdims=True)
    identity = Coordinates(np.zeros(axes), np.eye(axes), np.eye(axes))
    model = Objective(
        replace(stage, learning_rate=1e-6),  # the step stays what it is while it is timed
        identity,
        Detectors(20.0 * filters, np.full((1, concepts), 40.0)),
        gamma=gamma,
        head=head,
        steps=480,
        full_batch=False,
        network_every=1,
        seed=0,
    )
    return model


def step(model: Objective, batch: dict) -> Callable:
    """Run the whole step."""
    return compiled(model.train_step, batch)


def losses_alone(model: Objective, batch: dict) -> Callable:
    """Compute the losses without a gradient."""
    return compiled(lambda batch: tf.add_n(list(model.losses_of(batch).values())), batch)


def with_gradient(model: Objective, batch: dict) -> Callable:
    """Compute losses and gradient without the optimizer."""

    def run(batch):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model.objective_of(model.losses_of(batch)))
        return tape.gradient(loss, [v.value for v in model.trainable_variables])

    return compiled(run, batch)


def heads(axes: int) -> dict[str, tuple[Head, tf.Tensor]]:
    """Return two heads of 1000 classes and a batch of features for each."""
    maps = keras.Input((*MAP_SHAPE, axes))
    pooled = keras.layers.GlobalAveragePooling2D()
    pooling = keras.Model(maps, keras.layers.Dense(CLASSES)(pooled(maps)))
    hidden = keras.layers.Conv2D(128, 3, padding="same", activation="relu")(maps)
    convolving = keras.Model(maps, keras.layers.Dense(CLASSES)(pooled(hidden)))
    rng = np.random.default_rng(1)

    def features(*shape):
        return tf.constant(rng.standard_normal(shape), tf.float32)

    return {
        f"pooling and dense, {POOLED_MAPS} vectors": (Head(pooling), features(POOLED_MAPS, axes)),
        f"convolution, {MAPS} maps of {MAP_SHAPE[0]} × {MAP_SHAPE[1]}": (
            Head(convolving),
            features(MAPS, *MAP_SHAPE, axes),
        ),
    }


def without(stage: Stage, *names: str) -> Stage:
    """Return the stage without these losses."""
    weights = {name: value for name, value in stage.weights.items() if name not in names}
    return dataclasses.replace(stage, weights=weights)


def product_rows(timings: Timings, x: tf.Tensor, concepts: int) -> None:
    """Return matrix products: those of a step, and the machine's best."""
    positions, axes = x.shape
    w = tf.random.stateless_normal((concepts, axes), (0, 0))
    g = tf.random.stateless_normal((positions, concepts), (0, 1))
    timings.add("Wᵀx", compiled(lambda x, w: tf.matmul(x, w, transpose_b=True), x, w))
    timings.add("gᵀx", compiled(lambda x, g: tf.matmul(g, x, transpose_a=True), x, g))
    square = tf.random.stateless_normal((1024, 1024), (0, 2))
    timings.add("square", compiled(tf.matmul, square, square), calls=1)


def print_products(timings: Timings, positions: int, axes: int, concepts: int) -> None:
    """Print times and rates of the products."""
    flops = 2.0 * positions * axes * concepts
    rates = {
        "z = Wᵀx": flops / timings.best("Wᵀx"),
        "gradient of W": flops / timings.best("gᵀx"),
        "1024³": 2.0 * 1024**3 / timings.best("square"),
    }
    print(f"\n### Matrix products, P = {positions}, A = {axes}, I = {concepts}\n")
    print("| product | ms | Gflop/s |\n|---|---|---|")
    for (name, rate), key in zip(rates.items(), ("Wᵀx", "gᵀx", "square"), strict=True):
        print(f"| {name} | {timings.show(key)} | {rate / 1e9:.0f} |")


def profile_steps(positions: int, axes: int, concepts: int, repeat: int) -> None:
    """Print the steps of all stages without a head, and one step by term."""
    x = tf.random.stateless_normal((positions, axes), (1, 0))
    batch = {"positions": x}
    timings = Timings()
    product_rows(timings, x, concepts)
    stages = {f"{r.name} {s.name}": (s, r.gamma) for r in (DEFAULT, SOFT) for s in r.stages}
    kept = []
    for name, (stage, gamma) in stages.items():
        for what, make in (("step", step), ("gradient", with_gradient), ("losses", losses_alone)):
            model = objective(stage, axes, concepts, None, gamma)
            kept.append(model)  # a compiled function does not keep its model
            timings.add(f"{what} {name}", make(model, batch))
    stage, gamma = stages["default a"]
    parts = [("s",), ("ma",), ("s", "ma"), ("ic",), ("eac",), ("ic", "eac")]
    for part in parts:
        model = objective(without(stage, *part), axes, concepts, None, gamma)
        kept.append(model)
        timings.add(f"without {part}", step(model, batch))
    timings.run(repeat)

    print_products(timings, positions, axes, concepts)
    floor = (timings.best("Wᵀx") + timings.best("gᵀx")) * 1e3
    flops = 4.0 * positions * axes * concepts
    products = {"Wᵀx": flops / 2, "gᵀx": flops / 2, "square": 2.0 * 1024**3}
    print(f"\n### Steps without a head, P = {positions}, A = {axes}, I = {concepts}\n")
    print(f"Two products of these shapes: {floor:.2f} ms.\n")
    print("| stage | losses | + gradient | step | 4·P·A·I at the step's rate, Gflop/s | share |")
    print("|---|---|---|---|---|---|")
    for name in stages:
        seconds = timings.best(f"step {name}")
        cells = [timings.show(f"{what} {name}") for what in ("losses", "gradient", "step")]
        share = f"{timings.share(f'step {name}', products, flops):.0%}"
        print(f"| {name} | {' | '.join(cells)} | {flops / seconds / 1e9:.0f} | {share} |")
    whole = timings.best("step default a")
    print("\n| stage a without | step | saves |\n|---|---|---|")
    for part in parts:
        name = f"without {part}"
        saved = 1e3 * (whole - timings.best(name))
        print(f"| {', '.join(part)} | {timings.show(name)} | {saved:.2f} |")


def profile_network(positions: int, axes: int, concepts: int, repeat: int) -> None:
    """Print what signal vectors, inverses and the head add to a step."""
    x = tf.random.stateless_normal((positions, axes), (1, 0))
    timings, kept, rows = Timings(), [], []
    for name, (head, features) in heads(axes).items():
        alone = objective(DEFAULT.stages[1], axes, concepts, None, DEFAULT.gamma)
        kept.append(alone)
        timings.add(f"{name}: alone", step(alone, {"positions": x}))
        for stage in DEFAULT.stages:
            model = objective(stage, axes, concepts, head, DEFAULT.gamma)
            kept.append(model)
            row = f"{name}: {stage.name}"
            timings.add(row, step(model, {"positions": x, "maps": features}))
            rows.append((name, stage.name, row))
        timings.add(f"{name}: pass", compiled(_pass_and_gradient(head), features))
    logits = tf.random.stateless_normal((1, positions, concepts), (2, 0)) - 2.0
    w = tf.random.stateless_normal((1, concepts, axes), (2, 1)) / axes**0.5
    gram = tf.matmul(w, w, transpose_b=True)
    solves = {
        "Cholesky of GᵀG + ridge, and gradient": damped_inverse,
        "`tf.linalg.pinv` (SVD), and gradient": lambda gram: tf.linalg.pinv(gram),
        "`tf.linalg.inv` (LU), and gradient": lambda gram: tf.linalg.inv(gram),
    }
    for name, inverse in solves.items():
        timings.add(name, compiled(_gradient_of(inverse), gram))

    def signals(logits, w):
        with_x = excess_covariance(x, logits)
        return joint_signals(with_x, tf.matmul(with_x, w, transpose_b=True))

    timings.add("joint", compiled(_gradient_of(signals), logits, w))
    timings.run(repeat)

    print(f"\n### The network terms, P = {positions}, A = {axes}, I = {concepts}, K = {CLASSES}\n")
    print(
        "Floor: head pass and its gradient, compiled alone. Added: to a step without the head;\n"
        "in stage d with the joint signal vectors.\n"
    )
    print("| head | stage | step | added | floor |\n|---|---|---|---|---|")
    for name, stage_name, row in rows:
        added = 1e3 * (timings.best(row) - timings.best(f"{name}: alone"))
        floor = timings.show(f"{name}: pass")
        print(f"| {name} | {stage_name} | {timings.show(row)} | {added:.2f} | {floor} |")
    print("\n| alone | ms |\n|---|---|")
    print(f"| joint signal vectors of P positions, and gradient | {timings.show('joint')} |")
    for name in solves:
        print(f"| {concepts} × {concepts}: {name} | {timings.show(name)} |")


def _gradient_of(function: Callable) -> Callable:
    """Return the gradient with respect to the first argument."""

    def run(first, *others):
        with tf.GradientTape() as tape:
            tape.watch(first)
            loss = tf.reduce_sum(function(first, *others))
        return tape.gradient(loss, first)

    return run


def _pass_and_gradient(head: Head) -> Callable:
    return _gradient_of(head.entropy)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--positions", type=int, default=4096, help="of a step (P)")
    parser.add_argument("--channels", type=int, default=512, help="D: axes, in the worst case")
    parser.add_argument("--concepts", type=int, default=64)
    parser.add_argument("--axes", type=int, nargs="+", help=f"A; default: D, and I + {DISTRACTORS}")
    parser.add_argument("--repeat", type=int, default=40)
    arguments = parser.parse_args()
    sizes = arguments.positions, arguments.concepts, arguments.repeat
    positions, concepts, repeat = sizes
    usual = [arguments.channels, min(concepts + DISTRACTORS, arguments.channels)]
    for axes in arguments.axes or usual:
        profile_steps(positions, axes, concepts, repeat)
        profile_network(positions, axes, concepts, repeat)


if __name__ == "__main__":
    main()
