"""Synthetic activation maximisation: generate images with the highest response to a direction.

The optimiser, the Fourier parametrisation and the colours are those of Xplique's feature
visualisation. Four of its properties (in version 2.0.2) are worked around with arguments that it
accepts:

- Its pixels pass through a sigmoid and are then stretched until the darkest and the brightest one
  reach the ends of the range. A few extreme pixels decide the contrast of all others, which stay
  grey and often do not make the detector fire (`benchmarks/maximise.py`). `as_pixels` saturates
  pixels instead.
- `Objective.direction` multiplies the cosine of each image by the dot product of the whole batch,
  so directions can only be maximised one by one. `concept_score` scores each image independently.
- An image that is not square is cut to the square of its short side. Here, all images are optimised
  as squares and then resized.
- Its standard transformations enlarge the image to three times its size before it enters the
  network. Patterns are then a third as large in the final image, where the network no longer
  detects them. Here, the image is shifted cyclically instead; the Fourier parametrisation is
  periodic anyway.
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
from xplique_dirpairs.core.linear_algebra import lengths_of
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
#: Function of (activations, one-hot concepts) that returns a score for each image.
Score = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

#: Exponent of the cosine in the score of a signal vector, as in Xplique's `Objective.direction`.
_COSINE_POWER = 2.0
#: Cosines below this value count as this value, so that features far from the direction still have
#: a score that grows with their length.
_LEAST_COSINE = 0.1
#: Weight of the projection in the score of a coefficient, which alone may have no gradient.
_TOWARDS = 0.1
#: Learning rate of Adam. Xplique uses 0.05. Here the contrast is fixed, so that only the ratio to
#: the initial values matters, and smaller steps keep less noise of the first steps.
_LEARNING_RATE = 0.01
#: Standard deviation of the initial Fourier coefficients, as in Xplique.
_INITIAL_DEVIATION = 0.01
#: Default of the largest shift of an image in each step, as a share of its side.
_SHIFT = 1 / 16


@dataclass(frozen=True)
class MaximisationSettings:
    """Settings of the images that `maximise` generates.

    An image is given by its Fourier coefficients, as in Xplique's feature visualisation. Its pixels
    pass through a sigmoid and are stretched to the range of the network's input, ``values_range``
    of `maximise`.

    Attributes
    ----------
    contrast : float, default=1.0
        Standard deviation of the pixels before the sigmoid; positive. With a larger value, more
        pixels are near the ends of the range.
    fft_decay : float, default=1.2
        Preference for coarse structure, at least 0: amplitudes are scaled by
        frequency^(−``fft_decay``).
    shift : int, optional
        Largest random shift of an image before each step, in pixels, at least 0. Shifts make the
        image independent of where exactly the positions of the layer lie on it. None: 1/16 of the
        longer side. 0: no shifts, which gives more activation and more noise.

    Raises
    ------
    ValueError
        If a value is not a number, or is out of range.
    """

    contrast: float = 1.0
    fft_decay: float = 1.2
    shift: int | None = None

    def __post_init__(self) -> None:
        check_number("contrast", self.contrast, above=0)
        check_number("fft_decay", self.fft_decay, minimum=0)
        if self.shift is not None:
            check_integer("shift", self.shift, minimum=0)


_DEFAULT = MaximisationSettings()


def maximise(
    concepts: Any,
    indices: int | Sequence[int] | None = None,
    along: Along = "filters",
    *,
    against_rival: float = 1.0,
    values_range: tuple[float, float] = (0.0, 1.0),
    image_shape: tuple[int, int, int] | None = None,
    steps: int = 128,
    settings: MaximisationSettings = _DEFAULT,
    batch_size: int = 8,
    random_state: int | None = None,
    verbose: int = 1,
) -> Array:
    """Generate an image for each concept by gradient ascent on the concept's score.

    At a position with features x, whose mean over the training data is E[x], concept i has a filter
    w_i of length 1/M_i (M_i is its margin), a bias b_i and a unit signal vector ŝ_i. Its detector
    fires where the excess wᵢᵀx − b_i is positive. The score along the **filter** is this excess,
    averaged over positions. The score along the **signal vector** is c² ŝᵢᵀ(x − E[x]) / M_i,
    averaged over positions, with c the cosine between x − E[x] and ŝ_i, or 0.1 if it is below 0.1:
    features must point in its direction and not just be large. From either score, ``against_rival``
    times the mean over positions of max(0, r) is subtracted, with the largest excess r among all
    other detectors at the position.

    Concepts of other kinds have coefficients u, which are compared in the units of the features: v
    = u_i ‖a_i‖ with the row a_i of the concept bank. Their score is the mean of v_i over positions,
    and r the largest v_j of the others. A tenth of the projection on the filter (of a_i, where
    there is none) is added, since a sparse code of 0 has no gradient.

    Parameters
    ----------
    concepts : ConceptLayer or fitted extractor
        Concepts at a layer of a network, as a `ConceptLayer` or as anything that `ConceptLayer.of`
        accepts as its only argument: direction pairs, or any extractor with differentiable
        coefficients.
    indices : int or sequence of int, optional
        Indices of the concepts to generate images for. None: all concepts.
    along : {"filters", "signals"}, default="filters"
        "filters": show what makes the detector fire, or the coefficient large. "signals": show what
        the presence of the concept adds to the features; of direction pairs only.
    against_rival : float, default=1.0
        Weight, at least 0, of the strongest other detector in the score. With 0, images often show
        features that several concepts share, and another detector fires more than the concept's
        own.
    values_range : tuple of (float, float), default=(0.0, 1.0)
        Lowest and highest value of the network's input; (−1, 1) for many networks. Pixels of square
        images are stretched so that both values occur; other images are then resized, after which
        their values may span less.
    image_shape : tuple of (int, int, int), optional
        (height, width, channels); required if the network accepts images of several sizes. None:
        the network's own input shape.
    steps : int, default=128
        Number of steps of the ascent.
    settings : MaximisationSettings, default=MaximisationSettings()
        Contrast (default 1), preference for coarse structure (1.2) and largest random shift (1/16
        of the longer side) of the images.
    batch_size : int, default=8
        Number of images that are generated at once.
    random_state : int, optional
        Seed of the initial images and shifts. None: a random seed. The same integer gives the same
        images for the same arguments. The initial images depend only on the seed and the concept,
        but the ascent amplifies rounding errors, so that results differ a little between batch
        sizes. TensorFlow's global seed is not changed.
    verbose : int, default=1
        0: silent. Otherwise, a progress bar is shown.

    Returns
    -------
    images : ndarray of float32 of shape (n, height, width, channels)
        One image for each of the n concepts, in the order of ``indices``, with values in
        ``values_range``.

    Raises
    ------
    TypeError
        If ``concepts`` is not an extractor; if gradients do not flow through its coefficients; or
        if ``along`` is "signals", and its concepts are no direction pairs.
    ValueError
        If the network does not take float images, or takes several sizes and ``image_shape`` is
        missing; if an argument is out of range; or if the images become NaN.
    """
    layer = ConceptLayer.of(concepts)
    encoder = _encoder_of_images(layer.split.input_to_latent_model, image_shape)
    chosen = check_concepts(indices, layer.number_of_concepts)
    check_choice("along", along, ("filters", "signals"))
    check_integer("steps", steps)
    check_integer("batch_size", batch_size)
    check_number("against_rival", against_rival, minimum=0)
    score = _score_of(layer, along, against_rival, len(encoder.output_shape) - 2)
    low, high = check_limits(values_range, "values_range")
    if low is None or high is None:
        raise ValueError(f"values_range must be two finite numbers, not {values_range!r}")
    height, width, channels = encoder.input_shape[1:]
    side = max(height, width)
    if side < 2:
        raise ValueError("images must have more than one pixel: use larger images")
    shift = int(_SHIFT * side) if settings.shift is None else settings.shift
    seed = int(check_random_state(random_state).integers(2**31))

    batches = [chosen[part] for part in slices(len(chosen), batch_size)]
    bar = keras.utils.Progbar(steps * len(batches), unit_name="step") if verbose else None
    images = []
    for batch in batches:
        initial = initial_images((side, side, channels), batch, seed, settings.fft_decay)
        with quiet():
            snapshots, _ = optimize(
                _objective(encoder, score, batch, layer.number_of_concepts),
                optimizer=_Ascent(bar),
                nb_steps=steps,
                fft_decay=settings.fft_decay,
                std=0.0,  # because `as_pixels` adds the initial images
                image_normalizer=partial(as_pixels, initial=initial, contrast=settings.contrast),
                values_range=(low, high),
                transformations=_Shift(shift, seed) if shift else None,
                custom_shape=(side, side),
            )
        images.append(tf.image.resize(snapshots[-1], (height, width)).numpy())
    result = np.concatenate(images)
    if not np.isfinite(result).all():
        raise ValueError(
            "the images became NaN: check that the network's activations are finite for inputs in "
            f"values_range={values_range}"
        )
    return np.asarray(np.clip(result, low, high))  # removes rounding errors


def _encoder_of_images(
    encoder: keras.Model, image_shape: tuple[int, int, int] | None
) -> keras.Model:
    """Return the first half of a network, rebuilt for images of one size.

    Raises
    ------
    ValueError
        If the network does not take such images, or takes integers, which have no gradients.
    """
    wanted = encoder.inputs[0]
    shape = tuple(wanted.shape[1:] if image_shape is None else image_shape)
    check_images_fit(shape, encoder)
    if len(shape) != 3 or None in shape:
        raise ValueError(
            f"the network takes images of any size, {shape}: give image_shape=(height, width, C)"
        )
    if "float" not in str(wanted.dtype):
        raise ValueError(
            f"the network takes {wanted.dtype} images, which have no gradients: split only the "
            "part of the network after the cast to floats"
        )
    images = keras.Input(shape)
    return keras.Model(images, encoder(images))


def _objective(
    encoder: keras.Model, score: Score, concepts: Array, number_of_concepts: int
) -> Objective:
    """Return Xplique's objective for a score, with a one-hot mask over concepts for each image."""
    positions = (1,) * (len(encoder.output_shape) - 2)
    one_hot = np.eye(number_of_concepts, dtype=np.float32)[concepts]
    masks = list(one_hot.reshape(len(concepts), *positions, number_of_concepts))
    names = [str(concept) for concept in concepts]
    return Objective(encoder, [encoder.outputs[0]], [masks], [score], [1.0], [names])


