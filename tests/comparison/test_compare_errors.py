"""`compare` with extractors that fail or are interrupted, and with invalid arguments."""

import re
import warnings
from dataclasses import replace
from functools import partial

import keras
import numpy as np
import pytest
from conftest import NETWORKS, fake_learn_pairs, make_pairs
from sklearn.exceptions import ConvergenceWarning
from small_comparison import (
    FIT_IMAGES,
    IMAGES,
    Interrupted,
    fit_on_positions,
    run_comparison,
    three_extractors,
)
from xplique.concepts import CraftTf
from xplique.concepts.tf.factorizer import TfSklearnNMFFactorizer

from xplique_dirpairs import (
    DirectionPairsFactorizer,
    DirectionPairsTf,
    FactorizerCraftTf,
    PCAFactorizer,
    TopKFactorizer,
    split_model,
)
from xplique_dirpairs.comparison.extractor_result import (
    CONTROLS,
    NO_LEARNING,
    RANDOM,
)

pytestmark = pytest.mark.usefixtures("quick_learning")


@pytest.fixture
def run(halves):
    return partial(run_comparison, halves)


@pytest.fixture
def shared(halves):
    return three_extractors(halves)


class Broken(PCAFactorizer):
    def encode(self, activations):
        raise RuntimeError("it\nbroke <b>")


def test_an_extractor_that_fails_does_not_affect_the_others(run, caplog):
    comparison = run({"broken": Broken(2), "PCA": PCAFactorizer(2)})
    assert list(comparison.results) == ["PCA", *CONTROLS]
    assert comparison.errors == {"broken": "RuntimeError: it\nbroke <b>"}
    assert "broken has no result" in caplog.text
    assert "broken has no result: RuntimeError: it broke <b>" in str(comparison)
    assert "<b>" not in comparison._repr_html_()


def test_if_all_fail_there_is_a_table_and_plots_give_the_reasons(run, tmp_path):
    comparison = run({"broken": Broken(2)}, controls=False)
    assert "broken has no result" in str(comparison) and "broken" in comparison._repr_html_()
    for draw in (comparison.plot, comparison.plot_importances, lambda: comparison.plot_maps(0)):
        with pytest.raises(ValueError, match=r"no extractor has a result.*broke"):
            draw()
    assert [path.name for path in comparison.save_report(tmp_path)] == ["table.md", "table.csv"]


def test_an_interruption_keeps_the_results_so_far(run):
    comparison = run({"a": PCAFactorizer(2), "b": Interrupted(2), "c": PCAFactorizer(2)})
    assert comparison.interrupted and list(comparison.results) == ["a"] and not comparison.errors
    assert comparison.missing == ("b", "c", *CONTROLS)
    assert f"interrupted: without b, c, {RANDOM}, {NO_LEARNING}" in str(comparison)


def test_pairs_whose_fit_was_interrupted_are_not_measured(run, monkeypatch):
    def interrupted(*args, **options):
        pairs, history = fake_learn_pairs(*args, **options)
        return pairs, replace(history, interrupted=True)

    module = "xplique_dirpairs.factorizers.direction_pairs"
    monkeypatch.setattr(f"{module}.learn_pairs", interrupted)
    comparison = run({"a": PCAFactorizer(2), "b": DirectionPairsFactorizer(2)})
    assert comparison.interrupted and list(comparison.results) == ["a"]


def test_warnings_of_fits_are_shown_below_the_table_and_others_passed_on(run):
    class Slow(PCAFactorizer):
        def fit(self, activations):
            warnings.warn("not there yet", ConvergenceWarning, stacklevel=1)
            warnings.warn("something else", UserWarning, stacklevel=1)
            return super().fit(activations)

    with pytest.warns(UserWarning, match="something else") as caught:
        comparison = run({"slow": Slow(2)}, controls=False)
    assert not any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
    assert comparison.results["slow"].remarks == ("not there yet",)
    assert str(comparison).endswith("slow: not there yet")


