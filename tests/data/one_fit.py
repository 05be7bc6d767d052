"""Script that runs one fit, often in a separate process; test_devices.py uses it.

TensorFlow's devices are fixed when it is first used, and a strategy of several workers can be
created only once in a process. ``one_fit.py STRATEGY CASE FOLDER [SETTINGS]`` writes the pairs of
every worker to a file in FOLDER and prints the summary of the history.
"""

import dataclasses
import json
import sys
import warnings
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from xplique_dirpairs.data.shards import ActivationShards
from xplique_dirpairs.datasets.synthetic import pooled_dense_head, synthetic_signals
from xplique_dirpairs.learning.learner import learn_pairs
from xplique_dirpairs.learning.presets import get_recipe
from xplique_dirpairs.models.head import Head

#: Name of the recipe, changes of the recipe and of its stages, and whether the head pools.
CASES = {
    # all positions in every step, joint signals
    "default": ("default", {"start": "random", "restarts": 2}, {"epochs": 4}, True),
    # minibatches, and a head without pooling, which is used in every fifth step
    "batches": (
        "default",
        {"batch": 128, "batch_per_concept": 1, "start": "random", "restarts": 1},
        {"epochs": 6, "sharpness": (1.0, 2.0)},
        False,
    ),
    # constraints, a bound on the worst position, and free signals
    "paper": (
        "paper-synthetic",
        {},
        {"epochs": 6, "steps_per_epoch": 20, "learning_rate": 1e-2},
        True,
    ),
}


def strategy_of(kind):
    """Return a strategy; None for "alone" and for "devices", which has two unused devices."""
    if kind in ("mirrored", "devices"):
        processor = tf.config.list_physical_devices("CPU")[0]
        both = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(processor, both)
    if kind == "mirrored":
        return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    if kind == "workers":
        return tf.distribute.MultiWorkerMirroredStrategy()
    return None


def spread_head(features, labels):
    """Return a head without pooling that computes the same classes as the pooled head."""
    weights, offsets = pooled_dense_head(features, labels).get_weights()
    shape = features.shape[1:]
    places = shape[0] * shape[1]
    inputs = keras.Input(shape)
    logits = keras.layers.Dense(len(offsets))
    head = keras.Model(inputs, logits(keras.layers.Flatten()(inputs)))
    logits.set_weights([np.tile(weights, (places, 1)) / places, offsets])
    return head


def fit(case, strategy, drop=0, shards=None, **settings):
    """Return pairs and history of a case; other settings are passed on to `learn_pairs`."""
    data = synthetic_signals(120, seed=0)
    activations = data.features[drop:]
    if shards is not None:
        activations = ActivationShards.write(shards, [activations], megabytes=0.01)
    name, changes, of_stages, pools = CASES[case]
    recipe = get_recipe(name)
    stages = tuple(dataclasses.replace(stage, **of_stages) for stage in recipe.stages)
    recipe = dataclasses.replace(recipe, stages=stages, otherwise=None, **changes)
    head = Head((pooled_dense_head if pools else spread_head)(data.features, data.labels))
    settings = {"random_state": 0, "verbose": 0, **settings}
    with (strategy or tf.distribute.get_strategy()).scope():
        return learn_pairs(activations, 3, head=head, recipe=recipe, **settings)


def main(kind, case, folder, given="{}"):
    """Run `fit` with settings in JSON, where a list has one value for each worker."""
    warnings.simplefilter("ignore")
    strategy = strategy_of(kind)
    worker = strategy.cluster_resolver.task_id if kind == "workers" else 0
    settings = {
        name: value[worker] if isinstance(value, list) else value
        for name, value in json.loads(given).items()
    }
    pairs, history = fit(case, strategy, **settings)
    pairs.save(Path(folder) / f"{kind}_{worker}.npz")
    print(history.summary())


if __name__ == "__main__":
    main(*sys.argv[1:])
