"""What pixels a network takes is found by evidence, or asked."""

import keras
import numpy as np
import pytest

from xplique_dirpairs.commands.console import UsageError
from xplique_dirpairs.commands.pixel_range import find_preprocessing
from xplique_dirpairs.commands.pixels import preprocessing

MEAN, VARIANCE = [0.485, 0.456, 0.406], [0.0524, 0.0502, 0.0506]


@pytest.fixture(scope="module")
def photos():
    """Eighty images, dark and bright, with their labels."""
    rng = np.random.default_rng(0)
    labels = np.arange(80) % 2
    values = rng.normal(60 + 100 * labels[:, None, None, None], 40, (80, 12, 12, 3))
    return np.clip(values, 0, 255).astype(np.uint8), labels


def begins_with(*layers):
    return keras.Sequential(
        [keras.Input((12, 12, 3)), *layers, keras.layers.Conv2D(2, 3), keras.layers.Flatten()]
    )


def found(model, photos, labellings=(), predict=None):
    """Return the name of the preprocessing that is found, and the reason."""
    prepared, reason = find_preprocessing(model, photos[0], labellings, predict)
    return prepared.name, reason


def nested(*layers):
    inputs = keras.Input((12, 12, 3))
    inner = begins_with(*layers)
    return keras.Model(inputs, inner(keras.layers.RandomFlip()(inputs)))


def by_operations(name):
    inputs = keras.Input((12, 12, 3))
    scaled = getattr(keras.applications, name).preprocess_input(inputs)
    return keras.Model(inputs, keras.layers.Flatten()(keras.layers.Conv2D(2, 3)(scaled)))


def trained_normalisation(scale):
    """A batch normalisation that has seen the photos on a scale."""
    layer = keras.layers.BatchNormalization()
    layer.build((None, 12, 12, 3))
    layer.moving_mean.assign([110 * scale] * 3)
    layer.moving_variance.assign([(64 * scale) ** 2] * 3)
    return layer


L = keras.layers


@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        (lambda: begins_with(L.Rescaling(1 / 255)), "none"),
        (lambda: begins_with(L.Rescaling(1 / 127.5, -1)), "none"),
        (lambda: begins_with(L.Rescaling(2.0, -1)), "unit"),
        (lambda: begins_with(L.Rescaling(255.0)), "unit"),
        (lambda: begins_with(L.Rescaling(0.5, 0.5)), "symmetric"),
        (lambda: begins_with(L.Rescaling(127.5, 127.5)), "symmetric"),
        (lambda: begins_with(L.Rescaling(255.0), L.Rescaling(1 / 127.5, -1)), "unit"),
        (lambda: begins_with(L.Normalization(mean=MEAN, variance=VARIANCE)), "unit"),
        (
            lambda: begins_with(
                L.Rescaling(1 / 255), L.Normalization(mean=MEAN, variance=VARIANCE)
            ),
            "none",
        ),
        (lambda: begins_with(L.Normalization(mean=[120.0] * 3, variance=[4000.0] * 3)), "none"),
        (lambda: begins_with(L.Resizing(8, 8), L.Rescaling(2.0, -1)), "unit"),
        (lambda: begins_with(L.RandomBrightness(0.2, value_range=(0, 1))), "unit"),
        (lambda: begins_with(L.RandomBrightness(0.2, value_range=(-1, 1))), "symmetric"),
        (lambda: begins_with(trained_normalisation(1.0)), "none"),
        (lambda: begins_with(trained_normalisation(1 / 255)), "unit"),
        (lambda: nested(L.Rescaling(1 / 255)), "none"),
        (lambda: nested(L.RandomFlip(), L.Rescaling(2.0, -1)), "unit"),
        (lambda: by_operations("mobilenet_v2"), "none"),
        (lambda: by_operations("resnet50"), "none"),
    ],
)
def test_the_numbers_of_the_first_layers_tell_the_range(make, wanted, photos):
    name, reason = found(make(), photos)
    assert name == wanted, reason
    assert f"--preprocessing {wanted}: the model takes pixels from" in reason
    assert "of its layer" in reason


