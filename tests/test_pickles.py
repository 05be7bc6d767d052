"""Fitted objects can be pickled and copied at any moment of their life, and used afterwards."""

import copy
import io
import pickle
from dataclasses import replace

import joblib
import keras
import numpy as np
import pytest
from conftest import NETWORKS, fake_learn_pairs, make_images, make_pairs
from xplique.concepts import CraftTf
from xplique.concepts.tf.layered_model_latent_extractor import LayeredModelExtractorBuilder

import xplique_dirpairs as xd
from xplique_dirpairs.extractors.scan import scan
from xplique_dirpairs.factorizers.base import DirectionsFactorizer
from xplique_dirpairs.learning.supervised import supervised_pairs
from xplique_dirpairs.metrics.dissection import dissect
from xplique_dirpairs.report.write import build_report

pytestmark = [
    pytest.mark.usefixtures("quick_learning"),
    # Keras causes this warning when it saves.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]
IMAGES, LABELS = make_images(9, NETWORKS["conv_gap"][1]), np.arange(9) % 3


def by_joblib(value):
    kept = io.BytesIO()
    joblib.dump(value, kept)
    kept.seek(0)
    return joblib.load(kept)


WAYS = {
    "pickle": lambda v: pickle.loads(pickle.dumps(v)),
    "joblib": by_joblib,
    "copy": copy.deepcopy,
}


@pytest.fixture(params=["pickle", "copy", pytest.param("joblib", marks=pytest.mark.slow)])
def restored(request):
    return WAYS[request.param]


@pytest.fixture(params=["pickle", pytest.param("joblib", marks=pytest.mark.slow)])
def unpickled(request):
    return WAYS[request.param]


def layer_of(split):
    return xd.ConceptLayer.of(make_pairs(8, 3), split)


def positions(split):
    return np.asarray(split[0](IMAGES)).reshape(-1, 8)


#: Name → (make it from the halves, what it gives when it is used).
OBJECTS = {
    "DirectionPairsTf": (
        lambda s: xd.DirectionPairsTf(s, number_of_concepts=3, patch_size=12, random_state=0),
        lambda o: [o.transform(IMAGES), o.detect(IMAGES), o.estimate_importance()],
    ),
    "FactorizerCraftTf": (
        lambda s: xd.FactorizerCraftTf(s, None, xd.PCAFactorizer(3), patch_size=12, random_state=0),
        lambda o: [o.transform(IMAGES), o.estimate_importance()],
    ),
    "HolisticDirectionPairsTf": (
        lambda s: xd.HolisticDirectionPairsTf(
            LayeredModelExtractorBuilder.build(s.model, 2, batch_size=4), 3, random_state=0
        ),
        lambda o: [o.transform(IMAGES), o.detect(IMAGES)],
    ),
    "DirectionPairsManagerTf": (
        lambda s: xd.DirectionPairsManagerTf(
            s, None, IMAGES, s.head.predict(np.asarray(s[0](IMAGES))).argmax(1), None, 3,
            patch_size=12, random_state=0, verbose=0,
        ),
        lambda o: [each.transform(IMAGES) for each in o.craft_instances.values()],
    ),
}  # fmt: skip


def fit(fitted):
    fitted.fit() if isinstance(fitted, xd.DirectionPairsManagerTf) else fitted.fit(IMAGES)
    return fitted


def assert_equal(first, second):
    for ours, theirs in zip(first, second, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.filterwarnings("ignore:classes .* are not fitted")
@pytest.mark.parametrize("name", OBJECTS)
def test_an_extractor_can_be_copied_before_and_after_every_step(name, restored, halves):
    make, use = OBJECTS[name]
    fitted = fit(make(halves("conv_gap")))
    again = fit(restored(make(halves("conv_gap"))))
    wanted = use(fitted)
    assert_equal(use(again), wanted)  # copied before the fit
    again = restored(fitted)  # copied after it was used
    assert_equal(use(again), wanted)
    if name != "HolisticDirectionPairsTf":
        fitted.estimate_importance()
    assert_equal(use(restored(restored(fitted))), wanted)


def results(split):
    """Return fitted objects and results, by name, with what each gives."""
    layer = layer_of(split)
    x = np.asarray(split[0](IMAGES))
    search = xd.CounterfactualSearch(layer, x)
    explanation = xd.explain_prediction(layer, IMAGES[0])
    yield layer, lambda o: [o.coefficients(o.activations(IMAGES)), o.head.logits(x)]
    yield split, lambda o: [o.head.logits(np.asarray(o[0](IMAGES)))]
    yield split.head, lambda o: [o.logits(o.pool(x)), o.logits(x), o.class_rows]
    yield split.head.by_class(x), lambda o: [o.logits(x)]
    yield make_pairs(8, 3), lambda o: [o.detect(x)]
    yield xd.TrainingDistance(x), lambda o: [o.training.image]
    yield explanation, lambda o: [o.concept_contributions]
    yield xd.explain_model(layer, IMAGES, LABELS), lambda o: [o.contributions]
    yield xd.measure_firing(layer, IMAGES[:3]), lambda o: [o.firing.concepts]
    yield (
        xd.report_correction(split.model, split.model, {"all": (IMAGES, LABELS)}),
        lambda o: [o.groups["all"].after],
    )
    yield xd.InfluenceSettings(), lambda o: [o.level]
    yield xd.ReportSettings(), lambda o: []
    yield search, lambda o: [o.find(x[:2], verbose=0).shifts]
    yield search.find(x[:2], verbose=0), lambda o: [o.shifts, o.concepts.coefficients(x)]


def test_results_can_be_copied_after_they_were_used(restored, halves):
    for value, use in results(halves("conv_gap")):
        wanted = use(value)
        assert_equal(use(restored(value)), wanted)


class Annotated:
    """Images of random maps and masks."""

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        self.concepts = {"object": ("house", "tree")}
        self.masks = {"object": rng.integers(0, 3, (4, 4, 4))}
        self.maps = rng.normal(size=(4, 4, 4, 8)).astype(np.float32)

    def batches(self, batch_size=32):
        yield self.maps, self.masks


@pytest.fixture(scope="module")
def plain_results(halves, tmp_path_factory):
    """Results that hold no network, each with a function of what it gives."""
    split = halves("conv_gap")
    layer, training, validation = layer_of(split), Annotated(1), Annotated(2)
    x = np.asarray(split[0](IMAGES))
    comparison = xd.compare(
        {"PCA": xd.PCAFactorizer(2)}, IMAGES, LABELS, split=split, fit_images=IMAGES,
        importance_images=2, nb_design=4, verbose=0,
    )  # fmt: skip
    explanation = xd.explain_model(layer, IMAGES, LABELS, verbose=0)
    report = build_report(scan(layer, IMAGES, LABELS, verbose=0), explanation, verbose=0)
    shards = xd.ActivationShards.write(tmp_path_factory.mktemp("shards") / "x", [x])
    labels = xd.interpretability(training, validation, read_maps)
    return [
        (comparison, lambda o: [o.images, len(str(o.table()))]),
        (xd.Attributions(np.ones((2, 3)), np.arange(2), "shapley"), lambda o: [o.values]),
        (shards, lambda o: [o.read(0)]),
        (supervised_pairs(training, read_maps, least=1), lambda o: [o.pairs.filters]),
        (dissect(training, read_maps, np.zeros(8)), lambda o: [o.iou, o.labels]),
        (labels, lambda o: [o.iou, o.f1]),
        (fake_learn_pairs(x, 3, random_state=0)[1], lambda o: [len(o.summary())]),
        (explanation.influence, lambda o: [o.effects, len(str(o.table()))]),
        (report, lambda o: [o.images.maps, o.concepts.presence]),
    ]


def read_maps(maps):
    return maps


def test_results_without_a_network_can_be_copied(restored, plain_results):
    for value, use in plain_results:
        assert_equal(use(restored(value)), use(value))


FACTORIZERS = [
    kind
    for kind in (getattr(xd, name) for name in dir(xd) if name.endswith("Factorizer"))
    if issubclass(kind, DirectionsFactorizer)
]


@pytest.mark.parametrize("kind", FACTORIZERS, ids=lambda kind: kind.__name__)
def test_a_factorizer_can_be_pickled_before_and_after_its_fit(kind, unpickled, halves):
    x = np.maximum(positions(halves("conv_gap"))[:120], 0)
    settings = {"steps": 5} if hasattr(kind(3), "steps") else {}
    settings |= {"n_init": 1} if kind is xd.TopKFactorizer else {}
    factorizer = kind(3, random_state=0, **settings)
    again = unpickled(factorizer)
    factorizer.fit(x), again.fit(x)
    wanted = factorizer.encode(x)
    assert_equal([again.encode(x), unpickled(factorizer).encode(x)], [wanted, wanted])


def test_a_layer_of_xpliques_own_craft_can_be_copied(restored, halves):
    craft = CraftTf(*halves("conv_gap"), 3, patch_size=16)
    craft.fit(IMAGES)
    layer = xd.ConceptLayer.of(craft)
    x = layer.activations(IMAGES)
    assert_equal([restored(layer).coefficients(x)], [layer.coefficients(x)])


def test_what_was_found_at_given_features_is_kept(restored, halves):
    head = copy.copy(halves("conv_gap").head)
    head.after_pooling = None  # as `checked_on` sets it where features show that pooling matters
    assert not restored(head).pools_first


class Unregistered(keras.layers.Layer):
    def call(self, x):
        return 2 * x


def network_with(layer):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="features")(layer(inputs))
    return xd.split_model(
        keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x))),
        "features",
    )


def test_a_network_that_cannot_be_pickled_is_refused_with_what_to_do(restored):
    with pytest.raises(TypeError, match=r"register_keras_serializable.*pairs\.save"):
        restored(network_with(Unregistered()))


@keras.saving.register_keras_serializable("tests of pickles")
class Forgetful(keras.layers.Layer):
    factor = 1.0

    def call(self, x):
        return self.factor * x


def test_a_network_that_would_be_another_one_is_refused(restored):
    layer = Forgetful(name="forgetful")
    split = network_with(layer)
    restored(split)
    layer.factor = 3.0
    with pytest.raises(TypeError, match=r"layer 'forgetful'.*pairs\.save"):
        restored(replace(split))


def test_a_latent_extractor_with_local_functions_is_refused_with_what_to_do(restored, halves):
    extractor = LayeredModelExtractorBuilder.build(halves("conv_gap").model, 2)
    whole = extractor.input_to_latent_model
    extractor.input_to_latent_model = lambda images: whole(images)
    with pytest.raises(TypeError, match=r"functions are local.*pairs\.save"):
        restored(xd.HolisticDirectionPairsTf(extractor, 3))
