"""`compare`: every extractor by the same measures, and none of them at the cost of another."""

import csv
import io
import warnings
from dataclasses import replace

import keras
import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import NETWORKS, fake_learn_pairs, make_pairs
from sklearn.exceptions import ConvergenceWarning
from xplique.concepts import CraftTf, HolisticCraftTf
from xplique.concepts.tf.layered_model_latent_extractor import LayeredModelExtractorBuilder
from xplique.plots.metrics import barplot, fidelity_curves

import xplique_dirpairs
from xplique_dirpairs import DirectionPairsTf, PCAFactorizer, RandomFactorizer, split_model
from xplique_dirpairs import compare as exported
from xplique_dirpairs.comparison.average import average
from xplique_dirpairs.comparison.compare import compare
from xplique_dirpairs.comparison.result import (
    CONTROLS,
    NO_LEARNING,
    RANDOM,
    Comparison,
    ExtractorResult,
)
from xplique_dirpairs.comparison.table import comparison_table, paired_difference
from xplique_dirpairs.core.batching import as_positions
from xplique_dirpairs.data.activations import compute_activations
from xplique_dirpairs.factorizers.autoencoders import TopKFactorizer
from xplique_dirpairs.factorizers.decompositions import KMeansFactorizer
from xplique_dirpairs.factorizers.direction_pairs import DirectionPairsFactorizer
from xplique_dirpairs.metrics.dictionary import (
    dictionary_stability,
    max_coherence,
    ood_score,
    oriented,
    plausibility,
)
from xplique_dirpairs.metrics.fidelity import fidelity
from xplique_dirpairs.metrics.importance import sobol_designs, sobol_indices
from xplique_dirpairs.metrics.manipulation import Reading, outcomes
from xplique_dirpairs.metrics.registry import METRICS
from xplique_dirpairs.models.head import Head

pytestmark = pytest.mark.usefixtures("quick_learning")

QUICK = {"importance_images": 2, "nb_design": 4, "verbose": 0}
LABELS = np.array([0, 1, 2, 0, 1, 2])


@pytest.fixture
def data(images):
    """(images to measure on, images to fit on)."""
    return images("conv_gap", 6, seed=1), images("conv_gap", 8, seed=2)


@pytest.fixture
def run(halves, data):
    """``run(extractors, **options)`` → a comparison on the small network."""

    def run(extractors, labels=LABELS, **options):
        g, h = halves(options.pop("network", "conv_gap"))
        options = {
            "fit_images": data[1],
            "input_to_latent_model": g,
            "latent_to_logit_model": h,
        } | options
        return compare(extractors, options.pop("images", data[0]), labels, **QUICK | options)

    return run


@pytest.fixture(scope="module")
def shared(halves):
    """One comparison for the tests that only look at it."""
    from conftest import make_images

    g, h = halves("conv_gap")
    shape = NETWORKS["conv_gap"][1]
    with pytest.MonkeyPatch.context() as patch:
        module = "xplique_dirpairs.factorizers.direction_pairs"
        patch.setattr(f"{module}.learn_pairs", fake_learn_pairs)
        return compare(
            {
                "CRAFT": CraftTf(g, h, 3, patch_size=16),
                "pairs": DirectionPairsTf(g, h, 4, patch_size=16, random_state=0, verbose=0),
                "PCA": PCAFactorizer(3),
            },
            make_images(6, shape, 1),
            LABELS,
            fit_images=make_images(8, shape, 2),
            **QUICK,
        )


def fitted(factorizer, halves, images):
    factorizer.fit(as_positions(compute_activations(halves("conv_gap")[0], images)))
    return factorizer


# ------------------------------------------------------------------ values


def test_values_are_those_of_calling_the_metrics_directly(run, halves, data):
    pca = fitted(PCAFactorizer(3), halves, data[1])
    found = run({"PCA": pca}).results["PCA"]
    g, h = halves("conv_gap")
    head = Head(h)
    x, x_fit = (compute_activations(g, images) for images in data)
    u = pca.encode(as_positions(x)).reshape(*x.shape[:-1], 3)
    limits = min(x.min(), x_fit.min()), max(x.max(), x_fit.max())
    reading = Reading(x, u, pca.bank_, head.logits, LABELS, limits)
    rebuilt = pca.decode(as_positions(u)).reshape(x.shape)  # the mean residual of PCA is zero
    expected = fidelity(reading, reconstructions=rebuilt, labels=LABELS, random_state=0)
    for key, values in expected.values.items():
        np.testing.assert_allclose(found.values[key], values, atol=2e-4, err_msg=key)
    directions = oriented(pca.bank_, as_positions(u))
    rows = head.class_rows
    assert found.values["plausibility"] == pytest.approx(plausibility(directions, rows), abs=1e-5)
    two = run({"PCA": pca}, np.array([0, 2, 0, 2, 0, 2]), controls=False).results["PCA"].values
    assert two["plausibility"] == pytest.approx(plausibility(directions, rows[[0, 2]]), abs=1e-5)
    about_mean = ood_score(directions, as_positions(x) - pca.constant_)
    assert found.values["ood"] == pytest.approx(about_mean, abs=1e-5)
    coherence = max_coherence(pca.bank_)
    assert found.values["max_coherence"] == pytest.approx(coherence, abs=1e-6)
    np.testing.assert_allclose(found.fidelity.deletion.areas, expected.deletion.areas, atol=1e-5)


