"""Tests of corrected models: they follow the formulas in any graph and need no package code."""

import subprocess
import sys
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from xplique_dirpairs.extractors.concept_layer import ConceptLayer
from xplique_dirpairs.extractors.craft import FactorizerCraftTf
from xplique_dirpairs.factorizers.decompositions import PCAFactorizer
from xplique_dirpairs.factorizers.direction_pairs import DirectionPairsFactorizer
from xplique_dirpairs.interventions.correction import choose_k, correct
from xplique_dirpairs.interventions.correction_report import report_correction
from xplique_dirpairs.models.split import split_model
from xplique_dirpairs.pairs import DirectionPairs

SHAPE = (16, 16, 3)


def convolutions(activation="relu"):
    inputs = keras.Input(SHAPE)
    x = keras.layers.Conv2D(6, 3, 2, activation=activation, name="features")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(3)(x))


def residual():
    """Return a network whose layer is used three times, once by an operation."""
    inputs = keras.Input(SHAPE)
    x = keras.layers.Conv2D(6, 3, 2, activation="relu", name="features")(inputs)
    y = keras.layers.BatchNormalization()(keras.layers.Conv2D(6, 3, 1, "same")(x))
    x = keras.layers.Add()([x, y]) + 0.5 * x
    x = keras.layers.Flatten()(x)
    return keras.Model(inputs, keras.layers.Dense(3)(x))


def tokens():
    inputs = keras.Input(SHAPE)
    x = keras.layers.Reshape((-1, 6))(keras.layers.Conv2D(6, 4, 4)(inputs))
    x = keras.layers.Activation("gelu", name="features")(x)
    x = keras.layers.Add()([x, keras.layers.MultiHeadAttention(2, 4)(x, x)])
    return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling1D()(x)))


def vectors():
    inputs = keras.Input(SHAPE)
    x = keras.layers.Flatten()(keras.layers.Conv2D(4, 3, 4)(inputs))
    x = keras.layers.Dense(6, activation="relu6", name="features")(x)
    return keras.Model(inputs, keras.layers.Dense(3)(x))


def sequential():
    layers = [keras.Input(SHAPE), keras.layers.Conv2D(6, 3, 2), keras.layers.ReLU(name="features")]
    return keras.Sequential([*layers, keras.layers.Flatten(), keras.layers.Dense(3)])


NETWORKS = {
    "convolutions": (convolutions, (0, None)),
    "residual": (residual, (0, None)),
    "tokens": (tokens, (None, None)),
    "vectors": (vectors, (0, 6)),
    "sequential": (sequential, (0, None)),
}


@pytest.fixture(scope="session")
def pictures():
    return np.random.default_rng(0).uniform(size=(6, *SHAPE)).astype(np.float32)


@pytest.fixture(scope="session")
def networks(pictures):
    keras.utils.set_random_seed(0)
    models = {name: make() for name, (make, _) in NETWORKS.items()}
    last = models["convolutions"].layers[-1]  # every class is predicted for some of the pictures
    kernel, _ = last.get_weights()
    last.set_weights([kernel, -np.median(models["convolutions"](pictures), axis=0)])
    return models


def features(model, images, name="features"):
    return keras.Model(model.inputs[0], model.get_layer(name).output)(images).numpy()


def pairs_of(x, concepts=3, seed=0):
    """Return random pairs whose concepts are each detected at a third of the positions."""
    pixels = x.reshape(-1, x.shape[-1])
    rng = np.random.default_rng(seed)
    filters = 8 * rng.normal(size=(concepts, pixels.shape[1]))
    z = pixels @ filters.T
    biases = np.quantile(z, 2 / 3, axis=0)
    absent = [column[column <= b].mean() for column, b in zip(z.T, biases, strict=True)]
    signals = filters + 0.5 * rng.normal(size=filters.shape)
    return DirectionPairs(filters, biases, signals, pixels.mean(axis=0), absent)


def concepts_of(model, pairs, layer="features"):
    return ConceptLayer.of(pairs, split_model(model, layer))


@pytest.fixture(scope="session")
def concepts(networks, pictures):
    """Concepts of the network "convolutions", for tests of what is refused."""
    model = networks["convolutions"]
    return concepts_of(model, pairs_of(features(model, pictures)))


