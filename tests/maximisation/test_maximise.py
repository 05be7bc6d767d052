"""Tests of images that maximise a direction."""

from functools import partial

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import NETWORKS, make_pairs
from xplique.features_visualizations import Objective, fft_to_rgb, get_fft_scale
from xplique.features_visualizations.losses import dot_cossim
from xplique.features_visualizations.preconditioning import to_valid_rgb

from xplique_dirpairs import (
    ConceptLayer,
    DirectionPairs,
    MaximisationSettings,
    PCAFactorizer,
    maximise,
    measure_firing,
    split_model,
)
from xplique_dirpairs.maximisation.maximise import as_pixels, concept_score, initial_images

RED, GREEN, BLUE = 2.0 * np.eye(3) - 1.0


@pytest.fixture(scope="module")
def colors():
    """Return a linear layer whose three channels are the colours of a pixel."""
    return color_layer(keras.Input((8, 8, 3)))


def color_pairs(filters, biases=0.5, signals=None):
    filters = np.atleast_2d(filters)
    count = len(filters)
    signals = filters if signals is None else np.atleast_2d(signals)
    return DirectionPairs(
        filters, np.broadcast_to(biases, count), signals, np.full(3, 0.5), np.zeros(count)
    )


def quickly(split, pairs, indices=None, along="filters", **options):
    options = {"steps": 100, "random_state": 0, "verbose": 0} | options
    return maximise(ConceptLayer.of(pairs, split), indices, along, **options)


def color_layer(inputs, *layers, strides=1):
    """Return the halves of a network that averages the colours of (some of) its pixels."""
    x = inputs
    for layer in layers:
        x = layer(x)
    x = keras.layers.Conv2D(3, 1, strides, use_bias=False, name="colors")(x)
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    model.get_layer("colors").set_weights([np.eye(3, dtype=np.float32)[None, None]])
    return split_model(model, "colors")


# ------------------------------------------------------------------ where the answer is known


@pytest.mark.parametrize("along", ["filters", "signals"])
def test_for_a_layer_of_colours_the_image_has_the_colour_of_the_direction(colors, along):
    pairs = color_pairs([RED, GREEN, BLUE])
    images = quickly(colors, pairs, along=along)
    # from grey, where every projection is −.5, towards the pure colour, where the own one is 1
    projections = pairs.project(images).mean(axis=(1, 2))
    own, others = np.diag(projections), projections[~np.eye(3, dtype=bool)]
    assert own.min() > -0.1 and others.max() < -0.3


def test_the_filter_and_the_signal_vector_of_a_concept_give_different_images(colors):
    pairs = color_pairs([1.0, -1.0, 0.0], signals=[1.0, 1.0, -1.0])
    by_filter, by_signal = (
        quickly(colors, pairs, along=along).mean(axis=(0, 1, 2)) for along in ("filters", "signals")
    )
    assert by_filter[0] > 0.7 and by_filter[1] < 0.3
    assert by_signal[:2].min() > 0.65 and by_signal[2] < 0.4


def test_against_rival_lowers_the_response_of_other_detectors(colors):
    pairs = color_pairs([[1.0, 1.0, 0.0], [0.0, 2.0, 0.0]], [0.7, 0.5])
    plain, kept = (quickly(colors, pairs, 0, against_rival=weight) for weight in (0.0, 1.0))
    own, rival = (pairs.project(plain) - pairs.biases).mean(axis=(0, 1, 2))
    assert rival > own > 0
    own, rival = (pairs.project(kept) - pairs.biases).mean(axis=(0, 1, 2))
    assert own > 0.2 > rival
    concepts = ConceptLayer.of(pairs, colors)
    shares = [measure_firing(concepts, pictures, 0).firing for pictures in (plain, kept)]
    assert shares[0].others_share > 0.9 and shares[1].others_share < 0.75
    assert shares[1].own_share > 0.9


def test_more_steps_give_a_larger_excess(halves, images):
    split, pairs = halves("conv_gap"), make_pairs(8, 3)
    excess = [
        np.diagonal(
            (pairs.project(split[0].predict_on_batch(pictures)) - pairs.biases).mean((1, 2))
        )
        for pictures in (quickly(split, pairs, steps=steps, against_rival=0.0) for steps in (1, 60))
    ]
    assert (excess[1] > excess[0] + 0.05).all()


