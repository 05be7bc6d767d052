"""`VideoProbe` reads and masks heads of both attention layers; `prune_heads` closes heads."""

import keras
import numpy as np
import pytest

from xplique_dirpairs import ProbedSelfAttention, VideoProbe, masked_importance, prune_heads
from xplique_dirpairs.models.attention import heads_of


class ClassToken(keras.layers.Layer):
    """Puts a learned token before the others."""

    def build(self, shape):
        self.token = self.add_weight(shape=(1, 1, shape[-1]), initializer="random_normal")

    def call(self, tokens):
        first = keras.ops.repeat(self.token, keras.ops.shape(tokens)[0], axis=0)
        return keras.ops.concatenate([first, tokens], axis=1)


def transformer(kind="own", class_token=False, frames=4, nested=False, seed=0):
    """Return a transformer of two attention layers with three heads of four channels."""
    keras.utils.set_random_seed(seed)
    shape = (frames, 8, 8, 3) if frames else (8, 8, 3)
    inputs = keras.Input(shape)
    tubes = (
        keras.layers.Conv3D(12, (2, 4, 4), (2, 4, 4)) if frames else keras.layers.Conv2D(12, 4, 4)
    )
    x = keras.layers.Reshape((-1, 12))(tubes(inputs))
    if class_token:
        x = ClassToken()(x)
    tokens = x
    for k in range(2):
        if kind == "own":
            heads = ProbedSelfAttention(3, 4, name=f"attention_{k}")(x)
        else:
            layer = keras.layers.MultiHeadAttention(3, 4, name=f"attention_{k}")
            heads = layer(x, x)
        x = keras.layers.Add()([x, heads])
    if nested:
        block = keras.Model(tokens, x, name="block")
        x = block(tokens)
    x = x[:, 0] if class_token else keras.layers.GlobalAveragePooling1D()(x)
    model = keras.Model(inputs, keras.layers.Dense(5)(x))
    rng = np.random.default_rng(seed)  # biases that are not 0 show whether they are kept
    model.set_weights([w + 0.3 * rng.normal(size=w.shape) for w in model.get_weights()])
    return model


def clips(count=3, frames=4):
    shape = (count, frames, 8, 8, 3) if frames else (count, 8, 8, 3)
    return np.random.default_rng(1).uniform(size=shape).astype(np.float32)


BOTH = pytest.mark.parametrize("kind", ["own", "keras"])