@pytest.fixture(params=NETWORKS)
def case(request, networks, pictures):
    """Return a model, its features, direction pairs and the layer's range."""
    model = networks[request.param]
    x = features(model, pictures)
    return model, x, pairs_of(x), NETWORKS[request.param][1]


def test_the_default_formula_equals_suppress_of_the_pairs(case, pictures):
    model, x, pairs, limits = case
    corrected = features(correct(concepts_of(model, pairs), [2, 0]), pictures, "features_corrected")

    np.testing.assert_allclose(corrected, pairs.suppress(x, [0, 2], limits), atol=1e-5)
    assert np.abs(corrected - x).max() > 1e-2


def reference_features(x, pairs, concepts, limits, form, k=None):
    """Compute the formulas position by position."""
    wanted = x.astype(np.float64).copy()
    w = pairs.filters[concepts].astype(np.float64)
    s = pairs.signals[concepts].astype(np.float64)
    bank = s.T @ np.linalg.inv(w @ s.T)
    for place in np.ndindex(x.shape[:-1]):
        z = w @ wanted[place]
        b, m = pairs.biases[concepts], pairs.absent_levels[concepts]
        if form == "absent":
            slope = 1 + b - m
            u = [min(max(z[c] - m[c], 0), slope[c] * max(z[c] - b[c], 0)) for c in range(len(z))]
            moved = wanted[place] - bank @ np.array(u)
        else:
            moved = wanted[place] - sum(k / (1 + np.exp(b[c] - z[c])) * s[c] for c in range(len(z)))
        low, high = limits
        moved = moved if low is None else np.maximum(moved, low)
        wanted[place] = moved if high is None else np.minimum(moved, high)
    return wanted


@pytest.mark.parametrize("how", [{"off": "absent"}, {"k": 1.5}], ids=["absent", "k"])
def test_absent_and_k_follow_their_formulas(case, pictures, how):
    model, x, pairs, limits = case
    corrected = features(
        correct(concepts_of(model, pairs), [0, 2], **how), pictures, "features_corrected"
    )

    wanted = reference_features(x, pairs, [0, 2], limits, how.get("off"), how.get("k"))
    np.testing.assert_allclose(corrected, wanted, atol=1e-4)


@pytest.mark.parametrize("off", ["undecided", "absent"])
def test_features_stay_where_no_concept_is_detected(networks, pictures, off):
    model = networks["convolutions"]
    x = features(model, pictures)
    pairs = pairs_of(x)
    corrected = features(
        correct(concepts_of(model, pairs), [0, 1], off=off), pictures, "features_corrected"
    )

    untouched = (pairs.project(x)[..., :2] < pairs.biases[:2] - 1e-5).all(axis=-1)
    assert 0.2 < untouched.mean() < 0.8
    np.testing.assert_array_equal(corrected[untouched], x[untouched])


def test_without_a_range_detected_concepts_end_on_their_hyperplane_or_at_their_absent_level(
    networks, pictures
):
    model = networks["tokens"]
    x = features(model, pictures)
    pairs = pairs_of(x)
    z = pairs.project(x)[..., 1]
    far = z > pairs.biases[1] + 1.0 + 1e-4
    assert far.any()
    for off, level in (("undecided", pairs.biases[1]), ("absent", pairs.absent_levels[1])):
        corrected = correct(concepts_of(model, pairs), 1, off=off)
        moved = pairs.project(features(corrected, pictures, "features_corrected"))[..., 1]
        np.testing.assert_allclose(moved[far], level, atol=1e-4)


def test_an_absent_level_above_the_hyperplane_counts_as_the_hyperplane(networks, pictures):
    model = networks["tokens"]
    x = features(model, pictures)
    pairs = pairs_of(x)
    above = replace(pairs, absent_levels=pairs.biases + 0.7)
    outputs, wanted = (
        correct(concepts_of(model, p), [0, 1], off=off)(pictures).numpy()
        for p, off in ((above, "absent"), (pairs, "undecided"))
    )
    np.testing.assert_allclose(outputs, wanted, atol=1e-5)


def test_every_consumer_gets_the_corrected_features(networks, pictures):
    model = networks["residual"]
    x = features(model, pictures)
    pairs = pairs_of(x)
    corrected = correct(concepts_of(model, pairs), 1)

    behind = keras.Model(model.get_layer("features").output, model.output)
    wanted = behind(pairs.suppress(x, 1, (0, None))).numpy()
    np.testing.assert_allclose(corrected(pictures).numpy(), wanted, atol=1e-5)
    assert np.abs(wanted - model(pictures).numpy()).max() > 1e-3


