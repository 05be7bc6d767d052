"""Synthetic activation maximisation: what a filter answers to, what a signal vector stands for.

Xplique's feature visualisation makes the pictures: its Fourier parametrisation, its colours, its
optimiser. Four of its habits [2.0.2] have to be worked around, each by an argument it takes:

- Its pixels go through a sigmoid, and are then stretched until the darkest and the brightest one
  reach the ends of the range. A few extreme pixels decide the contrast of all others, which stay
  grey, and often do not fire (`benchmarks/maximise.py`). `_Canvas.normalise` saturates.
- `Objective.direction` multiplies the cosine of each picture by the dot product of the whole
  batch: directions have to be maximised one by one. `_score` is a function of each picture alone.
- A picture that is not square is cut to the square of its short side. The canvas is square.
- Its standard transformations enlarge the picture to three times its size before the network sees
  it. What is found then is a third as large in the picture, and the network no longer sees it. Here
  the picture is shifted, round the edges, which the Fourier parametrisation continues anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from xplique.features_visualizations import Objective, fft_to_rgb, get_fft_scale, optimize
from xplique.features_visualizations.preconditioning import recorrelate_colors

from xplique_dirpairs.core.progress import quiet
from xplique_dirpairs.core.validation import check_integer, check_random_state, shape_fits
from xplique_dirpairs.models.graph import check_keras_model, layer_output
from xplique_dirpairs.pairs import DirectionPairs

Along = Literal["filters", "signals"]

#: Exponent of the cosine in the score of a signal vector, as in Xplique's `Objective.direction`.
_COSINE_POWER = 2.0
#: Below this the cosine does not change the score: far from its direction the length alone leads.
_LEAST_COSINE = 0.1
#: Of Adam. Xplique's is 0.05; here, where the contrast is fixed, only its ratio to the start
#: matters, and smaller steps keep less of the noise that the first ones bring.
_LEARNING_RATE = 0.01
#: Standard deviation of the canvas's start in Fourier coordinates; Xplique's.
_START = 0.01
#: A picture is shifted by up to this share of its side in each step.
_SHIFT = 1 / 16


def maximise(
    model: keras.Model,
    layer: str | int | keras.layers.Layer,
    pairs: DirectionPairs,
    concepts: int | Sequence[int] | None = None,
    along: Along = "filters",
    *,
    against_rival: float = 1.0,
    values_range: tuple[float, float] = (0.0, 1.0),
    image_shape: tuple[int, int, int] | None = None,
    steps: int = 128,
    contrast: float = 1.0,
    fft_decay: float = 1.2,
    shift: int | None = None,
    batch_size: int = 8,
    random_state: int | None = None,
    verbose: int = 1,
) -> NDArray:
    """A picture for each concept, made by gradient ascent so that the network sees the concept.

    Along a **filter**: the mean over positions of the excess z_i − b_i, in margins. Along a
    **signal vector**: the mean over positions of ŝᵢᵀ(x − E[x]) / M_i times the square of the cosine
    between x − E[x] and ŝ_i, so that the features point along it, and are not just large.
    From both, ``against_rival`` times the mean of ReLU(max_{j≠i} z_j − b_j) is taken: what the
    strongest of the other detectors fires with.

    Parameters
    ----------
    model
        A Keras model with one input, images: the classifier, or its half up to the layer.
    layer
        The layer that the pairs were learned in, as in `split_model`; −1 for the last one.
    pairs
    concepts
        Which; None: all.
    along
        "filters": what the detector fires at. "signals": what the concept's presence looks like.
    against_rival
        How much a picture is kept from firing other detectors. 0: plain maximisation of the
        direction, which often finds features that several concepts have in common, and fires
        another detector more than the own one.
    values_range
        Lowest and highest value of the network's input, (−1, 1) for many. Every picture has
        both in it, but for what resizing takes from one that is not square.
    image_shape
        (height, width, channels), where the model's input leaves it open.
    steps
        Of the ascent.
    contrast
        Pixels have this standard deviation about grey before the sigmoid.
    fft_decay
        How much coarse structure is preferred: amplitudes fall as frequency to the power −decay.
    shift
        In pixels: most that a picture is shifted by before each step, so that it does not depend
        on where the network's grid lies. Default: 1/16 of the side. 0 gives more activation and
        noise to look at.
    batch_size
        Pictures made at once.
    random_state
        The same integer gives the same pictures for the same arguments. Where a picture starts
        depends on the integer and its concept only; but the ascent enlarges rounding, so that it
        ends a little differently in a batch of another size. TensorFlow's global seed stays.
    verbose
        0 for silence; otherwise a progress bar.

    Returns
    -------
    images : (n, height, width, channels), float32
        In ``values_range``, one for each of the concepts, in their order.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described, or the network's activations turn NaN.
    """
    g = network_to_layer(model, layer, pairs, image_shape)
    if "float" not in str(model.inputs[0].dtype):
        raise ValueError(
            f"model takes {model.inputs[0].dtype} images, through which no gradient flows: pass it "
            "from behind the cast to floats on"
        )
    chosen = chosen_concepts(pairs, concepts)
    if along not in ("filters", "signals"):
        raise ValueError(f"along must be 'filters' or 'signals', not {along!r}")
    check_integer("steps", steps)
    check_integer("batch_size", batch_size)
    _check_not_negative(against_rival=against_rival, fft_decay=fft_decay, contrast=contrast)
    low, high = _checked_range(values_range)
    height, width, channels = g.input_shape[1:]
    side = max(height, width)
    if side < 2:
        raise ValueError("images of a single pixel have no spectrum to make pictures of")
    shift = int(_SHIFT * side) if shift is None else shift
    check_integer("shift", shift, minimum=0)
    seed = int(check_random_state(random_state).integers(2**31))

    batches = [chosen[start : start + batch_size] for start in range(0, len(chosen), batch_size)]
    bar = keras.utils.Progbar(steps * len(batches), unit_name="step") if verbose else None
    score = _score(pairs, along, against_rival, len(g.output_shape) - 2)
    images = []
    for batch in batches:
        canvas = _Canvas((side, side, channels), batch, seed, fft_decay, contrast)
        with quiet():
            found, _ = optimize(
                _objective(g, score, batch, pairs.number_of_concepts),
                optimizer=_Ascent(bar),
                nb_steps=steps,
                fft_decay=fft_decay,
                std=0.0,  # the start is the canvas's
                image_normalizer=canvas.normalise,
                values_range=(low, high),
                transformations=_Shift(shift, seed) if shift else None,
                custom_shape=(side, side),
            )
        images.append(tf.image.resize(found[-1], (height, width)).numpy())
    result = np.concatenate(images)
    if not np.isfinite(result).all():
        raise ValueError(
            "the pictures turned NaN: check that the network's activations are finite over "
            f"values_range {values_range}"
        )
    return np.clip(result, low, high)  # rounding of the stretch


def _objective(g: keras.Model, score, concepts: NDArray, number_of_concepts: int) -> Objective:
    places = (1,) * (len(g.output_shape) - 2)
    own = np.eye(number_of_concepts, dtype=np.float32)[concepts]
    masks = list(own.reshape(len(concepts), *places, number_of_concepts))
    names = [str(concept) for concept in concepts]
    return Objective(g, [g.outputs[0]], [masks], [score], [1.0], [names])


def _score(pairs: DirectionPairs, along: Along, against_rival: float, spatial_axes: int):
    """(activations, own) → what is maximised, a number for each picture.

    ``own`` is one-hot over the concepts. Axes are counted from the end: Xplique puts one more in
    front where the model has a single output.
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
            # not tf.norm, whose gradient at x = E[x] is NaN
            norm = tf.sqrt(tf.reduce_sum((x - mean) ** 2, axis=-1, keepdims=True) + 1e-12)
            cosine = tf.maximum(length / norm, _LEAST_COSINE)
            main = length * cosine**_COSINE_POWER / margins
        rivals = tf.where(own > 0, excess.dtype.min, excess)
        rival = tf.nn.relu(tf.reduce_max(rivals, axis=-1))
        return tf.reduce_mean(
            tf.reduce_sum(main * own, axis=-1) - against_rival * rival, axis=positions
        )

    return score


