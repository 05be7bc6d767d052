"""Synthetic activation maximisation: images that a filter or a signal vector responds to most.

The optimiser, the Fourier parametrisation and the colours are those of Xplique's feature
visualisation. Four of its properties [2.0.2] are worked around, each by an argument it takes:

- Its pixels go through a sigmoid, and are then stretched until the darkest and the brightest one
  reach the ends of the range. A few extreme pixels decide the contrast of all others, which stay
  grey, and often do not fire (`benchmarks/maximise.py`). `as_pixels` saturates.
- `Objective.direction` multiplies the cosine of each picture by the dot product of the whole
  batch: directions have to be maximised one by one. `concept_score` is a function of each picture
  alone.
- A picture that is not square is cut to the square of its short side. All are optimised as squares.
- Its standard transformations enlarge the picture to three times its size before it enters the
  network. What is optimised is then a third as large in the picture, and the network no longer
  detects it. Here the picture is shifted, round the edges, which the Fourier parametrisation
  continues anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf
from xplique.features_visualizations import Objective, fft_to_rgb, get_fft_scale, optimize
from xplique.features_visualizations.preconditioning import recorrelate_colors

from xplique_dirpairs.core.batching import slices
from xplique_dirpairs.core.progress import quiet
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import (
    check_choice,
    check_concepts,
    check_images_fit,
    check_integer,
    check_limits,
    check_number,
    check_random_state,
)
from xplique_dirpairs.extractors.concept_layer import ConceptLayer
from xplique_dirpairs.pairs import DirectionPairs

Along = Literal["filters", "signals"]
#: (activations, one-hot concepts) → a score for each image.
Score = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

#: Exponent of the cosine in the score of a signal vector, as in Xplique's `Objective.direction`.
_COSINE_POWER = 2.0
#: Below this the cosine does not change the score: far from its direction the length alone leads.
_LEAST_COSINE = 0.1
#: Of Adam. Xplique's is 0.05; here, where the contrast is fixed, only its ratio to the initial
#: values matters, and smaller steps keep less of the noise that the first ones bring.
_LEARNING_RATE = 0.01
#: Standard deviation of the initial Fourier coefficients; Xplique's.
_INITIAL_DEVIATION = 0.01
#: By default an image is shifted by up to this share of its side in each step.
_SHIFT = 1 / 16


@dataclass(frozen=True)
class MaximisationSettings:
    """How the images of `maximise` are parametrised.

    Attributes
    ----------
    contrast : float, default=1.0
        Standard deviation of the pixels about grey before the sigmoid.
    fft_decay : float, default=1.2
        Preference for coarse structure: amplitudes fall as frequency to the power −decay.
    shift : int, optional
        Largest shift of an image before each step, in pixels, so that it does not depend on where
        the network's grid lies. None: 1/16 of the side. 0 gives more activation, and noise.
    """

    contrast: float = 1.0
    fft_decay: float = 1.2
    shift: int | None = None


def maximise(
    concepts: Any,
    indices: int | Sequence[int] | None = None,
    along: Along = "filters",
    *,
    against_rival: float = 1.0,
    values_range: tuple[float, float] = (0.0, 1.0),
    image_shape: tuple[int, int, int] | None = None,
    steps: int = 128,
    settings: MaximisationSettings = MaximisationSettings(),
    batch_size: int = 8,
    random_state: int | None = None,
    verbose: int = 1,
) -> Array:
    """Generate an image for each concept by gradient ascent on what the network reads in it.

    Along a **filter**: the mean over positions of the excess z_i − b_i, in margins. Along a
    **signal vector**: the mean over positions of ŝᵢᵀ(x − E[x]) / M_i times the square of the cosine
    between x − E[x] and ŝ_i, so that the features point along it, and are not just large.
    From both, ``against_rival`` times the mean of ReLU(max_{j≠i} z_j − b_j) is subtracted: the
    excess of the strongest other detector.

    Parameters
    ----------
    concepts : ConceptLayer or object
        Direction pairs at a layer of a network, or whatever `ConceptLayer.of` takes alone.
    indices : int or sequence of int, optional
        Concepts to generate images for; None: all.
    along : {"filters", "signals"}, default="filters"
        "filters": what the detector fires at. "signals": what the concept's presence looks like.
    against_rival : float, default=1.0
        Weight of the strongest other detector. 0: plain maximisation of the direction, which often
        finds features that several concepts have in common, and fires another detector more than
        the concept's own.
    values_range : (float, float), default=(0.0, 1.0)
        Lowest and highest value of the network's input, (−1, 1) for many. Every image contains
        both, unless it is not square and so resized.
    image_shape : (int, int, int), optional
        (height, width, channels), where the network's input leaves it open.
    steps : int, default=128
        Steps of the ascent.
    settings : MaximisationSettings
        Contrast, smoothness and shifts.
    batch_size : int, default=8
        Images generated at once.
    random_state : int, optional
        The same integer gives the same images for the same arguments. Initial images depend on the
        integer and the concept only; but the ascent amplifies rounding, so that results differ a
        little between batch sizes. TensorFlow's global seed is left alone.
    verbose : int, default=1
        0 for silence; otherwise a progress bar.

    Returns
    -------
    images : ndarray of shape (n, height, width, channels), float32
        In ``values_range``, in the order of ``indices``.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described, or the network's activations turn NaN.
    """
    layer = ConceptLayer.of(concepts)
    pairs = layer.direction_pairs
    encoder = _encoder_of_images(layer.split.input_to_latent_model, image_shape)
    chosen = check_concepts(indices, pairs.number_of_concepts)
    check_choice("along", along, ("filters", "signals"))
    check_integer("steps", steps)
    check_integer("batch_size", batch_size)
    check_number("against_rival", against_rival, minimum=0)
    check_number("fft_decay", settings.fft_decay, minimum=0)
    check_number("contrast", settings.contrast, above=0)
    low, high = check_limits(values_range, "values_range")
    if low is None or high is None:
        raise ValueError(f"values_range must be two finite numbers, not {values_range!r}")
    height, width, channels = encoder.input_shape[1:]
    side = max(height, width)
    if side < 2:
        raise ValueError("images of a single pixel have no spectrum to vary: use larger ones")
    shift = int(_SHIFT * side) if settings.shift is None else settings.shift
    check_integer("shift", shift, minimum=0)
    seed = int(check_random_state(random_state).integers(2**31))

    batches = [chosen[part] for part in slices(len(chosen), batch_size)]
    bar = keras.utils.Progbar(steps * len(batches), unit_name="step") if verbose else None
    score = concept_score(pairs, along, against_rival, len(encoder.output_shape) - 2)
    images = []
    for batch in batches:
        initial = initial_images((side, side, channels), batch, seed, settings.fft_decay)
        with quiet():
            snapshots, _ = optimize(
                _objective(encoder, score, batch, pairs.number_of_concepts),
                optimizer=_Ascent(bar),
                nb_steps=steps,
                fft_decay=settings.fft_decay,
                std=0.0,  # `as_pixels` adds the initial images.
                image_normalizer=partial(as_pixels, initial=initial, contrast=settings.contrast),
                values_range=(low, high),
                transformations=_Shift(shift, seed) if shift else None,
                custom_shape=(side, side),
            )
        images.append(tf.image.resize(snapshots[-1], (height, width)).numpy())
    result = np.concatenate(images)
    if not np.isfinite(result).all():
        raise ValueError(
            "the images turned NaN: check that the network's activations are finite over "
            f"values_range {values_range}"
        )
    return np.asarray(np.clip(result, low, high))  # The stretch to the range rounds.


def _encoder_of_images(
    encoder: keras.Model, image_shape: tuple[int, int, int] | None
) -> keras.Model:
    """Return the first half of a network for images of one size.

    Raises
    ------
    ValueError
        If it takes other images, or images through which no gradient flows.
    """
    wanted = encoder.inputs[0]
    shape = tuple(wanted.shape[1:] if image_shape is None else image_shape)
    check_images_fit(shape, encoder)
    if len(shape) != 3 or None in shape:
        raise ValueError(
            f"the network takes images of any size, {shape}: give image_shape=(height, width, "
            "channels)"
        )
    if "float" not in str(wanted.dtype):
        raise ValueError(
            f"the network takes {wanted.dtype} images, through which no gradient flows: split the "
            "part of it that follows the cast to floats"
        )
    images = keras.Input(shape)
    return keras.Model(images, encoder(images))


def _objective(
    encoder: keras.Model, score: Score, concepts: Array, number_of_concepts: int
) -> Objective:
    """Return Xplique's objective of a score: for each image a one-hot mask over the concepts."""
    positions = (1,) * (len(encoder.output_shape) - 2)
    one_hot = np.eye(number_of_concepts, dtype=np.float32)[concepts]
    masks = list(one_hot.reshape(len(concepts), *positions, number_of_concepts))
    names = [str(concept) for concept in concepts]
    return Objective(encoder, [encoder.outputs[0]], [masks], [score], [1.0], [names])


