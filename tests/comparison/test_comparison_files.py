"""Saving, loading and joining comparisons."""

from dataclasses import replace
from functools import partial

import keras
import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import make_pairs
from small_comparison import (
    Interrupted,
    fit_on_positions,
    run_comparison,
    several_seeds,
    three_extractors,
)

from xplique_dirpairs import (
    Comparison,
    PCAFactorizer,
    average,
)
from xplique_dirpairs.comparison.extractor_result import (
    RANDOM,
)

pytestmark = pytest.mark.usefixtures("quick_learning")


@pytest.fixture
def run(halves):
    return partial(run_comparison, halves)


@pytest.fixture
def shared(halves):
    return three_extractors(halves)


@pytest.fixture
def seeds(halves):
    return several_seeds(halves)


def assert_same_result(one, other):
    """Assert that two results hold the same values."""
    assert one.values.keys() == other.values.keys()
    for key in one.values:
        np.testing.assert_array_equal(one.values[key], other.values[key])
    for part in ("encoding", "decoding", "shown"):
        np.testing.assert_array_equal(getattr(one, part), getattr(other, part))
    for part in ("contributions", "crossed"):
        np.testing.assert_array_equal(getattr(one.fidelity, part), getattr(other.fidelity, part))
    for part in ("deletion", "insertion"):
        ours, theirs = getattr(one.fidelity, part), getattr(other.fidelity, part)
        np.testing.assert_array_equal(ours.probabilities, theirs.probabilities)
        np.testing.assert_array_equal(ours.changed, theirs.changed)
    np.testing.assert_array_equal(one.importances.total, other.importances.total)
    assert (one.name, one.seconds, one.remarks) == (other.name, other.seconds, other.remarks)


def test_a_loaded_comparison_equals_the_saved_one(shared, seeds, tmp_path):
    for comparison in (shared, average(seeds)):
        comparison.save(tmp_path / "comparison.npz")
        loaded = Comparison.load(tmp_path / "comparison.npz")

        assert str(loaded) == str(comparison)
        assert list(loaded.results) == list(comparison.results)
        for name, result in comparison.results.items():
            assert_same_result(loaded.results[name], result)
            for one, other in zip(loaded.results[name].seeds, result.seeds, strict=True):
                assert_same_result(one, other)
        np.testing.assert_array_equal(loaded.images, comparison.images)
        np.testing.assert_array_equal(loaded.class_ids, comparison.class_ids)
    plt.close(loaded.plot())
    plt.close(loaded.plot_maps(0))


def test_unknown_metrics_are_kept_in_the_file(shared, tmp_path):
    one = shared.results["PCA"]
    mine = replace(one, values=one.values | {"mine": np.arange(6.0)})
    replace(shared, results=shared.results | {"PCA": mine}).save(tmp_path / "c.npz")
    loaded = Comparison.load(tmp_path / "c.npz")
    np.testing.assert_array_equal(loaded.results["PCA"].values["mine"], np.arange(6.0))
    assert str(loaded) == str(shared)


def test_errors_are_kept_in_the_file(shared, tmp_path):
    comparison = Comparison({}, {"SAE": "ValueError: <no>"}, shared.images, shared.class_ids, True)
    comparison.save(tmp_path / "comparison.npz")
    loaded = Comparison.load(tmp_path / "comparison.npz")

    assert (loaded.errors, loaded.interrupted) == (comparison.errors, True)


def test_files_that_do_not_hold_a_comparison_are_refused(shared, tmp_path):
    make_pairs(4, 2).save(tmp_path / "pairs.npz")
    with pytest.raises(ValueError, match=r"not a file of a comparison.*DirectionPairs"):
        Comparison.load(tmp_path / "pairs.npz")
    shared.save(tmp_path / "complete.npz")
    content = (tmp_path / "complete.npz").read_bytes()
    (tmp_path / "half.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="damaged"):
        Comparison.load(tmp_path / "half.npz")
    with pytest.raises(FileNotFoundError, match="no file of a comparison"):
        Comparison.load(tmp_path / "none.npz")


def test_comparisons_of_the_same_images_are_joined(shared):
    parts = [
        Comparison({n: shared.results[n] for n in names}, errors, shared.images, shared.class_ids)
        for names, errors in ((["pairs", RANDOM], {"PCA": "too slow"}), (["PCA", RANDOM], {}))
    ]
    joined = parts[0].joined(parts[1])

    assert list(joined.results) == ["pairs", "PCA", RANDOM]
    assert joined.results["PCA"] is shared.results["PCA"]
    assert not joined.errors  # PCA has a result in the second comparison.


def test_comparisons_that_do_not_belong_together_are_not_joined(shared):
    with pytest.raises(ValueError, match=r"'PCA'.*have results in both"):
        shared.joined(shared)
    other = Comparison({}, {}, shared.images + 1, shared.class_ids)
    with pytest.raises(ValueError, match="same images and classes"):
        shared.joined(other)


def test_comparisons_with_different_settings_are_neither_joined_nor_averaged(
    run, halves, images, tmp_path
):
    pca = fit_on_positions(PCAFactorizer(2), halves)
    one = run({"PCA": pca}, controls=False)
    one.save(tmp_path / "one.npz")
    loaded = Comparison.load(tmp_path / "one.npz")
    ways = {
        "nb_design (4 and 8)": {"nb_design": 8},
        "importance_images (2 and 3)": {"importance_images": 3},
        "fit_images": {"fit_images": images("conv_gap", 8, seed=3)},
    }
    others = {
        difference: run({"other": pca}, controls=False, **options)
        for difference, options in ways.items()
    }
    g, h = halves("conv_gap")
    other_head = keras.models.clone_model(h)
    other_head.set_weights([weight + 0.5 for weight in h.get_weights()])
    others["logits of the intact network"] = run(
        {"other": pca}, controls=False, split=(g, other_head)
    )
    for difference, other in others.items():
        for combine in (loaded.joined, lambda other: average([one, other])):
            with pytest.raises(ValueError, match="comparisons differ in") as error:
                combine(other)
            assert difference in str(error.value)
    seed = run({"again": pca}, controls=False, random_state=1)
    with pytest.raises(ValueError, match=r"random_state \(0 and 1\)"):
        one.joined(seed)
    assert average([loaded, seed]).settings.random_state == [0, 1]
    with pytest.raises(ValueError, match="settings of one comparison are not known"):
        one.joined(replace(seed, settings=None))


def test_joining_adds_the_results_that_an_interruption_left_out(run, tmp_path):
    interrupted = run({"a": PCAFactorizer(2), "b": Interrupted(2)}, controls=False)
    interrupted.save(tmp_path / "partial.npz")
    interrupted = Comparison.load(tmp_path / "partial.npz")
    assert interrupted.interrupted and interrupted.missing == ("b",)

    other = interrupted.joined(run({"c": PCAFactorizer(2)}, controls=False))
    assert other.interrupted and other.missing == ("b",)
    complete = other.joined(run({"b": PCAFactorizer(2)}, controls=False))
    assert not complete.interrupted and list(complete.results) == ["a", "c", "b"]
