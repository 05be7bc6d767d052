"""The benchmarks, which are run by hand, still work with the code that they measure."""

import dataclasses
import importlib.util
import sys
import warnings
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from xplique_dirpairs.learning.presets import DEFAULT, SOFT
from xplique_dirpairs.sensitivity.influence_result import Influence

SCRIPTS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    """``load(name)`` imports a script of benchmarks/ and returns the module."""
    monkeypatch.syspath_prepend(SCRIPTS)

    def loaded(name):
        spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    return loaded


@pytest.mark.parametrize("script", sorted(path.stem for path in SCRIPTS.glob("*.py")))
def test_every_benchmark_can_be_imported(script, load):
    assert load(script).__doc__


@pytest.mark.slow
@pytest.mark.parametrize("shards", [False, True], ids=["array", "shards"])
def test_performance_times_every_epoch_of_a_fit(shards, load, monkeypatch):
    script = load("performance")
    if shards:  # it takes seconds, and one run is enough
        monkeypatch.setattr(script, "matrix_rate", lambda: 1e9)
    row = script.run(6000, 16, 3, shards, passes=True)
    assert row["epochs"] == 8
    assert 0 < row["s epochs"] <= row["s stages"] <= row["s fit"]


@pytest.fixture
def measured_in_parts(load, tmp_path):
    """``run(names, fit)`` measures extractors on a small layer and keeps the results in a file."""
    from xplique_dirpairs.comparison.compare import compare
    from xplique_dirpairs.factorizers.decompositions import PCAFactorizer

    script = load("compare_extractors")
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(6, 4, 4, 3)).astype(np.float32)
    inputs = keras.Input((4, 4, 3))
    g = keras.Model(inputs, keras.layers.Conv2D(4, 2)(inputs))
    latent = keras.Input((3, 3, 4))
    pooled = keras.layers.GlobalAveragePooling2D()(latent)
    h = keras.Model(latent, keras.layers.Dense(2)(pooled))
    measure = partial(
        compare, images=images, labels=[0, 1] * 3, fit_images=images, split=(g, h),
        importance_images=1, nb_design=2, verbose=0,
    )  # fmt: skip

    def run(names, fit=lambda name: PCAFactorizer(2)):
        return script.measured_extractors(
            tmp_path / "seed0.npz", names, fit, measure, lambda: PCAFactorizer(2)
        )

    return run


def test_extractors_that_cannot_be_fitted_are_left_out_and_tried_again(measured_in_parts):
    from xplique_dirpairs.comparison.extractor_result import CONTROLS

    def fail(name):
        raise ValueError("not today")

    assert measured_in_parts(["a"], fail).errors == {"a": "ValueError: not today"}
    comparison = measured_in_parts(["a", "b"])
    assert list(comparison.results) == ["a", "b", *CONTROLS] and not comparison.errors
    assert list(measured_in_parts(["a"], fail).results) == ["a", "b", *CONTROLS]


def test_an_interrupted_comparison_keeps_the_results_measured_so_far(measured_in_parts):
    from xplique_dirpairs.comparison.extractor_result import CONTROLS
    from xplique_dirpairs.factorizers.decompositions import PCAFactorizer

    class Interrupted(PCAFactorizer):
        def fit(self, activations):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measured_in_parts(
            ["a", "b", "c"], lambda name: (Interrupted if name == "b" else PCAFactorizer)(2)
        )
    comparison = measured_in_parts(["a"])
    assert list(comparison.results) == ["a", *CONTROLS] and comparison.missing == ("b",)
    comparison = measured_in_parts(["a", "b"])
    assert list(comparison.results) == ["a", "b", *CONTROLS] and not comparison.interrupted


def test_numbers_below_one_are_refused_before_anything_is_trained(load, capsys):
    parsed = load("compare_extractors").parsed
    assert parsed(["--output", "x", "--seeds", "1"]).seeds == 1
    for name in ("concepts", "seeds", "positions", "images"):
        with pytest.raises(SystemExit):
            parsed(["--output", "x", f"--{name}", "0"])
        assert f"--{name} must be at least 1, not 0" in capsys.readouterr().err


