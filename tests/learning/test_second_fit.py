"""A second fit of one shape: it shares what the first one compiled, and takes few detours."""

import sys
from pathlib import Path

import keras
import numpy as np
from fits import learn, quick

import xplique_dirpairs
from xplique_dirpairs.core import validation
from xplique_dirpairs.learning.objective import Objective
from xplique_dirpairs.models.head import Head

#: Files of the package that a second `learn_pairs` of a process may enter.
FILES = 15


def problem():
    rng = np.random.default_rng(0)
    inputs = keras.Input((2, 2, 8))
    pooled = keras.layers.GlobalAveragePooling2D()(inputs)
    head = Head(keras.Model(inputs, keras.layers.Dense(3)(pooled)))
    return rng.gamma(0.3, size=(80, 2, 2, 8)).astype(np.float32), head


def test_a_second_fit_of_one_shape_is_not_traced_again_and_learns_the_same(monkeypatch):
    activations, head = problem()
    first, _ = learn(activations, head=head, recipe=quick())

    def traced(*_):
        raise AssertionError("traced again")

    monkeypatch.setattr(Objective, "losses_of", traced)
    other, _ = learn(activations, head=head, recipe=quick(), random_state=1)
    again, _ = learn(activations, head=head, recipe=quick())
    np.testing.assert_array_equal(again.filters, first.filters)
    assert np.abs(other.filters - first.filters).max() > 0.0


def test_a_second_fit_enters_few_files_and_checks_its_activations_once(monkeypatch):
    activations, head = problem()
    learn(activations, head=head, recipe=quick())
    root, files, checked = str(Path(xplique_dirpairs.__file__).parent), set(), []
    check = validation.check_finite
    monkeypatch.setattr(
        validation, "check_finite", lambda name, *rest: checked.append(name) or check(name, *rest)
    )

    def note(frame, event, _):
        if event == "call" and frame.f_code.co_filename.startswith(root):
            files.add(Path(frame.f_code.co_filename).relative_to(root).as_posix())

    sys.setprofile(note)
    try:
        learn(activations, head=head, recipe=quick())
    finally:
        sys.setprofile(None)
    assert len(files) <= FILES, sorted(files)
    assert checked == ["activations"]
