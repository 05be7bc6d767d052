"""Fits under ``tf.distribute`` strategies, in separate processes, and with mixed precision."""

import functools
import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from one_fit import fit

import xplique_dirpairs
from xplique_dirpairs.data import devices as distribution
from xplique_dirpairs.pairs import DirectionPairs

PACKAGE = Path(xplique_dirpairs.__file__).parent
ONE_FIT = Path(__file__).with_name("one_fit.py")
DOCS = PACKAGE.parent / "docs" / "several_devices.md"
#: Seconds after which a process counts as hanging; two workers on busy cores are slow.
PATIENCE = 900


def start(command, index=None, ports=()):
    """Start a process, as the worker with an index if ports are given."""
    paths = [str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "TF_CPP_MIN_LOG_LEVEL": "2"}
    if ports:
        cluster = {"worker": [f"localhost:{port}" for port in ports]}
        task = {"type": "worker", "index": index}
        variables["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": task})
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def free_ports(count):
    """Return ports that are not in use."""
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


def outputs_of(processes, fails=False):
    """Return the outputs of processes after checking their exit codes; kill those that hang."""
    try:
        outputs, end = [], time.monotonic() + PATIENCE
        for process in processes:
            outputs.append(process.communicate(timeout=max(1.0, end - time.monotonic()))[0])
        for process, output in zip(processes, outputs, strict=True):
            assert (process.returncode != 0) == fails, output[-4000:]
        return outputs
    finally:
        for process in processes:
            process.kill()
            process.wait()


def run(kind, case, folder, fails=False, **settings):
    """Run a fit with one_fit.py and return the output of each process."""
    command = [ONE_FIT, kind, case, folder, json.dumps(settings)]
    if kind != "workers":
        return outputs_of([start(command)], fails)
    ports = free_ports(2)
    return outputs_of([start(command, index, ports) for index in range(2)], fails)


def least_cosine(ours, others):
    """Return the smallest cosine of filters and signal vectors of the same concepts."""
    ours, others = (
        DirectionPairs.load(pairs) if isinstance(pairs, Path) else pairs for pairs in (ours, others)
    )
    least = 1.0
    for a, b in ((ours.filters, others.filters), (ours.signals, others.signals)):
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        least = min(least, ((a * b).sum(axis=1) / norms).min())
    return least


@functools.cache
def alone(case):
    """Return pairs that are learned in this process without a strategy."""
    return fit(case, None)[0]


# ------------------------------------------------------------------ one process against several


def test_a_strategy_of_one_device_does_not_change_the_result():
    """Several replicas need a separate process; this tests everything else."""
    alike, _ = fit("default", tf.distribute.OneDeviceStrategy("CPU:0"))
    assert least_cosine(alone("default"), alike) > 0.9999


@pytest.mark.slow
def test_two_replicas_learn_the_same_as_one_process(tmp_path):
    run("mirrored", "default", tmp_path)
    assert least_cosine(alone("default"), tmp_path / "mirrored_0.npz") > 0.9999


@pytest.mark.slow
@pytest.mark.parametrize("case", ["default", "batches", "paper"])
def test_two_workers_learn_the_same_as_one_process(case, tmp_path):
    run("workers", case, tmp_path)
    first, second = (tmp_path / f"workers_{worker}.npz" for worker in range(2))
    assert least_cosine(alone(case), first) > 0.999
    ours, others = DirectionPairs.load(first), DirectionPairs.load(second)
    for name in ("filters", "biases", "signals", "mean", "absent_levels"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(others, name))


@pytest.mark.slow
@pytest.mark.parametrize("case", ["batches", "paper"])
def test_two_replicas_learn_the_same_as_one_process_in_every_recipe(case, tmp_path):
    run("mirrored", case, tmp_path)
    assert least_cosine(alone(case), tmp_path / "mirrored_0.npz") > 0.999


