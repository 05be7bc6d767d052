"""Helpers of the tests of fits: quick recipes, small data, and fits with them."""

import dataclasses
import warnings

import numpy as np

from xplique_dirpairs.datasets.synthetic import random_directions, signal_maps
from xplique_dirpairs.learning.history import LearningWarning
from xplique_dirpairs.learning.learner import learn_pairs
from xplique_dirpairs.learning.presets import get_recipe


def quick(recipe="default", epochs=2, steps=2, **changes):
    """Return a recipe with very short stages, for tests that do not depend on what is learned."""
    recipe = get_recipe(recipe)
    changes = {"epochs": epochs, "steps_per_epoch": steps, **changes}
    changes["meant_for_axes"] = None
    stages = tuple(dataclasses.replace(stage, **changes) for stage in recipe.stages)
    return dataclasses.replace(recipe, stages=stages, restarts=2, otherwise=None)


def quicker(**changes):
    """Return `quick` with its last stage only, because compiling a stage takes most of the time."""
    recipe = quick(**changes)
    return dataclasses.replace(recipe, stages=recipe.stages[1:])


def learn(activations, concepts=3, recipe=None, **settings):
    """Return the pairs and the history of a fit, quick and silent by default."""
    settings = {"random_state": 0, "verbose": 0, **settings}
    return learn_pairs(activations, concepts, recipe=recipe or quicker(), **settings)


def complete(pairs, history, concepts):
    """Assert that pairs are finite and that the history has a summary; return True."""
    assert pairs.number_of_concepts == concepts
    for field in dataclasses.fields(pairs):
        value = getattr(pairs, field.name)
        assert value is None or np.isfinite(value).all()
    assert history.summary()
    for stage in history.stages.values():
        assert history.cut_short or all(np.isfinite(values).all() for values in stage.values())
    return True


def brief_default():
    """Return the default recipe with a sixth of its steps, enough if initial concepts are clear."""

    def brief(recipe):
        changes = {"epochs": 4, "steps_per_epoch": 20, "meant_for_axes": None}
        stages = tuple(dataclasses.replace(stage, **changes) for stage in recipe.stages)
        return dataclasses.replace(recipe, stages=stages, restarts=1)

    recipe = get_recipe("default")
    return dataclasses.replace(brief(recipe), otherwise=brief(recipe.otherwise))


def with_problems(activations, concepts, recipe="default"):
    """Return the pairs and the history of a fit whose warnings are ignored."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LearningWarning)
        return learn(activations, concepts, recipe=recipe)


def vectors(count, channels=6):
    """Return sparse random vectors, ndarray of shape (count, channels)."""
    return np.random.default_rng(0).gamma(0.3, size=(count, channels))


def signals(concepts, positions, **options):
    """Return synthetic feature maps of concepts and two distractors, with 40 channels."""
    directions = random_directions(0, concepts, 2, 40)
    return signal_maps(positions // 2, *directions, seed=0, **options).features
