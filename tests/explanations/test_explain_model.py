"""A model is explained by its known reasons, and all numbers equal reference implementations."""

import pickle
from dataclasses import replace

import keras
import matplotlib.pyplot as plt
import numpy as np
import pytest
from planted_networks import (
    BIASES,
    CLASSES,
    CONCEPTS,
    NAMES,
    planted_halves,
    planted_images,
    planted_layer,
    planted_pairs,
)

from xplique_dirpairs.explanations.model import explain_model
from xplique_dirpairs.explanations.prediction import explain_prediction
from xplique_dirpairs.extractors.craft import DirectionPairsTf
from xplique_dirpairs.models.split import SplitModel
from xplique_dirpairs.sensitivity.influence import (
    InfluenceSettings,
    influence,
    influence_of_directions,
)
from xplique_dirpairs.sensitivity.noise_vectors import mean_difference_noise
from xplique_dirpairs.sensitivity.responses import sensitivity

SETTINGS = InfluenceSettings(amount=1.0)
PERMUTED = InfluenceSettings(noise="permuted labels", noise_vectors=20)
QUICK = {"settings": SETTINGS, "verbose": 0}


@pytest.fixture(scope="module")
def layer():
    return planted_layer(concept_names=NAMES)


@pytest.fixture(scope="module")
def data():
    return planted_images(45)


@pytest.fixture(scope="module")
def explained(layer, data):
    images, labels = data
    return explain_model(layer, images, labels, **QUICK)


@pytest.fixture(scope="module")
def singles(layer, data):
    """Return explanations of single images, each for its own class."""
    images, labels = data
    return [
        explain_prediction(layer, image, int(label))
        for image, label in zip(images[:9], labels[:9], strict=True)
    ]


def layer_with_maps(shape):
    """Return the planted concepts in a network whose head takes maps."""
    keras.utils.set_random_seed(0)
    inputs, latent = keras.Input(shape), keras.Input(shape)
    x = keras.layers.Conv2D(4, 4, 4, activation="relu", bias_initializer="ones")(latent)
    outputs = keras.layers.Dense(CLASSES)(keras.layers.Flatten()(x))
    first = keras.Model(inputs, keras.layers.Identity()(inputs))
    return planted_layer(SplitModel.of(first, keras.Model(latent, outputs)))


def test_progress_is_shown_unless_verbose_is_0(layer, data, capsys):
    capsys.readouterr()
    explain_model(layer, *data, settings=PERMUTED, verbose=0)
    assert capsys.readouterr().out == ""
    explain_model(layer, *data, settings=PERMUTED)
    shown = capsys.readouterr().out
    for title in ("images", "influence", "contributions", "confusions"):
        assert f"{title}: " in shown
    assert f"{CONCEPTS} of {CONCEPTS}" in shown


# ------------------------------------------------------------------ known reasons


def test_the_strongest_concept_of_each_class_is_its_own(explained):
    for class_id in range(CLASSES):
        for by in ("contribution", "influence"):
            supporting, _ = explained.ranked(class_id, by=by)
            assert supporting[0] == class_id
    assert explained.ranked(2)[1].tolist() == [0]  # A speaks against class 2
    assert explained.ranked("class 0")[0].tolist() == [0, 3]


def test_only_the_planted_shared_concept_speaks_for_two_classes(explained):
    shared = explained.shared(0.1)
    assert shared.tolist() == [[1, 0, 0, 1], [0, 1, 0, 1], [-1, 0, 1, 0]]
    rows = [[cell.text for cell in row] for row in explained.shared_table(0.1).rows]
    assert rows == [["A", "2", "class 0", "class 2"], ["D", "2", "class 0, class 1", "–"]]
    assert not explained.shared_table(1.0).rows


def test_the_own_concept_of_each_class_has_positive_influence_and_grades_are_0_1_or_2(explained):
    signs = np.sign(explained.influence.scores).astype(int)
    assert signs[:3].diagonal().tolist() == [1, 1, 1]
    assert explained.significance.shape == (CONCEPTS, CLASSES)
    assert set(np.unique(explained.significance)) <= {0, 1, 2}