def test_an_earlier_fit_that_was_cut_short_is_a_remark(run, halves):
    craft = CraftTf(*halves("conv_gap"), 3, patch_size=16)
    craft.fit(FIT_IMAGES)
    craft.factorization.reducer.n_iter_ = craft.factorization.reducer.max_iter
    comparison = run({"CRAFT": craft}, controls=False)
    assert comparison.results["CRAFT"].remarks == ("its fit was cut short after 200 iterations",)


def test_problems_of_earlier_fits_are_remarks(run, halves):
    sae = fit_on_positions(TopKFactorizer(2, k=1, steps=2, n_init=1, random_state=0), halves)
    sae.history_ = replace(sae.history_, cut_short=["the training was interrupted"])
    pairs = DirectionPairsTf(*halves("conv_gap"), 2, patch_size=16, random_state=0, verbose=0)
    pairs.fit(FIT_IMAGES)
    pairs.factorizer.history_ = replace(pairs.history_, doubts=["it is unsure"], dead=[1])
    comparison = run({"SAE": sae, "pairs": pairs}, controls=False)
    assert "the training was interrupted" in comparison.results["SAE"].remarks
    assert "it is unsure" in comparison.results["pairs"].remarks
    assert "pairs: it is unsure" in str(comparison)


def test_one_error_names_all_extractors_that_belong_to_another_layer(run, halves):
    extractors = {
        "right": PCAFactorizer(2),
        "pairs elsewhere": make_pairs(5, 2),
        "craft elsewhere": CraftTf(*halves("vectors"), 2),
    }
    message = (
        r"layer .*\(8 x 8 x 8\), unlike 'pairs elsewhere' \(5 channels\), 'craft elsewhere' \(10"
    )
    with pytest.raises(ValueError, match=message):
        run(extractors)


def test_a_copy_of_the_network_is_accepted_but_not_another_network(run):
    maker, shape, layer = NETWORKS["conv_gap"]
    keras.utils.set_random_seed(0)
    same = split_model(maker(shape), layer)
    keras.utils.set_random_seed(1)
    other = split_model(maker(shape), layer)
    comparison = run({"same": DirectionPairsTf(*same, 2, verbose=0)}, controls=False)
    assert list(comparison.results) == ["same"]
    with pytest.raises(ValueError, match=r"layer of the split .*, unlike 'other'"):
        run({"other": DirectionPairsTf(*other, 2, verbose=0)})


@pytest.mark.parametrize(
    "extractors, error, message",
    [
        ({}, ValueError, "there are no extractors to compare"),
        ([PCAFactorizer(2)], TypeError, "must be a dictionary"),
        ({3: PCAFactorizer(2)}, TypeError, "names of extractors"),
        ({" ": PCAFactorizer(2)}, TypeError, "names of extractors"),
        ({RANDOM: PCAFactorizer(2)}, ValueError, "name of a control"),
        ({"a": "CRAFT"}, TypeError, "'a' must be a ConceptLayer.*not str"),
    ],
)
def test_extractors_that_cannot_be_compared_are_refused(run, extractors, error, message):
    with pytest.raises(error, match=message):
        run(extractors)


@pytest.mark.parametrize(
    "labels, message",
    [
        ([0, 1], "labels must be one for each of 6 images"),
        ([0.5, 1, 2, 0, 1, 2], "labels must be integer class indices"),
        ([2.0**63, 1, 2, 0, 1, 2], "labels must be integer class indices"),
        ([0, 1, 2, 3, 0, 0], "labels must be classes 0 to 2"),
        ([0, 1, -1, 0, 0, 0], "labels must be classes 0 to 2"),
        (np.ones((6, 3)), "rows of labels must be one-hot"),
        (np.full((6, 3), 0.3), "rows of labels must be one-hot"),
    ],
)
def test_invalid_labels_are_refused(run, labels, message):
    with pytest.raises(ValueError, match=message):
        run({"a": PCAFactorizer(2)}, labels)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"fit_images": None}, r"extractors \['a'.*\] are not fitted"),
        ({"split": None}, "no extractor knows the network"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"nb_design": 1}, "nb_design must be"),
        ({"importance_images": 0.5}, "importance_images must be"),
        ({"random_state": None}, "random_state must be an integer of at least 0, not None"),
        ({"random_state": -1}, "random_state must be"),
        ({"images": np.zeros((0, 32, 32, 3))}, "no images"),
        ({"images": np.zeros((2, 16, 16, 3))}, "images have shape"),
    ],
)
def test_invalid_arguments_are_refused(run, options, message):
    with pytest.raises(ValueError, match=message):
        run({"a": PCAFactorizer(2)}, **options)


