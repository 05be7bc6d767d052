"""A small run of the whole demo, and its parts."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from xplique_dirpairs.demo.detectors import (
    Annotated,
    best_detectors,
    defining_objects,
    difference,
    importances,
)
from xplique_dirpairs.demo.run import Steps, run_demo
from xplique_dirpairs.demo.scenes import demo_scenes
from xplique_dirpairs.demo.shortcut import suspects
from xplique_dirpairs.demo.summary import CAPTIONS, CRAFT, PAIRS
from xplique_dirpairs.metrics.importance import sobol_designs, sobol_indices
from xplique_dirpairs.pairs import DirectionPairs

# Keras causes this warning when it copies models with numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

CONCEPTS, IMAGES = 4, 16


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A run with few concepts and images: its folder and its summary."""
    folder = tmp_path_factory.mktemp("demo")
    return folder, run_demo(folder, CONCEPTS, seed=1, verbose=0, images=IMAGES)


# ------------------------------------------------------------------ the whole


def test_the_summary_shows_every_picture_and_links_to_the_report(ran):
    folder, summary = ran
    text = (folder / "summary.md").read_text(encoding="utf-8")
    pictures = sorted(path.stem for path in folder.glob("*.png"))
    assert sorted(summary.figures) == pictures
    assert set(pictures) <= set(CAPTIONS)
    assert re.findall(r"!\[(\w+)\]", text)[0] == "concepts"
    for name in pictures:
        assert f"![{name}]({name}.png)" in text
        assert np.asarray(Image.open(folder / f"{name}.png")).std() > 10
        assert (folder / f"{name}.png").stat().st_size < 300_000
    assert "(report/index.html)" in text
    assert (folder / "report" / "index.html").is_file()