def test_results_of_other_settings_are_refused(load, tmp_path):
    check = load("compare_extractors").check_settings
    check(tmp_path, {"part": "test", "concepts": 10})
    check(tmp_path, {"part": "test", "concepts": 10})
    with pytest.raises(SystemExit, match=r"--concepts was 10, is 12\)"):
        check(tmp_path, {"part": "test", "concepts": 12})
    (tmp_path / "settings.json").unlink()
    (tmp_path / "seed0.npz").touch()
    with pytest.raises(SystemExit, match="--part was not known"):
        check(tmp_path, {"part": "test", "concepts": 10})


def test_kept_results_are_measured_again_only_if_the_settings_change(load, tmp_path):
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


def test_two_benchmarks_may_keep_the_same_results_at_the_same_time(load, tmp_path, monkeypatch):
    script, path = load("kept"), tmp_path / "one.npz"
    measured = {"values": np.arange(3)}, {}

    def write(unfinished, *what):
        archive.write(unfinished, *what)
        monkeypatch.setattr(script, "FORMAT", archive)
        monkeypatch.setattr(script.os, "getpid", lambda: -1)
        script.kept(path, {}, lambda: measured)  # the other benchmark finishes first

    archive = script.FORMAT
    monkeypatch.setattr(script, "FORMAT", SimpleNamespace(read=archive.read, write=write))
    script.kept(path, {}, lambda: measured)
    assert [file.name for file in tmp_path.iterdir()] == ["one.npz"]


def test_the_recipe_with_other_network_terms_differs_in_nothing_else(load):
    recipe = load("extractors").with_network(DEFAULT, 0.5, 0.0)
    for one, before in ((recipe, DEFAULT), (recipe.otherwise, DEFAULT.otherwise)):
        assert one.stages[0].weights["uur"] == 0.5 and "cur" not in one.stages[1].weights
        for stage, old in zip(one.stages, before.stages, strict=True):
            weights = {k: v for k, v in stage.weights.items() if k not in ("uur", "cur")}
            rest = {k: v for k, v in old.weights.items() if k not in ("uur", "cur")}
            assert weights == rest
            assert dataclasses.replace(old, weights=stage.weights, kappa=(0.8, 1.0)) == stage


def test_the_panel_restores_a_fit_of_every_extractor_that_needs_no_network(load, rng):
    panel = load("panel")
    x = np.abs(rng.normal(size=(80, 6))).astype(np.float32)
    extractors = load("extractors")
    for name, make in (extractors.ON_POSITIONS | extractors.CONTROLS).items():
        factorizer = make(3, 0)
        if hasattr(factorizer, "steps"):
            factorizer.steps = 4
        if hasattr(factorizer, "n_init"):
            factorizer.n_init = 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            factorizer.fit(x)
        restored = panel.factorizer_of(name, 3, panel.arrays_of(factorizer))
        np.testing.assert_array_equal(restored.encode(x), factorizer.encode(x), err_msg=name)


@pytest.mark.parametrize("base", [SOFT, DEFAULT], ids=["soft", "default"])
def test_the_ablation_uses_exactly_the_losses_of_a_row(base, load):
    ablation = load("ablation")
    for row in ablation.ROWS:
        recipe = ablation.switched(base, row)
        for early, late in filter(
            None, [recipe.stages, recipe.otherwise and recipe.otherwise.stages]
        ):
            switchable = {"uur", "sb", "eac", "cur", "fso"}
            assert switchable & set(late.weights) == set(row.on)
            early_losses = {"uur"} if {"uur", "cur"} & set(row.on) else set()
            assert switchable & set(early.weights) == early_losses | ({"eac"} & set(row.on))
            assert late.signals == row.signals
    names = [ablation.switched(base, row).name for row in ablation.ROWS]
    assert len(set(names)) == len(names)