def test_halves_of_two_networks_are_refused(run, halves):
    with pytest.raises(ValueError, match="takes activations of shape"):
        run({"a": PCAFactorizer(2)}, split=(halves("conv_gap")[0], halves("vectors")[1]))


def test_controls_are_fitted_on_the_images_of_the_extractors_fits(run, halves):
    def craft(images):
        pairs = DirectionPairsTf(*halves("conv_gap"), 2, patch_size=16, random_state=0, verbose=0)
        pairs.fit(images)
        return pairs

    a, b, c = craft(FIT_IMAGES), craft(FIT_IMAGES), craft(IMAGES)
    given = run({"a": a, "b": b})
    comparison = run({"a": a, "b": b}, fit_images=None)
    for name in CONTROLS:
        ours, theirs = (r.results[name].values["deletion"] for r in (given, comparison))
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(ValueError, match="fitted on different images: pass fit_images"):
        run({"a": a, "c": c}, fit_images=None)
    with pytest.raises(ValueError, match="none are known: pass fit_images"):
        run({"a": a.factorizer}, fit_images=None)
    assert list(run({"a": a, "c": c}, fit_images=None, controls=False).results) == ["a", "c"]


def test_the_number_of_concepts_of_xpliques_own_factorizers_is_known(run, halves):
    comparison = run({"NMF": TfSklearnNMFFactorizer(n_components=3, max_iter=2000)})
    assert not comparison.errors
    assert len(comparison.results["NMF"].encoding) == len(comparison.results[RANDOM].encoding) == 3


def test_a_factorizer_for_positive_features_fails_alone_on_negative_ones(run, images):
    class Positive(PCAFactorizer):
        requires_positive_activations = True

    comparison = run(
        {"positive": Positive(2), "PCA": PCAFactorizer(2)},
        network="gelu", images=images("gelu", 6, 1), fit_images=images("gelu", 8, 2),
    )  # fmt: skip
    assert "Positive needs non-negative activations" in comparison.errors["positive"]
    assert "PCA" in comparison.results


def test_an_error_says_what_the_fit_of_a_factorizer_must_return(run, halves):
    class Forgetful(PCAFactorizer):
        def fit(self, activations):
            super().fit(activations)

    message = (
        "Forgetful.fit must return (concept_bank, coefficients), as "
        "documented for Xplique's ConceptFactorizer, not NoneType"
    )
    comparison = run({"forgetful": Forgetful(2), "PCA": PCAFactorizer(2)}, controls=False)
    assert comparison.errors == {"forgetful": f"TypeError: {message}"}
    assert list(comparison.results) == ["PCA"]
    with pytest.raises(TypeError, match=re.escape(message)):
        FactorizerCraftTf(halves("conv_gap"), factorizer=Forgetful(2)).fit(FIT_IMAGES)


def test_progress_is_a_line_for_each_extractor_unless_verbose_is_0(run, capsys):
    run({"a": PCAFactorizer(2), "broken": Broken(2)}, verbose=1)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("[1/4] a: fit ") and lines[0].endswith(" s")
    assert lines[1] == "[2/4] broken: failed"
    run({"a": PCAFactorizer(2)})
    assert capsys.readouterr().out == ""


def test_labels_of_independent_outputs_must_be_rows_of_0_and_1(run, halves):
    g, h = halves("conv_gap")
    sigmoids = keras.Model(h.input, keras.layers.Activation("sigmoid")(h.output))
    with pytest.raises(ValueError, match="must be rows of 0 and 1"):
        run({"a": PCAFactorizer(2)}, np.full((6, 3), 0.3), split=(g, sigmoids))
