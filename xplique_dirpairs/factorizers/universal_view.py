"""The concepts of a `UniversalFactorizer` in one network, and the features it is learned from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from xplique_dirpairs.core.batching import as_positions, chunk_size, slices
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.data.alignment import Grid, to_grid
from xplique_dirpairs.factorizers.base import LinearFactorizer
from xplique_dirpairs.factorizers.sparse_autoencoder import top_k_code
from xplique_dirpairs.factorizers.universal_autoencoder import (
    UniversalAutoencoder,
    UniversalHistory,
)
from xplique_dirpairs.learning.coordinates import TOO_LARGE


@dataclass(eq=False, repr=False, kw_only=True)
class UniversalView(LinearFactorizer):
    """The concepts of a `UniversalFactorizer` in one of its networks, an ordinary factorizer.

    Features x of the network have the coefficients u = TopK(ReLU(filters · x − biases)), and are
    reconstructed as ``u @ bank + constant``. Coefficients of all networks have the same unit:
    u of one network, decoded by the view of another, predicts the features of the other.

    Attributes
    ----------
    name : str
        Name of the network.
    bank_, filters_ : ndarray of shape (I, D)
        Atoms, in the units of the features, and filters. The atom of a concept that the network
        does not have is short.
    biases_ : ndarray of shape (I,)
        A concept can fire at x only if ``filters_ @ x > biases_``.
    constant_ : ndarray of shape (D,)
        Mean of the features.
    k_ : int
        Largest number of concepts that fire at a position.
    history_ : UniversalHistory
        How the training went, of all networks together.
    """

    name: str = ""
    biases_: Array = field(init=False)
    k_: int = field(init=False)
    history_: UniversalHistory = field(init=False)

    def fit(self, activations: ArrayLike) -> NoReturn:  # type: ignore[override]
        """Raise a TypeError: a view has the concepts that were learned for all networks.

        Raises
        ------
        TypeError
            Always.
        """
        raise TypeError(
            f"the concepts of {self.name!r} are a view of a UniversalFactorizer, which is learned "
            "for all networks together: call its fit({name: activations, …})"
        )

    def _learn(self, x: Array) -> tuple[Array, Array]:
        self.fit(x)

    def _read(self, x: tf.Tensor) -> tf.Tensor:
        return top_k_code(x, self.filters_, self.biases_, self.k_)


def joined_features(
    maps: Mapping[str, Array], grid: Grid, images: Array
) -> tuple[Array, list[Array], list[float]]:
    """Return centred and scaled features of all networks side by side, means and scales."""
    columns, centres, scales = [], [], []
    for name, one in maps.items():
        x = as_positions(to_grid(one[images], grid))
        centre = x.mean(axis=0, dtype=np.float64)
        with np.errstate(over="ignore"):
            scale = float(np.sqrt(np.mean(np.square(x - centre))))
        if scale <= 1e-6 * np.abs(centre).max(initial=0.0) or scale == 0:
            raise ValueError(
                f"{name}: the activations must not be constant, but are the same at all {len(x)} "
                "positions"
            )
        if scale * math.sqrt(x.size) > math.sqrt(float(np.finfo(np.float32).max)):
            raise ValueError(f"{name}: {TOO_LARGE}")
        columns.append(((x - centre) / scale).astype(np.float32))
        centres.append(centre)
        scales.append(scale)
    return np.concatenate(columns, axis=1), centres, scales


def view_of(
    model: UniversalAutoencoder, m: int, k: int, name: str, centre: Array, scale: float
) -> UniversalView:
    """Return the concepts of network m, for raw features x = centre + scale · x̃."""
    weights, shift = (one.numpy().astype(np.float64) for one in model.encoders[m])
    atoms = model.atoms(m).numpy()
    view = UniversalView(number_of_concepts=len(atoms), name=name)
    view.filters_ = (weights / scale).astype(np.float32)
    view.biases_ = (weights @ centre / scale - shift).astype(np.float32)
    view.bank_ = (scale * atoms).astype(np.float32)
    view.constant_ = centre.astype(np.float32)
    view.k_ = k
    return view


def occupancy_of(view: UniversalView, maps: Array, grid: Grid, images: Array) -> Array:
    """Return the share of the positions at which each concept fires, (I,)."""
    fires, count = np.zeros(view.number_of_concepts), 0
    for part in slices(len(images), chunk_size(4 * maps[0].size)):
        u = view.encode(as_positions(to_grid(maps[images[part]], grid)))
        fires += (u > 0).sum(axis=0)
        count += len(u)
    return fires / count
