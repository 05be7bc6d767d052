"""`DirectionPairsTf` and `DirectionPairsManagerTf` replace Xplique's CRAFT classes in scripts."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import CLASSES, NETWORKS, fake_learn_pairs
from sklearn.exceptions import NotFittedError
from xplique.concepts import CraftManagerTf, CraftTf, DisplayImportancesOrder

from xplique_dirpairs.extractors.craft import DirectionPairsTf
from xplique_dirpairs.extractors.manager import DirectionPairsManagerTf
from xplique_dirpairs.pairs import DirectionPairs

pytestmark = pytest.mark.usefixtures("quick_learning")


@pytest.fixture
def fitted(halves, images):
    def fit(name="conv_gap", concepts=5, count=6, **options):
        pairs = DirectionPairsTf(
            *halves(name), concepts, 16, 16, random_state=0, verbose=0, **options
        )
        pairs.fit(images(name, count), class_id=1)
        return pairs

    return fit


@pytest.mark.parametrize("off", ["absent", "undecided"])
@pytest.mark.parametrize("name", NETWORKS)
def test_coefficients_and_residual_give_the_networks_own_output(fitted, images, name, off):
    pairs = fitted(name, off=off)
    g, h = pairs.input_to_latent_model, pairs.latent_to_logit_model
    activations = g.predict_on_batch(images(name))
    flat = activations.reshape(-1, activations.shape[-1])
    restored = pairs.transform(images(name)) @ pairs.concept_bank_w
    restored = restored + pairs.factorizer.residual(flat).reshape(activations.shape)
    own = h.predict_on_batch(activations)
    error = np.abs(h.predict_on_batch(restored) - own).max()
    assert error <= 1e-5 * np.abs(own).max()


@pytest.mark.parametrize(
    "concepts, count", [(3, 4), (20, 1)]
)  # 20 is more than the number of channels
@pytest.mark.parametrize("name", NETWORKS)
def test_coefficients_detections_and_importances_are_valid_for_any_layer(
    fitted, images, name, concepts, count
):
    pairs = fitted(name, concepts, count)
    x = images(name, count)
    u, y = pairs.transform(x), pairs.detect(x)
    assert u.shape == y.shape and u.shape[0] == count and u.shape[-1] == concepts
    assert u.dtype == np.float32 and (u >= 0).all() and ((y >= 0) & (y <= 1)).all()
    importances = pairs.estimate_importance(nb_design=4)
    assert importances.shape == (concepts,) and (importances >= 0).all()
    # a single feature vector has no variance, so that no concept is present or important
    assert (importances.max() > 0) == (u.size > concepts)


def test_detections_are_those_of_the_pairs(fitted, images):
    pairs = fitted()
    activations = pairs.input_to_latent_model.predict_on_batch(images("conv_gap"))
    np.testing.assert_allclose(
        pairs.detect(images("conv_gap")), pairs.pairs.detect(activations), atol=1e-6
    )
    given = pairs.detect(None, activations=activations)
    np.testing.assert_allclose(given, pairs.pairs.detect(activations), atol=1e-6)


def test_crop_coefficients_are_zero_where_a_concept_is_not_detected(fitted, images):
    pairs = fitted(concepts=3)
    x = images("conv_gap")
    shown = pairs.transform(x) * (pairs.detect(x) > 0.5)
    # the first crop of 16 pixels covers the first 4 × 4 cells of the 8 × 8 map
    first = pairs.factorization.crops_u.reshape(6, -1, 3)[:, 0]
    np.testing.assert_allclose(first, shown[:, :4, :4].mean(axis=(1, 2)), rtol=1e-4, atol=1e-6)


def test_the_learning_receives_maps_head_and_settings(fitted, monkeypatch):
    received = {}

    def learn(activations, concepts, **options):
        received.update(options, shape=activations.shape)
        return fake_learn_pairs(activations, concepts, **options)

    monkeypatch.setattr("xplique_dirpairs.factorizers.direction_pairs.learn_pairs", learn)
    pairs = fitted(recipe="paper-deep")
    assert received["shape"] == (6, 8, 8, 8) and received["head"] is pairs.head
    assert (
        received["recipe"].name == "paper-deep"
        and received["verbose"] == 0
        and received["random_state"] == 0
    )
    assert isinstance(pairs.pairs, DirectionPairs) and pairs.history_.notes == []


def test_pairs_before_fit_raise_not_fitted_error(halves):
    with pytest.raises(NotFittedError, match="call fit"):
        _ = DirectionPairsTf(*halves("conv_gap")).pairs


@pytest.mark.parametrize("concepts", [0, -1, 2.5, True])
def test_an_invalid_number_of_concepts_is_refused(halves, concepts):
    with pytest.raises(ValueError, match="number_of_concepts must be"):
        DirectionPairsTf(*halves("conv_gap"), concepts)


def test_a_second_half_that_is_not_a_keras_model_is_refused(halves):
    with pytest.raises(TypeError, match=r"latent_to_logit_model must be a keras\.Model"):
        DirectionPairsTf(halves("conv_gap")[0], lambda x: 2 * x)


# ---------------------------------------------------------------- a script of the CRAFT tutorial


def tutorial(craft_class, manager_class, g, h, images, labels, monkeypatch, tmp_path):
    """Run the CRAFT tutorial of Xplique's documentation; return types and shapes of its results."""
    shows = []
    monkeypatch.setattr(plt, "show", lambda: shows.append(plt.gcf()))
    craft = craft_class(
        input_to_latent_model=g,
        latent_to_logit_model=h,
        number_of_concepts=4,
        patch_size=16,
        batch_size=64,
    )
    crops, crops_u, w = craft.fit(images, class_id=1)
    importances = craft.estimate_importance()
    images_u = craft.transform(images)
    craft.plot_concepts_importances(importances, verbose=True)
    craft.plot_concepts_crops(nb_crops=10, nb_most_important_concepts=1)
    craft.plot_concept_attribution_legend(nb_most_important_concepts=3)
    craft.plot_concept_attribution_maps(images[:3], nb_most_important_concepts=3)
    local = craft.estimate_importance(images[0])
    craft.plot_image_concepts(
        images[0],
        display_importance_order=DisplayImportancesOrder.LOCAL,
        nb_most_important_concepts=3,
        filepath=str(tmp_path / "image.png"),
    )
    manager = manager_class(
        input_to_latent_model=g,
        latent_to_logit_model=h,
        inputs=images,
        labels=labels,
        list_of_class_of_interest=[int(labels[0])],
        number_of_concepts=4,
        patch_size=16,
        batch_size=64,
    )
    manager.fit(nb_samples_per_class=50)
    manager.estimate_importance()
    manager.plot_concepts_importances(class_id=int(labels[0]), verbose=True)
    manager.plot_image_concepts(images[1], class_id=int(labels[0]))
    return {
        "crops": (type(crops), crops.numpy().shape, type(craft.factorization.crops)),
        "arrays": (type(crops_u), type(w), type(craft.factorization.inputs)),
        "crops_u": crops_u.shape,
        "w": (w.shape, w.dtype),
        "u": images_u.shape,
        "importances": (importances.shape, local.shape),
        "shows": len(shows),
        "saved": (tmp_path / "image.png").exists(),
    }


