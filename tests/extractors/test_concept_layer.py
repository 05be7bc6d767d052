"""`ConceptLayer.of` accepts all kinds of concepts and returns the same coefficients as they do."""

import keras
import numpy as np
import pytest
from conftest import NETWORKS, make_pairs
from keras import layers
from sklearn.exceptions import NotFittedError
from xplique.concepts import CraftManagerTf, CraftTf, HolisticCraftTf
from xplique.concepts.tf.layered_model_latent_extractor import LayeredModelExtractorBuilder

from xplique_dirpairs.core.batching import as_positions
from xplique_dirpairs.extractors.concept_layer import (
    ConceptLayer,
    as_extractor,
    own_activations,
    split_of,
)
from xplique_dirpairs.extractors.craft import DirectionPairsTf, FactorizerCraftTf
from xplique_dirpairs.extractors.holistic import HolisticDirectionPairsTf
from xplique_dirpairs.extractors.kinds import (
    factorizer_of,
    fit_extractor,
    fitted_images,
    is_fitted,
    number_of_concepts,
)
from xplique_dirpairs.extractors.manager import DirectionPairsManagerTf
from xplique_dirpairs.factorizers.controls import RandomFactorizer
from xplique_dirpairs.factorizers.decompositions import KMeansFactorizer, PCAFactorizer
from xplique_dirpairs.factorizers.direction_pairs import DirectionPairsFactorizer
from xplique_dirpairs.factorizers.nonnegative import NMFFactorizer
from xplique_dirpairs.models.split import split_model

pytestmark = pytest.mark.usefixtures("quick_learning")


@pytest.fixture
def split(halves):
    return halves("conv_gap")


@pytest.fixture
def pictures(images):
    return images("conv_gap")


@pytest.fixture
def activations(split, pictures):
    return split[0].predict(pictures, verbose=0)


def fitted(factorizer, activations):
    """Fit a factorizer on activations (N, *spatial, D) and return it."""
    factorizer.fit(as_positions(activations))
    return factorizer


def latent_extractor():
    """Return Xplique's latent extractor of the network "conv_gap"."""
    keras.utils.set_random_seed(0)
    maker, shape, layer = NETWORKS["conv_gap"]
    model = maker(shape)
    index = [candidate.name for candidate in model.layers].index(layer)
    return LayeredModelExtractorBuilder.build(model, index, batch_size=4)


