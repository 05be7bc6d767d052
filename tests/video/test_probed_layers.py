"""Which attention layers `VideoProbe` takes, which grid their tokens have, and what it refuses."""

import keras
import numpy as np
import pytest
from keras import layers
from test_probe import clips, slow_attention, transformer

from xplique_dirpairs import ProbedSelfAttention, VideoProbe, discover_video_concepts, prune_heads


class MaskedWhereSmall(keras.layers.Layer):
    """Leaves tokens as they are, and masks those with a small mean."""

    supports_masking = True

    def call(self, tokens):
        return tokens

    def compute_mask(self, tokens, mask=None):
        return keras.ops.mean(tokens, axis=-1) > 0


class Wrapped(keras.layers.Layer):
    """A layer that holds an attention layer."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = keras.layers.MultiHeadAttention(2, 4, name="inside")

    def build(self, shape):
        self.inner.build(shape, shape)

    def call(self, tokens):
        return self.inner(tokens, tokens)


def plain(x, name="mha", **kwargs):
    return layers.MultiHeadAttention(2, 4, name=name, **kwargs)(x, x)


def network(*blocks, after=None):
    """Return a network of 2 × 2 × 2 tokens of six channels; each block is added to its input."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 8, 8, 3))
    x = layers.Reshape((8, 6))(layers.Conv3D(6, (2, 4, 4), (2, 4, 4))(inputs))
    x = x if after is None else after(x)
    for block in blocks:
        x = layers.Add()([x, block(x)])
    model = keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))
    rng = np.random.default_rng(0)
    for weight in model.trainable_weights:
        weight.assign(rng.normal(size=weight.shape) * 0.4)
    return model


def block(name, after=None):
    tokens = keras.Input((8, 6))
    x = tokens if after is None else after(tokens)
    return keras.Model(tokens, plain(x), name=name)


def test_layers_of_one_name_in_nested_blocks_are_all_probed_and_pruned():
    model = network(*(block(name) for name in "abc"))
    probe = VideoProbe(model, grid=(2, 2, 2))
    assert probe.layer_names == ("a/mha", "b/mha", "c/mha") and len(probe.heads) == 6
    np.testing.assert_allclose(probe.run(clips()), model(clips()), atol=1e-5)
    for layer in range(3):
        importance = {head: float(head != (layer, 1)) for head in probe.heads}
        pruned = prune_heads(probe, importance, 1 / 6)
        closed = probe.run(clips(), {(layer, 1): 0.0}, part="values")
        np.testing.assert_allclose(pruned(clips()), closed, atol=1e-5)
        assert np.abs(closed - model(clips())).max() > 1e-3
    one = VideoProbe(model, ["b/mha"], grid=(2, 2, 2))
    np.testing.assert_allclose(
        one.run(clips(), {(0, 1): 0.0}), probe.run(clips(), {(1, 1): 0.0}), atol=1e-5
    )


