"""The benchmarks are run by hand: here, that they still fit the code they measure."""

import importlib.util
import sys
from pathlib import Path

import pytest

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
