"""The code of docs/use.md runs; README.md is short, and its links lead to files."""

import dataclasses
import re
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import NETWORKS, make_images

from xplique_dirpairs import DirectionPairsTf, split_model
from xplique_dirpairs.learning import learner
from xplique_dirpairs.learning.presets import get_recipe

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "README.md").read_text(encoding="utf-8")
USE = (ROOT / "docs" / "use.md").read_text(encoding="utf-8")
#: Name of a marked block of code → its code.
BLOCKS = dict(re.findall(r"<!-- test: (\S+) -->\n```python\n(.*?)```\n", USE, flags=re.DOTALL))


@pytest.fixture
def names(tmp_path, monkeypatch):
    """The variables that the code of docs/use.md uses: a small network of 16 channels, and images.

    Learning takes two steps only.
    """

    def hurried(recipe):
        recipe = get_recipe("soft" if isinstance(recipe, str) else recipe)
        short = {"epochs": 1, "steps_per_epoch": 2}
        stages = (dataclasses.replace(recipe.stages[-1], **short),)  # one stage: compiling is slow
        return dataclasses.replace(recipe, stages=stages, otherwise=None, start="random")

    monkeypatch.setattr(learner, "get_recipe", hurried)
    monkeypatch.chdir(tmp_path)
    keras.utils.set_random_seed(0)
    maker, shape, layer = NETWORKS["conv_gap"]
    model = maker(shape, channels=16)
    g, h = split_model(model, layer)
    images = make_images(60, shape)
    dataset = tf.data.Dataset.from_tensor_slices((images, np.arange(60) % 3)).batch(20)
    variables = {"g": g, "h": h, "images": images, "dataset": dataset, "other_images": images[:8]}
    return variables | {"DirectionPairsTf": DirectionPairsTf, "model": model, "layer": layer}


def run(block, names):
    """Execute a block of code; its variables are added to ``names``."""
    # The page has images of more classes than the small network has outputs.
    exec(BLOCKS[block].replace("class_id=3", "class_id=1"), names)


def test_all_marked_blocks_are_known_to_these_tests():
    assert list(BLOCKS) == ["number", "restarts", "shards", "compare", "explain", "report"]


def test_the_first_page_is_short_and_soon_shows_a_picture():
    lines = PAGE.splitlines()
    assert len(lines) <= 150
    assert any(line.startswith("![") for line in lines[:40])
    for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", PAGE):
        assert (ROOT / path).stat().st_size <= 300_000


def test_links_lead_to_existing_files():
    for path in re.findall(r"\]\((?!https?:)([^)#]+)", PAGE):
        assert (ROOT / path).exists(), path


def test_the_code_on_the_number_of_concepts_runs(names, capsys):
    run("number", names)
    assert [entry.number for entry in names["scan"].numbers] == [8, 12, 16]
    assert all(entry.fits == 2 for entry in names["scan"].numbers), names["scan"]
    assert names["count"].reason in capsys.readouterr().out


def test_the_code_on_restarts_comparison_explanation_and_report_runs(names, tmp_path, capsys):
    run("restarts", names)
    assert names["craft"].pairs.recurrence.shape == (12,)
    assert list((tmp_path / "fit").iterdir())
    run("compare", names)
    printed = capsys.readouterr().out
    assert "PCA" in printed and "pairs" in printed and "random directions" in printed
    run("explain", names)
    assert abs(names["found_why"].gap) < 1e-4
    assert names["corrected"](names["images"][:2]).shape == (2, 3)
    run("report", names)
    assert names["page"].read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_the_code_on_shards_runs(names):
    run("shards", names)
    assert names["shards"].shape == (60, 8, 8, 16) and names["pairs"].filters.shape == (12, 16)