@pytest.mark.parametrize("along", ["filters", "signals"])
@pytest.mark.parametrize("spatial", [(3, 2), (4,), ()])
def test_the_score_follows_its_formula(rng, along, spatial):
    pairs = make_pairs(6, 4)
    pairs = DirectionPairs(
        pairs.filters, pairs.biases, pairs.signals, rng.normal(size=6), pairs.absent_levels
    )
    x = rng.normal(size=(2, *spatial, 6)).astype(np.float32)
    own = [3, 1]
    masks = np.eye(4)[own].reshape(2, *(1,) * len(spatial), 4)
    score = concept_score(pairs, along, 0.7, len(spatial))
    expected = []
    for image, i in zip(x.reshape(2, -1, 6), own, strict=True):
        terms = []
        for position in image:
            z = [float(w @ position) - float(b) for w, b in zip(*read(pairs), strict=True)]
            main = z[i]
            if along == "signals":
                away = position - pairs.mean
                cosine = pairs.signals[i] @ away / np.linalg.norm(away)
                main = pairs.signals[i] @ away * max(cosine, 0.1) ** 2 / pairs.margins[i]
            terms.append(main - 0.7 * max(0.0, *(z[j] for j in range(4) if j != i)))
        expected.append(np.mean(terms))
    np.testing.assert_allclose(score(x, masks), expected, rtol=1e-4, atol=1e-5)
    # Xplique passes a single output with one more axis in front.
    np.testing.assert_allclose(score(x[None], masks)[0], expected, rtol=1e-4, atol=1e-5)


def read(pairs):
    return pairs.filters.astype(np.float64), pairs.biases


def test_the_score_has_a_finite_gradient_where_the_features_are_their_mean():
    pairs = make_pairs(6, 4)
    x = tf.Variable(np.broadcast_to(pairs.mean, (1, 2, 2, 6)).astype(np.float32))
    with tf.GradientTape() as tape:
        value = concept_score(pairs, "signals", 1.0, 2)(x, np.eye(4)[:1].reshape(1, 1, 1, 4))
    assert np.isfinite(tape.gradient(value, x).numpy()).all()


# ------------------------------------------------------------------ what comes back


@pytest.mark.parametrize("name", ["tall", "grayscale", "gelu", "tokens", "vectors"])
def test_images_have_the_shape_and_range_of_the_network_input(halves, name):
    split = halves(name)
    pairs = make_pairs(split[0].output_shape[-1], 3)
    pictures = quickly(split, pairs, [2, 0], steps=3, values_range=(-1.0, 2.0))
    assert pictures.shape == (2, *NETWORKS[name][1]) and pictures.dtype == np.float32
    assert pictures.min() >= -1.0 and pictures.max() <= 2.0
    if name != "tall":  # brought to its shape after the stretch
        np.testing.assert_allclose([pictures.min(), pictures.max()], [-1.0, 2.0], atol=1e-5)
    report = measure_firing(ConceptLayer.of(pairs, split), pictures, [2, 0])
    assert np.isfinite(report.firing.own_excess).all()


def test_a_network_of_images_of_any_size_needs_an_image_shape():
    split = color_layer(keras.Input((None, None, 3)))
    pictures = quickly(split, color_pairs([RED, GREEN]), 1, steps=2, image_shape=(12, 10, 3))
    assert pictures.shape == (1, 12, 10, 3)
    with pytest.raises(ValueError, match="give image_shape"):
        quickly(split, color_pairs([RED]))


def test_results_depend_on_the_seed_only(colors):
    pairs = color_pairs([RED, GREEN, BLUE])
    tf.random.set_seed(1)
    first = quickly(colors, pairs, [0, 2], steps=5)
    tf.random.set_seed(2)
    np.testing.assert_array_equal(quickly(colors, pairs, [0, 2], steps=5), first)
    other = quickly(colors, pairs, [0, 2], steps=5, random_state=1)
    assert np.abs(other - first).mean() > 0.01
    free = [quickly(colors, pairs, 0, steps=2, random_state=None) for _ in range(2)]
    assert np.abs(free[0] - free[1]).mean() > 0.01


def test_the_image_of_a_concept_does_not_depend_on_its_batch(colors):
    pairs = color_pairs([RED, GREEN, BLUE])
    together = quickly(colors, pairs, steps=10)
    apart = quickly(colors, pairs, [2, 0, 1], steps=10, batch_size=2)
    np.testing.assert_allclose(apart[[1, 2, 0]], together, atol=2e-3)


def test_shifts_remove_patterns_tied_to_the_grid_of_positions():
    split = color_layer(keras.Input((8, 8, 3)), strides=4)  # only every fourth pixel counts
    still, shifted = (
        quickly(split, color_pairs([RED]), settings=MaximisationSettings(shift=shift))[0]
        for shift in (0, 5)
    )
    seen_more = [
        (pictures @ RED)[::4, ::4].mean() - (pictures @ RED).mean() for pictures in (still, shifted)
    ]
    assert seen_more[0] > 0.1 and seen_more[1] < 0.5 * seen_more[0]