def concept_score(
    pairs: DirectionPairs, along: Along, against_rival: float, spatial_axes: int
) -> Score:
    """Return the function that is maximised: (activations, own) → a number for each image.

    ``own`` is one-hot over the concepts. Axes are counted from the end: Xplique puts one more in
    front where the model has a single output.

    Parameters
    ----------
    pairs : DirectionPairs
    along : {"filters", "signals"}
    against_rival : float
        Weight of the strongest other detector's excess.
    spatial_axes : int
        Number of axes of positions.
    """
    filters, biases = tf.constant(pairs.filters.T), tf.constant(pairs.biases)
    signals, mean = tf.constant(pairs.signals.T), tf.constant(pairs.mean)
    margins = tf.constant(pairs.margins)
    positions = list(range(-spatial_axes, 0))

    def score(activations: tf.Tensor, own: tf.Tensor) -> tf.Tensor:
        x, own = tf.cast(activations, tf.float32), tf.cast(own, tf.float32)
        excess = tf.einsum("...d,di->...i", x, filters) - biases
        main = excess
        if along == "signals":
            length = tf.einsum("...d,di->...i", x - mean, signals)
            # Not tf.norm, whose gradient at x = E[x] is NaN.
            norm = tf.sqrt(tf.reduce_sum((x - mean) ** 2, axis=-1, keepdims=True) + 1e-12)
            cosine = tf.maximum(length / norm, _LEAST_COSINE)
            main = length * cosine**_COSINE_POWER / margins
        rivals = tf.where(own > 0, excess.dtype.min, excess)
        rival = tf.nn.relu(tf.reduce_max(rivals, axis=-1))
        return tf.reduce_mean(
            tf.reduce_sum(main * own, axis=-1) - against_rival * rival, axis=positions
        )

    return score