def test_importances_are_means_of_sobol_indices_over_evenly_spaced_images(run, halves, data):
    pca = fitted(PCAFactorizer(3), halves, data[1])
    g, _ = halves("conv_gap")
    keras.utils.set_random_seed(0)
    latent = keras.Input(g.output_shape[1:])
    pooled = keras.layers.GlobalAveragePooling2D()(latent)
    bent = keras.layers.Dense(8, "tanh", kernel_initializer="orthogonal")(30 * pooled)
    h = keras.Model(latent, keras.layers.Dense(3)(bent))  # not additive: there are errors
    options = {"importance_images": 2, "nb_design": 8, "latent_to_logit_model": h}
    found = run({"PCA": pca}, controls=False, **options).results["PCA"].importances
    x, x_fit = (compute_activations(g, images) for images in data)
    limits = min(x.min(), x_fit.min()), max(x.max(), x_fit.max())
    expected = []
    for image, masks in zip((0, 5), sobol_designs(3, 8, 0), strict=False):  # masks of its own
        one = x[image : image + 1]
        u = pca.encode(as_positions(one)).reshape(*one.shape[:-1], 3)
        reading = Reading(one, u, pca.bank_, Head(h).logits, LABELS[image : image + 1], limits)
        expected.append(sobol_indices(outcomes(reading, masks).logits[0], masks))
    for of, its_error in (("first", "first_error"), ("total", "total_error")):
        means = np.mean([getattr(each, of) for each in expected], axis=0)
        np.testing.assert_allclose(getattr(found, of), means, atol=1e-4)
        squares = np.sum([getattr(each, its_error) ** 2 for each in expected], axis=0)
        errors = np.sqrt(squares) / 2
        assert errors.min() > 1e-3
        np.testing.assert_allclose(getattr(found, its_error), errors, atol=1e-4)


def test_craft_as_xplique_ships_it_is_a_row(shared):
    found = shared.results["CRAFT"]
    assert found.decoding is None
    assert "cross_talk" not in found.values and "cross_talk" in shared.results["pairs"].values
    assert found.seconds.keys() == {"fit", "read", "measure"}
    assert 0 < found.summaries["deletion"].value < 1


def test_controls_are_always_there_last_and_of_the_commonest_size(shared, run, halves, data):
    assert list(shared.results) == ["CRAFT", "pairs", "PCA", *CONTROLS]
    assert len(shared.results[RANDOM].encoding) == 3
    assert len(shared.results[NO_LEARNING].encoding) == 3
    alone = run({"PCA": fitted(PCAFactorizer(2), halves, data[1])}, controls=False)
    assert list(alone.results) == ["PCA"]


def test_the_order_of_extractors_changes_nothing(run, halves, data):
    extractors = {
        "a": fitted(PCAFactorizer(3), halves, data[1]),
        "b": fitted(RandomFactorizer(2, random_state=1), halves, data[1]),
    }
    one, other = run(extractors), run(dict(reversed(extractors.items())))
    assert len(one.results[RANDOM].encoding) == 3  # of two equally common sizes the larger
    for name, result in one.results.items():
        for key, values in result.values.items():
            np.testing.assert_array_equal(values, other.results[name].values[key], err_msg=key)


def test_the_mean_of_the_residual_counts_for_every_extractor(run, halves, data):
    class Uncentred(PCAFactorizer):
        """PCA that does not decode the mean, so that it lacks in its reconstructions."""

        def decode(self, coefficients):
            return super().decode(coefficients) - self.constant_

    both = run(
        {"with": fitted(PCAFactorizer(2), halves, data[1]),
         "without": fitted(Uncentred(2), halves, data[1])}
    )  # fmt: skip
    ours, theirs = (both.results[name].values["activation_r2"] for name in ("with", "without"))
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)


def test_extractors_of_every_kind_and_pairs_themselves_can_be_compared(run, halves, data, images):
    keras.utils.set_random_seed(0)
    maker, shape, layer = NETWORKS["conv_gap"]
    model = maker(shape)  # the same weights as those of the halves
    index = [candidate.name for candidate in model.layers].index(layer)
    latent = LayeredModelExtractorBuilder.build(model, index, batch_size=4)
    pairs = make_pairs(8, 3)
    found = run(
        {
            "pairs": pairs,
            "factorizer": DirectionPairsFactorizer.from_pairs(pairs),
            "given": DirectionPairsTf(*halves("conv_gap"), pairs=pairs, patch_size=16),
            "holistic": HolisticCraftTf(latent, 3),
            "to fit": KMeansFactorizer(3, random_state=0),
        },
        controls=False,
    )
    assert not found.errors and len(found.results) == 5
    areas = [found.results[name].values["deletion"] for name in ("pairs", "factorizer", "given")]
    np.testing.assert_array_equal(areas[0], areas[1])
    np.testing.assert_array_equal(areas[0], areas[2])


def test_uint8_images_one_image_and_labels_in_one_hot_rows(run, data, halves):
    pictures = (255 * data[0]).astype(np.uint8)
    extractors = {"PCA": fitted(PCAFactorizer(2), halves, 255 * data[1])}
    options = {"fit_images": (255 * data[1]).astype(np.uint8), "images": pictures}
    by_index = run(extractors, **options)
    one_hot = run(extractors, np.eye(3)[LABELS].tolist(), **options)
    assert by_index.images.dtype == np.uint8
    assert by_index.images.shape == pictures.shape
    for key, values in by_index.results["PCA"].values.items():
        np.testing.assert_array_equal(values, one_hot.results["PCA"].values[key])
    single = run(extractors, [1], **options | {"images": pictures[0]})
    assert single.results["PCA"].values["deletion"].shape == (1,)
    assert "PCA" in str(single)