def test_functions_in_the_model_are_kept(pictures):
    inputs = keras.Input(SHAPE)
    x = keras.layers.Conv2D(6, 3, 2, activation="relu", name="features")(inputs)
    x = keras.layers.Lambda(lambda y: 2 * y)(x)
    outputs = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, outputs)
    x = features(model, pictures)
    pairs = pairs_of(x)

    behind = keras.Model(model.get_layer("features").output, outputs)
    wanted = behind(pairs.suppress(x, 1, (0, None))).numpy()
    with pytest.warns(UserWarning, match="safe_mode=False"):
        outputs = correct(concepts_of(model, pairs), 1)(pictures).numpy()
    np.testing.assert_allclose(outputs, wanted, atol=1e-5)


def test_weights_are_copies(networks, pictures):
    model = networks["convolutions"]
    before = model(pictures).numpy()
    corrected = correct(concepts_of(model, pairs_of(features(model, pictures))), 0)
    for variable in corrected.weights:
        variable.assign(variable + 1.0)

    np.testing.assert_array_equal(model(pictures).numpy(), before)
    assert not any("corrected" in layer.name for layer in model.layers)


@pytest.mark.parametrize("limits", [(-0.1, 0.2), (None, 0.1), (0.05, None), (0.0, 0.3)])
def test_given_limits_are_respected(networks, pictures, limits):
    model = networks["convolutions"]
    x = features(model, pictures)
    pairs = pairs_of(x)
    corrected = correct(concepts_of(model, pairs), 0, limits=limits)

    wanted = pairs.suppress(x, 0, limits)
    outputs = features(corrected, pictures, "features_corrected")
    np.testing.assert_allclose(outputs, wanted, atol=1e-5)


def test_a_corrected_model_can_be_corrected_again(networks, pictures):
    model = networks["convolutions"]
    x = features(model, pictures)
    pairs = pairs_of(x)
    once = correct(concepts_of(model, pairs), 0)
    twice = correct(concepts_of(once, pairs, "features_corrected"), 1)

    outputs = features(twice, pictures, "features_corrected_corrected")
    wanted = pairs.suppress(pairs.suppress(x, 0, (0, None)), 1, (0, None))
    np.testing.assert_allclose(outputs, wanted, atol=1e-5)


def test_order_and_repetition_of_concepts_do_not_matter(networks, pictures):
    model = networks["convolutions"]
    pairs = pairs_of(features(model, pictures))
    a, b = (correct(concepts_of(model, pairs), c)(pictures) for c in ([0, 2], [2, 0, 2]))
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_half_precision_is_kept(pictures):
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = convolutions()
    finally:
        keras.mixed_precision.set_global_policy("float32")
    x = features(model, pictures)
    pairs = pairs_of(x.astype(np.float32))
    corrected = correct(concepts_of(model, pairs), 1)

    outputs = features(corrected, pictures, "features_corrected")
    assert outputs.dtype == np.float16
    np.testing.assert_allclose(
        outputs.astype(np.float32), pairs.suppress(x.astype(np.float32), 1, (0, None)), atol=2e-3
    )


ELSEWHERE = """
import sys
sys.modules["xplique_dirpairs"] = None
import keras, numpy as np
model = keras.models.load_model(sys.argv[1])
np.save(sys.argv[3], model.predict(np.load(sys.argv[2]), verbose=0))
"""


# Keras causes this warning when it saves.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_corrected_model_loads_without_this_package(networks, pictures, tmp_path):
    model = networks["residual"]
    corrected = correct(
        concepts_of(model, pairs_of(features(model, pictures))), [0, 1], off="absent"
    )
    paths = [str(tmp_path / name) for name in ("m.keras", "images.npy", "outputs.npy")]
    corrected.save(paths[0])
    np.save(paths[1], pictures)
    subprocess.run([sys.executable, "-c", ELSEWHERE, *paths], check=True, capture_output=True)

    np.testing.assert_allclose(np.load(paths[2]), corrected.predict(pictures, verbose=0), atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated.*:UserWarning")
@pytest.mark.parametrize("off", ["undecided", "absent"])
def test_a_corrected_model_converts_to_tensorflow_lite(networks, pictures, off):
    model = networks["convolutions"]
    corrected = correct(concepts_of(model, pairs_of(features(model, pictures))), [0, 1], off=off)
    lite = tf.lite.TFLiteConverter.from_keras_model(corrected).convert()
    interpreter = tf.lite.Interpreter(model_content=lite)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], pictures[:1])
    interpreter.invoke()
    outputs = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(outputs, corrected(pictures[:1]), atol=1e-5)


