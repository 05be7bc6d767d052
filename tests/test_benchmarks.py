"""The benchmarks are run by hand: here, that they still fit the code they measure."""

import dataclasses
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from xplique_dirpairs.learning.presets import DEFAULT, SOFT

SCRIPTS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    """A script by name, as a module."""
    monkeypatch.syspath_prepend(SCRIPTS)

    def loaded(name):
        spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    return loaded


@pytest.mark.parametrize("script", sorted(path.stem for path in SCRIPTS.glob("*.py")))
def test_every_benchmark_finds_what_it_imports(script, load):
    assert load(script).__doc__


@pytest.mark.parametrize("shards", [False, True], ids=["array", "shards"])
def test_performance_times_every_epoch_of_a_fit(shards, load):
    row = load("performance").run(6000, 16, 3, shards, passes=True)

    assert row["epochs"] == 8
    assert 0 < row["s epochs"] <= row["s stages"] <= row["s fit"]


def test_what_is_kept_is_measured_again_for_other_settings_only(load, tmp_path):
    kept, calls = load("kept").kept, []

    def measure():
        calls.append(len(calls))
        return {"values": np.arange(3) + len(calls)}, {"seconds": 0.5}

    path = tmp_path / "deep" / "one.npz"
    first = kept(path, {"seed": 0, "sizes": (2, 3)}, measure)
    again = kept(path, {"seed": 0, "sizes": (2, 3)}, measure)
    np.testing.assert_array_equal(first[0]["values"], again[0]["values"])
    assert again[1] == {"seconds": 0.5}
    assert calls == [0]
    other, _ = kept(path, {"seed": 1, "sizes": (2, 3)}, measure)
    assert calls == [0, 1]
    np.testing.assert_array_equal(other["values"], [2, 3, 4])


def test_without_the_network_no_loss_asks_it(load):
    recipe = load("extractors").without_network(DEFAULT)
    for stage, before in zip(
        (*recipe.stages, *recipe.otherwise.stages),
        (*DEFAULT.stages, *DEFAULT.otherwise.stages),
        strict=True,
    ):
        left = {k: v for k, v in before.weights.items() if k not in ("uur", "cur", "fired")}
        assert len(left) == len(before.weights) - 1
        assert dataclasses.replace(before, weights=left) == stage


@pytest.mark.parametrize("base", [SOFT, DEFAULT], ids=["soft", "default"])
def test_the_ablation_switches_the_losses_that_a_row_names(base, load):
    ablation = load("ablation")
    for row in ablation.ROWS:
        recipe = ablation.switched(base, row)
        for early, late in filter(
            None, [recipe.stages, recipe.otherwise and recipe.otherwise.stages]
        ):
            switchable = {"uur", "sb", "eac", "cur", "fso"}
            assert switchable & set(late.weights) == set(row.on)
            asked = {"uur"} if {"uur", "cur"} & set(row.on) else set()
            assert switchable & set(early.weights) == asked | ({"eac"} & set(row.on))
            assert late.signals == row.signals
    names = [ablation.switched(base, row).name for row in ablation.ROWS]
    assert len(set(names)) == len(names)


def test_the_ablation_s_row_of_ours_is_ours(load):
    ablation = load("ablation")
    ours = ablation.switched(SOFT, ablation.Row(("cur", "eac")))
    assert dataclasses.replace(ours, name="soft") == SOFT