def test_without_labels_the_predicted_class_counts_and_completeness_is_missing(run, halves, data):
    found = run({"PCA": fitted(PCAFactorizer(2), halves, data[1])}, labels=None)
    g, h = halves("conv_gap")
    predicted = Head(h).logits(compute_activations(g, data[0])).argmax(axis=1)
    np.testing.assert_array_equal(found.class_ids, predicted)
    assert "completeness" not in found.results["PCA"].values
    assert "completeness" not in str(found)


@pytest.mark.parametrize(
    "outputs, labels, class_ids",
    [
        (1, [0, 1, 1, 0, 1, 0], [0] * 6),
        (2, [[0, 1], [1, 0], [1, 0], [0, 1], [1, 0], [0, 1]], [1, 0, 0, 1, 0, 1]),
    ],
)
def test_independent_outputs_are_compared_too(data, outputs, labels, class_ids):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(6, 3, 4, activation="relu", bias_initializer="ones", name="f")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(outputs, activation="sigmoid")(x))
    g, h = split_model(model, "f")
    h = keras.Model(h.input, keras.layers.Activation("sigmoid")(h.output))
    found = compare(
        {"PCA": PCAFactorizer(2)}, data[0], labels, fit_images=data[1],
        input_to_latent_model=g, latent_to_logit_model=h, controls=False, **QUICK,
    )  # fmt: skip
    assert not found.errors
    np.testing.assert_array_equal(found.class_ids, class_ids)
    assert found.results["PCA"].values["completeness"].shape == (6, 2)


def test_sigmoids_stay_sigmoids_when_the_network_is_cut(data):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(6, 3, 4, activation="relu", bias_initializer="ones", name="f")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(3, activation="sigmoid")(x))
    g, h = split_model(model, "f")
    by_hand = keras.Model(h.input, h.output)
    labels = np.array([[0, 1, 1], [0, 0, 0], [1, 0, 0], [1, 1, 1], [0, 1, 0], [1, 0, 1]])
    pca = PCAFactorizer(2)
    for half, multilabel in ((h, None), (by_hand, True)):
        found = compare(
            {"PCA": pca}, data[0], labels, fit_images=data[1], input_to_latent_model=g,
            latent_to_logit_model=half, multilabel=multilabel, controls=False, **QUICK,
        )  # fmt: skip
        intact = found.results["PCA"].fidelity.deletion.probabilities[:, 0]
        own = model(data[0]).numpy()[np.arange(6), found.class_ids]
        np.testing.assert_allclose(intact, own, atol=1e-5)


@pytest.mark.parametrize("network", ["tokens", "class_token", "vectors", "conv_flatten", "gelu"])
def test_layers_of_any_shape_are_compared_and_drawn(run, images, network):
    found = run(
        {"PCA": PCAFactorizer(2), "pairs": DirectionPairsFactorizer(3, random_state=0)},
        network=network, images=images(network, 6, 1), fit_images=images(network, 8, 2),
    )  # fmt: skip
    assert not found.errors and len(found.results) == 4
    for figure in (found.plot(), found.plot_maps(1, n=2), found.plot_aligned("PCA", "pairs")):
        figure.canvas.draw()


# ------------------------------------------------------------------ what goes wrong


class Broken(PCAFactorizer):
    def encode(self, activations):
        raise RuntimeError("it\nbroke <b>")


class Interrupted(PCAFactorizer):
    def fit(self, activations):
        raise KeyboardInterrupt


def test_an_extractor_that_fails_does_not_lose_the_others(run, caplog):
    found = run({"broken": Broken(2), "PCA": PCAFactorizer(2)})
    assert list(found.results) == ["PCA", *CONTROLS]
    assert found.errors == {"broken": "RuntimeError: it\nbroke <b>"}
    assert "broken has no result" in caplog.text
    assert "broken has no result: RuntimeError: it broke <b>" in str(found)
    assert "<b>" not in found._repr_html_()


def test_where_all_fail_there_is_still_a_table_and_figures_say_why(run, tmp_path):
    found = run({"broken": Broken(2)}, controls=False)
    assert "broken has no result" in str(found) and "broken" in found._repr_html_()
    for draw in (found.plot, found.plot_importances, lambda: found.plot_maps(0)):
        with pytest.raises(ValueError, match=r"no extractor has a result.*broke"):
            draw()
    assert [path.name for path in found.save_report(tmp_path)] == ["table.md", "table.csv"]


def test_an_interrupt_keeps_what_is_measured(run):
    found = run({"a": PCAFactorizer(2), "b": Interrupted(2), "c": PCAFactorizer(2)})
    assert found.interrupted and list(found.results) == ["a"] and not found.errors
    assert found.missing == ("b", "c", *CONTROLS)
    assert f"interrupted: without b, c, {RANDOM}, {NO_LEARNING}" in str(found)


def test_pairs_whose_fit_was_interrupted_are_not_measured_half_learned(run, monkeypatch):
    import dataclasses

    def interrupted(*args, **options):
        pairs, history = fake_learn_pairs(*args, **options)
        return pairs, dataclasses.replace(history, interrupted=True)

    module = "xplique_dirpairs.factorizers.direction_pairs"
    monkeypatch.setattr(f"{module}.learn_pairs", interrupted)
    found = run({"a": PCAFactorizer(2), "b": DirectionPairsFactorizer(2)})
    assert found.interrupted and list(found.results) == ["a"]


def test_what_fits_warn_of_stands_under_the_table_and_other_warnings_are_passed_on(run):
    class Slow(PCAFactorizer):
        def fit(self, activations):
            warnings.warn("not there yet", ConvergenceWarning, stacklevel=1)
            warnings.warn("something else", UserWarning, stacklevel=1)
            return super().fit(activations)

    with pytest.warns(UserWarning, match="something else") as seen:
        found = run({"slow": Slow(2)}, controls=False)
    assert not any(issubclass(warning.category, ConvergenceWarning) for warning in seen)
    assert found.results["slow"].remarks == ("not there yet",)
    assert str(found).endswith("slow: not there yet")