def test_a_class_that_is_not_tested_is_said_not_to_be_and_its_effects_are_shown(data):
    images, labels = data
    layer = planted_layer(planted_halves(hidden=True), concept_names=NAMES)
    settings = InfluenceSettings(min_images=46)  # there are 45 images
    explanation = explain_model(layer, images, labels, settings=settings, verbose=0)
    assert (explanation.significance == -1).all() and not explanation.influence.tests
    row = explanation.class_table(2).rows[0]
    assert row[4].text == "not tested: fewer than 46 images predicted as the class"
    assert row[2].numbers[0] > 0 and "±" in row[2].text
    texts = [text.get_text() for axes in explanation.plot().axes for text in axes.texts]
    assert any("nothing was tested" in text for text in texts)
    assert not any("significant for no tested class" in text for text in texts)
    explanation = explain_model(layer, images, labels, verbose=0)
    assert explanation.influence.noise_vectors == 300 and explanation.influence.tests


def test_what_too_few_noise_vectors_cannot_make_significant_is_not_said_to_be_tested(layer, data):
    few = replace(PERMUTED, noise_vectors=9)
    explanation = explain_model(layer, *data, settings=few, verbose=0)
    assert explanation.influence.tested.any() and not explanation.influence.reachable()
    assert (explanation.significance == -1).all()
    cells = [row[4].text for row in explanation.class_table(0).rows]
    assert all("not tested: too few noise vectors" in text for text in cells)


def test_verdicts_do_not_depend_on_which_classes_are_explained(layer, data):
    images, labels = data
    whole = influence(layer, images, labels, settings=SETTINGS, verbose=0)
    kept = labels != 1  # a class without images is tested too, since p is exact
    for explanation in (
        explain_model(layer, images[kept], labels[kept], **QUICK),
        explain_model(layer, images, labels, classes=[0, 2], **QUICK),
    ):
        assert explanation.influence.tests == whole.tests == CONCEPTS * CLASSES
        np.testing.assert_array_equal(explanation.significance == 2, whole.significant()[:, [0, 2]])


def test_predictions_are_counted_in_all_images_where_influence_is_measured_in_some(data):
    images, labels = data
    layer = layer_with_maps(images.shape[1:])
    settings = InfluenceSettings(min_images=5)  # ten images of each class are measured
    explanation = explain_model(layer, images, labels, settings=settings, verbose=0)
    assert not explanation.influence.is_exact
    assert explanation.influence.images.max() < len(images)
    predicted = np.bincount(layer.head.logits(images).argmax(axis=1), minlength=CLASSES)
    assert explanation.influence.predicted.tolist() == predicted.tolist()


def test_grades_of_significance_count_p_below_the_level_before_and_after_correction(explained):
    p, level = explained.influence.p_values, explained.influence.level
    order = np.sort(p.ravel())
    # This is the step-up procedure of Benjamini and Hochberg.
    passed = np.flatnonzero(order <= level * np.arange(1, p.size + 1) / p.size)
    limit = order[passed[-1]] if len(passed) else -1.0
    wanted = (p <= level).astype(int) + (p <= limit)
    np.testing.assert_array_equal(explained.significance, wanted)
    assert (wanted > 0).any()


def test_crops_show_the_concept_where_it_is_strongest(explained, data):
    images, labels = data
    places = [(r, c) for r in (0, 2, 4) for c in (0, 2, 4)]  # crops of side 3 with a step of 2
    for i in range(CONCEPTS):
        best = []
        for image in images:
            u = np.where(image[..., i] > 0.5, 10 * image[..., i], 0.0)
            best.append(max((u[r : r + 3, c : c + 3].mean(), -r, -c) for r, c in places))
        order = sorted(range(len(images)), key=lambda n: -best[n][0])[:5]
        for crop, n in zip(explained.crops[i], order, strict=True):
            r, c = -best[n][1], -best[n][2]
            pixels = images[n, r : r + 3, c : c + 3].mean(axis=-1)  # mean of the six channels
            np.testing.assert_allclose(crop[..., 0] / 255, pixels, atol=0.003)
    assert (2, 3) not in explained.class_crops  # class 2 has no images with D
    np.testing.assert_array_equal(explained.crops_of(3, 2), explained.crops[3])
    assert len(explained.class_crops[2, 2]) == 5 and len(labels) == 45


# ------------------------------------------------------------------ numbers


def gap_of(confusion):
    """Return the difference of the logits minus the residual and the contributions."""
    return confusion.difference - confusion.residual - confusion.contributions.sum()


def test_contributions_are_the_means_of_the_single_explanations(layer, data, singles):
    images, labels = data[0][:9], data[1][:9]
    explanation = explain_model(layer, images, labels, **QUICK)
    for c in range(CLASSES):
        own = [one for one in singles if one.class_id == c]
        wanted = np.mean([one.concept_contributions for one in own], axis=0)
        np.testing.assert_allclose(explanation.contributions[c], wanted, atol=1e-5)
        assert explanation.residuals[c] == pytest.approx(
            np.mean([o.residual for o in own]), abs=1e-5
        )
        assert explanation.logits[c] == pytest.approx(np.mean([o.score for o in own]), abs=1e-5)
    np.testing.assert_allclose(explanation.gaps, 0.0, atol=1e-5)
    np.testing.assert_allclose(
        explanation.residuals, BIASES, atol=1e-5
    )  # distractors have no weight