def _score_of(layer: ConceptLayer, along: Along, against_rival: float, spatial_axes: int) -> Score:
    """Return the function that is maximised, for concepts of any kind."""
    if layer.pairs is not None:
        return concept_score(layer.pairs, along, against_rival, spatial_axes)
    kind = type(layer.fitted).__name__
    if along == "signals":
        raise TypeError(
            f'along="signals" needs direction pairs, which have signal vectors, but the concepts '
            f'are those of a {kind}: use along="filters"'
        )
    if layer.encode_differentiable is None:
        raise TypeError(
            f"gradients do not flow through the coefficients of a {kind}: use an extractor whose "
            "factorizer has encode_differentiable, such as NMFFactorizer"
        )
    return coefficient_score(layer, against_rival, spatial_axes)


def coefficient_score(layer: ConceptLayer, against_rival: float, spatial_axes: int) -> Score:
    """Return the function that is maximised for concepts that are no direction pairs.

    Parameters
    ----------
    layer : ConceptLayer
        Concepts with coefficients u, rows a_i of the bank and, if they have them, filters w_i.
    against_rival : float
        Weight of the largest other coefficient, in units of the features.
    spatial_axes : int
        Number of axes of positions.

    Returns
    -------
    score : callable
        As for `concept_score`: the mean over positions of v_i + s_i/10 − ``against_rival`` max(0,
        max_j≠i v_j), with v_i = u_i ‖a_i‖, and s_i = wᵢᵀ(x − constant) ‖a_i‖ or, without filters,
        a_iᵀ(x − constant)/‖a_i‖.
    """
    encode = layer.encode_differentiable
    assert encode is not None
    lengths = np.maximum(lengths_of(layer.bank), 1e-12)
    towards = layer.bank / lengths[:, None]
    if layer.decoding is not None:
        towards = layer.decoding * lengths[:, None]
    units, directions = tf.constant(lengths, tf.float32), tf.constant(towards.T, tf.float32)
    constant = tf.constant(layer.constant, tf.float32)
    positions = list(range(-spatial_axes, 0))

    def score(activations: tf.Tensor, own: tf.Tensor) -> tf.Tensor:
        x, own = tf.cast(activations, tf.float32), tf.cast(own, tf.float32)
        flat = tf.reshape(x, [-1, x.shape[-1]])
        shape = tf.concat([tf.shape(x)[:-1], [units.shape[0]]], axis=0)
        values = tf.reshape(tf.cast(encode(flat), tf.float32), shape) * units
        towards = tf.einsum("...d,di->...i", x - constant, directions)
        rivals = tf.where(own > 0, values.dtype.min, values)
        rival = tf.nn.relu(tf.reduce_max(rivals, axis=-1))
        main = tf.reduce_sum((values + _TOWARDS * towards) * own, axis=-1)
        return tf.reduce_mean(main - against_rival * rival, axis=positions)

    return score