def test_there_is_one_progress_bar_for_all_batches_or_none(colors, capfd):
    pairs = color_pairs([RED, GREEN, BLUE])
    quickly(colors, pairs, steps=3, batch_size=2)
    assert capfd.readouterr() == ("", "")
    quickly(colors, pairs, steps=3, batch_size=2, verbose=1)
    out, err = capfd.readouterr()
    assert "6/6" in out and not err


# ------------------------------------------------------------------ Xplique's properties
# If one of these tests fails, Xplique has changed, and the workaround can be removed.


def test_xpliques_stretch_lets_two_pixels_decide_the_contrast_and_ours_does_not(rng):
    values = 0.05 * rng.normal(size=(1, 16, 16, 3)).astype(np.float32)
    values[0, 3, 3], values[0, 9, 9] = 20.0, -20.0
    initial = initial_images((16, 16, 3), np.array([0]), 0, 1.0)
    usual = to_valid_rgb(values, "sigmoid").numpy()
    assert usual.std() < 0.1
    quiet = np.clip(values, -1.0, 1.0)
    own = to_valid_rgb(quiet - initial, partial(as_pixels, initial=initial, contrast=1.0))
    assert own.numpy().std() > 0.1


def test_xpliques_score_of_a_direction_mixes_the_pictures_of_a_batch():
    x = np.array([[[[1.0, 0.0]]], [[[0.0, 5.0]]]], np.float32)
    mask = np.array([[[[1.0, 0.0]]], [[[0.0, 1.0]]]], np.float32)
    alone = dot_cossim(x[:1], mask[:1])
    assert dot_cossim(x, mask)[0] > 2 * alone[0]


def test_xpliques_fourier_pictures_are_cut_to_a_square():
    scale = get_fft_scale(8, 4)
    assert fft_to_rgb((1, 8, 4, 3), tf.zeros((2, 1, 3, *scale.shape)), scale).shape == (1, 4, 4, 3)


def test_xpliques_difference_of_two_objectives_is_minus_their_sum(colors):
    first, second = (Objective.channel(colors.model, "colors", k) for k in (0, 1))
    _, function, _, _ = (first - second).compile()
    outputs = [tf.fill((1, 8, 8, 3), 1.0), tf.fill((1, 8, 8, 3), 3.0)]
    np.testing.assert_allclose(function(outputs), -(1.0 + 3.0) / 3.0, rtol=1e-6)


# ------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"indices": 3}, "numbered 0 to 2"),
        ({"indices": [-1]}, "numbered 0 to 2"),
        ({"indices": []}, "indices of concepts"),
        ({"indices": 0.5}, "indices of concepts"),
        ({"along": "filter"}, "along must be"),
        ({"steps": 0}, "steps must be"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"against_rival": -1.0}, "against_rival must be at least 0"),
        ({"values_range": (1.0, 0.0)}, "values_range must be in order"),
        ({"values_range": (None, 1.0)}, "values_range must be two finite numbers"),
        ({"values_range": 1.0}, "values_range must be"),
        ({"image_shape": (9, 8, 3)}, r"takes \(8, 8, 3\)"),
        ({"random_state": -1}, "random_state must be"),
        ({"random_state": "a"}, "random_state must be"),
    ],
)
def test_invalid_arguments_are_refused(colors, options, message):
    with pytest.raises(ValueError, match=message):
        quickly(colors, color_pairs([RED, GREEN, BLUE]), **options)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"shift": -1}, "shift must be"),
        ({"fft_decay": np.nan}, "fft_decay must be a finite"),
        ({"contrast": 0.0}, "contrast must be more than 0"),
    ],
)
def test_settings_refuse_invalid_values(setting, message):
    with pytest.raises(ValueError, match=message):
        MaximisationSettings(**setting)


def test_networks_and_concepts_of_another_kind_are_refused(colors):
    pairs = color_pairs([RED])
    pca = PCAFactorizer(2)
    pca.fit(np.random.default_rng(0).normal(size=(20, 3)))
    with pytest.raises(TypeError, match=r"signals.*direction pairs.*PCAFactorizer"):
        quickly(colors, pca, along="signals")
    with pytest.raises(ValueError, match="layer with 8 channels, but the given layer has 3"):
        quickly(colors, make_pairs(8, 2))
    with pytest.raises(
        ValueError, match="more than one pixel"
    ):  # TensorFlow's FFT would end the process
        quickly(color_layer(keras.Input((1, 1, 3))), pairs)
    with pytest.raises(ValueError, match="takes uint8 images"):
        quickly(color_layer(keras.Input((4, 4, 3), dtype="uint8")), pairs)


def test_activations_that_become_nan_are_an_error():
    split = color_layer(keras.Input((8, 8, 3)), keras.layers.Rescaling(np.nan))
    with pytest.raises(ValueError, match="became NaN"):
        quickly(split, color_pairs([RED]), steps=2)
