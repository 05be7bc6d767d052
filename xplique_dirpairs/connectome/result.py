"""The result of `build_connectome`: concepts of several layers, and the edges between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from xplique_dirpairs.core.archives import ArchiveFormat
from xplique_dirpairs.core.linear_algebra import unit_rows
from xplique_dirpairs.core.tables import Cell, Table
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_choice, check_integer, shape_fits
from xplique_dirpairs.extractors.concept_layer import ConceptLayer
from xplique_dirpairs.plots.connectome import MOST_NODES, plot_connectome
from xplique_dirpairs.plots.layout import plain

#: Arrays of a layer in a file.
_ARRAYS = ("signals", "centres", "shares")
#: Settings that are read of a connectome, whatever built it.
_SETTINGS = {"level": float, "correction": str, "direction": str, "images": int}
_FORMAT = ArchiveFormat("xplique_dirpairs.connectome", 1, "a connectome", "Connectome.save")


@dataclass(frozen=True, eq=False)
class LayerConcepts:
    """The I concepts of a layer of a connectome.

    Attributes
    ----------
    name : str
        Name of the layer.
    concept_names : tuple of I str
    signals : ndarray of shape (I, D)
        Unit signal vectors, or what stands for them: see `ConceptLayer.encoding`.
    centres : ndarray of shape (I, D)
        Mean features where each concept is shown, weighted by its coefficient; NaN for a concept
        that no image shows.
    shares : ndarray of shape (I,)
        Mean over images and positions of the coefficients that plots show, ≥ 0.
    crops : tuple of I ndarray of shape (k, patch, patch, C), uint8
        Best crops of each concept, best first.
    """

    name: str
    concept_names: tuple[str, ...]
    signals: Array
    centres: Array
    shares: Array
    crops: tuple[Array, ...]

    def are(self, layer: ConceptLayer) -> bool:
        """Return whether these are the concepts of a `ConceptLayer`, by their directions."""
        rows = unit_rows(layer.encoding.astype(np.float64))
        if layer.layer != self.name or self.signals.shape != rows.shape:
            return False
        return np.allclose(self.signals, rows, atol=1e-5)


@dataclass(frozen=True, eq=False)
class Edges:
    """Edges from I lower concepts to J upper concepts, or classes; NaN where there is no exemplar.

    Attributes
    ----------
    scores : ndarray of shape (I, J)
        In [−1, 1]: the share of the upper concept's exemplars in which more of the lower concept
        raises it, minus the share in which it lowers it.
    effects : ndarray of shape (I, J)
        Mean slope over the exemplars, in spreads of the upper concept for one spread of the lower.
    contributions : ndarray of shape (I, J)
        What the lower concept adds to the upper one to first order, mean over a sample of all
        images, in spreads of the upper concept: minus this is what suppressing it should change.
    p_values : ndarray of shape (I, J)
        Against noise, not corrected.
    kept : ndarray of shape (I, J), bool
        Whether an edge is significant after correction.
    """

    scores: Array
    effects: Array
    contributions: Array
    p_values: Array
    kept: Array


class ConceptPath(NamedTuple):
    """A chain of kept edges from a concept of the first layer to a class.

    Attributes
    ----------
    concepts : tuple of int
        Index of the concept in each layer.
    names : tuple of str
        Their names as "layer: concept", and the name of the class.
    effect : float
        Product of the effects along the chain, signed.
    """

    concepts: tuple[int, ...]
    names: tuple[str, ...]
    effect: float


@dataclass(frozen=True, eq=False)
class Connectome:
    """Concepts of L layers and the edges between them, up to K classes.

    Attributes
    ----------
    layers : tuple of L LayerConcepts
        The concepts, from the first layer to the last.
    edges : tuple of L Edges
        Edges from each layer to the next; the last ones lead to the classes.
    class_ids : tuple of K int
        Indices of the classes.
    class_names : tuple of K str
        Their names.
    settings : dict
        The settings it was built with, and the number of images.
    concept_layers : tuple of L ConceptLayer, or None
        The concepts with their network. None if the connectome was loaded from a file.
    """

    layers: tuple[LayerConcepts, ...]
    edges: tuple[Edges, ...]
    class_ids: tuple[int, ...]
    class_names: tuple[str, ...]
    settings: Mapping[str, Any]
    concept_layers: tuple[ConceptLayer, ...] | None = field(default=None, repr=False)

    @property
    def scores(self) -> list[Array]:
        """Scores of the edges between layers, L − 1 arrays (I_l, I_{l+1})."""
        return [each.scores for each in self.edges[:-1]]

    @property
    def effects(self) -> list[Array]:
        """Effects of the edges between layers, L − 1 arrays (I_l, I_{l+1})."""
        return [each.effects for each in self.edges[:-1]]

    @property
    def p_values(self) -> list[Array]:
        """p-values of the edges between layers, not corrected, L − 1 arrays (I_l, I_{l+1})."""
        return [each.p_values for each in self.edges[:-1]]

    @property
    def kept(self) -> list[Array]:
        """Whether edges between layers are significant, L − 1 arrays (I_l, I_{l+1}) bool."""
        return [each.kept for each in self.edges[:-1]]

    @property
    def class_scores(self) -> Array:
        """Scores of the edges from the last layer to the classes, (I_L, K)."""
        return self.edges[-1].scores

    @property
    def class_effects(self) -> Array:
        """Effects of the edges from the last layer to the classes, (I_L, K)."""
        return self.edges[-1].effects

    def __str__(self) -> str:
        return str(self.table())

    def network(self) -> tuple[ConceptLayer, ...]:
        """Return the L layers with their network, ``concept_layers``.

        Raises
        ------
        ValueError
            If the connectome was loaded from a file, which does not hold the network.
        """
        if self.concept_layers is None:
            raise ValueError(
                "the network is needed, which a file of a connectome does not hold: build the "
                "connectome again with build_connectome(model, layers, images)"
            )
        return self.concept_layers

    def _index_of_class(self, class_id: int | str) -> int:
        """Return the position of a class, given by its index or name, among the K classes."""
        if isinstance(class_id, str):
            check_choice("class_id", class_id, self.class_names)
            if self.class_names.count(class_id) > 1:
                pairs = zip(self.class_ids, self.class_names, strict=True)
                ids = [k for k, name in pairs if name == class_id]
                raise ValueError(
                    f"class_id {class_id!r} is the name of classes {ids}: give the index of one"
                )
            return self.class_names.index(class_id)
        is_index = isinstance(class_id, (int, np.integer)) and not isinstance(class_id, bool)
        if not is_index or class_id not in self.class_ids:
            raise ValueError(
                f"class_id must be a name or one of the indices {list(self.class_ids)} of the "
                f"classes with edges, not {class_id!r}"
            )
        return self.class_ids.index(class_id)

    # ------------------------------------------------------------ what the graph is like

    def metrics(self) -> list[dict[str, float]]:
        """Return figures of each layer, those that the visual concept connectome reports.

        The weight of an edge is its absolute score; of the published form (`itcav`), as published,
        the share ITCAV in [0, 1], of which the score is 2 ITCAV − 1.

        Returns
        -------
        metrics : list of L dict
            For each layer "concepts", their number; "kept", the share of the edges to the next
            layer, or to the classes, that are kept; "branching", the mean number of positive kept
            edges that lead to a concept of the next layer, or to a class: those with a score, or of
            the published form an ITCAV, above 0; "edge mean" and "edge variance" of the weights of
            the kept edges, NaN if there are none.
        """
        published = self.settings["direction"] == "cav"
        figures = []
        for layer, each in zip(self.layers, self.edges, strict=True):
            signed = (each.scores + 1.0) / 2.0 if published else each.scores
            weights = np.abs(signed[each.kept])
            positive = each.kept & (signed > 0)
            figures.append(
                {
                    "concepts": float(len(layer.concept_names)),
                    "kept": float(each.kept.mean()),
                    "branching": float(positive.sum(axis=0).mean()),
                    "edge mean": float(weights.mean()) if weights.size else float("nan"),
                    "edge variance": float(weights.var()) if weights.size else float("nan"),
                }
            )
        return figures

    def paths(self, class_id: int | str, count: int = 5) -> list[ConceptPath]:
        """Return the strongest chains of kept edges from the first layer to a class.

        The strength of a chain is the product of the effects of its edges.

        Parameters
        ----------
        class_id : int or str
            Index of the class; or its name, if no other class with edges has the same one.
        count : int, default=5
            Largest number of chains.

        Returns
        -------
        paths : list of ConceptPath
            The chain with the largest absolute product first.

        Raises
        ------
        ValueError
            If there are no edges to the class, several classes have its name, or ``count`` is not a
            positive integer.
        """
        check_integer("count", count)
        k = self._index_of_class(class_id)
        weights = [np.where(each.kept, np.nan_to_num(each.effects), 0.0) for each in self.edges]
        # The best chains from a concept continue the best chains from the concepts above it.
        best: list[list[tuple[float, tuple[int, ...]]]] = [
            [(float(weight), (i,))] if weight else [] for i, weight in enumerate(weights[-1][:, k])
        ]
        for matrix in weights[-2::-1]:
            best = [
                sorted(
                    (
                        (float(row[j]) * effect, (i, *concepts))
                        for j in np.flatnonzero(row)
                        for effect, concepts in best[j]
                    ),
                    key=_strength,
                )[:count]
                for i, row in enumerate(matrix)
            ]
        chains = sorted((chain for own in best for chain in own), key=_strength)[:count]
        return [ConceptPath(found, self._names_of(found, k), effect) for effect, found in chains]

    def _names_of(self, concepts: tuple[int, ...], k: int) -> tuple[str, ...]:
        """Return the names of the concepts of a chain and of its class."""
        names = [
            f"{layer.name}: {layer.concept_names[i]}"
            for layer, i in zip(self.layers, concepts, strict=True)
        ]
        return (*names, self.upper_names(-1)[k])

    def upper_names(self, layer: int) -> tuple[str, ...]:
        """Return the names of what the edges from a layer lead to: concepts, or classes.

        A name that several classes have is followed by the index of the class: "crane (134)".
        """
        if layer not in (-1, len(self.layers) - 1):
            return self.layers[layer + 1].concept_names
        return tuple(
            name if self.class_names.count(name) == 1 else f"{name} ({k})"
            for k, name in zip(self.class_ids, self.class_names, strict=True)
        )

    def table(self, at_most: int = 50) -> Table:
        """Return a table of the kept edges, the largest effects of each layer first.

        Parameters
        ----------
        at_most : int, default=50
            Largest number of edges from each layer.

        Returns
        -------
        table : Table
            A row for each edge.

        Raises
        ------
        ValueError
            If ``at_most`` is not a positive integer.
        """
        check_integer("at_most", at_most)
        rows, notes = [], []
        for n, (layer, each) in enumerate(zip(self.layers, self.edges, strict=True)):
            lower, upper = np.nonzero(each.kept)
            strongest = np.argsort(-np.abs(each.effects[lower, upper]), kind="stable")
            names = self.upper_names(n)
            rows += [
                [
                    Cell(layer.name),
                    Cell(layer.concept_names[i]),
                    Cell(names[j]),
                    Cell.signed(each.scores[i, j]),
                    Cell.signed(each.effects[i, j]),
                    Cell.signed(each.contributions[i, j]),
                    Cell.number(each.p_values[i, j], ".2g"),
                ]
                for i, j in zip(lower[strongest][:at_most], upper[strongest][:at_most], strict=True)
            ]
            tested = np.isfinite(each.p_values).sum()
            to = "classes" if n == len(self.layers) - 1 else self.layers[n + 1].name
            notes.append(
                f"{layer.name} to {to}: {len(lower)} of {tested} edges are kept (level "
                f"{self.settings['level']:g}, {self.settings['correction']})."
            )
        notes.append(
            "Score: share of the upper concept's exemplars where more of the lower one raises it, "
            "minus the share where it lowers it. Effect: spreads of the upper one for one spread "
            "of the lower. Contribution: what the lower one adds, in spreads of the upper."
        )
        headers = ["layer", "concept", "makes", "score", "effect", "contribution", "p"]
        return Table(headers, rows, notes)

    def plot(self, class_id: int | str | None = None, at_most: int = 8) -> Figure:
        """Plot layers from left to right, concepts as image crops, and kept edges by their sign.

        Parameters
        ----------
        class_id : int or str, optional
            Index or name of a class: only its edges, and the concepts with the largest effects on
            it through all layers, are drawn. None: all classes.
        at_most : int, default=8
            Largest number of concepts of a layer, and of classes, at most 22; headings say how many
            there are.

        Returns
        -------
        figure : matplotlib.figure.Figure
            The figure, which is not shown.

        Raises
        ------
        ValueError
            If there are no edges to the class, several classes have its name, or ``at_most`` is not
            a positive integer.
        """
        check_integer("at_most", at_most)
        classes = np.arange(len(self.class_ids))
        if class_id is not None:
            classes = classes[self._index_of_class(class_id)][None]
        weights = [np.where(each.kept, np.nan_to_num(each.effects), 0.0) for each in self.edges]
        weights[-1] = weights[-1][:, classes]
        strengths = [np.abs(weights[-1]).sum(axis=0)]
        for matrix in reversed(weights):  # how much each concept matters for what is drawn above it
            above = strengths[0] / max(float(strengths[0].max(initial=0.0)), 1e-12)
            strengths.insert(0, np.abs(matrix) @ above)
        at_most = min(at_most, MOST_NODES)
        chosen = [np.sort(np.argsort(-one, kind="stable")[:at_most]) for one in strengths]
        drawn = [
            matrix[np.ix_(lower, upper)]
            for matrix, lower, upper in zip(weights, chosen, chosen[1:], strict=False)
        ]
        columns = [
            [
                (layer.concept_names[i], layer.crops[i][0] if len(layer.crops[i]) else None)
                for i in own
            ]
            for layer, own in zip(self.layers, chosen, strict=False)
        ]
        columns.append([(self.upper_names(-1)[classes[k]], None) for k in chosen[-1]])
        headings = [
            name if len(own) == len(one) else f"{plain(name, 16)}: {len(own)} of {len(one)}"
            for name, own, one in zip(
                [*(layer.name for layer in self.layers), "class"], chosen, strengths, strict=True
            )
        ]
        return plot_connectome(headings, columns, drawn)

    # ------------------------------------------------------------ files

    def save(self, path: str | Path) -> None:
        """Write the connectome to a file, without its network; no pickle is used.

        Parameters
        ----------
        path : str or Path
            File to write; no suffix is added.
        """
        arrays: dict[str, Array] = {}
        for n, (layer, each) in enumerate(zip(self.layers, self.edges, strict=True)):
            arrays |= {f"{n}.{one.name}": getattr(each, one.name) for one in fields(each)}
            arrays |= {f"{n}.{name}": getattr(layer, name) for name in _ARRAYS}
            arrays |= {f"{n}.crops.{i}": crops for i, crops in enumerate(layer.crops)}
        about = {
            "layers": [[layer.name, list(layer.concept_names)] for layer in self.layers],
            "class_ids": list(self.class_ids),
            "class_names": list(self.class_names),
            "settings": dict(self.settings),
        }
        _FORMAT.write(path, arrays, about)

    @classmethod
    def load(cls, path: str | Path) -> Connectome:
        """Read a connectome from a file of `save`.

        Parameters
        ----------
        path : str or Path
            The file.

        Returns
        -------
        connectome : Connectome
            Without its network: ``concept_layers`` is None.

        Raises
        ------
        FileNotFoundError, IsADirectoryError
            If there is no file at ``path``, or it is a folder.
        ValueError
            If the file is damaged, of another kind, or of a newer version.
        """
        return _FORMAT.load(path, cls._from_arrays)

    @classmethod
    def _from_arrays(cls, arrays: dict[str, Array], header: dict[str, Any]) -> Connectome:
        _check_header(header)
        layers, edges = [], []
        ends = [*(len(names) for _, names in header["layers"]), len(header["class_ids"])]
        for n, (name, names) in enumerate(header["layers"]):
            _check_arrays(arrays, n, ends[n], ends[n + 1])
            crops = tuple(arrays[f"{n}.crops.{i}"] for i in range(len(names)))
            own = {one: arrays[f"{n}.{one}"] for one in _ARRAYS}
            layers.append(LayerConcepts(name, tuple(names), crops=crops, **own))
            edges.append(Edges(**{one.name: arrays[f"{n}.{one.name}"] for one in fields(Edges)}))
        return cls(
            tuple(layers),
            tuple(edges),
            tuple(header["class_ids"]),
            tuple(header["class_names"]),
            header["settings"],
        )


def _check_header(header: dict[str, Any]) -> None:
    """Raise a ValueError unless the values of a file's header are of the kinds that are read."""
    texts = [
        *header["class_names"],
        *(one for name, own in header["layers"] for one in (name, *own)),
    ]
    if not header["layers"] or any(type(one) is not str for one in texts):
        raise ValueError("layers, concepts and classes must have names")
    ids = header["class_ids"]
    if len(ids) != len(header["class_names"]) or any(type(k) is not int for k in ids):
        raise ValueError(f"{len(header['class_names'])} classes must have an index each, not {ids}")
    for name, kind in _SETTINGS.items():
        if not isinstance(header["settings"][name], kind):
            raise ValueError(f"the setting {name!r} is {header['settings'][name]!r}")


def _check_arrays(arrays: dict[str, Array], n: int, count: int, above: int) -> None:
    """Raise a ValueError unless the arrays of layer n fit its concepts and those above it."""
    edge, width = (count, above), arrays[f"{n}.signals"].shape[-1:]
    wanted: dict[str, tuple[str, tuple[int | None, ...]]] = {
        one.name: ("f", edge) for one in fields(Edges)
    }
    wanted["kept"] = ("b", edge)
    wanted |= {name: ("f", (count, *width)) for name in ("signals", "centres")}
    wanted["shares"] = ("f", (count,))
    wanted |= {f"crops.{i}": ("u", (None, None, None, None)) for i in range(count)}
    for name, (kind, shape) in wanted.items():
        array = arrays[f"{n}.{name}"]
        if array.dtype.kind != kind or not shape_fits(array.shape, shape):
            raise ValueError(
                f"{n}.{name} is {array.dtype} {array.shape}, which does not fit {count} concepts "
                f"and {above} above them"
            )


def _strength(chain: tuple[float, tuple[int, ...]]) -> tuple[float, tuple[int, ...]]:
    """Return a sort key: the largest absolute effect first, then the first concepts."""
    return -abs(chain[0]), chain[1]