def test_a_craft_script_runs_with_the_class_names_changed(halves, images, monkeypatch, tmp_path):
    g, h = halves("conv_gap")
    x = images("conv_gap", 3)
    labels = h.predict_on_batch(g.predict_on_batch(x)).argmax(axis=1)
    rest = (g, h, x, labels, monkeypatch, tmp_path)
    ours = tutorial(DirectionPairsTf, DirectionPairsManagerTf, *rest)
    theirs = tutorial(CraftTf, CraftManagerTf, *rest)
    assert ours == theirs


# ---------------------------------------------------------------- several classes


#: Class of each image, which is determined by its colour.
CLASS_OF_IMAGE = np.array([0, 0, 1, 1, 1, 0, 0, 1])


@pytest.fixture
def manager(colour_network, images):
    def make(shared=True, classes=None, one_hot=False, fit=True, **options):
        colours = np.where(np.arange(3) == CLASS_OF_IMAGE[:, None], 1.0, 0.3)
        labels = np.array([0, 0, 1, 1, 1, 0, 0, 2])
        manager = DirectionPairsManagerTf(
            colour_network,
            inputs=images("conv_gap", 8) * colours[:, None, None].astype(np.float32),
            labels=np.eye(CLASSES)[labels] if one_hot else labels,
            list_of_class_of_interest=classes,
            number_of_concepts=4,
            patch_size=16,
            shared=shared,
            random_state=0,
            verbose=0,
        )
        np.testing.assert_array_equal(manager.compute_predictions(), CLASS_OF_IMAGE)
        if fit:
            manager.fit(**options)
        return manager

    return make


