"""Saving the state of a fit and resuming a fit that was killed."""

import dataclasses
import functools
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from xplique_dirpairs.datasets.synthetic import pooled_dense_head, synthetic_signals
from xplique_dirpairs.learning.checkpoint import PROBES, Checkpoint, Fingerprint
from xplique_dirpairs.learning.coordinates import Moments
from xplique_dirpairs.learning.history import LearningWarning
from xplique_dirpairs.learning.learner import learn_pairs
from xplique_dirpairs.learning.objective import Objective
from xplique_dirpairs.learning.presets import get_recipe
from xplique_dirpairs.learning.recipe import Stage
from xplique_dirpairs.learning.state import Detectors, FitState, Pace, Running
from xplique_dirpairs.models.head import Head

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def problem(name):
    """Return features, a head and a short version of a recipe with two restarts."""
    data = synthetic_signals(60, seed=0)
    recipe = get_recipe(name)
    changes = {"epochs": 3, "steps_per_epoch": 2, "meant_for_axes": None}
    stages = [dataclasses.replace(stage, **changes) for stage in recipe.stages]
    recipe = dataclasses.replace(recipe, stages=tuple(stages), batch=50, restarts=2, otherwise=None)
    return data.features, Head(pooled_dense_head(data.features, data.labels)), recipe


def head_with_other_weights():
    """Return the head of `problem` with weights that are 1 % larger."""
    head = problem("default")[1]
    weights = head.model.get_weights()
    head.model.set_weights([1.01 * w for w in weights])
    return head


def head_with_maximum_pooling():
    """Return a head with the same weights but maximum pooling."""
    head = problem("default")[1]
    inputs = keras.Input(head.model.input_shape[1:])
    maximum = {3: keras.layers.GlobalMaxPooling1D, 4: keras.layers.GlobalMaxPooling2D}
    logits = keras.layers.Dense(head.model.output_shape[-1])
    model = keras.Model(inputs, logits(maximum[len(head.model.input_shape)]()(inputs)))
    model.set_weights(head.model.get_weights())
    return Head(model)


def learn(name, resume=None):
    features, head, recipe = problem(name)
    return learn_pairs(
        features, 3, head=head, recipe=recipe, random_state=0, verbose=0, resume=resume
    )


@functools.cache
def uninterrupted_fit(name):
    """Return the result of a fit that is not interrupted and saves no state."""
    return learn(name)


class Killed(BaseException):
    """Stands for a signal that kills the process, so that this process can continue."""


def kill_own_process(self):
    os.kill(os.getpid(), signal.SIGKILL)


def raise_killed(self):
    raise Killed


def kill_in_epoch(patch, at, end=raise_killed):
    """Call ``end`` in the at-th epoch of the fit, counted over all stages."""
    epochs, proceed = [], Objective.update_multipliers

    def update_multipliers(self):
        epochs.append(self)
        (end if len(epochs) == at else proceed)(self)

    patch.setattr(Objective, "update_multipliers", update_multipliers)


#: Script that kills its process in the given epoch, counted over all stages.
KILLED = """
import sys
sys.path.insert(0, {tests!r})
import pytest
from test_checkpoint import kill_in_epoch, kill_own_process, learn

kill_in_epoch(pytest.MonkeyPatch(), {at}, kill_own_process)
learn({name!r}, {folder!r})
"""

ANY_STAGE = [("default", 1), ("default", 2), ("default", 5), ("paper-deep", 6)]
ANY_STAGE.append(("paper-synthetic", 5))


@pytest.mark.slow
def test_a_fit_is_resumed_after_its_process_was_killed(tmp_path, request):
    name, at = "default", 2
    tests = str(request.path.parent)
    script = KILLED.format(tests=tests, at=at, name=name, folder=str(tmp_path))
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
    assert_resumed_fit_equals_uninterrupted_fit(name, at, tmp_path)