def test_a_fit_that_was_cut_short_before_is_flagged(run, halves, data):
    craft = CraftTf(*halves("conv_gap"), 3, patch_size=16)
    craft.fit(data[1])
    craft.factorization.reducer.n_iter_ = craft.factorization.reducer.max_iter
    found = run({"CRAFT": craft}, controls=False)
    assert found.results["CRAFT"].remarks == ("its fit was cut short after 200 iterations",)


def test_what_autoencoders_and_pairs_fitted_before_warned_of_is_told(run, halves, data):
    sae = fitted(TopKFactorizer(2, k=1, steps=2, random_state=0), halves, data[1])
    sae.history_ = replace(sae.history_, cut_short=["the training was interrupted"])
    pairs = DirectionPairsTf(*halves("conv_gap"), 2, patch_size=16, random_state=0, verbose=0)
    pairs.fit(data[1])
    pairs.factorizer.history_ = replace(pairs.history_, doubts=["it is unsure"], dead=[1])
    found = run({"SAE": sae, "pairs": pairs}, controls=False)
    assert "the training was interrupted" in found.results["SAE"].remarks
    assert "it is unsure" in found.results["pairs"].remarks
    assert "pairs: it is unsure" in str(found)


def test_extractors_of_another_layer_are_one_clear_error(run, halves, data):
    extractors = {
        "right": PCAFactorizer(2),
        "pairs elsewhere": make_pairs(5, 2),
        "craft elsewhere": CraftTf(*halves("vectors"), 2),
    }
    message = r"layer .*\(8 x 8 x 8\), but 'pairs elsewhere' \(5 channels\), 'craft elsewhere' \(10"
    with pytest.raises(ValueError, match=message):
        run(extractors)


def test_the_same_layer_cut_twice_is_the_same_layer_and_another_network_is_not(run, data):
    maker, shape, layer = NETWORKS["conv_gap"]
    keras.utils.set_random_seed(0)
    same = split_model(maker(shape), layer)
    keras.utils.set_random_seed(1)
    other = split_model(maker(shape), layer)
    found = run({"same": DirectionPairsTf(*same, 2, verbose=0)}, controls=False)
    assert list(found.results) == ["same"]
    with pytest.raises(ValueError, match=r"'other' .* is of another one"):
        run({"other": DirectionPairsTf(*other, 2, verbose=0)})


@pytest.mark.parametrize(
    "extractors, error, message",
    [
        ({}, ValueError, "no extractors"),
        ([PCAFactorizer(2)], TypeError, "must be a dictionary"),
        ({3: PCAFactorizer(2)}, TypeError, "names of extractors"),
        ({" ": PCAFactorizer(2)}, TypeError, "names of extractors"),
        ({RANDOM: PCAFactorizer(2)}, ValueError, "name of a control"),
        ({"a": "CRAFT"}, TypeError, "'a' must be a CraftTf.*not str"),
    ],
)
def test_what_cannot_be_compared_is_refused(run, extractors, error, message):
    with pytest.raises(error, match=message):
        run(extractors)