def test_black_images_do_not_hide_what_a_layer_does(photos):
    black = np.zeros_like(photos[0]), photos[1]
    assert found(begins_with(L.Rescaling(1 / 255)), black)[0] == "none"


@pytest.mark.parametrize("wanted", ["unit", "symmetric", "resnet50"])
def test_moving_averages_after_the_first_convolution_tell_the_range(wanted, photos):
    keras.utils.set_random_seed(1)
    norm = L.BatchNormalization()
    model = keras.Sequential(
        [keras.Input((12, 12, 3)), L.Conv2D(16, 3), norm, L.ReLU(), L.Flatten(), L.Dense(2)]
    )
    scaled = preprocessing(wanted).layers(photos[0].astype(np.float32))
    features = np.asarray(model.layers[0](scaled)).reshape(-1, 16)
    norm.moving_mean.assign(features.mean(axis=0))
    norm.moving_variance.assign(features.var(axis=0))
    name, reason = found(model, photos)
    assert name == wanted and "moving averages" in reason


@pytest.mark.parametrize(
    "make",
    [
        lambda: begins_with(),
        lambda: begins_with(L.Rescaling(1.0)),
        lambda: begins_with(L.Normalization(mean=[0.0] * 3, variance=[1.0] * 3)),
        lambda: begins_with(L.Conv2D(3, 3), L.Rescaling(2.0)),
        lambda: begins_with(L.BatchNormalization()),
        lambda: begins_with(L.RandomContrast(0.2)),  # value_range is the default
    ],
)
def test_without_evidence_the_command_asks(make, photos):
    with pytest.raises(UsageError, match=r"cannot be told.* with --preprocessing\. Choices: none"):
        found(make(), photos)


def right_with(wanted, labels, share=1.0):
    """Return predictions: a share of the images is right with a preprocessing, half otherwise."""

    def predict(prepared, chosen):
        known = labels[chosen]
        if prepared.name == wanted:
            return np.where(np.arange(len(known)) < share * len(known), known, 1 - known)
        return np.zeros_like(known)

    return predict


def test_accuracy_on_class_folders_tells_the_range(photos):
    labels = photos[1]
    for wanted in ("unit", "resnet50"):
        predict = right_with(wanted, labels, 0.9)
        name, reason = found(begins_with(), photos, [1 - labels, labels], predict)
        assert name == wanted
        assert f"{wanted} 90%" in reason and "none 50%" in reason


@pytest.mark.parametrize("share", [0.3, 0.5, 0.55])
def test_an_accuracy_that_chance_explains_tells_nothing(photos, share):
    predict = right_with("unit", photos[1], share)
    with pytest.raises(UsageError, match=r"how often it is right \(none 50%.*--preprocessing"):
        found(begins_with(), photos, [photos[1]], predict)


def test_an_accuracy_that_contradicts_the_first_layers_is_asked_about(photos):
    model = begins_with(L.Rescaling(1 / 255))  # but trained on images that were scaled before
    with pytest.raises(UsageError, match=r"'rescaling.* 50% .* 90% with pixels from 0 to 1.* unit"):
        found(model, photos, [photos[1]], right_with("unit", photos[1], 0.9))
    for share in (0.5, 0.55):  # chance explains this
        assert found(model, photos, [photos[1]], right_with("unit", photos[1], share))[0] == "none"
    assert found(model, photos, [photos[1]], right_with("none", photos[1], 0.9))[0] == "none"


def test_a_model_of_integers_takes_pixels_as_they_are(photos):
    inputs = keras.Input((12, 12, 3), dtype="uint8")
    model = keras.Model(inputs, keras.layers.Flatten()(keras.layers.Conv2D(2, 3)(inputs)))
    name, reason = found(model, photos, [photos[1]], right_with("unit", photos[1]))
    assert name == "none" and reason.endswith("as its input is uint8")
    with pytest.raises(ValueError, match="takes uint8, so it scales pixels itself"):
        preprocessing("unit").before(model)


def test_grey_images_are_tried_in_the_ranges_of_grey_images(photos):
    model = keras.Sequential([keras.Input((12, 12, 1)), L.Rescaling(1 / 255), L.Flatten()])
    assert found(model, (photos[0][..., :1], photos[1]))[0] == "none"
