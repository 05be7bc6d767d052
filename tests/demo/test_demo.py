"""The parts of the demo; tests/commands/test_cli.py runs the complete demo."""

import os
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from xplique_dirpairs.core.tables import Cell, Table
from xplique_dirpairs.demo import run as demo
from xplique_dirpairs.demo.run import (
    CAPTIONS,
    Data,
    Steps,
    Summary,
    ink_auc,
    load_network,
    without_xla_messages,
)
from xplique_dirpairs.learning.history import History

# Keras causes this warning when it saves weights with numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


METHODS = ("direction pairs", "CRAFT")


@pytest.fixture
def summary(rng):
    importances = {METHODS[0]: np.array([0.1, 0.9]), METHODS[1]: np.array([0.6, 0.4])}
    results = {
        name: SimpleNamespace(importances=SimpleNamespace(total=total))
        for name, total in importances.items()
    }
    return Summary(
        accuracy=0.975,
        comparison=FakeComparison(results),
        ink_auc={METHODS[0]: np.array([0.5, 0.8]), METHODS[1]: np.array([0.7, 0.6])},
        history=History(
            recipe="default",
            stages={"a": {"objective": [2.0, 1.0]}},
            violations={"d": {"ic": 0.25}},
            occupancy=np.array([0.1, 0.3]),
            dead=[7],
            duplicates=[],
            condition_number=12.0,
        ),
        seconds={f"{method}: fit": 1.5 for method in METHODS},
        figures=list(CAPTIONS),
    )


class FakeComparison:
    """Replaces `Comparison`: holds importances, and returns a small table."""

    def __init__(self, results):
        self.results = results

    def table(self):
        return Table(["extractor", "deletion"], [[Cell(name), Cell("0.12")] for name in METHODS])

    def __str__(self):
        return str(self.table())


def test_the_summary_contains_accuracy_history_and_pictures(summary):
    page = summary.markdown()
    for text in (page, summary.text()):
        assert "97.5%" in text
        for line in summary.history.summary().splitlines():
            assert f"- {line}" in text
        assert "concepts [7]" in text
        assert "deletion" in text
        assert "- the losses: objective weighted sum plus penalty" in text
    for name in CAPTIONS:
        assert f"![{name}]({name}.png)" in page


def test_the_rows_of_a_markdown_table_have_the_same_number_of_cells(summary):
    lines = summary.markdown().splitlines()
    tables = [line for line in lines if line.startswith("|")]
    assert tables
    for i, line in enumerate(lines):
        if line.startswith("|---") or line.startswith("| ---"):
            assert line.count("|") == lines[i - 1].count("|") == lines[i + 1].count("|")


def test_the_summary_lists_the_most_important_concepts_of_each_method_first(summary):
    rows = [line.strip("| ").split(" | ") for line in summary.markdown().splitlines()]
    rows = [[cell.strip() for cell in row] for row in rows]
    assert ["1", "1", "0.900", "0.80", "0", "0.600", "0.70"] in rows
    assert ["2", "0", "0.100", "0.50", "1", "0.400", "0.60"] in rows


def test_ink_auc_is_one_for_a_map_of_the_ink_and_zero_for_its_negative():
    ink = np.zeros((2, 8, 8), dtype=bool)
    ink[0, :4, :4] = ink[1, 4:, :4] = True
    cells = ink.reshape(2, 2, 4, 2, 4).mean(axis=(2, 4))
    maps = np.stack([cells, -cells, np.zeros_like(cells)], axis=-1)
    np.testing.assert_allclose(ink_auc(maps, ink), [1.0, 0.0, 0.5])


def test_steps_are_announced_and_timed(capsys):
    steps = Steps(verbose=1)
    with steps("think", "hard"):
        pass
    assert "think (hard)" in capsys.readouterr().out
    assert 0 <= steps.seconds["think"] < 1
    with Steps(verbose=0)("think"):
        pass
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("level, seen", [("3", False), ("0", True)])
def test_messages_of_xla_are_suppressed_if_those_of_tensorflow_are(level, seen, monkeypatch, capfd):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", level)
    with without_xla_messages():
        os.write(2, b"Compiled cluster using XLA!")
    os.write(2, b"an error afterwards")
    text = capfd.readouterr().err
    assert ("XLA" in text) is seen and "an error afterwards" in text


@pytest.fixture
def data():
    images = np.zeros((6, 4, 4, 3), np.float32)
    labels = np.zeros(6, int)
    return Data(images, labels, images, labels, np.zeros((6, 4, 4), bool))


@pytest.fixture
def training(monkeypatch):
    """Replaces the training by a model that always predicts class 0; lists the trained models."""
    trained = []

    def train(images, labels, **_):
        inputs = keras.Input(images.shape[1:])
        logits = keras.layers.Dense(2, kernel_initializer="zeros", name="logits")
        model = keras.Model(inputs, logits(keras.layers.Flatten()(inputs)))
        logits.bias.assign([1.0, 0.0])
        trained.append(model)
        return model

    monkeypatch.setattr(demo, "small_cnn", train)
    return trained


def test_the_network_is_trained_once_and_then_loaded(data, training, tmp_path):
    path = tmp_path / "network.keras"
    first, second = (load_network(data, path, 0, 0) for _ in range(2))
    assert len(training) == 1
    np.testing.assert_array_equal(*(m.predict(data.test, verbose=0) for m in (first, second)))


@pytest.mark.parametrize("content", [b"", b"PK no archive", b"PK\x03\x04" + bytes(200)])
def test_a_network_with_a_damaged_file_is_trained_again(content, data, training, tmp_path):
    path = tmp_path / "network.keras"
    path.write_bytes(content)
    load_network(data, path, 0, 0)
    assert len(training) == 1


def test_a_network_with_a_truncated_file_is_trained_again(data, training, tmp_path):
    path = tmp_path / "network.keras"
    load_network(data, path, 0, 0)
    path.write_bytes(path.read_bytes()[:-200])
    load_network(data, path, 0, 0)
    assert len(training) == 2


def test_a_network_with_low_accuracy_is_trained_again(data, training, tmp_path):
    path = tmp_path / "network.keras"
    load_network(data, path, 0, 0)
    data.test_labels[:] = 1
    load_network(data, path, 0, 0)
    assert len(training) == 2