@pytest.mark.parametrize(
    "labels, message",
    [
        ([0, 1], "labels must be class indices"),
        ([0.0, 1, 2, 0, 1, 2], "labels must be class indices.*float64"),
        ([0, 1, 2, 3, 0, 0], "classes 0 … 2"),
        ([0, 1, -1, 0, 0, 0], "classes 0 … 2"),
        (np.ones((6, 3)), "a single 1 each"),
        (np.full((6, 3), 0.3), "rows of 0 and 1"),
    ],
)
def test_labels_that_do_not_fit_are_refused(run, labels, message):
    with pytest.raises(ValueError, match=message):
        run({"a": PCAFactorizer(2)}, labels)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"fit_images": None}, "'a' are not fitted"),
        ({"latent_to_logit_model": None}, "both halves"),
        ({"input_to_latent_model": None, "latent_to_logit_model": None}, "knows the network"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"nb_design": 1}, "nb_design must be"),
        ({"importance_images": 0.5}, "importance_images must be"),
        ({"random_state": None}, "random_state must be an integer of at least 0, not None"),
        ({"random_state": -1}, "random_state must be"),
        ({"images": np.zeros((0, 32, 32, 3))}, "no images"),
        ({"images": np.zeros((2, 16, 16, 3))}, "images have shape"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(run, options, message):
    with pytest.raises(ValueError, match=message):
        run({"a": PCAFactorizer(2)}, **options)


def test_halves_of_two_networks_do_not_fit(run, halves):
    with pytest.raises(ValueError, match="takes activations of shape"):
        run({"a": PCAFactorizer(2)}, latent_to_logit_model=halves("vectors")[1])


def test_the_controls_are_fitted_on_the_images_of_the_extractors_own_fit(run, halves, data):
    def craft(images):
        made = DirectionPairsTf(*halves("conv_gap"), 2, patch_size=16, random_state=0, verbose=0)
        made.fit(images)
        return made

    a, b, c = craft(data[1]), craft(data[1]), craft(data[0])
    given = run({"a": a, "b": b})
    found = run({"a": a, "b": b}, fit_images=None)
    for name in CONTROLS:
        ours, theirs = (r.results[name].values["deletion"] for r in (given, found))
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(ValueError, match="fitted on different images: give fit_images"):
        run({"a": a, "c": c}, fit_images=None)
    with pytest.raises(ValueError, match="none are known: give fit_images"):
        run({"a": a.factorizer}, fit_images=None)
    assert list(run({"a": a, "c": c}, fit_images=None, controls=False).results) == ["a", "c"]


def test_xpliques_own_factorizers_say_how_many_concepts_they_have(run, halves, data):
    from xplique.concepts.tf.factorizer import TfSklearnNMFFactorizer

    found = run({"NMF": TfSklearnNMFFactorizer(n_components=3, max_iter=2000)})
    assert not found.errors
    assert len(found.results["NMF"].encoding) == len(found.results[RANDOM].encoding) == 3


def test_a_factorizer_for_positive_features_fails_alone_where_they_are_negative(run, images):
    class Positive(PCAFactorizer):
        requires_positive_activations = True

    found = run(
        {"positive": Positive(2), "PCA": PCAFactorizer(2)},
        network="gelu", images=images("gelu", 6, 1), fit_images=images("gelu", 8, 2),
    )  # fmt: skip
    assert "Positive needs activations that are nowhere negative" in found.errors["positive"]
    assert "PCA" in found.results


def test_progress_is_a_line_for_each_extractor_and_none_in_silence(run, capsys):
    run({"a": PCAFactorizer(2), "broken": Broken(2)}, verbose=1)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("[1/4] a: fit ") and lines[0].endswith(" s")
    assert lines[1] == "[2/4] broken: failed"
    run({"a": PCAFactorizer(2)})
    assert capsys.readouterr().out == ""


def test_compare_is_what_the_package_exports():
    assert exported is compare
    for name in xplique_dirpairs.__all__:  # the list, and where each is looked for
        assert getattr(xplique_dirpairs, name)
    assert xplique_dirpairs.average is average
    assert xplique_dirpairs.TopKFactorizer is TopKFactorizer


# ------------------------------------------------------------------ tables


def fake(name, **values):
    values = {key: np.asarray(value, float) for key, value in values.items()}
    return ExtractorResult(name, None, None, None, values, None, None, {})


def column(results, key):
    table = comparison_table({r.name: r for r in results}, [METRICS[key]], None)
    return {row[0].text: row[1] for row in table.rows}


def test_best_respects_the_direction_of_a_metric(rng):
    a, b = rng.uniform(0.0, 0.1, 20), rng.uniform(0.8, 0.9, 20)
    one, other = fake("a", deletion=a, insertion=a), fake("b", deletion=b, insertion=b)
    assert [cell.best for cell in column([one, other], "deletion").values()] == [True, False]
    assert [cell.best for cell in column([one, other], "insertion").values()] == [False, True]
    off = fake("a", all_off_norm=a), fake("b", all_off_norm=b)
    assert not any(cell.best for cell in column(off, "all_off_norm").values())


def test_what_is_printed_alike_is_best_alike():
    found = column([fake("a", dead=0), fake("b", dead=0.0), fake("c", dead=1)], "dead")
    assert [cell.best for cell in found.values()] == [True, True, False]
    assert [cell.text for cell in found.values()] == ["0.0", "0.0", "1.0"]


def test_ties_are_those_of_the_paired_difference_not_of_the_intervals(rng):
    level = rng.uniform(0.0, 1.0, 40)  # images differ a lot, extractors on each of them little
    noise = rng.normal(0.0, 1e-3, 40)
    rows = [
        fake("best", deletion=level),
        fake("worse on each", deletion=level + 0.02 + noise),
        fake("the same on average", deletion=level + 0.002 + 0.05 * rng.normal(size=40)),
    ]
    found = column(rows, "deletion")
    assert "=" not in found["worse on each"].text
    low, high = found["best"].numbers[1:]
    assert low < rows[1].summaries["deletion"].value < high  # the intervals themselves overlap
    tied = found["the same on average"]
    assert tied.text.endswith(" =") or tied.best


def test_ratios_are_compared_in_pairs_too(rng):
    size = rng.uniform(1.0, 9.0, 30)
    a, b = (np.stack([share * size, size], axis=1) for share in (0.5, 0.6))
    difference = paired_difference(METRICS["logit_r2"], a, b)
    np.testing.assert_allclose(difference[:3], -0.1, atol=1e-9)


def test_undefined_figures_are_dashes_and_never_best():
    found = column(
        [fake("a", plausibility=np.nan), fake("b", plausibility=0.1), fake("c", dead=1)],
        "plausibility",
    )
    assert [cell.text for cell in found.values()] == ["–", "0.100", "–"]
    assert [cell.best for cell in found.values()] == [False, True, False]


def test_tables_of_one_kind_hold_its_metrics(shared):
    for kind in ("curves", "all off", "reconstruction", "dictionary"):
        headers = shared.table(kind).headers[1:]
        names = [f"{m.name} {m.arrow}".rstrip() for m in METRICS.values() if m.kind == kind]
        assert list(headers) == [name for name in names if "stability" not in name]
        assert len(shared.table(kind).rows) == 5
    with pytest.raises(ValueError, match="kind must be one of"):
        shared.table("weather")


def test_the_csv_of_a_comparison_holds_its_figures(shared):
    rows = list(csv.DictReader(io.StringIO(shared.table().formatted("csv"))))
    assert [row["extractor"] for row in rows] == list(shared.results)
    for row, result in zip(rows, shared.results.values(), strict=True):
        figure = result.summaries["deletion"]
        got = [float(row[f"deletion ↓{part}"]) for part in ("", " (low)", " (high)")]
        assert got == list(figure[:3])
        assert float(row["L0"]) == result.summaries["l0"].value


def test_is_tied_with_itself_and_symmetric(shared):
    assert shared.is_tied("deletion", "PCA", "PCA")
    assert shared.is_tied("max_coherence", "PCA", "PCA")
    for key in ("insertion", "logit_r2", "max_coherence"):
        assert shared.is_tied(key, "PCA", "CRAFT") == shared.is_tied(key, "CRAFT", "PCA")


def test_errors_of_is_tied_name_what_there_is(shared):
    for key, names, error, told in (
        ("warmth", ("PCA", "CRAFT"), ValueError, "deletion"),
        ("deletion", ("PCA", "nobody"), KeyError, "CRAFT"),
        ("cross_talk", ("PCA", "CRAFT"), KeyError, "'CRAFT' has no 'cross_talk', but .*insertion"),
    ):
        with pytest.raises(error, match=told):
            shared.is_tied(key, *names)


def test_controls_are_never_marked():
    results = {row.name: row for row in (fake("a", insertion=0.5), fake(RANDOM, insertion=1.0))}
    table = comparison_table(results, [METRICS["insertion"]], [], controls=CONTROLS)
    assert [row[1].best for row in table.rows] == [True, False]
    assert "=" not in table.rows[1][1].text
    assert any("neither best" in line for line in table.caption)
    assert any("insertion by doing nothing" in line for line in table.caption)
    assert not any("neither best" in line for line in comparison_table(results, [], []).caption)


def test_notes_tell_what_was_left_out_and_what_deletion_never_reached(shared):
    one = shared.results["PCA"]
    gaps = np.where(np.arange(6) < 2, np.nan, 0.5)
    crossed = np.zeros((6, 3), bool)
    crossed[:, 0] = True
    crossed[:3, 1] = True
    at_chance = np.tile([[0.5, 0.5], [-0.5, -0.5]], (3, 1))
    changed = replace(
        one,
        values=one.values | {"mu_fidelity": gaps, "completeness": at_chance},
        fidelity=replace(one.fidelity, crossed=crossed),
    )
    found = replace(shared, results={"PCA": changed})
    for caption in (found.table().caption, found._tables()[-1].caption):
        text = "\n".join(caption)
        assert "μ-fidelity: images left out as undefined: 2 of 6 of PCA" in text
        assert "share of the images: PCA 50 % at 0.2 and 100 % at 0.3" in text
        assert "completeness is undefined" in text and "clearly above 0): PCA" in text
    assert "P@" not in "\n".join(found.table("dictionary").caption)


# ------------------------------------------------------------------ several seeds


@pytest.fixture
def seeds(run):
    return [
        run({"PCA": PCAFactorizer(2), "random": RandomFactorizer(3, random_state=seed)},
            random_state=seed)
        for seed in range(3)
    ]  # fmt: skip


def test_values_of_an_average_are_means_over_seeds_image_by_image(seeds):
    found = average(seeds)
    assert list(found.results) == ["PCA", "random", *CONTROLS]
    for key in ("deletion", "logit_r2", "l0"):
        expected = np.mean([seed.results["random"].values[key] for seed in seeds], axis=0)
        np.testing.assert_allclose(found.results["random"].values[key], expected)
    figures = [seed.results["random"].summaries["deletion"].value for seed in seeds]
    assert found.seed_spread("deletion")["random"] == pytest.approx(np.std(figures, ddof=1))
    assert found.seed_spread("deletion")["PCA"] == pytest.approx(0.0, abs=1e-9)
    assert np.isnan(seeds[0].seed_spread("deletion")["PCA"])
    with pytest.raises(ValueError, match="no metrics"):
        found.seed_spread("warmth")
    row = next(row for row in found.table("curves").rows if row[0].text == "random")
    spread = found.seed_spread("deletion")["random"]
    assert f"(± {spread:.3f})" in row[1].text and row[1].numbers[3] == spread
    assert any("from seed to seed" in line for line in found.table().caption)
    line = list(csv.DictReader(io.StringIO(found.table().formatted("csv"))))[1]
    assert float(line["deletion ↓ (seeds SD)"]) == pytest.approx(np.std(figures, ddof=1))
    assert line["coherence ↓"] and line["coherence ↓ (low)"] == ""
    assert "seed" not in str(seeds[0])
    crossed = [np.full((6, 3), seed > 0) for seed in range(3)]
    for seed, its in zip(seeds, crossed, strict=True):
        one = seed.results["PCA"]
        seed.results["PCA"] = replace(one, fidelity=replace(one.fidelity, crossed=its))
    assert not average(seeds).results["PCA"].fidelity.crossed.any()


def test_stability_is_the_mean_over_all_pairs_of_seeds(seeds):
    found = average(seeds)
    banks = [seed.results["random"].encoding for seed in seeds]
    pairs = [(0, 1), (0, 2), (1, 2)]
    expected = np.mean([dictionary_stability(banks[i], banks[j]) for i, j in pairs])
    assert found.results["random"].values["stability_encoding"] == pytest.approx(expected)
    assert found.results["PCA"].values["stability_encoding"] == pytest.approx(1.0)
    assert found.results["PCA"].values["stability_decoding"] == pytest.approx(1.0)
    headers = found.table("dictionary").headers
    assert headers[-2:] == ["stability (encoding) ↑", "stability (decoding) ↑"]
    assert "stability" not in str(seeds[0])


def test_deletion_by_change_of_an_average_is_the_mean_over_seeds(seeds):
    found, changes = average(seeds), [0.0, 0.05, 0.1]
    expected = np.mean([s.results["random"].deletion_at(changes) for s in seeds], axis=0)
    np.testing.assert_allclose(found.results["random"].deletion_at(changes), expected)
    curve = found.detailed_scores("insertion")["random"]
    means = [np.mean([s.detailed_scores("insertion")["random"][n] for s in seeds]) for n in curve]
    np.testing.assert_allclose(list(curve.values()), means)
    figures = (
        found.plot(),
        found.plot_importances(),
        found.plot_maps(0),
        found.plot_aligned("PCA", "random"),
    )
    assert all(isinstance(figure, plt.Figure) for figure in figures)


def test_an_extractor_that_failed_with_one_seed_is_missing_in_the_average(seeds):
    first = seeds[0]
    rest = {name: r for name, r in first.results.items() if name != "PCA"}
    lost = replace(first, results=rest, errors={"PCA": "ValueError: no"})
    found = average([lost, *seeds[1:]])
    assert list(found.results) == ["random", *CONTROLS]
    assert found.errors == {"PCA": "missing in 1 of 3: ValueError: no"}


def test_averages_of_what_does_not_belong_together_are_refused(seeds, run, images):
    with pytest.raises(ValueError, match="two comparisons at least"):
        average(seeds[:1])
    other = run({"PCA": PCAFactorizer(2)}, images=images("conv_gap", 6, 9))
    with pytest.raises(ValueError, match="same images and classes"):
        average([seeds[0], other])
    larger = run({"PCA": PCAFactorizer(3)}, controls=False)
    with pytest.raises(ValueError, match="'PCA' has 2 and 3 concepts"):
        average([seeds[0], larger])


# ------------------------------------------------------------------ curves and pictures


def test_deletion_at_a_change_is_what_p_at_is(shared):
    result = shared.results["pairs"]
    at = result.deletion_at([0.0, 0.1, 0.3])
    assert at[0] == pytest.approx(result.fidelity.deletion.probabilities[:, 0].mean())
    assert at[1] == pytest.approx(result.values["p_at_0.1"].mean())
    assert at[2] == pytest.approx(result.values["p_at_0.3"].mean())


def test_xpliques_own_plots_take_the_scores(shared, tmp_path):
    scores = shared.scores()
    assert "deletion" in scores and "cross-talk" not in scores  # which CRAFT has not
    assert all(list(of) == list(shared.results) for of in scores.values())
    barplot(scores, methods_colors=shared.colors, filepath=tmp_path / "bars.png")
    barplot(shared.scores(["deletion", "kl"]), "deletion", filepath=tmp_path / "two.png")
    for curve in ("deletion", "insertion"):
        detailed = shared.detailed_scores(curve)
        fidelity_curves(detailed, methods_colors=shared.colors, filepath=tmp_path / "c.png")
    assert list(detailed["pairs"]) == [0, 1, 2, 3, 4]
    ends = shared.results["pairs"].fidelity.insertion.probabilities.mean(axis=0)[[0, -1]]
    np.testing.assert_allclose([detailed["pairs"][0], detailed["pairs"][4]], ends)
    with pytest.raises(ValueError, match="curve must be"):
        shared.detailed_scores("both")
    with pytest.raises(ValueError, match="no metrics"):
        shared.scores(["warmth"])


def test_maps_show_the_concepts_that_count_most_for_the_image(shared):
    figure = shared.plot_maps(2, n=2)
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    for row, result in enumerate(shared.results.values()):
        contributions = result.fidelity.contributions[2]
        best = np.argsort(-contributions)[:2]
        assert titles[2 * row : 2 * row + 2] == [f"{i}: {contributions[i]:+.2f}" for i in best]
    for image in (6, -1, 1.5):
        with pytest.raises(ValueError, match="image must be"):
            shared.plot_maps(image)


def test_an_extractor_aligned_with_its_mirror_image_is_found_again(run, halves, data):
    class Mirrored(PCAFactorizer):
        """The same components in another order, with the signs turned."""

        def _learn(self, x):
            bank, constant = super()._learn(x)
            self.filters_ = -self.filters_[::-1]
            return -bank[::-1], constant

    found = run({"a": PCAFactorizer(3), "b": Mirrored(3), "c": PCAFactorizer(2)})
    figure = found.plot_aligned("a", "b")
    texts = [text.get_text() for text in figure.texts]
    assert texts.count("r = 1.00") == 3
    numbers = [ax.texts[0].get_text() for ax in figure.axes]
    pairs = zip(numbers[::2], numbers[1::2], strict=True)
    assert all(int(ours) + int(theirs) == 2 for ours, theirs in pairs)
    # of unequal numbers, the smaller is found in the larger
    for names, order in ((("b", "c"), 1), (("c", "b"), -1)):
        figure = found.plot_aligned(*names)
        assert [text.get_text() for text in figure.texts].count("r = 1.00") == 2
        numbers = [ax.texts[0].get_text() for ax in figure.axes]
        pairs = {pair[::order] for pair in zip(numbers[::2], numbers[1::2], strict=True)}
        assert pairs == {("2", "0"), ("1", "1")}
    with pytest.raises(KeyError, match="no result of 'd'"):
        found.plot_aligned("a", "d")


def test_a_report_is_a_folder_of_tables_and_figures_with_safe_names(shared, tmp_path):
    results = {
        "A/B: ../<script>": shared.results["CRAFT"],
        "PCA": shared.results["PCA"],
        "pca!": shared.results["pairs"],
        RANDOM: shared.results[RANDOM],
    }
    renamed = Comparison(results, {"x": "TypeError: y"}, shared.images, shared.class_ids)
    paths = renamed.save_report(tmp_path / "new" / "report")
    assert {path.parent for path in paths} == {tmp_path / "new" / "report"}
    stems = [
        "fidelity",
        "importances",
        "maps",
        "aligned_a-b-script_pca",
        "aligned_a-b-script_pca_2",
    ]
    figures = [f"{stem}.{ending}" for stem in stems for ending in ("png", "svg")]
    assert [path.name for path in paths] == ["table.md", "table.csv", *figures]
    assert all(path.stat().st_size > 100 for path in paths)
    assert "<script>" not in (paths[0]).read_text(encoding="utf-8")
    assert not plt.get_fignums()


# ---------------------------------------------------------------- files, and joined


def same(one, other):
    """Whether two results hold the same arrays."""
    assert one.values.keys() == other.values.keys()
    for key in one.values:
        np.testing.assert_array_equal(one.values[key], other.values[key])
    for part in ("encoding", "decoding", "shown"):
        np.testing.assert_array_equal(getattr(one, part), getattr(other, part))
    for part in ("contributions", "orders", "crossed"):
        np.testing.assert_array_equal(getattr(one.fidelity, part), getattr(other.fidelity, part))
    for part in ("deletion", "insertion"):
        ours, theirs = getattr(one.fidelity, part), getattr(other.fidelity, part)
        np.testing.assert_array_equal(ours.probabilities, theirs.probabilities)
        np.testing.assert_array_equal(ours.changed, theirs.changed)
    np.testing.assert_array_equal(one.importances.total, other.importances.total)
    assert (one.name, one.seconds, one.remarks) == (other.name, other.seconds, other.remarks)


def test_a_comparison_is_saved_and_loaded_whole(shared, seeds, tmp_path):
    for found in (shared, average(seeds)):
        found.save(tmp_path / "comparison.npz")
        loaded = Comparison.load(tmp_path / "comparison.npz")

        assert str(loaded) == str(found)
        assert list(loaded.results) == list(found.results)
        for name, result in found.results.items():
            same(loaded.results[name], result)
            for one, other in zip(loaded.results[name].seeds, result.seeds, strict=True):
                same(one, other)
        assert loaded.is_of_same_images(found)
    plt.close(loaded.plot())
    plt.close(loaded.plot_maps(0))


def test_metrics_that_are_registered_elsewhere_are_kept_in_the_file(shared, tmp_path):
    one = shared.results["PCA"]
    mine = replace(one, values=one.values | {"mine": np.arange(6.0)})
    replace(shared, results=shared.results | {"PCA": mine}).save(tmp_path / "c.npz")
    loaded = Comparison.load(tmp_path / "c.npz")
    np.testing.assert_array_equal(loaded.results["PCA"].values["mine"], np.arange(6.0))
    assert str(loaded) == str(shared)


def test_what_failed_is_kept_in_the_file(shared, tmp_path):
    found = Comparison({}, {"SAE": "ValueError: <no>"}, shared.images, shared.class_ids, True)
    found.save(tmp_path / "comparison.npz")
    loaded = Comparison.load(tmp_path / "comparison.npz")

    assert (loaded.errors, loaded.interrupted) == (found.errors, True)


def test_a_file_of_something_else_is_refused(shared, tmp_path):
    make_pairs(4, 2).save(tmp_path / "pairs.npz")
    with pytest.raises(ValueError, match=r"not a file of a comparison.*DirectionPairs"):
        Comparison.load(tmp_path / "pairs.npz")
    shared.save(tmp_path / "whole.npz")
    whole = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "half.npz").write_bytes(whole[: len(whole) // 2])
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
    assert not joined.errors  # by now PCA has a result


def test_comparisons_that_do_not_belong_together_are_not_joined(shared):
    with pytest.raises(ValueError, match=r"'PCA'.*have results in both"):
        shared.joined(shared)
    other = Comparison({}, {}, shared.images + 1, shared.class_ids)
    with pytest.raises(ValueError, match="same images and classes"):
        shared.joined(other)


def test_comparisons_that_were_made_differently_are_neither_joined_nor_averaged(
    run, halves, data, images, tmp_path
):
    pca = fitted(PCAFactorizer(2), halves, data[1])
    one = run({"PCA": pca}, controls=False)
    one.save(tmp_path / "one.npz")
    loaded = Comparison.load(tmp_path / "one.npz")
    ways = {
        "nb_design (4 and 8)": {"nb_design": 8},
        "importance_images (2 and 3)": {"importance_images": 3},
        "fit_images": {"fit_images": images("conv_gap", 8, seed=3)},
    }
    others = {what: run({"same": pca}, controls=False, **how) for what, how in ways.items()}
    _, h = halves("conv_gap")
    other_head = keras.models.clone_model(h)
    other_head.set_weights([weight + 0.5 for weight in h.get_weights()])
    others["logits of the intact network"] = run(
        {"same": pca}, controls=False, latent_to_logit_model=other_head
    )
    for what, other in others.items():
        for put_together in (loaded.joined, lambda other: average([one, other])):
            with pytest.raises(ValueError, match="made differently") as told:
                put_together(other)
            assert what in str(told.value)
    seed = run({"again": pca}, controls=False, random_state=1)
    with pytest.raises(ValueError, match=r"random_state \(0 and 1\)"):
        one.joined(seed)
    assert average([loaded, seed]).settings.random_state == [0, 1]
    with pytest.raises(ValueError, match="not known how one"):
        one.joined(replace(seed, settings=None))


def test_what_an_interruption_left_out_can_be_made_up_for(run, tmp_path):
    begun = run({"a": PCAFactorizer(2), "b": Interrupted(2)}, controls=False)
    begun.save(tmp_path / "begun.npz")
    begun = Comparison.load(tmp_path / "begun.npz")
    assert begun.interrupted and begun.missing == ("b",)

    other = begun.joined(run({"c": PCAFactorizer(2)}, controls=False))
    assert other.interrupted and other.missing == ("b",)
    whole = other.joined(run({"b": PCAFactorizer(2)}, controls=False))
    assert not whole.interrupted and list(whole.results) == ["a", "c", "b"]