@pytest.mark.parametrize(
    "name, at",
    [
        pytest.param(*where, marks=pytest.mark.slow if where != ("default", 2) else ())
        for where in ANY_STAGE
    ],
)
def test_a_resumed_fit_gives_the_result_of_an_uninterrupted_fit(name, at, tmp_path, monkeypatch):
    with monkeypatch.context() as patched, pytest.raises(Killed):
        kill_in_epoch(patched, at)
        learn(name, tmp_path)
    assert_resumed_fit_equals_uninterrupted_fit(name, at, tmp_path)


def assert_resumed_fit_equals_uninterrupted_fit(name, at, folder):
    whole, history = uninterrupted_fit(name)
    resumed, resumed_history = learn(name, folder)
    for part in ("filters", "biases", "signals", "absent_levels"):
        np.testing.assert_allclose(
            getattr(resumed, part), getattr(whole, part), rtol=1e-5, atol=1e-6
        )
    assert resumed_history.stages.keys() == history.stages.keys()
    for stage, losses in history.stages.items():
        for loss, values in losses.items():
            np.testing.assert_allclose(resumed_history.stages[stage][loss], values, atol=1e-4)
    is_resumed = any("resumed in stage" in note for note in resumed_history.notes)
    assert is_resumed == (at > 1), "nothing is saved before the end of the first epoch"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Folder of a completed fit."""
    folder = tmp_path_factory.mktemp("finished")
    learn("default", folder)
    return folder


def fail_if_called(*_, **__):
    raise AssertionError("learned again")


def test_a_finished_fit_is_not_learned_again(finished, monkeypatch):
    whole, _ = uninterrupted_fit("default")
    monkeypatch.setattr(Objective, "run_epoch", fail_if_called)
    again, _ = learn("default", finished)
    np.testing.assert_array_equal(whole.filters, again.filters)
    assert [path.name for path in finished.iterdir()] == ["state.npz"]


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"number_of_concepts": 2}, "number_of_concepts"),
        ({"random_state": 1}, "random_state"),
        ({"recipe": "soft"}, "recipe"),
        ({"head": None}, "head"),
        ({"head": head_with_other_weights()}, "weights of the head"),
        ({"head": head_with_maximum_pooling()}, "outputs of the head"),
        ({"activations": problem("default")[0] + 1.0}, "activations"),
        ({"activations": problem("default")[0][::-1]}, "order of the positions"),
    ],
)
def test_the_state_of_another_fit_is_refused(changes, named, finished):
    features, head, recipe = problem("default")
    settings = {"activations": features, "number_of_concepts": 3, "head": head, "recipe": recipe}
    settings |= {"random_state": 0, "verbose": 0, "resume": finished}
    with pytest.raises(ValueError, match=f"a fit with other {named}[^:]*: give another folder"):
        learn_pairs(**(settings | changes))


def standardised(seed, scale=1.0, positions=400):
    x = np.random.default_rng(seed).normal(size=(positions, 4, 5))
    return (scale * (x - x.mean(axis=(0, 1))) / x.std(axis=(0, 1))).astype(np.float32)


def fingerprint(x, head=None):
    return Fingerprint.of(Moments.of(x.reshape(-1, x.shape[-1])), x[:PROBES], head)


def swapped(x):
    return x[[1, 0, *range(2, len(x))]]


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e6])
def test_features_are_distinguished_at_any_scale_but_rounding_is_ignored(scale):
    x = standardised(0, scale)
    ours = fingerprint(x)
    noise = 1 + 1e-4 * np.random.default_rng(1).normal(size=x.shape)
    for same in (x, x * noise.astype(np.float32)):
        assert fingerprint(same).differences(ours) == []
    for other in (standardised(1, scale), swapped(x)):
        assert "order of the positions" in fingerprint(other).differences(ours)[0]
    stretched = x * np.array([1, 1, 1, 1, 1.1], np.float32)
    for other in (1.1 * x, x + 0.1 * scale, stretched, x[..., :4], x[1:]):
        assert fingerprint(other).differences(ours) == ["activations"]


def test_rounding_of_values_far_from_zero_is_ignored():
    x = standardised(0) + 1e4
    x[..., 0] = 50.0  # a channel that is constant up to rounding
    again = x.copy()
    again[::2, ..., 0] += 1e-5
    assert fingerprint(again).differences(fingerprint(x)) == []


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_callable_head_is_identified_by_its_outputs_up_to_rounding(scale):
    x = standardised(0, scale)
    ours = fingerprint(x, Head(lambda maps: maps[:, 0]))
    noise = 1 + 1e-4 * np.random.default_rng(1).normal(size=x.shape)
    again = (x * noise).astype(np.float32)
    assert fingerprint(again, Head(lambda maps: maps[:, 0])).differences(ours) == []
    for other in (lambda maps: maps[:, 1], lambda maps: 1.1 * maps[:, 0], lambda m: m[:, 0, :3]):
        assert fingerprint(x, Head(other)).differences(ours) == ["outputs of the head"]


def test_a_keras_head_is_identified_by_its_weights_and_a_callable_has_none():
    features, head, _ = problem("default")
    ours = fingerprint(features, head)
    assert fingerprint(features, head_with_other_weights()).differences(ours) == [
        "weights of the head"
    ]
    assert fingerprint(features, Head(lambda x: x[:, 0, 0])).head == 0
    assert fingerprint(features, head).differences(ours) == []


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"\x80\x04N."])
def test_a_damaged_or_foreign_state_file_is_refused(content, tmp_path):
    (tmp_path / "state.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"state.npz is not the state of a fit, or is damaged"):
        learn("default", tmp_path)


def test_a_state_of_another_version_is_refused_with_advice(tmp_path):
    # of the layout of an older version, only the version number can be relied on
    np.savez(tmp_path / "state.npz", info=np.array('{"version": 2}'))
    with pytest.raises(
        ValueError, match=r"another version .*layout 2.*: finish .* or delete the file"
    ):
        learn("default", tmp_path)


def test_a_file_given_as_resume_folder_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("text")
    monkeypatch.setattr(Moments, "of", None)  # nothing is computed
    with pytest.raises(
        ValueError, match=r"is not a folder that a fit can be saved in .*: give one that can"
    ):
        learn("default", tmp_path / "file")


def test_a_folder_without_write_permission_is_refused_before_learning(tmp_path, monkeypatch):
    def denied(path, _):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "write_bytes", denied)  # patched, because root can write everywhere
    monkeypatch.setattr(Moments, "of", None)
    with pytest.raises(
        ValueError, match=r"is not a folder that a fit can be saved in .*Permission denied"
    ):
        learn("default", tmp_path)


@pytest.mark.parametrize(
    "resume, error, message",
    [
        (5, TypeError, "resume must be a folder or None, not int"),
        (b"state", TypeError, "resume must be a folder or None, not bytes"),
        ("", ValueError, "resume is empty: give a folder"),
    ],
)
def test_an_invalid_resume_argument_is_refused(resume, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        learn("default", resume)
    assert not list(tmp_path.iterdir())


class Unchecked(Stage):
    """A stage that a recipe would refuse."""

    def __post_init__(self):
        pass


@pytest.mark.parametrize("first, then", [(0, 1), (1, 0)])
def test_a_fit_can_be_resumed_with_another_verbosity(first, then, tmp_path, monkeypatch, capsys):
    features, head, recipe = problem(
        "paper-deep"
    )  # its plateau schedules have a state that must be saved
    recipe = dataclasses.replace(recipe, stages=recipe.stages[:1])

    def fit(verbose, **settings):
        settings |= {"head": head, "recipe": recipe, "random_state": 0, "verbose": verbose}
        return learn_pairs(features, 3, **settings)[0]

    with monkeypatch.context() as patched, pytest.raises(Killed):
        kill_in_epoch(patched, at=3)
        fit(first, resume=tmp_path)
    whole, resumed = fit(0), fit(then, resume=tmp_path)
    np.testing.assert_allclose(resumed.filters, whole.filters, rtol=1e-5, atol=1e-6)
    assert "stage a" in capsys.readouterr().out or not then


@pytest.mark.parametrize("at", [2, 3])
def test_a_stage_that_met_nan_is_reported_after_resuming(at, tmp_path, monkeypatch):
    """The first stage meets NaN in its first epoch; the fit is killed in the second stage."""
    features, _, recipe = problem("default")
    hopeless = Unchecked(**vars(recipe.stages[0]) | {"learning_rate": float("inf")})
    recipe = dataclasses.replace(recipe, stages=(hopeless, *recipe.stages[1:]))

    def fit():
        settings = {"recipe": recipe, "random_state": 0, "verbose": 0, "resume": tmp_path}
        return learn_pairs(features, 3, **settings)[1]

    with monkeypatch.context() as patched, pytest.raises(Killed):
        kill_in_epoch(patched, at)
        fit()
    assert fit().cut_short == ["stage a met NaN in epoch 1: the state before it is kept"]


def test_a_fit_resumes_with_the_alternative_recipe_of_the_same_name(tmp_path, monkeypatch, rng):
    smooth = (rng.normal(size=(200, 2, 12)) * 0.8 ** np.arange(12)).astype(np.float32)
    _, _, recipe = problem("default")
    other = dataclasses.replace(recipe, stages=recipe.stages[1:], start="random")
    recipe = dataclasses.replace(recipe, otherwise=other)

    def fit():
        settings = {"recipe": recipe, "random_state": 0, "verbose": 0, "resume": tmp_path}
        return learn_pairs(smooth, 3, **settings)[1]

    with monkeypatch.context() as patched, pytest.raises(Killed):
        kill_in_epoch(patched, at=2)
        fit()
    history = fit()
    assert list(history.stages) == ["d"]
    assert "resumed in stage d" in history.notes, "the first stage of the original recipe is a"


def after_epoch(epoch):
    """Return a state after the given epoch."""
    running = Running(epoch, 0, 1.0, Pace(1e-3), False, None, {"violation": np.arange(epoch)})
    start = Detectors(np.ones((1, 2, 3)), np.zeros((1, 2)))
    generator = np.random.default_rng(0).bit_generator.state
    return FitState(get_recipe("soft"), generator, detectors=start, running=running)


def test_a_kill_while_writing_leaves_the_previous_state(tmp_path, monkeypatch):
    checkpoint = Checkpoint(tmp_path, {"a": "1"}, fingerprint(standardised(0)))
    checkpoint.save(after_epoch(1))

    def cut_off(file, **arrays):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", cut_off)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(after_epoch(2))
    saved = checkpoint.load(get_recipe("soft")).running
    assert saved.epoch == 1 and list(saved.variables["violation"]) == [0]
    assert [path.name for path in tmp_path.iterdir()] == ["state.npz"]


def test_creating_the_folder_does_not_disturb_another_fit_that_saves(tmp_path, monkeypatch):
    checkpoint = Checkpoint(tmp_path, {"a": "1"}, fingerprint(standardised(0)))
    keep = os.fsync

    def another_begins(descriptor):
        keep(descriptor)
        Checkpoint.folder_for(tmp_path)

    monkeypatch.setattr(os, "fsync", another_begins)
    checkpoint.save(after_epoch(1))
    assert checkpoint.load(get_recipe("soft")).running.epoch == 1 and checkpoint.failure is None


def test_a_full_disk_does_not_end_a_fit(tmp_path, monkeypatch):
    """The previous state remains, and saving works again once there is space."""
    keep, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) in (2, 3):
            raise OSError(28, "No space left on device")
        keep(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(
        LearningWarning, match="No space left .* saving is tried again after every epoch"
    ) as warned:
        pairs, history = learn("default", tmp_path)
    assert sum("saving is tried again after every epoch" in str(one.message) for one in warned) == 1
    assert any("could not be saved in" in note for note in history.notes)
    assert [path.name for path in tmp_path.iterdir()] == ["state.npz"]
    np.testing.assert_array_equal(learn("default", tmp_path)[0].filters, pairs.filters)


def test_a_deleted_folder_does_not_end_a_fit(tmp_path, monkeypatch):
    folder, proceed = tmp_path / "state", Objective.update_multipliers

    def update_multipliers(self):
        shutil.rmtree(folder, ignore_errors=True)
        proceed(self)

    monkeypatch.setattr(Objective, "update_multipliers", update_multipliers)
    with pytest.warns(
        LearningWarning, match="No such file .* saving is tried again after every epoch"
    ):
        assert learn("default", folder)[0].number_of_concepts == 3
