"""What a fit says of itself where its result is not what it looks like."""

import warnings
from dataclasses import replace

import numpy as np

from xplique_dirpairs.datasets.signal_maps import signal_maps
from xplique_dirpairs.datasets.synthetic import random_directions
from xplique_dirpairs.learning.history import LearningWarning
from xplique_dirpairs.learning.presets import get_recipe
from xplique_dirpairs.learning.trainer import learn_pairs


def signals(images=1000, concepts=4, seed=0, **settings):
    """Two positions per image, one concept on each; 32 channels, two distractors."""
    return signal_maps(images, *random_directions(seed, concepts, 2, 32), seed=seed + 1, **settings)


def learn(features, concepts, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LearningWarning)
        return learn_pairs(features, concepts, random_state=0, verbose=0, **settings)


def doubts(features, concepts):
    """Of a fit that hardly learns."""
    recipe = get_recipe("default")
    soft = replace(recipe.otherwise, stages=brief(recipe.otherwise.stages))
    recipe = replace(recipe, stages=brief(recipe.stages), otherwise=soft)
    return "; ".join(learn(features, concepts, recipe=recipe)[1].doubts)


def brief(stages):
    return tuple(replace(s, epochs=1, steps_per_epoch=2, meant_for_axes=None) for s in stages)


def test_two_bright_images_are_left_out_and_turn_nothing():
    data = signals()
    data.features[[3, 77]] *= 30
    pairs, history = learn(data.features, 4)
    assert np.abs(pairs.signals @ data.signals.T).max(axis=0).min() > 0.98
    assert "images [3, 77] are unlike all others" in history.doubts[0]


def test_many_bright_images_are_kept_and_said():
    features = signals().features
    features[:30] *= 3
    assert "30 images are unlike the others" in doubts(features, 4)