def test_choose_k_returns_the_most_accurate_candidate(networks, pictures):
    model = networks["convolutions"]
    pairs = pairs_of(features(model, pictures))
    candidates = [0.5, 2.0, 8.0, 30.0]
    labels = correct(concepts_of(model, pairs), 0, k=8.0)(pictures).numpy().argmax(axis=1)
    right = [
        (correct(concepts_of(model, pairs), 0, k=k)(pictures).numpy().argmax(1) == labels).mean()
        for k in candidates
    ]
    best = choose_k(concepts_of(model, pairs), 0, pictures, labels, candidates=candidates[::-1])

    assert best == candidates[int(np.argmax(right))]  # the smallest of several
    assert min(right) < 1
    same = correct(concepts_of(model, pairs), 0, validation=(pictures, labels))
    k = choose_k(concepts_of(model, pairs), 0, pictures, labels)
    np.testing.assert_array_equal(
        same(pictures).numpy(), correct(concepts_of(model, pairs), 0, k=k)(pictures).numpy()
    )


def test_choose_k_treats_one_output_as_two_classes(networks, pictures):
    original = networks["convolutions"]
    pooled = keras.layers.GlobalAveragePooling2D()(original.get_layer("features").output)
    dense = keras.layers.Dense(1)
    model = keras.Model(original.input, dense(pooled))
    pairs = pairs_of(features(original, pictures))
    dense.set_weights([pairs.signals[0][:, None], np.zeros(1, np.float32)])
    candidates = [0.01, 0.1, 0.4, 2.0]
    shifted = [correct(concepts_of(model, pairs), 0, k=k)(pictures)[0].numpy() for k in candidates]
    dense.set_weights(
        [pairs.signals[0][:, None], -(shifted[1] + shifted[2]) / 2]
    )  # so that predictions of the first image change
    yes = [correct(concepts_of(model, pairs), 0, k=k)(pictures).numpy() > 0 for k in candidates]
    labels = yes[2][:, 0].astype(int)
    right = [(answers[:, 0] == labels).mean() for answers in yes]

    k = choose_k(concepts_of(model, pairs), 0, pictures, labels, candidates=candidates)
    assert k == candidates[int(np.argmax(right))]
    assert min(right) < 1
    with pytest.raises(ValueError, match="classes 0 to 1"):
        choose_k(concepts_of(model, pairs), 0, pictures, labels + 2)


def test_the_whole_classifier_comes_from_the_split_or_is_given(networks, pictures):
    model = networks["convolutions"]
    g, h = split_model(model, "features")
    pairs = pairs_of(g(pictures).numpy())
    factorizer = DirectionPairsFactorizer.from_pairs(pairs)
    with pytest.raises(ValueError, match=r"model=model"):
        correct(ConceptLayer.of(pairs, (g, h)), 0)
    wanted = correct(ConceptLayer.of(factorizer, split_model(model, "features")), 0)(pictures)
    given = correct(ConceptLayer.of(pairs, (g, h), model=model), 0)(pictures)
    np.testing.assert_array_equal(given, wanted)
    with pytest.raises(ValueError, match="no layer 'features'"):
        ConceptLayer.of(pairs, (g, h), model=keras.Sequential([keras.Input((4,))]))