def test_contributions_to_a_nonlinear_head_are_means_over_a_few_single_explanations(data):
    images, labels = data[0][:6], data[1][:6]
    layer = planted_layer(planted_halves(hidden=True))
    explanation = explain_model(layer, images, labels, path_images=6, **QUICK)
    own = [explain_prediction(layer, image, 1) for image in images[labels == 1]]
    wanted = np.mean([one.concept_contributions for one in own], axis=0)
    np.testing.assert_allclose(explanation.contributions[1], wanted, atol=1e-2)
    assert np.abs(explanation.gaps).max() < 2e-2
    fewer = explain_model(layer, images, labels, path_images=1, **QUICK)
    np.testing.assert_allclose(fewer.contributions[1], own[0].concept_contributions, atol=1e-2)
    assert np.abs(fewer.gaps).max() < 2e-2


def test_a_head_that_takes_maps_is_explained_from_evenly_spaced_images_of_each_class(data):
    images, labels = data[0][:12], data[1][:12]
    layer = layer_with_maps(images.shape[1:])
    explanation = explain_model(
        layer, images, labels, path_images=2, confusions=[(1, 0)],
        settings=InfluenceSettings(noise_vectors=20, min_images=1), verbose=0,
    )  # fmt: skip
    first_and_last = images[labels == 1][[0, -1]]
    own = [explain_prediction(layer, image, 1) for image in first_and_last]
    wanted = np.mean([one.concept_contributions for one in own], axis=0)
    np.testing.assert_allclose(explanation.contributions[1], wanted, atol=1e-2)
    assert np.abs(explanation.gaps).max() < 2e-2 and explanation.images.tolist() == [4, 4, 4]
    assert explanation.influence.images.tolist() == [6, 6, 6]  # two images of each class
    assert gap_of(explanation.confusions[0]) == pytest.approx(0.0, abs=2e-2)


def test_presence_and_occupancy_are_shares_of_images_and_positions(explained, data):
    images, labels = data
    for c in range(CLASSES):
        for i in range(CONCEPTS):
            inside, outside = [], []
            for image, label in zip(images, labels, strict=True):
                cells = [value > 0.5 for row in image[..., i] for value in row]
                (inside if label == c else outside).append(sum(cells) / len(cells))
            assert explained.presence[c, i] == pytest.approx(np.mean(np.array(inside) > 0))
            assert explained.presence_outside[c, i] == pytest.approx(np.mean(np.array(outside) > 0))
            assert explained.occupancy[c, i] == pytest.approx(np.mean(inside), abs=1e-6)
            assert explained.occupancy_outside[c, i] == pytest.approx(np.mean(outside), abs=1e-6)


@pytest.mark.parametrize("over", ["all", "class"])
def test_influence_equals_that_of_the_signal_vectors(layer, data, over):
    images, labels = data
    settings = replace(SETTINGS, images=over)
    explanation = explain_model(layer, images, labels, settings=settings, verbose=0)
    wanted = influence_of_directions(
        layer.head, images, labels, layer.encoding, settings=settings, verbose=0,
    )  # fmt: skip
    for name in ("scores", "changes", "p_values", "images"):
        np.testing.assert_allclose(
            getattr(explanation.influence, name), getattr(wanted, name), atol=1e-6
        )


def test_accuracy_and_confusions_are_counted_from_the_predictions(explained, layer, data):
    images, labels = data
    predicted = layer.head.logits(images).argmax(axis=1)
    for c in range(CLASSES):
        assert explained.accuracy[c] == pytest.approx((predicted[labels == c] == c).mean())
    for confusion in explained.confusions:
        wanted = ((labels == confusion.source) & (predicted == confusion.target)).sum()
        assert confusion.confused == wanted and confusion.images == 15