class _Canvas:
    """Where pictures start, and how their values become pixels.

    Xplique's own start would depend on TensorFlow's global seed, and on how many pictures are made
    together: it is left at zero, and added here.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        concepts: NDArray,
        seed: int,
        fft_decay: float,
        contrast: float,
    ):
        side, _, channels = shape
        scale = get_fft_scale(side, side, decay_power=fft_decay)
        starts = []
        for concept in concepts:
            rng = np.random.default_rng([seed, int(concept)])
            buffer = rng.normal(scale=_START, size=(2, 1, channels, *scale.shape))
            starts.append(fft_to_rgb((1, *shape), tf.constant(buffer, tf.float32), scale))
        start = tf.concat(starts, axis=0)
        self._start = recorrelate_colors(start) if channels == 3 else start
        self._contrast = contrast

    def normalise(self, images: tf.Tensor) -> tf.Tensor:
        """To (0, 1), of standard deviation ``contrast`` about grey before the sigmoid."""
        images = images + self._start
        spread = tf.sqrt(tf.reduce_mean(images**2, axis=(1, 2, 3), keepdims=True) + 1e-12)
        return tf.sigmoid(self._contrast * images / spread)


class _Shift:
    """Moves all pictures of a batch round the edges by the same random number of pixels."""

    def __init__(self, most: int, seed: int):
        self._most = most
        self._seed = seed
        self._step = tf.Variable(0, dtype=tf.int64, trainable=False)

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        seed = tf.stack([tf.constant(self._seed, tf.int64), self._step.assign_add(1)])
        moves = tf.random.stateless_uniform((2,), seed, -self._most, self._most + 1, dtype=tf.int32)
        return tf.roll(images, moves, axis=(1, 2))


class _Ascent:
    """Adam, which moves a progress bar on: Xplique's `optimize` says nothing until it is done."""

    def __init__(self, bar: keras.utils.Progbar | None):
        self._adam = keras.optimizers.Adam(_LEARNING_RATE)
        self._bar = bar

    def apply_gradients(self, gradients) -> None:
        """One step."""
        self._adam.apply_gradients(gradients)
        if self._bar is not None:
            self._bar.add(1)


