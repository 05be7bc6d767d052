import gc
import weakref
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from xplique_dirpairs.core.batching import as_positions
from xplique_dirpairs.core.validation import (
    check_activations,
    check_images,
    check_labels,
    check_random_state,
)
from xplique_dirpairs.data.images import compute_activations, outputs_of


def test_a_single_image_is_a_batch_of_one():
    assert check_images(np.ones((8, 4, 3))).shape == (1, 8, 4, 3)


@pytest.mark.parametrize("kind", [np.uint8, np.int64, bool, np.float16, np.float64])
def test_images_become_float32_without_rescaling(kind, rng):
    images = rng.integers(0, 2 if kind is bool else 255, (2, 4, 4, 1)).astype(kind)
    checked = check_images(images)
    assert checked.dtype == np.float32
    np.testing.assert_array_equal(checked, images.astype(np.float32))


def test_images_may_be_a_list_and_are_not_modified():
    images = np.ones((2, 4, 4, 1), np.float32)
    images.setflags(write=False)
    np.testing.assert_array_equal(check_images(list(images)), images)


def with_value(shape, value):
    array = np.zeros(shape)
    array.flat[-1] = value
    return array


@pytest.mark.parametrize(
    "images, message",
    [
        (np.ones((8, 8)), r"not \(8, 8\)"),
        (np.ones((1, 1, 8, 8, 3)), "must have shape"),
        (np.ones((0, 8, 8, 3)), "no images"),
        (np.ones((2, 8, 0, 3)), "no images"),
        (with_value((2, 4, 4, 3), np.nan), "NaN or infinite"),
        (with_value((4, 4, 3), -np.inf), "NaN or infinite"),
        (np.array([["a"]]), r"one numeric array, not <U1 \(1, 1\)"),
        (np.array([np.ones(2), None], dtype=object), "several shapes"),
        ([np.ones((8, 8, 3)), np.ones((8, 9, 3))], "several shapes: bring them to one shape"),
        ([np.ones((8, 8, 3)), np.ones((4, 4, 3))], "several shapes"),
        (None, "one numeric array, not NoneType"),
        (tf.data.Dataset.from_tensors(np.ones((8, 8, 3))), "one numeric array, not .*Dataset"),
        (1j * np.ones((8, 8, 3)), "one numeric array, not complex"),
    ],
)
def test_invalid_images_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        check_images(images)


@pytest.mark.parametrize("shape", [(5, 7), (5, 3, 7), (5, 2, 3, 7)])
@pytest.mark.parametrize("kind", [np.float64, np.float16, np.int32])
def test_activations_of_every_rank_become_float32(shape, kind):
    checked = check_activations(np.ones(shape, kind))
    assert checked.shape == shape and checked.dtype == np.float32


@pytest.mark.parametrize(
    "activations, message",
    [
        (np.ones(4), r"\(4,\)"),
        (np.ones((1, 2, 3, 4, 5, 6)), "must be numeric with shape"),
        (np.ones((0, 4)), "no activations"),
        (np.ones((2, 3, 0)), "no activations"),
        (with_value((3, 4), np.nan), "NaN or infinite"),
        (with_value((3, 2, 2, 4), np.inf), "NaN or infinite"),
        (np.full((2, 2), "a"), "one numeric array, not <U1"),
        (np.ones((2, 2), complex), "one numeric array, not complex"),
        ([np.ones((2, 3)), np.ones((2, 4))], "activations have several shapes"),
    ],
)
def test_invalid_activations_are_refused(activations, message):
    with pytest.raises(ValueError, match=message):
        check_activations(activations)


def test_a_stream_is_refused_and_shards_are_recommended():
    dataset = tf.data.Dataset.from_tensors(np.ones((8, 3)))
    for stream in (dataset, iter(dataset), (x for x in [np.ones((8, 3))])):
        with pytest.raises(ValueError, match=r"write shards with ActivationShards.write"):
            check_activations(stream)
    with pytest.raises(ValueError, match=r"not NoneType$"):
        check_activations(None)


@pytest.mark.parametrize("seed", ["a", -1, 1.5])
def test_an_invalid_seed_is_refused(seed):
    with pytest.raises(ValueError, match="random_state must be None or an integer of at least 0"):
        check_random_state(seed)


def test_activations_do_not_depend_on_the_batch_size(halves, images):
    first, _ = halves("conv_gap")
    pictures = images("conv_gap", 5)
    activations = compute_activations(first, pictures, batch_size=2)
    np.testing.assert_allclose(activations, first(pictures), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        compute_activations(first, pictures[3])[0], activations[3], rtol=1e-5
    )


