import keras
import numpy as np
import pytest

from xplique_dirpairs.models.segment import segment_model

layers = keras.layers


def chain():
    x = inputs = keras.Input((8, 8, 3))
    for name in ("a", "b", "c"):
        x = layers.Conv2D(4, 3, activation="relu", padding="same", name=name)(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(2, name="logits")(x))


def test_segment_continues_the_lower_layer_to_the_upper_one():
    model = chain()
    images = np.random.default_rng(0).random((3, 8, 8, 3), np.float32)
    lower, upper = (
        keras.Model(model.input, model.get_layer(name).output)(images) for name in ("a", "c")
    )
    np.testing.assert_allclose(segment_model(model, "a", "c")(lower), upper, rtol=1e-5)


def test_layers_in_another_order_are_refused():
    for names in (("c", "a"), ("b", "b")):
        with pytest.raises(ValueError, match="does not come before"):
            segment_model(chain(), *names)


def test_unknown_layer_and_no_model_are_refused():
    with pytest.raises(ValueError, match="no layer 'x'"):
        segment_model(chain(), "a", "x")
    with pytest.raises(TypeError, match=r"keras\.Model"):
        segment_model("model", "a", "b")


def bypassed(at):
    inputs = keras.Input((8, 8, 4))
    first = layers.Conv2D(4, 1, name="first")(inputs)
    lower = layers.Conv2D(4, 1, name="lower")(first)
    middle = layers.Conv2D(4, 1, name="middle")(lower)
    upper = layers.Add(name="upper")([middle, first if at == "lower" else lower])
    end = layers.Conv2D(4, 1, name="end")(upper)
    total = layers.Add(name="total")([end, middle]) if at == "upper" else end
    return keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(total)))


def test_a_branch_round_either_end_is_refused():
    with pytest.raises(ValueError, match=r"'upper' does not depend on 'lower' alone.*bypasses"):
        segment_model(bypassed("lower"), "lower", "upper")
    with pytest.raises(ValueError, match=r"outputs do not depend on 'upper' alone.*bypasses"):
        segment_model(bypassed("upper"), "lower", "upper")


def test_a_branch_within_the_segment_is_allowed():
    assert segment_model(bypassed("none"), "lower", "upper").output.shape == (None, 8, 8, 4)
