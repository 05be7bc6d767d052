"""A network whose concepts at one layer cause those of the next in a known way.

Features of the lower layer are x = Σ_i c_i s_i + noise at every position, with coherent unit
signals s_i. The network reads the c_i with the filters W = S⁺, lets them excite and inhibit the
concepts of the next layer, and writes these along signals of their own:

    y = Σ_q ReLU(Σ_i E_iq wᵢᵀx) s′_q,   E_iq ∈ {−1, 0, 1}

The classes read the upper concepts, averaged over positions. The images are the features of the
lower layer themselves, so that the truth is known at every layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np

from xplique_dirpairs.core.linear_algebra import unit_rows
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_fraction, check_integer, check_number
from xplique_dirpairs.pairs import DirectionPairs

#: Names of the two layers of the network.
LOWER, UPPER = "lower", "upper"


@dataclass(frozen=True, eq=False)
class PlantedConnectome:
    """A network with planted edges, images for it, and the truth.

    Attributes
    ----------
    model : keras.Model
        The network, from images to logits, with the layers `LOWER` and `UPPER`.
    images : ndarray of shape (N, side, side, D), float32
        Images, which are the features of the lower layer.
    edges : ndarray of shape (I, J)
        E: 1 where lower concept i excites upper concept j, −1 where it inhibits it, 0 elsewhere.
    class_edges : ndarray of shape (J, K)
        1 and −1 where an upper concept speaks for or against a class, 0 elsewhere.
    lower, upper : DirectionPairs
        The true pairs of I lower and J upper concepts.
    """

    model: keras.Model
    images: Array
    edges: Array
    class_edges: Array
    lower: DirectionPairs
    upper: DirectionPairs


def planted_connectome(
    n: int = 64,
    *,
    lower: int = 8,
    upper: int = 6,
    classes: int = 3,
    channels: int = 24,
    side: int = 4,
    share: float = 0.2,
    coherence: float = 0.4,
    noise: float = 0.05,
    linear: bool = False,
    seed: int = 0,
) -> PlantedConnectome:
    """Plant edges between the concepts of two layers: two causes and one inhibition each.

    Parameters
    ----------
    n : int, default=64
        Number of images.
    lower, upper : int, default=8, 6
        Numbers of concepts of the two layers.
    classes : int, default=3
        Number of classes, at most as many as upper concepts.
    channels : int, default=24
        Number of channels of both layers, more than concepts.
    side : int, default=4
        Rows and columns of the maps.
    share : float, default=0.2
        Share of the positions at which each lower concept is present.
    coherence : float, default=0.4
        Cosine of two signal vectors of a layer, on average.
    noise : float, default=0.05
        Standard deviation of the noise in each channel; a concept that is present has a coefficient
        from 0.5 to 1.5.
    linear : bool, default=False
        Whether the ReLU is left out.
    seed : int, default=0
        Seed of everything.

    Returns
    -------
    planted : PlantedConnectome

    Raises
    ------
    ValueError
        If a number is out of range.
    """
    for name, value in (("n", n), ("side", side), ("classes", classes)):
        check_integer(name, value)
    check_integer("seed", seed, 0)
    check_integer("lower", lower, 3)
    check_integer("upper", upper, classes)
    check_integer("channels", channels, max(lower, upper))
    check_fraction("share", share)
    check_fraction("coherence", coherence)
    check_number("noise", noise, minimum=0.0)
    rng = np.random.default_rng(seed)
    signals, upper_signals = (_coherent(rng, k, channels, coherence) for k in (lower, upper))
    edges = np.zeros((lower, upper))
    for column in edges.T:
        column[rng.choice(lower, 3, replace=False)] = 1, 1, -1
    class_edges = np.zeros((upper, classes))
    for k, concepts in enumerate(np.array_split(rng.permutation(upper), classes)):
        class_edges[concepts, k] = 1
        class_edges[concepts, (k + 1) % classes] = -1 if classes > 1 else 1
    present = rng.random((n, side, side, lower)) < share
    c = present * rng.uniform(0.5, 1.5, present.shape)
    x = c @ signals + noise * rng.standard_normal((n, side, side, channels))
    x = x.astype(np.float32)
    model = _network(signals, edges, upper_signals, class_edges, side, linear)
    causes = c @ edges
    return PlantedConnectome(
        model,
        x,
        edges,
        class_edges,
        _true_pairs(signals, c),
        _true_pairs(upper_signals, causes if linear else np.maximum(causes, 0.0)),
    )


def _coherent(rng: np.random.Generator, count: int, channels: int, coherence: float) -> Array:
    """Return unit rows whose cosines are about ``coherence``, (count, channels)."""
    common = unit_rows(rng.standard_normal(channels))
    own = unit_rows(rng.standard_normal((count, channels)))
    return unit_rows(np.sqrt(coherence) * common + np.sqrt(1.0 - coherence) * own)


def _true_pairs(signals: Array, coefficients: Array) -> DirectionPairs:
    """Return the pairs whose filters read the coefficients (…, I) of signals (I, D) exactly."""
    c = coefficients.reshape(-1, len(signals))
    filters = np.linalg.pinv(signals).T
    return DirectionPairs(
        filters * 4.0,  # a margin of a quarter of a typical coefficient
        np.full(len(signals), 1.0),
        signals,
        c.mean(axis=0) @ signals,
        np.zeros(len(signals)),
    )


def _network(
    signals: Array, edges: Array, upper_signals: Array, class_edges: Array, side: int, linear: bool
) -> keras.Model:
    """Return the network, with its weights."""
    channels = signals.shape[1]

    def linear_map(matrix: Array, name: str) -> keras.layers.Layer:
        return keras.layers.Conv2D(
            matrix.shape[1],
            1,
            use_bias=False,
            name=name,
            kernel_initializer=keras.initializers.Constant(matrix[None, None]),
        )

    inputs = keras.Input((side, side, channels))
    x = keras.layers.Activation("linear", name=LOWER)(inputs)
    x = linear_map(np.linalg.pinv(signals) @ edges, "causes")(x)
    if not linear:
        x = keras.layers.ReLU(name="relu")(x)
    x = linear_map(upper_signals, UPPER)(x)
    x = keras.layers.GlobalAveragePooling2D(name="average")(x)
    rows = np.linalg.pinv(upper_signals) @ class_edges
    logits = keras.layers.Dense(
        rows.shape[1],
        use_bias=False,
        name="logits",
        kernel_initializer=keras.initializers.Constant(rows),
    )(x)
    return keras.Model(inputs, logits, name="planted_connectome")