@BOTH
@pytest.mark.parametrize("class_token", [False, True])
def test_keeping_everything_gives_the_output_of_the_network(kind, class_token):
    model = transformer(kind, class_token)
    probe = VideoProbe(model)
    assert probe.grid == (2, 2, 2) and len(probe.heads) == 6
    ones = {head: np.ones((3, 2, 2, 2)) for head in probe.heads}
    for removal in ("zero", "mean", "minus_infinity"):
        found = probe.run(clips(), ones, removal=removal)
        np.testing.assert_allclose(found, model(clips()), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(probe.run(clips()), model(clips()), rtol=1e-5, atol=1e-5)
    assert model.get_layer("attention_0").output is not None, "the model stays as it was"


@BOTH
def test_features_are_the_projections_of_the_tokens(kind):
    model = transformer(kind)
    probe = VideoProbe(model)
    before = keras.Model(model.inputs[0], model.get_layer("attention_1").input
                         if kind == "own" else model.get_layer("attention_1").input[0])  # fmt: skip
    tokens = before(clips())
    for part, expected in zip(
        ("queries", "keys", "values"), heads_of(model.get_layer("attention_1"), tokens), strict=True
    ):
        found = probe.features(clips(), part, [(1, 2), (1, 0)])
        assert list(found) == [(1, 2), (1, 0)]
        expected = np.asarray(expected)[:, :, 2].reshape(3, 2, 2, 2, 4)
        np.testing.assert_allclose(found[1, 2], expected, atol=1e-5)
    assert set(probe.features(clips())) == set(probe.heads)


def slow_attention(layer, x, keep, removal):
    """Return the output of an attention layer for one sequence (tokens, channels), head by head.

    ``keep`` are weights (tokens, heads) of the keys.
    """
    weights = {name: getattr(layer, f"{name}_dense").get_weights()
               for name in ("query", "key", "value", "output")}  # fmt: skip
    total = weights["output"][1].copy()
    for head in range(keep.shape[1]):
        q, k, v = (x @ w[0][:, head] + w[1][head]
                   for w in (weights[n] for n in ("query", "key", "value")))  # fmt: skip
        if removal == "zero":
            k = k * keep[:, head, None]
        logits = q @ k.T / np.sqrt(q.shape[1])
        if removal == "minus_infinity":
            logits = logits + np.log(np.maximum(keep[:, head], 1e-30))
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        total = total + shares @ v @ weights["output"][0][head]
    return total


@BOTH
@pytest.mark.parametrize("removal", ["zero", "minus_infinity"])
def test_masked_keys_equal_a_slow_reference(kind, removal):
    model = transformer(kind, frames=4)
    rng = np.random.default_rng(0)
    keep = {(k, h): (rng.random((3, 2, 2, 2)) > 0.5).astype(float) for k in (0, 1) for h in (0, 2)}
    found = VideoProbe(model).run(clips(), keep, removal=removal)
    tokens = np.asarray(keras.Model(model.inputs[0], model.layers[2].output)(clips()), np.float64)
    dense = model.layers[-1].get_weights()
    for n in range(3):
        x = tokens[n]
        for k in range(2):
            weights = np.ones((8, 3))
            for h in (0, 2):
                weights[:, h] = keep[k, h][n].ravel()
            x = x + slow_attention(model.get_layer(f"attention_{k}"), x, weights, removal)
        np.testing.assert_allclose(found[n], x.mean(axis=0) @ dense[0] + dense[1], atol=1e-4)


@BOTH
def test_values_of_zero_close_a_head_as_pruning_does(kind):
    model = transformer(kind)
    probe = VideoProbe(model)
    found = probe.run(clips(), {(1, 2): 0.0, (0, 1): 0.0}, part="values")
    importance = {head: 1.0 for head in probe.heads} | {(1, 2): 0.0, (0, 1): 0.1}
    pruned = prune_heads(probe, importance)
    np.testing.assert_allclose(found, pruned(clips()), atol=1e-5)
    assert np.abs(found - model(clips())).max() > 1e-2
    dense = pruned.get_layer("attention_1")
    again = VideoProbe(pruned).features(clips(), "keys", [(1, 2)])
    assert np.abs(again[1, 2]).max() == 0 and dense.built


def test_a_key_of_zero_is_no_missing_token():
    probe = VideoProbe(transformer())
    one = np.ones((3, 2, 2, 2))
    one[:, 0, 0, 0] = 0
    outputs = [probe.run(clips(), dict.fromkeys(probe.heads, one), removal=removal)
               for removal in ("zero", "mean", "minus_infinity")]  # fmt: skip
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(outputs[first] - outputs[second]).max() > 1e-3
    all_gone = probe.run(clips(), dict.fromkeys(probe.heads, 0.0), removal="minus_infinity")
    closed = probe.run(clips(), dict.fromkeys(probe.heads, 0.0), part="values")
    np.testing.assert_allclose(all_gone, closed, atol=1e-5)


def test_images_class_tokens_and_nested_models_are_probed():
    probe = VideoProbe(transformer(frames=0))
    assert probe.grid == (1, 2, 2)
    assert probe.features(clips(frames=0))[0, 0].shape == (3, 1, 2, 2, 4)
    with_token = VideoProbe(transformer(class_token=True))
    assert with_token.features(clips())[1, 1].shape == (3, 2, 2, 2, 4)
    model = transformer("keras", nested=True)
    nested = VideoProbe(model, grid=(2, 2, 2))
    np.testing.assert_allclose(nested.run(clips()), model(clips()), atol=1e-5)


def test_batches_do_not_matter_and_layers_can_be_chosen():
    model = transformer()
    small, large = VideoProbe(model, batch_size=2), VideoProbe(model, ["attention_1"])
    assert large.heads == ((0, 0), (0, 1), (0, 2)) and large.layer_names == ("attention_1",)
    np.testing.assert_allclose(
        small.features(clips(5))[1, 0], large.features(clips(5))[0, 0], atol=1e-5
    )
    np.testing.assert_allclose(
        small.run(clips(5), {(1, 0): 0.0}), large.run(clips(5), {(0, 0): 0.0}), atol=1e-5
    )


@BOTH
def test_heads_have_importances_and_the_useless_third_can_be_pruned(kind):
    model = transformer(kind, class_token=kind == "own")
    for head, layer in ((0, 0), (2, 1)):  # these heads add nothing
        dense = model.get_layer(f"attention_{layer}").output_dense
        kernel, bias = dense.get_weights()
        kernel[head] = 0
        dense.set_weights([kernel, bias])
    probe, videos = VideoProbe(model), clips(6)
    outputs = model(videos).numpy()
    found = masked_importance(probe, videos, lambda y, x: y[:, 0], subsets=40)
    assert found.units[3] == (1, 0, 0) and set(found.by_layer()) == {0, 1}
    size = np.abs(found.importance)
    assert {probe.heads[q] for q in np.argsort(size)[:2]} == {(0, 0), (1, 2)}
    pruned = prune_heads(probe, size, 1 / 3)
    np.testing.assert_allclose(pruned(videos).numpy(), outputs, atol=1e-5)
    by_head = dict(zip(probe.heads, size, strict=True))
    again = prune_heads(probe, by_head)(videos).numpy()
    np.testing.assert_allclose(again, outputs, atol=1e-5)
    assert found.by_head()[1, 2] == pytest.approx(found.importance[5])


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_the_own_layer_is_saved_and_loaded(tmp_path):
    model = transformer()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(clips()).numpy(), model(clips()).numpy(), atol=1e-6)


