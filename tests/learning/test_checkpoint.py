"""A fit that was killed goes on where it was."""

import dataclasses
import signal
import subprocess
import sys

import numpy as np
import pytest

from xplique_dirpairs.datasets.synthetic import pooled_dense_head, synthetic_signals
from xplique_dirpairs.learning.checkpoint import Checkpoint
from xplique_dirpairs.learning.recipe import get_recipe
from xplique_dirpairs.learning.trainer import learn_pairs
from xplique_dirpairs.network import Head

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def problem(name):
    """Data, head and recipe: every kind of stage, coordinates, schedule and signal vector."""
    data = synthetic_signals(60, seed=0)
    recipe = get_recipe(name)
    changes = {"epochs": 3, "steps_per_epoch": 2, "meant_for_axes": None}
    stages = [dataclasses.replace(stage, **changes) for stage in recipe.stages]
    recipe = dataclasses.replace(recipe, stages=tuple(stages), batch=50, restarts=2, otherwise=None)
    return data.features, Head(pooled_dense_head(data.features, data.labels)), recipe


def learn(name, resume=None):
    features, head, recipe = problem(name)
    return learn_pairs(
        features, 3, head=head, recipe=recipe, random_state=0, verbose=0, resume=resume
    )


#: Kills itself in the epoch whose number, over all stages, is given.
KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from test_checkpoint import learn
from xplique_dirpairs.learning.callbacks import EpochRecord

proceed, epochs = EpochRecord.on_epoch_end, []

def on_epoch_end(self, epoch, logs=None):
    epochs.append(epoch)
    if len(epochs) == {at}:
        os.kill(os.getpid(), signal.SIGKILL)
    proceed(self, epoch, logs)

EpochRecord.on_epoch_end = on_epoch_end
learn({name!r}, {folder!r})
"""


@pytest.mark.parametrize(
    "name, at",
    [("default", 1), ("default", 2), ("default", 5), ("paper-deep", 6), ("paper-synthetic", 5)],
)
def test_a_fit_killed_in_any_stage_ends_as_if_it_had_not_been(name, at, tmp_path, request):
    tests = str(request.path.parent)
    script = KILLED.format(tests=tests, at=at, name=name, folder=str(tmp_path))
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
    whole, history = learn(name)
    resumed, resumed_history = learn(name, tmp_path)
    for part in ("filters", "biases", "signals", "absent_levels"):
        np.testing.assert_allclose(
            getattr(resumed, part), getattr(whole, part), rtol=1e-5, atol=1e-6
        )
    assert resumed_history.stages.keys() == history.stages.keys()
    for stage, losses in history.stages.items():
        for loss, values in losses.items():
            np.testing.assert_allclose(resumed_history.stages[stage][loss], values, atol=1e-4)
    went_on = any("went on with stage" in note for note in resumed_history.notes)
    assert went_on == (at > 1), "nothing is there before the first epoch's end"


def test_a_finished_fit_is_not_learned_again(tmp_path):
    first, _ = learn("default", tmp_path)
    again, _ = learn("default", tmp_path)
    np.testing.assert_array_equal(first.filters, again.filters)
    np.testing.assert_array_equal(learn("default")[0].filters, first.filters)
    assert [path.name for path in tmp_path.iterdir()] == ["state.npz"]


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"number_of_concepts": 2}, "number_of_concepts"),
        ({"random_state": 1}, "random_state"),
        ({"recipe": "soft"}, "recipe"),
        ({"head": None}, "head"),
        ({"activations": problem("default")[0] + 1.0}, "activations"),
    ],
)
def test_the_state_of_another_fit_is_refused(changes, named, tmp_path):
    features, head, recipe = problem("default")
    settings = {"activations": features, "number_of_concepts": 3, "head": head, "recipe": recipe}
    settings |= {"random_state": 0, "verbose": 0, "resume": tmp_path}
    learn_pairs(**settings)
    with pytest.raises(ValueError, match=f"a fit with other {named}: give another folder"):
        learn_pairs(**(settings | changes))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"\x80\x04N."])
def test_a_damaged_or_foreign_state_is_refused(content, tmp_path):
    (tmp_path / "state.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"state.npz is not the state of a fit, or is damaged"):
        learn("default", tmp_path)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("text")
    with pytest.raises(ValueError, match="is no folder"):
        learn("default", tmp_path / "file")


def test_a_kill_while_writing_leaves_the_state_before(tmp_path, monkeypatch):
    checkpoint = Checkpoint(tmp_path, {"a": "1"}, np.zeros(2))
    checkpoint.save({"epoch": 1}, {"x": np.arange(3)})

    def cut_off(file, **arrays):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", cut_off)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save({"epoch": 2}, {"x": np.arange(4)})
    saved = checkpoint.load()
    assert saved.data == {"epoch": 1} and list(saved.arrays["x"]) == [0, 1, 2]