@pytest.mark.filterwarnings("ignore:Layer .* does not support masking")
@pytest.mark.parametrize(
    ("attention", "after", "reason"),
    [
        (lambda x: layers.MultiHeadAttention(2, 4, name="other")(
            x, x, attention_mask=np.tril(np.ones((1, 8, 8), bool))
        ), None, "has a mask"),
        (lambda x: layers.MultiHeadAttention(2, 4, name="other")(x, x, use_causal_mask=True),
         None, "has a mask"),
        (lambda x: plain(x, "other"), MaskedWhereSmall(), "has a mask"),
        (lambda x: block("outer")(x), MaskedWhereSmall(), "has a mask"),
        (lambda x: layers.GroupQueryAttention(4, 2, 1, name="other")(x, x),
         None, "is a GroupedQueryAttention"),
        (lambda x: layers.MultiHeadAttention(2, 4, name="other")(x, layers.Dense(6)(x)),
         None, "attends to other tokens"),
        (lambda x: plain(x, "other", attention_axes=(2,)), None, "attends along"),
        (lambda x: layers.Reshape((8, 6))(
            plain(layers.Reshape((2, 4, 6))(x), "other", attention_axes=(2,))
        ), None, "attends along"),
        (lambda x: layers.MultiHeadAttention(2, 4, name="other")(
            x, x, return_attention_scores=True
        )[0], None, "returns its scores"),
        (lambda x: Wrapped(name="outer")(x), None, "is inside a Wrapped"),
    ],
)  # fmt: skip
def test_layers_that_cannot_be_probed_are_refused_and_named_beside_others(attention, after, reason):
    with pytest.raises(ValueError, match=f"no self-attention layer .*{reason}"):
        VideoProbe(network(attention, after=after), grid=(2, 2, 2))
    if after is None:
        model = network(attention, lambda x: plain(x, "probed"))
        probe = VideoProbe(model)
        assert probe.layer_names == ("probed",) and reason in repr(probe)
        assert len(probe.skipped) == 1
        ones = dict.fromkeys(probe.heads, 1.0)
        np.testing.assert_allclose(probe.run(clips(), ones), model(clips()), atol=1e-5)
        with pytest.raises(ValueError, match=f"layers must be some of .*{reason}"):
            VideoProbe(model, ["other"])


def test_a_layer_or_a_block_that_is_used_twice_is_refused():
    shared = layers.MultiHeadAttention(2, 4)
    one = block("one")
    for use in (lambda x: shared(x, x), one):
        with pytest.raises(ValueError, match="is used 2 times"):
            VideoProbe(network(use, use), grid=(2, 2, 2))


def test_what_the_formula_does_not_compute_is_refused():
    class Scaled(ProbedSelfAttention):
        def call(self, tokens):
            return 2.0 * super().call(tokens)

    with pytest.raises(ValueError, match=r"of scaled, some compute more than softmax"):
        VideoProbe(network(Scaled(2, 4, name="scaled")))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.attention = ProbedSelfAttention(2, 4)

    def call(self, x):
        return self.attention(keras.ops.reshape(x, (-1, 64, 12)))