def test_shared_pairs_are_the_same_for_all_classes(manager):
    several = manager(classes=[0, 1])
    several.estimate_importance(nb_design=4)
    zero, one = several.craft_instances[0], several.craft_instances[1]
    assert zero.pairs is one.pairs is several.pairs
    assert (zero.factorization.class_id, one.factorization.class_id) == (0, 1)
    assert several.history_ is zero.history_
    assert (zero.sensitivity.importances != one.sensitivity.importances).any()


def test_a_shared_concept_has_one_colour_in_all_classes(manager):
    several = manager(classes=[0, 1])
    several.estimate_importance(nb_design=4)
    colors = []
    for class_id in (0, 1):
        sensitivity = several.craft_instances[class_id].sensitivity
        ranks = np.argsort(sensitivity.most_important_concepts)
        colors.append([sensitivity.cmaps[rank](1.0) for rank in ranks])
    assert colors[0] == colors[1] and len(set(colors[0])) == 4


def test_pairs_that_are_not_shared_differ_between_classes(manager):
    several = manager(shared=False, classes=[0, 1])
    assert set(several.pairs) == set(several.history_) == {0, 1}
    assert (several.pairs[0].filters != several.pairs[1].filters).any()


def test_images_are_chosen_by_prediction_up_to_the_given_number(manager):
    several = manager(classes=[0, 1])
    assert [len(several.craft_instances[k].factorization.inputs) for k in (0, 1)] == [4, 4]
    several = manager(classes=[0, 1], nb_samples_per_class=3)
    np.testing.assert_array_equal(
        several.craft_instances[1].factorization.inputs, several.inputs[[2, 3, 4]]
    )


@pytest.mark.parametrize("one_hot", [False, True])
def test_without_a_list_the_classes_are_those_of_the_labels(manager, one_hot):
    several = manager(one_hot=one_hot, fit=False)
    assert list(several.craft_instances) == [0, 1, 2]


def test_a_class_that_is_never_predicted_is_left_out_with_a_warning(manager):
    several = manager(classes=[2, 0], fit=False)
    with pytest.warns(UserWarning, match=r"classes \[2\] are not fitted"):
        several.fit()
    several.estimate_importance(nb_design=4)
    assert several.plot_concepts_crops(0, nb_crops=3).axes
    with pytest.raises(NotFittedError, match="class 2 is not fitted"):
        several.plot_concepts_crops(2)


def test_classes_that_are_not_fitted_are_refused(manager):
    with pytest.raises(ValueError, match=r"none of the classes \[2\] for any image"):
        manager(classes=[2])
    with pytest.raises(ValueError, match="out of range"):
        manager(classes=[7])
    with pytest.raises(ValueError, match="class_id must be a class of interest"):
        manager(classes=[0]).plot_concepts_crops(1)
    with pytest.raises(NotFittedError, match="call fit"):
        _ = manager(fit=False).pairs


@pytest.mark.parametrize(
    "classes, error, message",
    [
        ([1.7], TypeError, "class_id must be an integer, not 1.7"),
        (1, TypeError, "list_of_class_of_interest must be integers, not 1"),
        ([0, -1], ValueError, "class_id -1 is out of range for 3 classes"),
    ],
)
def test_invalid_classes_of_interest_are_refused(manager, classes, error, message):
    with pytest.raises(error, match=message):
        manager(classes=classes, fit=False)


@pytest.mark.parametrize("number", [0, 1.5, "all"])
def test_an_invalid_number_of_samples_is_refused(manager, number):
    with pytest.raises(ValueError, match="nb_samples_per_class must be an integer of at least 1"):
        manager(nb_samples_per_class=number)


def test_compute_predictions_returns_the_networks_classes(halves, images):
    g, h = halves("conv_gap")
    x = images("conv_gap", 8)
    several = DirectionPairsManagerTf(g, h, x, np.zeros(8, int))
    expected = h.predict_on_batch(g.predict_on_batch(x)).argmax(axis=1)
    np.testing.assert_array_equal(several.compute_predictions(), expected)