#: For each kind of extractor, a function of the split that returns an extractor, and whether
#: `ConceptLayer.of` needs the split for it.
KINDS = {
    "DirectionPairsTf": lambda split: (DirectionPairsTf(split, number_of_concepts=3), False),
    "DirectionPairsTf of two halves": lambda split: (DirectionPairsTf(*split, 3), False),
    "FactorizerCraftTf": lambda split: (
        FactorizerCraftTf(split, factorizer=PCAFactorizer(3)),
        False,
    ),
    "CraftTf of Xplique": lambda split: (CraftTf(*split, 3, patch_size=16), False),
    "holistic": lambda split: (HolisticDirectionPairsTf(latent_extractor(), 3), True),
    "holistic of Xplique": lambda split: (
        HolisticCraftTf(latent_extractor(), 3, factorizer=PCAFactorizer(3)),
        True,
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("halves_as", ["SplitModel", "tuple"])
def test_coefficients_equal_those_of_the_extractors_transform(
    split, pictures, activations, kind, halves_as
):
    extractor, needs_split = KINDS[kind](split)
    assert not is_fitted(extractor) and number_of_concepts(extractor) == 3
    given = split if halves_as == "SplitModel" else tuple(split)
    with pytest.raises(NotFittedError, match="call fit"):
        ConceptLayer.of(extractor, given)
    extractor.fit(pictures)
    assert is_fitted(extractor) and number_of_concepts(extractor) == 3
    if needs_split:
        assert split_of(extractor) is None
        with pytest.raises(ValueError, match=r"does not know the network: give ConceptLayer\.of"):
            ConceptLayer.of(extractor)
        layer = ConceptLayer.of(extractor, given)
    else:
        layer = ConceptLayer.of(extractor)
        assert tuple(split_of(extractor)) == tuple(split)
    assert layer.number_of_concepts == 3 and layer.channels == 8
    np.testing.assert_allclose(layer.activations(pictures), activations, rtol=1e-5)
    np.testing.assert_allclose(own_activations(extractor, pictures), activations, atol=1e-5)
    own = extractor.transform(pictures)
    np.testing.assert_allclose(layer.coefficients(activations), own, atol=1e-4)
    np.testing.assert_array_equal(layer.bank, extractor.factorization.concept_bank_w)
    assert (layer.pairs is None) == (not hasattr(extractor, "pairs"))
    assert ConceptLayer.of(layer) is layer and ConceptLayer.of(layer.fitted, split) is not layer


@pytest.mark.parametrize("factorizer", [NMFFactorizer, PCAFactorizer, KMeansFactorizer])
def test_a_layer_encodes_and_decodes_like_its_factorizer(split, activations, factorizer):
    concepts = fitted(factorizer(3, random_state=0), activations)
    pixels = as_positions(activations)
    layer = ConceptLayer.of(concepts, split)
    coefficients = layer.coefficients(activations)
    assert coefficients.shape == (*activations.shape[:-1], 3)
    np.testing.assert_allclose(as_positions(coefficients), concepts.encode(pixels), rtol=1e-5)
    decoded = concepts.decode(concepts.encode(pixels))
    np.testing.assert_allclose(
        as_positions(layer.reconstructions(coefficients)), decoded, atol=1e-4
    )
    np.testing.assert_array_equal(layer.encoding, concepts.encoding_directions)
    assert layer.detections(pixels) is None
    # plots show the coefficients that are not negative
    np.testing.assert_array_equal(layer.shown(activations), np.maximum(coefficients, 0))


def test_shown_coefficients_of_pairs_are_zero_where_a_concept_is_not_detected(split, activations):
    pairs = make_pairs(8, 4)
    layer = ConceptLayer.of(pairs, split)
    factorizer = DirectionPairsFactorizer.from_pairs(pairs)
    u, shown = layer.read(activations)
    detected = factorizer.detect(activations) > 0.5
    assert 0 < detected.mean() < 1
    np.testing.assert_allclose(shown, np.maximum(u, 0) * detected, rtol=1e-5)
    np.testing.assert_array_equal(shown, layer.shown(activations))
    np.testing.assert_array_equal(layer.decoding, pairs.filters)
    np.testing.assert_allclose(u, pairs.coefficients(activations, off="absent"), atol=1e-5)
    pixels = as_positions(activations)
    np.testing.assert_allclose(layer.detections(pixels), pairs.detect(pixels), atol=1e-6)
    assert layer.pairs is pairs and layer.fitted is pairs


def test_only_a_manager_with_shared_pairs_is_accepted(split, pictures):
    labels = split[1].predict(split[0].predict(pictures, verbose=0), verbose=0).argmax(axis=1)
    manager = DirectionPairsManagerTf(split, inputs=pictures, labels=labels, number_of_concepts=3)
    with pytest.raises(NotFittedError, match="call fit"):
        ConceptLayer.of(manager)
    manager.fit()
    layer = ConceptLayer.of(manager)
    assert layer.pairs is manager.pairs and layer.layer == "features"
    not_shared = DirectionPairsManagerTf(
        split, inputs=pictures, labels=labels, number_of_concepts=3, shared=False
    )
    manager_of_xplique = CraftManagerTf(*split, pictures, labels, [int(labels[0])], 3)
    for manager in (not_shared, manager_of_xplique):
        with pytest.raises(ValueError, match="give one of its craft_instances"):
            ConceptLayer.of(manager)


def test_a_layer_can_be_moved_to_another_split(split, activations):
    keras.utils.set_random_seed(0)
    other = split_model(NETWORKS["conv_gap"][0](NETWORKS["conv_gap"][1]), "features")
    layer = ConceptLayer.of(make_pairs(8, 2), split)
    moved = ConceptLayer.of(layer, other)
    assert moved.split is other and moved.pairs is layer.pairs


# ------------------------------------------------------------------ names, the whole network


def test_concepts_and_classes_have_the_given_names_or_numbers(split):
    unnamed = ConceptLayer.of(make_pairs(8, 2), split)
    assert unnamed.concept_names == ("0", "1")
    assert (
        unnamed.names_of_classes(2) == ("class 0", "class 1") and unnamed.class_name(1) == "class 1"
    )
    named = ConceptLayer.of(unnamed, class_names=["a", "b", "c"], concept_names=["x", "y"])
    assert named.concept_names == ("x", "y") and named.class_name(2) == "c"
    assert named.names_of_classes(3) == ("a", "b", "c")
    assert ConceptLayer.of(named).concept_names == ("x", "y")
    partly_named = ConceptLayer.of(unnamed, class_names={1: "b"})
    assert (
        partly_named.names_of_classes(3) == ("class 0", "b", "class 2")
        and partly_named.class_name(0) == "class 0"
    )
    with pytest.raises(ValueError, match="class_names must be 3"):
        ConceptLayer.of(unnamed, class_names=["a", "b"])
    with pytest.raises(ValueError, match="concept_names must be 2"):
        ConceptLayer.of(unnamed, concept_names=["x"])


def test_the_whole_network_comes_from_the_split_or_is_given(split):
    layer = ConceptLayer.of(make_pairs(8, 2), split)
    assert layer.model is split.model and layer.layer == "features"
    of_halves = ConceptLayer.of(make_pairs(8, 2), tuple(split))
    assert of_halves.layer is None
    with pytest.raises(ValueError, match=r"give ConceptLayer\.of\(extractor, model=model\)"):
        _ = of_halves.model
    given = ConceptLayer.of(of_halves, model=split.model)
    assert given.model is split.model and given.layer == "features"


@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_one_output_has_two_classes(activation):
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, name="features")(inputs)
    outputs = layers.Dense(1, activation=activation)(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, outputs)
    split = split_model(model, "features")
    layer = ConceptLayer.of(make_pairs(8, 2), split, class_names=["no", "yes"])
    x = layer.activations(np.random.default_rng(0).random((3, 8, 8, 3)).astype(np.float32))
    z = split.head.logits(x)
    np.testing.assert_allclose(layer.head.logits(x), np.hstack([-z, z]), rtol=1e-4)
    assert layer.linear_rows(x).shape == (2, 8)
    # a second half that ends in a sigmoid has no linear rows, but the same logits
    with_activation = keras.Model(model.get_layer("features").output, model.output)
    kept = ConceptLayer.of(make_pairs(8, 2), (split[0], with_activation))
    np.testing.assert_allclose(kept.head.logits(x), np.hstack([-z, z]), rtol=1e-3, atol=1e-5)
    assert (kept.linear_rows(x) is None) == (activation == "sigmoid")


def test_crops_of_fit_returns_the_best_crops_of_each_concept(split, pictures):
    craft = FactorizerCraftTf(split, factorizer=PCAFactorizer(3), patch_size=16)
    craft.fit(pictures)
    crops = ConceptLayer.of(craft).crops_of_fit(2)
    assert len(crops) == 3 and crops[0].shape[1:] == (16, 16, 3) and len(crops[0]) <= 2
    assert ConceptLayer.of(craft.factorizer, split).crops_of_fit() is None


# ------------------------------------------------------------------ invalid arguments


def test_objects_without_concepts_are_refused(split):
    with pytest.raises(TypeError, match=r"must be a ConceptLayer, DirectionPairs, .* not dict"):
        ConceptLayer.of({}, split)
    with pytest.raises(ValueError, match="DirectionPairs does not know the network"):
        ConceptLayer.of(make_pairs(8, 2))
    with pytest.raises(TypeError, match="'mine' must be"):
        as_extractor(3, "'mine'")


def test_concepts_of_another_layer_are_refused(split, pictures):
    with pytest.raises(ValueError, match=r"layer with 5 channels, but .* has 8"):
        ConceptLayer.of(make_pairs(5, 2), split)
    layer = ConceptLayer.of(make_pairs(8, 2), split)
    with pytest.raises(ValueError, match="images have shape"):
        layer.activations(pictures[:, :16])


def test_negative_activations_are_refused_by_xpliques_craft(split, pictures, activations):
    craft = CraftTf(*split, 3, patch_size=16)
    craft.fit(pictures)
    layer = ConceptLayer.of(craft)
    assert layer.decoding is None and not layer.constant.any()
    with pytest.raises(ValueError, match="non-negative"):
        layer.coefficients(activations - 100)


def test_a_decoder_that_is_not_affine_is_refused(split, activations):
    class Rectified(RandomFactorizer):
        def decode(self, coefficients):
            return np.maximum(super().decode(coefficients) - 1.0, 0.0)

    concepts = fitted(Rectified(3, random_state=0), activations)
    with pytest.raises(ValueError, match=r"Rectified\.decode\(u\) must be u @ get_concept_bank"):
        ConceptLayer.of(concepts, split)


def test_a_decoder_that_rounds_coefficients_is_refused(split, activations):
    class Gated(PCAFactorizer):
        def encode(self, activations):
            return np.round(super().encode(activations), 1)

        def decode(self, coefficients):
            return super().decode(np.round(coefficients, 1))

    with pytest.raises(ValueError, match="must be u @ get_concept_bank"):
        ConceptLayer.of(fitted(Gated(3), activations), split)


# ------------------------------------------------------------------ kinds of extractors


def test_factorizer_of_returns_the_factorizer_of_each_kind_of_extractor(
    split, pictures, activations
):
    pca = PCAFactorizer(3)
    assert factorizer_of(pca) is pca
    assert factorizer_of(FactorizerCraftTf(split, factorizer=pca)) is pca
    assert factorizer_of(HolisticCraftTf(latent_extractor(), 3, factorizer=pca)) is pca
    craft = CraftTf(*split, 3, patch_size=16)
    assert factorizer_of(craft) is None
    craft.fit(pictures)
    assert factorizer_of(craft) is craft.factorization.reducer
    assert own_activations(pca, pictures) is None
    kept = fitted_images([craft, pca, CraftTf(*split, 3)])
    assert len(kept) == 1
    np.testing.assert_array_equal(kept[0], pictures)


def test_fit_extractor_fits_each_kind_of_extractor(split, pictures, activations):
    head = split.head
    concepts = [
        DirectionPairsFactorizer(3, verbose=0),
        PCAFactorizer(3),
        CraftTf(*split, 3, patch_size=16),
        DirectionPairsTf(split, number_of_concepts=3),
    ]
    for extractor in concepts:
        fit_extractor(extractor, pictures, activations, head)
        assert is_fitted(extractor)


def test_a_factorizer_for_non_negative_activations_refuses_negative_ones(
    split, pictures, activations
):
    class Positive(PCAFactorizer):
        requires_positive_activations = True

    fit_extractor(Positive(3), pictures, activations, split.head)
    with pytest.raises(ValueError, match="Positive needs non-negative activations"):
        fit_extractor(Positive(3), pictures, activations - 100, split.head)


def test_coefficients_of_many_positions_equal_those_of_few(split, activations):
    """Many positions are encoded in several parts."""
    layer = ConceptLayer.of(fitted(PCAFactorizer(2), activations), split)
    repeated = np.concatenate([activations] * 200)
    assert as_positions(repeated).shape[0] > 65536
    u = layer.coefficients(repeated)
    np.testing.assert_allclose(u[:6], u[-6:], atol=1e-6)
    np.testing.assert_allclose(u[:6], layer.coefficients(activations), atol=1e-6)