def several(inputs=1, outputs=1):
    model = network(plain)
    more = [keras.Input((3,)) for _ in range(inputs - 1)]
    y = layers.Concatenate()([model.output, *more]) if more else model.output
    return keras.Model([*model.inputs, *more], [layers.Dense(2)(y) for _ in range(outputs)])


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda: VideoProbe(Subclassed()), "must be a functional Keras model"),
        (lambda: VideoProbe(several(inputs=2)), "one input and one output, not 2 and 1"),
        (lambda: VideoProbe(several(outputs=2)), "one input and one output, not 1 and 2"),
        (lambda: VideoProbe(network(plain), []), "layers must be some of"),
        (lambda: VideoProbe(network(
            plain, lambda x: layers.UpSampling1D(2)(plain(layers.MaxPooling1D(2)(x), "few"))
        )), "different numbers of tokens, {'mha': 8, 'few': 4}"),
    ],
)  # fmt: skip
def test_networks_that_cannot_be_probed_are_refused(use, message):
    with pytest.raises(ValueError, match=message):
        use()


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda p: p.run(clips(), {(0, 0): np.nan}), r"of head \(0, 0\) goes from nan to nan"),
        (lambda p: p.run(clips(), {(0, 0): np.ones(3)}), r"shape \(3,\), which does not broadcast"),
        (lambda p: p.run(clips(), {0: 1.0}), "there is no head 0: heads are"),
        (lambda p: p.features(clips(), heads=[]), "heads are none"),
        (lambda p: discover_video_concepts(p, clips(), heads=[]), "heads are none"),
        (lambda p: p.layer_features(clips(), 7), "no layer 7: layers are numbered 0 to 1"),
        (lambda p: prune_heads(p, [np.nan, 1, 1, 1, 1, 1]), "must be finite, but 1 of 6"),
        (lambda p: prune_heads(p, dict.fromkeys(p.heads, "a")), "for each of 6 heads, not .'a'"),
        (lambda p: prune_heads(p, np.ones(6), 0.05), "closes none of 6 heads: give 0.17"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused(use, message):
    with pytest.raises(ValueError, match=message):
        use(VideoProbe(transformer()))


# ------------------------------------------------------------ grids


def patches_of_frames(between):
    """Return a network of (frames, patches, channels) tokens of 4 frames of 2 × 2 patches."""
    inputs = keras.Input((4, 8, 8, 3))
    x = layers.TimeDistributed(layers.Conv2D(8, 4, 4))(inputs)
    x = layers.Reshape((16, 8))(between(layers.Reshape((4, 4, 8))(x)))
    return keras.Model(inputs, layers.GlobalAveragePooling1D()(plain(x)))


def test_the_grid_of_patches_of_frames_is_found_or_asked_for():
    for between in (layers.Identity(), layers.Dense(8), layers.LayerNormalization()):
        assert VideoProbe(patches_of_frames(between)).grid == (4, 2, 2)
    turned = patches_of_frames(layers.Permute((2, 1, 3)))  # patches first
    with pytest.raises(ValueError, match="16 tokens is not known: give grid="):
        VideoProbe(turned)


# ------------------------------------------------------------ numbers


def test_values_of_another_width_than_keys_equal_a_slow_reference():
    def wide(x):
        return layers.MultiHeadAttention(2, 3, value_dim=7, name="mha")(x, x)

    model = network(wide)
    tokens = np.asarray(keras.Model(model.inputs[0], model.layers[2].output)(clips()), np.float64)
    kernel, bias = model.layers[-1].get_weights()
    keep = (np.random.default_rng(0).random((3, 8)) > 0.5).astype(float)
    for removal in ("zero", "minus_infinity"):
        found = VideoProbe(model).run(
            clips(), {(0, 1): keep.reshape(3, 2, 2, 2)}, removal=removal
        )  # fmt: skip
        for n, x in enumerate(tokens):
            weights = np.stack([np.ones(8), keep[n]], axis=1)
            y = x + slow_attention(model.get_layer("mha"), x, weights, removal)
            np.testing.assert_allclose(found[n], y.mean(axis=0) @ kernel + bias, atol=1e-4)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_is_probed(policy):
    whole = network(plain)
    keras.config.set_dtype_policy(policy)
    try:
        half = network(plain)
    finally:
        keras.config.set_dtype_policy("float32")
    half.set_weights(whole.get_weights())
    ours, theirs = VideoProbe(half), VideoProbe(whole)
    some = (np.random.default_rng(0).random((3, 2, 2, 2)) > 0.5).astype(float)
    for kept in (0.0, 0.3, some):
        found, expected = (
            probe.run(clips(), {(0, 0): kept}, removal="minus_infinity") for probe in (ours, theirs)
        )
        np.testing.assert_allclose(found, expected, atol=0.03 * np.abs(expected).max())


def test_a_token_that_alone_is_attended_to_has_all_the_weight_however_small_its_logit():
    model = network(plain)
    layer = model.get_layer("mha")
    kernel, bias = layer.query_dense.get_weights()
    layer.query_dense.set_weights([kernel * 300, bias])  # logits that differ by hundreds
    keep = np.zeros((3, 2, 2, 2))
    keep[:, 1, 0, 1] = 1
    probe = VideoProbe(model)
    found = probe.run(clips(), dict.fromkeys(probe.heads, keep), removal="minus_infinity")
    tokens = np.asarray(keras.Model(model.inputs[0], model.layers[2].output)(clips()), np.float64)
    kernel, bias = model.layers[-1].get_weights()
    value, out = layer.value_dense.get_weights(), layer.output_dense.get_weights()
    for n, x in enumerate(tokens):
        values = np.einsum("c,chd->hd", x[5], value[0]) + value[1]
        y = x + np.einsum("hd,hdc->c", values, out[0]) + out[1]
        np.testing.assert_allclose(found[n], y.mean(axis=0) @ kernel + bias, atol=1e-3)