def initial_images(
    shape: tuple[int, int, int], concepts: Array, seed: int, fft_decay: float
) -> tf.Tensor:
    """Return an initial image for each concept, (n, side, side, channels).

    Xplique's own would depend on TensorFlow's global seed, and on the size of the batch: they are
    left at zero, and these are added.
    """
    side, _, channels = shape
    scale = get_fft_scale(side, side, decay_power=fft_decay)
    images = []
    for concept in concepts:
        rng = np.random.default_rng([seed, int(concept)])
        buffer = rng.normal(scale=_INITIAL_DEVIATION, size=(2, 1, channels, *scale.shape))
        images.append(fft_to_rgb((1, *shape), tf.constant(buffer, tf.float32), scale))
    initial = tf.concat(images, axis=0)
    return recorrelate_colors(initial) if channels == 3 else initial


def as_pixels(images: tf.Tensor, initial: tf.Tensor, contrast: float) -> tf.Tensor:
    """Map images + initial to (0, 1), with standard deviation ``contrast`` before the sigmoid."""
    images = images + initial
    spread = tf.sqrt(tf.reduce_mean(images**2, axis=(1, 2, 3), keepdims=True) + 1e-12)
    return tf.sigmoid(contrast * images / spread)


class _Shift:
    """Shifts all images of a batch round the edges by the same random number of pixels."""

    def __init__(self, largest: int, seed: int):
        self._largest = largest
        self._seed = seed
        self._step = tf.Variable(0, dtype=tf.int64, trainable=False)

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        seed = tf.stack([tf.constant(self._seed, tf.int64), self._step.assign_add(1)])
        moves = tf.random.stateless_uniform((2,), seed, -self._largest, self._largest + 1, tf.int32)
        return tf.roll(images, moves, axis=(1, 2))


class _Ascent:
    """Adam that advances a progress bar: Xplique's `optimize` is silent until it is done."""

    def __init__(self, bar: keras.utils.Progbar | None):
        self._adam = keras.optimizers.Adam(_LEARNING_RATE)
        self._bar = bar

    def apply_gradients(self, gradients: Any) -> None:
        """Take one step."""
        self._adam.apply_gradients(gradients)
        if self._bar is not None:
            self._bar.add(1)