def unprobed():
    inputs = keras.Input((4, 8, 8, 3))
    x = keras.layers.GlobalAveragePooling3D()(inputs)
    return keras.Model(inputs, keras.layers.Dense(2)(x))


@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        (lambda: VideoProbe("model"), TypeError, "must be a Keras model"),
        (lambda: VideoProbe(unprobed()), ValueError, "no self-attention layer"),
        (lambda: VideoProbe(transformer(), ["mixer"]), ValueError, "layers must be some of"),
        (lambda: VideoProbe(transformer(), grid=(3, 2, 2)), ValueError, "grid .* must be the 8"),
        (lambda: VideoProbe(transformer(), batch_size=0), ValueError, "batch_size"),
        (lambda: VideoProbe(transformer()).features(clips(), "logits"), ValueError, "part must be"),
        (lambda: VideoProbe(transformer()).features(clips(), heads=[(2, 0)]), ValueError, "no he"),
        (lambda: VideoProbe(transformer()).features(clips(frames=2)), ValueError, "videos have"),
        (lambda: VideoProbe(transformer()).run(clips(), {(0, 0): 2.0}), ValueError, "shares in"),
        (lambda: VideoProbe(transformer()).run(clips(), {(0, 0): 0.5}, removal="one"),
         ValueError, "removal must be"),
        (lambda: VideoProbe(transformer()).run(
            clips(), {(0, 0): 0.5}, part="values", removal="minus_infinity"
        ), ValueError, "is for keys"),
        (lambda: prune_heads(VideoProbe(transformer()), [1.0]), ValueError, "for each of 6"),
        (lambda: prune_heads(VideoProbe(transformer()), {(0, 0): 1.0}), ValueError, "no number"),
        (lambda: prune_heads(VideoProbe(transformer()), np.ones(6), 1.0), ValueError, "fraction"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(use, error, message):
    with pytest.raises(error, match=message):
        use()
