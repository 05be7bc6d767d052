"""One dictionary of concepts for several networks: `UniversalFactorizer`."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike
from sklearn.cluster import kmeans_plusplus
from sklearn.exceptions import NotFittedError

from xplique_dirpairs.core.batching import as_positions, chunk_size, slices
from xplique_dirpairs.core.linear_algebra import unit_rows
from xplique_dirpairs.core.tables import Cell, Table
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import (
    check_choice,
    check_integer,
    check_named,
    check_number,
    check_random_state,
)
from xplique_dirpairs.data.alignment import (
    Grid,
    common_grid,
    maps_of_same_images,
    sampled_images,
    to_grid,
)
from xplique_dirpairs.factorizers.autoencoder_base import progress_bar, train_or_keep
from xplique_dirpairs.factorizers.base import check_enough
from xplique_dirpairs.factorizers.universal_autoencoder import (
    LOSSES,
    UniversalAutoencoder,
    UniversalHistory,
)
from xplique_dirpairs.factorizers.universal_view import (
    UniversalView,
    joined_features,
    occupancy_of,
    view_of,
)
from xplique_dirpairs.learning.features import RandomBatches
from xplique_dirpairs.learning.history import LearningWarning
from xplique_dirpairs.metrics.cross_reconstruction import Moments, ridge_r2

#: Number of points of the history, for any number of steps.
_EPOCHS = 50
#: Number of positions from which initial atoms are chosen.
_START_SAMPLE = 2_000
#: Number of images from which a ceiling can be learned and measured.
_FEWEST_IMAGES = 4


@dataclass(eq=False, repr=False)
class UniversalFactorizer:
    """Universal sparse autoencoder (USAE): one sparse code for the concepts of several networks.

    H. Thasarathan et al. 2025, "Universal Sparse Autoencoders" (arXiv 2502.03714). Each of M
    networks has an encoder and a dictionary of I atoms; in a step of the training the features of
    one network are encoded, u = TopK(ReLU(W_i x_i + c_i)), and reconstructed in all networks, x̂_j =
    u D_j. So concept i means the same in all of them, as far as they have it.

    Three things are not as in the paper. A step changes the dictionaries of *all* networks, and
    atoms lie in the unit *ball*: in the paper's way, a private concept of one network and a private
    one of another often settle on the same index, which then looks universal although both fire
    independently of each other (``update="selected", atoms="unit"`` shows it). Dictionaries are
    initialised at the same positions in all networks (k-means++). Learning rates decay over the
    steps that a variable really gets; in the authors' code they hardly decay. The features of a
    network are centred at their mean, and divided by one standard deviation of all entries; there
    is no batch normalisation.

    Parameters
    ----------
    number_of_concepts : int, default=48
        Number of concepts, I, shared and private ones of all networks together.
    k : int, optional
        Largest number of concepts that fire at a position, 1 to I. None: I/8, rounded up.
    update : {"all", "selected"}, default="all"
        Whose dictionaries a step changes: those of all networks, or that of the encoded network
        alone, as in the paper.
    atoms : {"ball", "unit"}, default="ball"
        Whether atoms have at most unit length (in units of the standard deviation of the entries of
        the features), or unit length, as in the paper.
    loss : {"l1", "l2"}, default="l1"
        Mean absolute error, as in the paper, or mean squared error.
    auxiliary : float, default=0.1
        Weight, at least 0, of the reconstruction by concepts that TopK left out.
    steps : int, default=4000
        Number of steps of Adam, in which all networks take turns.
    batch_size : int, default=512
        Number of positions per step.
    learning_rate : float, default=3e-3
        Learning rate of the first step. It decays along a cosine to 2 % of it.
    random_state : int, optional
        Seed of the initialisation and of the order of positions and networks. None draws a seed.
    verbose : int, default=0
        0: silent. 1: a progress bar is shown.

    Attributes
    ----------
    names_ : tuple of M str
        Names of the networks.
    grid_ : (int, int)
        Rows and columns of the positions at which the networks were compared.
    history_ : UniversalHistory
        Losses by epoch, R², how often concepts fire, and what is wrong in words (``problems()``).

    Examples
    --------
    >>> universal = UniversalFactorizer(48).fit({"cnn": a1, "vit": a2})
    >>> cnn = ConceptLayer.of(universal["cnn"], split)
    >>> print(universal.cross_table({"cnn": b1, "vit": b2}))
    >>> match_extractors(
    ...     {"cnn": (universal["cnn"], b1), "vit": (universal["vit"], b2)},
    ...     concepts=universal.concepts, threshold=0.1)
    """

    number_of_concepts: int = 48
    _: KW_ONLY
    k: int | None = None
    update: str = "all"
    atoms: str = "ball"
    loss: str = "l1"
    auxiliary: float = 0.1
    steps: int = 4000
    batch_size: int = 512
    learning_rate: float = 3e-3
    random_state: int | None = None
    verbose: int = 0
    names_: tuple[str, ...] = field(init=False)
    grid_: Grid = field(init=False)
    history_: UniversalHistory = field(init=False)

    # ---------------------------------------------------------------- fitting

    def fit(
        self, activations: Mapping[str, ArrayLike], grid: Grid | None = None
    ) -> UniversalFactorizer:
        """Learn the concepts; Ctrl-C ends the training and keeps what was learned.

        Parameters
        ----------
        activations : mapping of str to array-like of shape (N, *spatial, D_m)
            By the name of each of two or more networks, its activations for the same N images: maps
            (N, H, W, D_m), tokens (N, T, D_m) of square images, or vectors (N, D_m). If they exceed
            512 MB (10⁶ bytes) together, a random sample of the images is used.
        grid : (int, int), optional
            Rows and columns of the positions at which networks are compared; features are averaged
            to it, as `align_positions` does. None: the coarsest of their grids.

        Returns
        -------
        self : UniversalFactorizer

        Raises
        ------
        ValueError
            If there are fewer than two networks, or the activations are not of the same images, not
            finite, constant or too large; if the grid is finer than that of a network; if there are
            fewer positions than concepts, or a parameter is out of range.

        Warns
        -----
        LearningWarning
            If ``history_.problems()`` is not empty.
        """
        start = time.perf_counter()
        k = self._check_parameters()
        rng = check_random_state(self.random_state)
        maps = maps_of_same_images(activations)
        wanted = common_grid({name: one.shape[1:3] for name, one in maps.items()}, grid)
        images = sampled_images(maps, wanted, rng)
        joined, centres, scales = joined_features(maps, wanted, images)
        check_enough(len(joined), self.number_of_concepts)
        widths = [len(one) for one in centres]
        model = UniversalAutoencoder(
            self._initial_atoms(joined, widths, rng),
            k,
            update=self.update,
            ball=self.atoms == "ball",
            loss=self.loss,
            auxiliary=self.auxiliary,
            learning_rate=self.learning_rate,
            steps=self.steps,
        )
        curves, cut_short, interrupted = self._train(model, joined, rng)
        views = {}
        for m, (name, centre, scale) in enumerate(zip(maps, centres, scales, strict=True)):
            views[name] = view_of(model, m, k, name, centre, scale)
        self.names_, self.grid_, self._views = tuple(maps), wanted, views
        self.history_ = UniversalHistory(
            losses={name: curves.get(name, []) for name in LOSSES},
            occupancy=np.array(
                [occupancy_of(self[name], maps[name], wanted, images) for name in self.names_]
            ),
            r2=np.diag(self._cross_r2(maps, images)),
            cut_short=cut_short,
            interrupted=interrupted,
            seconds=time.perf_counter() - start,
        )
        for view in views.values():
            view.history_ = self.history_
        problems = self.history_.problems()
        if problems:
            warnings.warn("; ".join(problems), LearningWarning, stacklevel=2)
        return self

    def _check_parameters(self) -> int:
        """Check every parameter, and return k."""
        check_integer("number_of_concepts", self.number_of_concepts)
        k = math.ceil(self.number_of_concepts / 8) if self.k is None else self.k
        check_integer("k", k)
        if k > self.number_of_concepts:
            raise ValueError(
                f"k must be at most number_of_concepts={self.number_of_concepts}, not {k}"
            )
        check_choice("update", self.update, ("all", "selected"))
        check_choice("atoms", self.atoms, ("ball", "unit"))
        check_choice("loss", self.loss, ("l1", "l2"))
        check_number("auxiliary", self.auxiliary, minimum=0.0)
        check_integer("steps", self.steps)
        check_integer("batch_size", self.batch_size)
        check_number("learning_rate", self.learning_rate, above=0.0)
        return k

    def _initial_atoms(
        self, joined: Array, widths: list[int], rng: np.random.Generator
    ) -> list[Array]:
        """Return unit atoms (I, D_m) of each network, at positions in different directions."""
        count = min(len(joined), max(_START_SAMPLE, self.number_of_concepts))
        sample = joined[rng.choice(len(joined), count, replace=False)]
        parts = np.split(sample, np.cumsum(widths)[:-1], axis=1)
        # A network counts the same for any number of channels.
        directions = unit_rows(np.concatenate([p / math.sqrt(p.shape[1]) for p in parts], axis=1))
        seed = int(rng.integers(2**31))
        _, chosen = kmeans_plusplus(directions, self.number_of_concepts, random_state=seed)
        # Positions may be equal or lie at the mean: a little noise keeps atoms apart.
        return [
            unit_rows(part[chosen] + 0.01 * rng.standard_normal((len(chosen), part.shape[1])))
            for part in parts
        ]

    def _train(
        self, model: UniversalAutoencoder, joined: Array, rng: np.random.Generator
    ) -> tuple[dict[str, list[float]], list[str], bool]:
        """Train the model; return its curves, why it was cut short, and whether by Ctrl-C."""
        per_epoch = math.ceil(self.steps / _EPOCHS)
        epochs = math.ceil(self.steps / per_epoch)
        batches = RandomBatches(joined, min(self.batch_size, len(joined)), int(rng.integers(2**31)))
        rows, order = batches.take(epochs * per_epoch)
        turns = rng.permutation(np.arange(len(order)) % len(model.dictionaries)).astype(np.int32)
        data = tf.data.Dataset.from_tensor_slices((order, turns))
        data = data.map(lambda places, turn: (tf.gather(rows, places), turn)).prefetch(2)
        record = keras.callbacks.History()
        callbacks = [record]
        if self.verbose:
            print(f"Learning {self.number_of_concepts} universal concepts")
            callbacks.append(progress_bar(epochs))
        model.compile(steps_per_execution=per_epoch, jit_compile=False)
        cut_short, interrupted = train_or_keep(model, data, epochs, per_epoch, callbacks)
        return getattr(record, "history", {}), cut_short, interrupted

    # ---------------------------------------------------------------- reading

    @property
    def is_fitted(self) -> bool:
        """Whether `fit` has ended, so that there are concepts."""
        return hasattr(self, "_views")

    @property
    def concepts(self) -> Array:
        """Index of every concept in each network, (I, M): the same, as `match_extractors` takes it.

        Raises
        ------
        NotFittedError
            If the factorizer is not fitted.
        """
        self._check_is_fitted()
        return np.tile(np.arange(self.number_of_concepts)[:, None], len(self.names_))

    def __getitem__(self, name: str) -> UniversalView:
        """Return the concepts in one network, an ordinary factorizer.

        Raises
        ------
        NotFittedError
            If the factorizer is not fitted.
        ValueError
            If there is no network of this name.
        """
        self._check_is_fitted()
        check_choice("name", name, self.names_)
        return self._views[name]

    def __iter__(self) -> Iterator[str]:
        self._check_is_fitted()
        return iter(self.names_)

    def cross_r2(self, activations: Mapping[str, ArrayLike]) -> Array:
        """Compute how well the coefficients of each network reconstruct the features of each other.

        R² = 1 − Σ‖x_j − u_i D_j‖² / Σ‖x_j − x̄_j‖², with coefficients u_i read in network i, the
        dictionary D_j of network j and the mean vector x̄_j of its features.

        Parameters
        ----------
        activations : mapping of str to array-like of shape (N, *spatial, D_m)
            As in `fit`, of these or other images.

        Returns
        -------
        r2 : ndarray of shape (M, M)
            R² of the features of network j from the coefficients of network i; at most 1.

        Raises
        ------
        NotFittedError
            If the factorizer is not fitted.
        ValueError
            If the activations are not those of the same networks, or not of the same images.
        """
        maps = self._given(activations)
        return self._cross_r2(maps, np.arange(len(next(iter(maps.values())))))

    def cross_ceiling(
        self, activations: Mapping[str, ArrayLike], random_state: int | None = 0
    ) -> Array:
        """Compute how much of each network's features is linear in those of each other.

        Ridge regressions from all features are learned on half of the images, and R² is that of the
        other half.

        Parameters
        ----------
        activations : mapping of str to array-like of shape (N, *spatial, D_m)
            As in `fit`, of four images or more.
        random_state : int or None, default=0
            Seed of the halves.

        Returns
        -------
        ceiling : ndarray of shape (M, M)
            R² of the features of network j from the features of network i; 1 for itself.

        Raises
        ------
        NotFittedError, ValueError
            As for `cross_r2`; and if there are fewer than four images.
        """
        maps = self._given(activations)
        images = len(next(iter(maps.values())))
        if images < _FEWEST_IMAGES:
            raise ValueError(
                f"a ceiling takes {_FEWEST_IMAGES} or more images, half of which it is learned "
                f"on, not {images}: give more images"
            )
        order = check_random_state(random_state).permutation(images)
        centre = np.concatenate([self[name].constant_ for name in self.names_])
        parts = []
        for some in np.split(order, [images // 4, images // 2]):
            moments = Moments(centre.astype(np.float64))
            for block in self._blocks(maps, np.sort(some)):
                moments.add(np.concatenate(block, axis=1))
            parts.append(moments)
        learning, choosing, scoring = parts
        ends = np.cumsum([len(self[name].constant_) for name in self.names_])
        spans = np.split(np.arange(ends[-1]), ends[:-1])
        return np.array(
            [
                [1.0 if x is y else ridge_r2(learning, choosing, scoring, x, y) for y in spans]
                for x in spans
            ]
        )

    def cross_table(
        self, activations: Mapping[str, ArrayLike], random_state: int | None = 0
    ) -> Table:
        """Return a table of `cross_r2` with `cross_ceiling` in parentheses.

        Parameters
        ----------
        activations : mapping of str to array-like of shape (N, *spatial, D_m)
            As in `fit`, of four images or more; those of `fit` flatter.
        random_state : int or None, default=0
            Seed of the halves for the ceiling.

        Returns
        -------
        table : Table
            A row for each network that is read, a column for each that is reconstructed.

        Raises
        ------
        NotFittedError, ValueError
            As for `cross_ceiling`.
        """
        r2, ceiling = self.cross_r2(activations), self.cross_ceiling(activations, random_state)
        rows = [
            [Cell(name)]
            + [
                Cell(f"{own:.2f} ({top:.2f})", numbers=(float(own),))
                for own, top in zip(r2[i], ceiling[i], strict=True)
            ]
            for i, name in enumerate(self.names_)
        ]
        notes = [
            "R² of the features of the column's network from the coefficients of the row's; in "
            "parentheses the ceiling, by ridge regression from all features of the row's network. "
            "What networks do not have in common cannot be reconstructed: a low R² beside a low "
            "ceiling is no fault of the concepts."
        ]
        return Table(["from", *self.names_], rows, notes)

    # ---------------------------------------------------------------- private

    def _check_is_fitted(self) -> None:
        if not self.is_fitted:
            raise NotFittedError("this UniversalFactorizer is not fitted: call fit() first")

    def _given(self, activations: Mapping[str, ArrayLike]) -> dict[str, Array]:
        """Return the maps of all networks, in the order of `fit`."""
        self._check_is_fitted()
        check_named("activations", activations, "activations")
        if set(activations) != set(self.names_):
            raise ValueError(
                f"activations must be of the networks {list(self.names_)}, not {list(activations)}"
            )
        maps = maps_of_same_images({name: activations[name] for name in self.names_})
        for name, one in maps.items():
            channels = len(self[name].constant_)
            if one.shape[-1] != channels:
                raise ValueError(
                    f"{name}: the concepts were learned in {channels} channels, but the "
                    f"activations have {one.shape[-1]}: give the activations of the same layer"
                )
        return maps

    def _blocks(self, maps: Mapping[str, Array], images: Array) -> Iterator[list[Array]]:
        """Yield the positions of all networks, (P, D_m) each, block by block of images."""
        per_image = sum(one[0].size for one in maps.values())
        for part in slices(len(images), chunk_size(4 * per_image)):
            yield [as_positions(to_grid(one[images[part]], self.grid_)) for one in maps.values()]

    def _cross_r2(self, maps: Mapping[str, Array], images: Array) -> Array:
        views = [self[name] for name in self.names_]
        lost = np.zeros((len(views), len(views)))
        sums = [np.zeros(len(view.constant_)) for view in views]
        squares, count = np.zeros(len(views)), 0
        for block in self._blocks(maps, images):
            count += len(block[0])
            for j, (x, target) in enumerate(zip(block, views, strict=True)):
                centred = x.astype(np.float64) - target.constant_
                sums[j] += centred.sum(axis=0)
                squares[j] += np.square(centred).sum()
            for i, source in enumerate(views):
                u = source.encode(block[i])
                for j, (x, target) in enumerate(zip(block, views, strict=True)):
                    lost[i, j] += np.square(x - target.decode(u), dtype=np.float64).sum()
        total = squares - [np.square(one).sum() / count for one in sums]
        return np.asarray(1.0 - lost / np.where(total > 0, total, np.nan))