def test_concepts_without_detectors_are_refused(networks, pictures):
    craft = FactorizerCraftTf(*split_model(networks["convolutions"], "features"), PCAFactorizer(2))
    craft.fit(pictures)
    with pytest.raises(TypeError, match="direction pairs are needed"):
        correct(craft, 0)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"concepts": "pairs"}, TypeError, "not str"),
        ({"validation": np.zeros((6, 16, 16, 3))}, ValueError, r"\(images, labels\)"),
        ({"indices": 9}, ValueError, "numbered 0 to 2, not 9"),
        ({"indices": []}, ValueError, "must be indices"),
        ({"indices": None}, ValueError, "the concepts to suppress"),
        ({"off": "away"}, ValueError, "off must be"),
        ({"k": -1.0}, ValueError, "k must be more than 0"),
        ({"k": 1.0, "off": "absent"}, ValueError, "uses no k"),
        ({"k": 1.0, "validation": ([], [])}, ValueError, "not both"),
        ({"limits": (1, 0)}, ValueError, "in order"),
        ({"limits": 3}, ValueError, "lowest, highest"),
    ],
)
def test_invalid_arguments_are_refused(change, error, message, concepts):
    with pytest.raises(error, match=message):
        correct(**{"concepts": concepts, "indices": 0} | change)


@pytest.mark.parametrize("labels", [[0, 1], [0.5] * 6, [7] * 6])
def test_labels_that_do_not_fit_are_refused(concepts, pictures, labels):
    with pytest.raises(ValueError, match="labels must be"):
        choose_k(concepts, 0, pictures, labels)


def test_k_cannot_be_chosen_where_no_concept_is_detected(networks, pictures):
    model = networks["convolutions"]
    pairs = pairs_of(features(model, pictures))
    never = replace(pairs, biases=pairs.biases + 1e6)
    with pytest.raises(ValueError, match="not detected in any validation image"):
        choose_k(concepts_of(model, never), 0, pictures, [0] * 6)
    with pytest.raises(ValueError, match="candidates are empty"):
        choose_k(concepts_of(model, pairs), 0, pictures, [0] * 6, candidates=[])


# ------------------------------------------------------------ copies


@pytest.mark.parametrize("nested", [False, True])
def test_where_no_concept_is_detected_an_adapted_normalization_is_kept(pictures, nested):
    normalization = keras.layers.Normalization()
    normalization.adapt(pictures + 5)
    inputs, inner = keras.Input(SHAPE), keras.Input(SHAPE)
    x = keras.Model(inner, normalization(inner))(inputs) if nested else normalization(inputs)
    x = keras.layers.Conv2D(6, 3, 2, activation="relu", name="features")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(3)(x))
    pairs = pairs_of(features(model, pictures))
    never = replace(pairs, biases=pairs.biases + 1e6)
    corrected = correct(concepts_of(model, never), [0, 1], images=pictures)

    np.testing.assert_allclose(corrected(pictures), model(pictures), atol=1e-5)
    last = corrected.layers[-1].name
    np.testing.assert_array_equal(features(corrected, pictures, last), corrected(pictures))


STRUCTURES = {
    "dict": (lambda t: {"pixels": t}, lambda t: {"scores": t}),
    "list": (lambda t: [t], lambda t: [t]),
    "tuple": (lambda t: (t,), lambda t: (t,)),
}


@pytest.mark.parametrize("kind", STRUCTURES)
def test_inputs_and_outputs_keep_their_structure(pictures, kind):
    pack_input, pack_output = STRUCTURES[kind]
    inputs = keras.Input(SHAPE, name="pixels")
    x = keras.layers.Conv2D(6, 3, 2, activation="relu", name="features")(inputs)
    x = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x))
    plain, model = keras.Model(inputs, x), keras.Model(pack_input(inputs), pack_output(x))
    pairs = pairs_of(features(plain, pictures))
    corrected = correct(concepts_of(model, pairs), 1)

    got = corrected(pack_input(pictures))
    keras.tree.assert_same_structure(got, model(pack_input(pictures)))
    wanted = correct(concepts_of(plain, pairs), 1)(pictures)
    np.testing.assert_allclose(keras.tree.flatten(got)[0], wanted, atol=1e-6)
    report = report_correction(model, corrected, {"all": (pictures, [0] * 6)})
    assert report.groups["all"].moved.max() > 0


def test_a_model_with_two_outputs_is_refused(networks, pictures):
    plain = networks["convolutions"]
    model = keras.Model(plain.input, [plain.output, plain.get_layer("features").output])
    halves = tuple(split_model(plain, "features"))
    pairs = pairs_of(features(plain, pictures))
    with pytest.raises(ValueError, match="one input and one output, not 1 and 2"):
        ConceptLayer.of(pairs, halves, model=model)
    with pytest.raises(ValueError, match="one input and one output, not 1 and 2"):
        report_correction(model, plain, {"all": (pictures, [0] * 6)})
