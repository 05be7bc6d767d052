"""Ctrl-C keeps what was learned so far."""

import dataclasses

import numpy as np
import pytest
from fits import complete, learn, quick

from xplique_dirpairs.datasets.synthetic import (
    pooled_dense_head,
    synthetic_signals,
)
from xplique_dirpairs.learning import completion, initialisation, learner, stage
from xplique_dirpairs.learning.coordinates import Moments
from xplique_dirpairs.learning.features import Features
from xplique_dirpairs.learning.initialisation import begin_fit
from xplique_dirpairs.learning.objective import Objective
from xplique_dirpairs.learning.stage import stage_run
from xplique_dirpairs.learning.state import FitState, Problem
from xplique_dirpairs.models.head import Head


@pytest.fixture(scope="module")
def data():
    return synthetic_signals(60, seed=0)


@pytest.fixture(scope="module")
def head(data):
    return Head(pooled_dense_head(data.features, data.labels))


@pytest.fixture(scope="module")
def learned_quickly(data):
    """Pairs and history of a quick fit without a head."""
    return learn(data.features)


def interrupt(monkeypatch, at):
    """Raise KeyboardInterrupt in the at-th epoch of the fit, counted over all stages."""
    epochs, proceed = [], Objective.update_multipliers

    def update_multipliers(self):
        epochs.append(self)
        if len(epochs) == at:
            raise KeyboardInterrupt
        proceed(self)

    monkeypatch.setattr(Objective, "update_multipliers", update_multipliers)


@pytest.mark.parametrize(
    "at, stage",
    [(1, "a"), (2, "a"), (3, "d")],
)
def test_ctrl_c_keeps_what_was_learned_so_far(at, stage, data, monkeypatch):
    interrupt(monkeypatch, at)
    pairs, history = learn(data.features, recipe=quick())
    assert complete(pairs, history, 3)
    assert f"stage {stage} was interrupted" in history.cut_short[0]
    assert ("d" in history.stages) <= (stage == "d")


def interrupt_once(monkeypatch, owner, name, at=1):
    """Raise KeyboardInterrupt in the at-th call of a function."""
    calls, proceed = [], getattr(owner, name)

    def called(*arguments, **named):
        calls.append(name)
        if len(calls) == at:
            raise KeyboardInterrupt
        return proceed(*arguments, **named)

    monkeypatch.setattr(owner, name, called)


def stage_a():
    """Return the quick recipe with its first stage only, and a random start."""
    recipe = dataclasses.replace(quick(), start="random")
    return dataclasses.replace(recipe, stages=recipe.stages[:1])


@pytest.fixture(scope="module")
def first_stage(data):
    """Pairs that are learned by stage a alone."""
    return learn(data.features, recipe=stage_a())[0]


@pytest.mark.parametrize(
    "owner, name, at",
    [
        (initialisation, "make_start", 3),  # the first two calls are for the two restarts
        (learner, "stage_run", 2),
        (Objective, "run_epoch", 3),  # after two epochs of the first stage
    ],
)
def test_ctrl_c_between_recipes_keeps_the_result_of_the_first_recipe(
    owner, name, at, data, first_stage, monkeypatch
):
    interrupt_once(monkeypatch, owner, name, at)
    other = dataclasses.replace(quick("soft"), start="random")  # its own start would be slow
    # no entropy is below this limit: every fit changes to the alternative recipe
    changes = {"otherwise": other, "start": "random", "clear_below": -1.0}
    recipe = dataclasses.replace(quick(), **changes)
    pairs, history = learn(data.features, recipe=recipe)
    assert complete(pairs, history, 3) and history.interrupted
    assert history.recipe == "default" and list(history.stages) == ["a"]
    assert "recipe default was interrupted after stage a" in history.cut_short[0]
    np.testing.assert_array_equal(pairs.filters, first_stage.filters)


@pytest.mark.parametrize(
    "owner, name, at", [(FitState, "survivors", 1), (stage, "positions_for", 2)]
)
def test_ctrl_c_between_stages_keeps_the_previous_stage(
    owner, name, at, data, first_stage, monkeypatch
):
    interrupt_once(monkeypatch, owner, name, at)
    pairs, history = learn(data.features, recipe=dataclasses.replace(quick(), start="random"))
    assert complete(pairs, history, 3) and list(history.stages) == ["a"]
    np.testing.assert_array_equal(pairs.filters, first_stage.filters)


@pytest.mark.parametrize("owner, name", [(initialisation, "make_start"), (Objective, "run_epoch")])
def test_ctrl_c_is_raised_before_anything_was_learned(owner, name, data, monkeypatch):
    interrupt_once(monkeypatch, owner, name)
    with pytest.raises(KeyboardInterrupt):
        learn(data.features)


def test_one_ctrl_c_while_pairs_are_completed_loses_nothing(data, learned_quickly, monkeypatch):
    with monkeypatch.context() as patched:
        interrupt_once(patched, completion, "measure_pairs")
        pairs, history = learn(data.features)
    assert history.interrupted and any("computed again" in note for note in history.notes)
    np.testing.assert_array_equal(pairs.signals, learned_quickly[0].signals)
    interrupt(monkeypatch, 1)
    interrupt_once(monkeypatch, completion, "measure_pairs")
    with pytest.raises(KeyboardInterrupt):
        learn(data.features)


def run_stage(problem, state):
    """Return the state after the next stage."""
    with stage_run(problem, state) as run:
        for _ in run.epochs():
            pass
        return run.result()


def test_running_a_stage_does_not_change_the_given_state(data):
    features = Features(data.features)
    problem = Problem(features, Moments.of(features), 3)
    first = begin_fit(problem, quick(), np.random.default_rng(0))
    filters = first.detectors.filters.copy()
    second = run_stage(problem, first)
    again = run_stage(problem, first)
    np.testing.assert_array_equal(first.detectors.filters, filters)
    np.testing.assert_array_equal(second.detectors.filters, again.detectors.filters)
    assert (first.number, second.number) == (0, 1) and not second.is_complete
    assert run_stage(problem, second).is_complete