# ------------------------------------------------------------------------------ checks


def network_to_layer(
    model: keras.Model,
    layer: str | int | keras.layers.Layer,
    pairs: DirectionPairs,
    image_shape: tuple[int, int, int] | None = None,
) -> keras.Model:
    """The network from images of one size to the layer of the pairs.

    Raises
    ------
    TypeError, ValueError
        If the model is no Keras model of images, has no such layer, or the layer has another
        number of channels than the pairs.
    """
    if not isinstance(pairs, DirectionPairs):
        raise TypeError(
            f"pairs must be DirectionPairs, not {type(pairs).__name__}: an extractor's are its "
            "attribute .pairs"
        )
    check_keras_model("model", model)
    if len(model.inputs) != 1:
        raise ValueError(f"model must have one input, not {len(model.inputs)}")
    wanted = tuple(model.inputs[0].shape[1:])
    shape = wanted if image_shape is None else tuple(image_shape)
    if len(wanted) != 3 or not shape_fits(shape, wanted):
        raise ValueError(f"images have shape {shape}, but the network takes {wanted}")
    if None in shape:
        raise ValueError(
            f"the network takes images of any size, {wanted}: give image_shape=(height, width, "
            "channels)"
        )
    cut = layer_output(model, layer)
    if cut.shape[-1] != pairs.channels:
        raise ValueError(
            f"layer {layer!r} has {cut.shape[-1]} channels, but the pairs have {pairs.channels}: "
            "name the layer that they were learned in"
        )
    images = keras.Input(shape)
    return keras.Model(images, keras.Model(model.inputs[0], cut)(images))


def chosen_concepts(pairs: DirectionPairs, concepts: int | Sequence[int] | None) -> NDArray:
    """Indices of concepts, (n,); all of them for None.

    Raises
    ------
    ValueError
        If there are none, or one is not the index of a concept.
    """
    if concepts is None:
        return np.arange(pairs.number_of_concepts)
    chosen = np.atleast_1d(concepts)
    if chosen.ndim != 1 or chosen.size == 0 or chosen.dtype.kind not in "iu":
        raise ValueError(f"concepts must be indices of concepts, or None for all, not {concepts!r}")
    if (chosen < 0).any() or (chosen >= pairs.number_of_concepts).any():
        raise ValueError(
            f"concepts are numbered 0 to {pairs.number_of_concepts - 1}, not {concepts!r}"
        )
    return chosen


def _check_not_negative(**numbers: float) -> None:
    for name, value in numbers.items():
        if not np.isfinite(value) or value < 0 or (name == "contrast" and value == 0):
            least = "more than" if name == "contrast" else "at least"
            raise ValueError(f"{name} must be {least} 0, not {value!r}")


def _checked_range(values_range: tuple[float, float]) -> tuple[float, float]:
    limits = np.asarray(values_range)
    if limits.shape != (2,) or limits.dtype.kind not in "iuf" or not np.isfinite(limits).all():
        raise ValueError(f"values_range must be (lowest, highest), not {values_range!r}")
    low, high = float(limits[0]), float(limits[1])
    if low >= high:
        raise ValueError(f"values_range must rise from lowest to highest, not {values_range!r}")
    return low, high