def test_the_ablation_row_without_network_terms_is_the_recipe_soft(load):
    ablation = load("ablation")
    recipe = ablation.switched(SOFT, ablation.Row(("eac",)))
    assert dataclasses.replace(recipe, name="soft") == SOFT


def test_networks_with_too_few_permutations_are_reported_as_unreachable(load):
    script = load("scene_influence")

    def any_at_all(permutations, exceeded):
        values, classes = np.ones((10, 8)), np.full(8, 12)
        influence = Influence(
            scores=values, changes=values, logit_changes=values, images=classes, effects=values,
            intervals=values, predicted=classes, amount=5.0, statistic="change", min_images=10,
            p_values=(1 + exceeded) / (1 + permutations) * values, level=0.05,
            noise="permuted labels", noise_vectors=permutations,
        )  # fmt: skip
        return script.any_at_all(influence)

    reached = np.array([any_at_all(1999, 0), any_at_all(1999, 500)])
    assert script.networks_cell(reached).text == "1 of 2"
    too_few = np.array([any_at_all(1999, 0), any_at_all(999, 0)])
    assert script.networks_cell(too_few).text == "unreachable"


@pytest.fixture
def planted(load, tmp_path):
    """``planted(*words)`` runs benchmarks/planted.py on few positions of a small problem."""
    script = load("planted")

    def run(*words):
        small = ["--problems", "32/20 p .08", "--positions", "600"]
        return script.run(script.parsed([*small, *words]))

    run.script = script
    return run


def cells(table):
    """Return the texts of a table's rows by method and header."""
    return {
        row[1].text: {header: cell.text for header, cell in zip(table.headers, row, strict=True)}
        for row in table.rows
    }


def test_planted_problems_are_of_their_size_and_fresh_data_have_the_same_atoms(load):
    for name, problem in load("planted").PROBLEMS.items():
        data, fresh = problem.draw(98, 0)
        assert data.features.size == 98 * problem.channels, name
        assert data.atoms.shape == (problem.atoms, problem.channels), name
        assert problem.concepts <= problem.atoms and problem.purpose, name
        np.testing.assert_array_equal(fresh.atoms, data.atoms)
        assert not np.array_equal(fresh.features, data.features), name


def test_planted_dictionaries_are_measured_once_for_every_method(planted, tmp_path, monkeypatch):
    words = "--methods", "K-Means", "FastICA", "--output", str(tmp_path), "--seeds", "2"
    first, results, failed = planted(*words)
    assert not failed and set(cells(first)) == {"K-Means", "FastICA"}
    assert float(cells(first)["K-Means"]["l0"].split(" ")[0]) == 1.0
    [(problem, *compared)] = planted.script.side_by_side(results, ("share", "phi")).rows
    for cell, method in zip(compared, results[problem.text], strict=True):
        values = [cells(first)[method][score].split(" ")[0] for score in ("share", "phi")]
        np.testing.assert_allclose(
            np.array(cell.text.split(" / "), float), np.array(values, float), atol=0.0051
        )
    for method in ("K-Means", "FastICA"):
        monkeypatch.setitem(planted.script.METHODS, method, None)
    assert str(planted(*words)[0]) == str(first)


@pytest.mark.slow
def test_direction_pairs_and_nmf_are_scored_on_planted_dictionaries(planted):
    table, _, failed = planted("--methods", "direction pairs", "NMF")
    rows = cells(table)
    assert not failed and set(rows) == {"direction pairs", "NMF"}
    for scores in rows.values():
        for name in ("share", "mcc", "f1", "precision", "recall", "uniqueness"):
            assert 0.0 <= float(scores[name]) <= 1.0, name
        assert scores["said"] in ("0 of 1", "1 of 1") and float(scores["s"]) >= 0
    share = float(rows["direction pairs"]["share"])
    assert (": 1; a problem" in table.caption[0]) == (share < 0.8)
    assert (": 1; none" in table.caption[1]) == (share == 1.0)