def test_keras_predict_is_used_for_several_replicas(halves, images, monkeypatch):
    """A direct call would give the whole batch to every replica and return it several times."""
    model, pictures = halves("conv_gap")[0], images("conv_gap", 5)
    expected = compute_activations(model, pictures)
    shared, two = [], SimpleNamespace(num_replicas_in_sync=2)
    monkeypatch.setattr(keras.Model, "distribute_strategy", two)
    monkeypatch.setattr(
        keras.Model, "predict", lambda self, x, **_: shared.append(len(x)) or self(x).numpy()
    )
    activations = compute_activations(model, pictures, batch_size=2)
    np.testing.assert_allclose(activations, expected, rtol=1e-5)
    assert shared == [5]


def test_images_that_do_not_fit_the_network_are_refused(halves, images):
    first, _ = halves("conv_gap")
    with pytest.raises(ValueError, match=r"shape \(16, 32, 3\), but the network takes \(32, 32"):
        compute_activations(first, images("conv_gap")[:, :16])


def test_nan_in_activations_is_refused():
    inputs = keras.Input((4, 4, 1))
    model = keras.Model(inputs, keras.ops.log(inputs))
    with pytest.raises(ValueError, match="activations hold NaN"):
        compute_activations(model, -np.ones((1, 4, 4, 1)))


def test_as_positions_keeps_the_channels_of_each_position(rng):
    activations = rng.normal(size=(2, 3, 4, 5))
    np.testing.assert_array_equal(
        as_positions(activations)[1 * 12 + 2 * 4 + 3], activations[1, 2, 3]
    )
    assert as_positions(activations[:, 0, 0]).shape == (2, 5)


def test_a_model_is_not_retraced_for_every_number_of_images(rng):
    traced = []

    class Counting(keras.layers.Layer):
        def call(self, x):
            traced.append(x.shape)
            return 2.0 * x

    inputs = keras.Input((None, None, 1))
    model = keras.Model(inputs, Counting()(inputs))
    traced.clear()
    for count in (1, 7, 12, 3, 9, 30, 8):
        images = rng.uniform(size=(count, 4, 4, 1)).astype(np.float32)
        np.testing.assert_array_equal(compute_activations(model, images, 8), 2 * images)
    assert len(traced) <= 3, traced
    wide = rng.uniform(size=(2, 4, 6, 1)).astype(np.float32)
    np.testing.assert_array_equal(compute_activations(model, wide, 8), 2 * wide)


def test_the_cache_does_not_keep_models_alive(rng):

    inputs = keras.Input((4, 4, 1))
    model = keras.Model(inputs, keras.layers.Flatten()(inputs))
    compute_activations(model, rng.uniform(size=(2, 4, 4, 1)).astype(np.float32))
    itself = weakref.ref(model)
    del model, inputs
    gc.collect()
    assert itself() is None


def test_changed_weights_are_used(rng):
    inputs = keras.Input((4, 4, 1))
    dense = keras.layers.Dense(1, use_bias=False)
    model = keras.Model(inputs, dense(inputs))
    images = rng.uniform(size=(3, 4, 4, 1)).astype(np.float32)
    for weight in (2.0, -1.0):
        dense.set_weights([np.full((1, 1), weight)])
        np.testing.assert_allclose(compute_activations(model, images), weight * images, rtol=1e-6)


def test_many_models_are_traced_once_each_without_warnings(rng, caplog):
    traced = []

    class Counting(keras.layers.Dense):
        def call(self, x):
            traced.append(x.shape)
            return super().call(x)

    for count in (3, 5, 4, 7, 2, 6):
        inputs = keras.Input((4,))
        model = keras.Model(inputs, Counting(2)(inputs))
        x = rng.normal(size=(count, 4)).astype(np.float32)
        expected = model(x)
        traced.clear()
        np.testing.assert_allclose(outputs_of(model, x, 2), expected, atol=1e-6)
        assert len(traced) == 1
    assert not [record for record in caplog.records if "retracing" in record.getMessage()]


@pytest.mark.parametrize("value", [1e300, -1e39, np.inf, np.nan])
def test_activations_and_images_beyond_float32_are_refused_without_a_warning(value):
    with pytest.raises(ValueError, match="activations hold NaN or infinite"):
        check_activations(np.full((2, 3), value))
    with pytest.raises(ValueError, match="images hold NaN or infinite"):
        check_images(np.full((1, 2, 2, 3), value))


def test_labels_of_several_lengths_are_refused_by_name():
    with pytest.raises(ValueError, match="labels must be one array"):
        check_labels([[], [0.0]], 2, 3)