def test_the_first_table_says_by_how_much_the_methods_differ(ran):
    folder, summary = ran
    text = (folder / "summary.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("|")][:5]
    rows = {line.split("|")[1].strip(): line for line in lines}
    value, low, high, _ = summary.difference
    assert f"{value:+.3f} [{low:+.3f}, {high:+.3f}]" in rows["difference"].replace("\\", "")
    for method, mean in summary.mean_iou.items():
        assert f"{mean:.3f}" in rows[method]
    assert low <= value <= high


def test_the_summary_names_concepts_at_which_craft_is_better(ran):
    _, summary = ran
    ours, theirs = summary.methods[PAIRS].scores.iou, summary.methods[CRAFT].scores.iou
    text = summary.text()
    behind = int((theirs - ours > 0.05).sum())
    assert (f"CRAFT is better at {behind} of {len(ours)}" in text) is (behind > 0)
    assert f"direction pairs are better at {int((ours - theirs > 0.05).sum())}" in text


def test_the_tables_of_the_page_have_rows_of_equal_length(ran):
    lines = (ran[0] / "summary.md").read_text(encoding="utf-8").splitlines()
    rules = [i for i, line in enumerate(lines) if line.startswith(("|---", "| ---"))]
    assert len(rules) >= 4
    for i in rules:
        assert lines[i].count("|") == lines[i - 1].count("|") == lines[i + 1].count("|")


def test_every_step_is_timed_and_the_pairs_are_kept(ran):
    folder, summary = ran
    assert summary.seconds["everything"] >= sum(summary.seconds.values()) / 2.1
    assert DirectionPairs.load(folder / "pairs.npz").number_of_concepts == CONCEPTS


def test_the_accuracies_of_the_repair_are_those_of_its_groups(ran):
    _, summary = ran
    repair = summary.repair
    groups = repair.groups()
    assert groups["all"].sum() == len(repair.labels)
    counts = [group.sum() for name, group in groups.items() if name != "all"]
    assert sum(counts) == len(repair.labels)
    for name, (before, after) in repair.accuracies().items():
        members = groups[name]
        assert before == np.mean(repair.before[members] == repair.labels[members])
        assert after == np.mean(repair.after[members] == repair.labels[members])


def explanation(effects, presence, outside):
    """Return an explanation of two classes, "village" and "picnic"; the figures are picnic's."""
    both = [np.stack([np.zeros(len(values)), values]) for values in (effects, presence, outside)]
    return SimpleNamespace(
        class_names=("village", "picnic"), influence=SimpleNamespace(effects=both[0].T),
        presence=both[1], presence_outside=both[2],
    )  # fmt: skip


def test_suspects_raise_the_class_and_are_in_no_other_class():
    found = suspects(
        explanation([0.5, 4.0, 3.0, -1.0, 2.0], [0.9, 0.9, 1.0, 0.9, 0.2], [0.0, 0.05, 0.6, 0, 0])
    )
    assert found == [1, 0]


def test_without_suspects_it_is_the_concept_with_the_largest_influence():
    assert suspects(explanation([0.5, 4.0], [1.0, 1.0], [0.7, 0.8])) == [1]


def test_every_defining_object_has_a_rank_by_both_methods(ran):
    _, summary = ran
    assert [(one.class_name, one.name) for one in summary.objects] == defining_objects()
    for one in summary.objects:
        assert set(one.ranks) == {PAIRS, CRAFT}
        assert all(1 <= rank <= CONCEPTS for rank in one.ranks.values())
        assert len(one.above) == one.ranks[PAIRS] - 1


# ------------------------------------------------------------------ detectors


@pytest.fixture(scope="module")
def parts():
    """Two parts of scenes, whose "activations" are the masks of three objects."""
    scenes = [demo_scenes(range(16), part, 3) for part in ("learning", "held-out")]
    wanted = [scenes[0].concepts["object"].index(name) + 1 for name in ("tree", "sofa", "car")]
    return [
        Annotated(part, np.stack([part.masks["object"] == k for k in wanted], -1).astype(float))
        for part in scenes
    ]


def test_a_detector_that_is_the_mask_is_the_best_one_with_an_iou_of_one(parts):
    found = best_detectors(lambda x: x, np.full(3, 0.5), *parts)
    for detector, name in enumerate(("tree", "sofa", "car")):
        number = found.number_of("object", name)
        assert found.best[number] == detector
        assert found.scores.iou[number] == 1
        image = int(parts[1].activations[..., detector].any(axis=(1, 2)).argmax())
        fires = found.fires(parts[1].activations[image], number, 128)
        np.testing.assert_array_equal(fires, parts[1].activations[image, ..., detector] > 0.5)


def test_detectors_without_biases_fire_above_a_quantile(parts):
    found = best_detectors(lambda x: x, None, *parts)
    assert found.threshold in ("top 1/3", "top 0.5%")


def test_the_difference_of_equal_detectors_is_zero(parts):
    found = best_detectors(lambda x: x, np.full(3, 0.5), *parts)
    assert difference(found, found)[:3] == (0, 0, 0)
    worse = best_detectors(lambda x: x[..., ::-1] * 0, np.full(3, 0.5), *parts)
    assert difference(found, worse).value == pytest.approx(found.mean_iou)


def test_importances_are_the_total_sobol_indices_of_a_linear_head(rng):
    coefficients = rng.random((2, 4, 4, 3))
    bank, row = rng.normal(size=(3, 5)), rng.normal(size=5)
    exact = importances(coefficients, bank, row)
    masks = next(sobol_designs(3, 512, 0))
    estimated = [
        sobol_indices(masks @ (u.mean(axis=(0, 1)) * (bank @ row)), masks).total
        for u in coefficients
    ]
    np.testing.assert_allclose(exact, np.mean(estimated, axis=0), atol=0.01)
    assert exact.sum() == pytest.approx(1)


# ------------------------------------------------------------------ steps


def test_steps_are_announced_and_timed(capsys):
    steps = Steps(verbose=1)
    with steps("think", "hard"):
        pass
    assert "think (hard)" in capsys.readouterr().out
    assert 0 <= steps.seconds["think"] < 1
    with Steps(verbose=0)("think"):
        pass
    assert capsys.readouterr().out == ""


def test_an_interrupted_fit_shows_nothing(monkeypatch, tmp_path):
    from xplique_dirpairs.demo import run

    class Interrupted:
        def __init__(self, *_, **__):
            self.history_ = SimpleNamespace(interrupted=True)

        def fit(self, _):
            pass

    monkeypatch.setattr(run, "DirectionPairsTf", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_demo(tmp_path, CONCEPTS, verbose=0, images=8)
    assert not list(tmp_path.iterdir())