def test_a_confusion_is_the_mean_of_single_explanations_against_the_class(layer, data):
    images, labels = data[0][:12].copy(), data[1][:12]
    images[0, ..., 2] = 1.0  # an image of class 0 that is predicted as class 2
    confusion = explain_model(
        layer, images, labels, confusions=[(0, 2), (1, 0)], **QUICK
    ).confusion(0, 2)
    own = [explain_prediction(layer, image, 2, against=0) for image in images[labels == 0]]
    shares = np.array([one.concept_contributions for one in own])
    np.testing.assert_allclose(confusion.contributions, shares.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(confusion.confused_contributions, shares[0], atol=1e-5)
    assert (confusion.images, confusion.confused) == (4, 1)
    assert confusion.confused_difference == pytest.approx(own[0].score, abs=1e-5)
    assert confusion.confused_residual == pytest.approx(own[0].residual, abs=1e-5)
    assert gap_of(confusion) == pytest.approx(0.0, abs=1e-5)
    of_class = images[labels == 0]
    changes = sensitivity(layer.head, of_class, None, layer.encoding, amount=1.0).changes
    np.testing.assert_allclose(confusion.changes, changes[:, 2] - changes[:, 0])


def test_by_default_a_class_is_paired_with_the_class_it_is_most_often_mistaken_for(layer, data):
    images, labels = data[0][:12].copy(), data[1][:12]
    images[0, ..., 2] = 1.0
    explanation = explain_model(layer, images, labels, **QUICK)
    first = explanation.confusions[0]
    assert (first.source, first.target) == (0, 2)
    assert explanation.confusion("class 0", "class 2").confused == 1
    not_confused = [c for c in explanation.confusions if c.confused == 0]
    assert not_confused and all(np.isnan(c.confused_contributions).all() for c in not_confused)


# ------------------------------------------------------------------ independence of order and form


def test_explanations_do_not_depend_on_the_order_of_images_or_the_batch_size(
    explained, layer, data, rng
):
    images, labels = data
    order = rng.permutation(len(images))
    repeated = explain_model(
        layer, images[order].astype(np.float64), labels[order], batch_size=7,
        **QUICK,
    )  # fmt: skip
    for name in ("contributions", "residuals", "presence", "occupancy", "accuracy"):
        np.testing.assert_allclose(getattr(repeated, name), getattr(explained, name), atol=1e-5)
    np.testing.assert_allclose(repeated.influence.changes, explained.influence.changes, atol=1e-5)
    for one, other in zip(repeated.crops, explained.crops, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_same_seed_gives_the_same_noise(explained, layer, data):
    repeated = explain_model(layer, *data, **QUICK)
    np.testing.assert_array_equal(repeated.influence.p_values, explained.influence.p_values)


def test_a_class_explained_alone_has_the_same_numbers_as_among_all_classes(explained, layer, data):
    one_class = explain_model(layer, *data, classes=[2], **QUICK)
    assert one_class.class_ids.tolist() == [2]
    np.testing.assert_allclose(one_class.contributions[0], explained.contributions[2])
    np.testing.assert_allclose(one_class.presence_outside[0], explained.presence_outside[2])
    assert one_class.influence.scores.shape == (CONCEPTS, 1)
    own = explain_model(layer, *data, settings=replace(SETTINGS, images="class"), verbose=0)
    np.testing.assert_allclose(
        one_class.influence.changes[:, 0], own.influence.changes[:, 2], atol=1e-6
    )


def test_without_labels_each_image_counts_for_its_predicted_class(layer, data):
    images, _ = data
    predicted = layer.head.logits(images).argmax(axis=1)
    without_labels = explain_model(layer, images, **QUICK)
    with_predicted = explain_model(layer, images, predicted, **QUICK)
    np.testing.assert_array_equal(without_labels.contributions, with_predicted.contributions)
    assert np.isnan(without_labels.accuracy).all()  # predicted classes say nothing of it
    texts = [text.get_text() for text in without_labels.plot_class(0).findobj(plt.Text)]
    assert any("images predicted as it" in text for text in texts)


def test_an_extractor_is_explained_with_the_network_it_was_built_on(layer, data, explained):
    images, labels = data
    extractor = DirectionPairsTf(*layer.split, patch_size=4, verbose=0, pairs=planted_pairs())
    extractor.fit(images)
    explanation = explain_model(extractor, images, labels, **QUICK)
    np.testing.assert_array_equal(explanation.contributions, explained.contributions)


def test_presence_outside_is_nan_if_there_are_no_images_of_other_classes(layer, data):
    images, labels = data
    explanation = explain_model(layer, images[labels == 0], labels[labels == 0], **QUICK)
    assert np.isnan(explanation.presence_outside).all()
    assert explanation.class_table(0).rows[0][9].text == "–"
    assert explanation.plot_class(0) and explanation.plot()


# ------------------------------------------------------------------ tables and plain data


def test_tables_hold_the_numbers_of_the_explanation(explained):
    row = explained.table().rows[1]
    assert row[0].text == "class 1" and row[1].text == "15"
    logit, residual, concepts = (row[k].numbers[0] for k in (3, 4, 5))
    assert logit == pytest.approx(residual + concepts, abs=1e-5)
    rows = explained.class_table(2).rows
    assert [(r[0].text, r[1].text) for r in rows] == [("C", "for"), ("A", "against")]
    found = explained.influence
    effect, low, high = rows[0][2].numbers
    assert effect == found.effects[2, 2] and low < effect < high
    assert rows[0][3].numbers[0] == found.unit_effects[2, 2]
    assert rows[0][4].numbers[0] == found.p_values[2, 2]
    assert rows[0][5].numbers[0] == explained.contributions[2, 2]
    confusion = explained.confusions[0]
    table = explained.confusion_table(confusion.source, confusion.target)
    assert {r[1].text for r in table.rows} <= {"pushes", "holds"}
    assert all((r[2].numbers[0] > 0) == (r[1].text == "pushes") for r in table.rows)


def test_an_explanation_is_read_only_and_can_be_pickled_and_converted_to_plain_data(explained):
    with pytest.raises(ValueError, match="read-only"):
        explained.contributions[0] = 0
    restored = pickle.loads(pickle.dumps(explained))
    np.testing.assert_array_equal(restored.contributions, explained.contributions)

    def is_plain(value):
        if isinstance(value, dict):
            return all(isinstance(k, str) and is_plain(v) for k, v in value.items())
        if isinstance(value, (list, tuple)):
            return all(map(is_plain, value))
        return isinstance(value, (str, int, float, np.ndarray))

    assert is_plain(explained.to_dict())
    assert repr(explained) == "ModelExplanation(3 classes, 4 concepts, 45 images)"


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"labels": [0, 1]}, ValueError, "labels must be one for each of 45"),
        ({"labels": np.full(45, 3)}, ValueError, "labels must be classes"),
        ({"labels": np.full(45, 0.5)}, ValueError, "labels must be integer"),
        ({"labels": ["a"] * 45}, TypeError, "labels must be class indices"),
        ({"images": np.zeros((0, 8, 8, 6))}, ValueError, "no images"),
        ({"images": np.zeros((45, 8, 8, 5))}, ValueError, "the network takes"),
        ({"classes": [7]}, ValueError, r"which have images, not \[7\]"),
        ({"classes": [0.5]}, ValueError, r"which have images, not \[0.5\]"),
        ({"classes": []}, ValueError, r"classes must be some of .*, which have images"),
        ({"classes": [0], "confusions": [(1, 0)]}, ValueError, r"classes, \[0\], not \(1, 0\)"),
        ({"confusions": [3]}, ValueError, r"pairs \(a, b\) of two classes"),
        ({"confusions": [(0, 0)]}, ValueError, "two classes"),
        ({"confusions": [(0, 9)]}, ValueError, "out of range"),
        ({"nb_crops": 0}, ValueError, "nb_crops"),
        ({"patch_size": 0}, ValueError, "patch_size"),
        ({"path_images": 0}, ValueError, "path_images"),
        ({"batch_size": 0}, ValueError, "batch_size"),
    ],
)
def test_invalid_arguments_are_refused(layer, data, changed, error, message):
    arguments = {"images": data[0], "labels": data[1], "verbose": 0} | changed
    with pytest.raises(error, match=message):
        explain_model(layer, **arguments)


def test_unknown_classes_confusions_and_rankings_are_refused(explained):
    with pytest.raises(ValueError, match="confusions="):
        explained.confusion(0, 7)
    with pytest.raises(ValueError, match="'dog' is not among"):
        explained.plot_class("dog")
    with pytest.raises(ValueError, match="by must be"):
        explained.ranked(0, by="size")
    with pytest.raises(ValueError, match="at_least"):
        explained.shared(0)


def test_a_single_class_number_instead_of_a_list_is_refused(layer, data):
    with pytest.raises(TypeError, match="a list of class numbers, not 2"):
        explain_model(layer, *data, classes=2, **QUICK)


def test_an_interruption_ends_the_explanation(layer, data):
    calls_left = [2]

    def interrupting(*arguments):
        calls_left[0] -= 1
        if not calls_left[0]:
            raise KeyboardInterrupt
        return mean_difference_noise(*arguments)

    with pytest.raises(KeyboardInterrupt):
        explain_model(layer, *data, settings=replace(PERMUTED, estimator=interrupting), verbose=0)