@pytest.mark.slow
def test_two_workers_learn_the_same_from_shards_as_one_process(tmp_path):
    run("alone", "batches", tmp_path, shards=str(tmp_path / "alone"))
    run("workers", "batches", tmp_path, shards=[str(tmp_path / name) for name in "ab"])
    assert least_cosine(tmp_path / "alone_0.npz", tmp_path / "workers_1.npz") > 0.999


@pytest.mark.slow
def test_two_workers_can_resume_the_fit_of_one_process(tmp_path):
    state, settings = tmp_path / "state", {"resume": str(tmp_path / "state")}
    process = start([ONE_FIT, "alone", "default", tmp_path, json.dumps(settings)])
    end = time.monotonic() + PATIENCE
    while not (state / "state.npz").exists() and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.02)
    process.kill()
    process.communicate()
    written = (state / "state.npz").stat().st_mtime_ns
    # only the chief shows a progress bar
    outputs = run("workers", "default", tmp_path, **settings, verbose=1)
    assert all("resumed in stage" in output for output in outputs)
    assert ["Learning 3 concepts" in output for output in outputs] == [True, False]
    assert (state / "state.npz").stat().st_mtime_ns > written
    assert least_cosine(alone("default"), tmp_path / "workers_1.npz") > 0.999


@pytest.mark.slow
def test_the_script_in_the_documentation_runs_on_two_workers(tmp_path):
    script = tmp_path / "fit.py"
    script.write_text(re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.S)[0])
    ports = free_ports(2)
    outputs_of([start([script, tmp_path], index, ports) for index in range(2)])
    assert least_cosine(tmp_path / "pairs_0.npz", tmp_path / "pairs_1.npz") > 0.999


# ------------------------------------------------------------------ devices and precision


@pytest.mark.slow
def test_unused_devices_do_not_change_the_result(tmp_path):
    run("devices", "default", tmp_path)
    assert least_cosine(alone("default"), tmp_path / "devices_0.npz") > 0.9999


def test_the_package_does_not_name_devices():
    named = re.compile(r"tf\.device|keras\.device|[\"'/](CPU|GPU|TPU)\b|\.(gpu|cuda)\(", re.I)
    for path in PACKAGE.rglob("*.py"):
        assert not named.search(path.read_text()), path


@pytest.mark.parametrize(
    "policy", ["mixed_bfloat16", pytest.param("mixed_float16", marks=pytest.mark.slow)]
)
def test_mixed_precision_finds_the_same_directions(policy):
    single = alone("default")
    keras.config.set_dtype_policy(policy)
    try:
        mixed, _ = fit("default", None)
    finally:
        keras.config.set_dtype_policy("float32")
    assert least_cosine(single, mixed) > 0.999
    assert np.abs(single.filters - mixed.filters).max() > 0, "the head did not use mixed precision"


# ------------------------------------------------------------------ errors


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"random_state": None}, "2 workers need one random_state"),
        ({"random_state": [0, 1]}, "the workers have different random_state"),
        ({"drop": [0, 3]}, "the workers have different activations"),
    ],
)
def test_workers_with_different_settings_are_refused(settings, message, tmp_path):
    for output in run("workers", "default", tmp_path, fails=True, **settings):
        assert message in output


@pytest.mark.slow
def test_fewer_images_than_replicas_are_refused(tmp_path):
    (output,) = run("mirrored", "default", tmp_path, fails=True, drop=359)
    assert "1 images cannot be shared by 2 replicas" in output


def test_an_asynchronous_strategy_is_refused():
    strategy = tf.distribute.experimental.CentralStorageStrategy()
    with strategy.scope(), pytest.raises(ValueError, match="under CentralStorageStrategy"):
        distribution.check_strategy(10, 0)


# ------------------------------------------------------------------ without a strategy


def test_without_a_strategy_values_are_returned_unchanged():
    rows = tf.ones((4, 2))
    assert distribution.average(rows) is rows and distribution.own_part(rows) is rows
    assert distribution.as_on_chief(rows) is rows and distribution.is_chief()
    distribution.check_strategy(1, None)