def test_a_method_that_cannot_be_fitted_to_planted_data_is_named_with_the_reason(planted):
    table, _, failed = planted("--problems", "64/96 p .02", "--methods", "FastICA")
    assert not table.rows
    assert len(failed) == 1 and "FastICA: number_of_concepts" in failed[0]


@pytest.mark.parametrize("signed", [False, True], ids=["zero where absent", "signed"])
def test_dictionaries_of_other_software_are_scored_on_the_exported_problems(
    signed, planted, tmp_path
):
    exported, found = tmp_path / "exported", tmp_path / "found" / "oracle"
    name = "32/20 p .08"
    planted.script.export(exported, name, 0, 600)
    (path,) = exported.iterdir()
    with np.load(path, allow_pickle=False) as archive:
        data = dict(archive)
    assert data["concepts"] == 20 and data["mean_on"] == pytest.approx(1.6, abs=0.2)
    assert data["learning"].shape == data["fresh"].shape == (600, 32)
    codes = data["fresh"] @ np.linalg.pinv(data["truth_atoms"])
    if not signed:
        codes = np.where(data["truth_present"], np.abs(codes), 0.0)
    sign = -1.0 if signed else 1.0
    found.mkdir(parents=True)
    arrays = {"directions": sign * data["truth_atoms"], "codes": sign * codes}
    np.savez(found / path.name, **arrays, name="Oracle", version="1.0")
    row = cells(planted("--methods", "--read", str(found.parent))[0])["Oracle 1.0"]
    assert row["share"] == "1.000" and row["said"] == row["s"] == "–"
    assert float(row["phi"]) >= (0.95 if signed else 1.0)


def test_files_of_other_software_without_what_is_needed_are_refused(planted, tmp_path):
    planted.script.export(tmp_path, "32/20 p .08", 0, 600)
    with pytest.raises(
        ValueError, match=r"does not hold \['codes', 'directions', 'name', 'version'"
    ):
        planted("--methods", "--read", str(tmp_path))
    (path,) = tmp_path.iterdir()
    np.savez(path, directions=np.eye(4, 32), codes=np.zeros((7, 4)), name="a", version="1")
    with pytest.raises(ValueError, match=r"does not belong to these data: "):
        planted("--methods", "--read", str(tmp_path))


def test_best_detections_are_right_where_a_threshold_separates_and_none_without_one(load, rng):
    present = rng.random((500, 3)) < [0.02, 0.1, 0.3]
    codes = present + 0.4 * rng.random((500, 3))
    detected = load("planted").best_detections(np.column_stack([codes, np.ones(500)]), present)
    for column in range(3):  # numbers of detections are in ratios of 1.03
        agreement = np.corrcoef(detected[:, column], present[:, column])[0, 1]
        assert agreement > 0.97
    assert not detected[:, 3].any()


def test_warnings_are_counted_for_fits_that_fall_short_and_fits_that_find_all(load):
    script = load("planted")
    fits = [(0.5, ["doubt"]), (0.7, []), (0.9, ["doubt"]), (1.0, []), (1.0, []), (1.0, ["doubt"])]
    short, good = script.warned_rightly(
        [script.Result({}, share, 1.0, said) for share, said in fits]
    )
    assert short.endswith(": 2; a problem was said in 1.")
    assert good.endswith(": 3; none was said in 2.")


def test_the_best_k_of_other_autoencoders_is_that_of_the_most_similar_concepts(load, rng):
    script = load("planted_sae_lens")
    atoms = np.linalg.qr(rng.normal(size=(8, 8)))[0][:4]
    data = {"truth_atoms": atoms, "truth_present": rng.random((300, 4)) < 0.2}
    codes = data["truth_present"].astype(float)
    assert script.likeness(3.0 * atoms, codes, data) == pytest.approx(2.0)
    assert script.likeness(atoms, np.ones((300, 4)), data) == pytest.approx(1.0)
    assert script.levels(20) == [5, 10, 20] and script.levels(1) == [1]