def concept_score(
    pairs: DirectionPairs, along: Along, against_rival: float, spatial_axes: int
) -> Score:
    """Return the function that is maximised.

    Parameters
    ----------
    pairs : DirectionPairs
        The concepts.
    along : {"filters", "signals"}
        See `maximise`.
    against_rival : float
        Weight of the strongest other detector's excess.
    spatial_axes : int
        Number of axes of positions.

    Returns
    -------
    score : callable
        Function of activations (N, *S, D), with ``spatial_axes`` axes ``*S``, and masks that are
        one-hot over the concepts. It returns one number for each image. It counts axes from the
        end, because Xplique adds one in front if the model has a single output.
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
            # tf.norm is not used, because its gradient at x = E[x] is NaN.
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
    """Return initial images, (n, side, side, channels), of n concepts.

    Xplique's initial images would depend on TensorFlow's global seed and on the batch size. They
    are therefore set to zero, and these are added to them.
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
    """Map images + initial, (n, side, side, channels), to (0, 1) by a sigmoid.

    Before the sigmoid, each image is scaled to the standard deviation ``contrast``.
    """
    images = images + initial
    spread = tf.sqrt(tf.reduce_mean(images**2, axis=(1, 2, 3), keepdims=True) + 1e-12)
    return tf.sigmoid(contrast * images / spread)


class _Shift:
    """Cyclic shift of all images of a batch by the same random numbers of pixels."""

    def __init__(self, largest: int, seed: int):
        self._largest = largest
        self._seed = seed
        self._step = tf.Variable(0, dtype=tf.int64, trainable=False)

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        seed = tf.stack([tf.constant(self._seed, tf.int64), self._step.assign_add(1)])
        moves = tf.random.stateless_uniform((2,), seed, -self._largest, self._largest + 1, tf.int32)
        return tf.roll(images, moves, axis=(1, 2))


class _Ascent:
    """Adam optimiser that updates a progress bar, because Xplique's `optimize` shows none."""

    def __init__(self, bar: keras.utils.Progbar | None):
        self._adam = keras.optimizers.Adam(_LEARNING_RATE)
        self._bar = bar

    def apply_gradients(self, gradients: Any) -> None:
        """Take one step of Adam."""
        self._adam.apply_gradients(gradients)
        if self._bar is not None:
            self._bar.add(1)
