"""The cells of the panel: networks, layers, images, concepts and masks, and their two halves.

`benchmarks/panel.py` lists the cells. Settings are chosen on the half "choice", and the tables of
the documentation are of the half "final":

                      choice                           final
    scenes            labels and scores: seeds 2, 3    seeds 4, 5
    clothing          two quarters of the photographs  the two others
    street            drives 0001TP, Seq05VD           drives 0006R0, 0016E5
    photographs       the last 30 of a class, "train"  "test"

Concepts are learned from the first 70 photographs of a class of "train", from `general()` (one
photograph of each ImageNet class) or from the scenes of seed 1, in both halves. Within a half,
labels come from one part and scores from the other, and the other way round.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from annotated import NETWORK_IMAGES, TRAINING_SEED, scene_network
from numpy.typing import NDArray
from real_network import load_data

from xplique_dirpairs.data.annotated_images import AnnotatedImages
from xplique_dirpairs.data.images import compute_activations
from xplique_dirpairs.datasets.annotated_scenes import LAYER, annotated_scenes
from xplique_dirpairs.models.head import Head
from xplique_dirpairs.models.split import SplitModel, split_model

LAST, MIDDLE = "out_relu", "block_13_expand_relu"
SCENES, LEARNED_SCENES = 1000, 1000
#: Photographs of each of the five classes that concepts are learned from.
LEARNED_PER_CLASS = 70
#: Consecutive frames of a drive that are resampled together.
FRAMES = 25
SCENE_SEEDS = {"choice": (2, 3), "final": (4, 5)}
DRIVES = {"choice": ("0001TP", "Seq05VD"), "final": ("0006R0", "0016E5")}
HALVES = tuple(DRIVES)


@dataclass(frozen=True)
class PanelCell:
    """A cell of the panel.

    Attributes
    ----------
    name, purpose
    layer
        "last_conv" of the scenes' network, or a layer of the network in --data.
    images
        What concepts are learned from: "scenes", "general", "five" classes or "one" class.
    concepts
        Number of concepts I.
    masks
        Sets of annotated images whose scores are added.
    photographs
        Number of photographs of each class (scenes: in all) on which fidelity is measured.
    stability
        Whether fits of several seeds and of halves of the images are compared.
    """

    name: str
    purpose: str
    layer: str
    images: str
    concepts: int
    masks: tuple[str, ...] = ("street", "clothing")
    photographs: int = 20
    stability: bool = False


CELLS = (
    PanelCell("scenes-40", "a small network with eight classes", LAYER, "scenes", 40,
              ("scenes",), 200),
    PanelCell("general-last-64", "many concepts of everything", LAST, "general", 64),
    PanelCell("general-last-256", "more concepts", LAST, "general", 256, photographs=4),
    PanelCell("general-last-25", "few concepts", LAST, "general", 25),
    PanelCell("general-middle-64", "an earlier layer", MIDDLE, "general", 64, photographs=4),
    PanelCell("general-middle-256", "an earlier layer, more concepts", MIDDLE, "general", 256,
              photographs=2),
    PanelCell("five-last-25", "images of five classes", LAST, "five", 25, stability=True),
    PanelCell("five-middle-25", "images of five classes, an earlier layer", MIDDLE, "five", 25,
              photographs=10, stability=True),
    PanelCell("one-last-25", "images of one class", LAST, "one", 25),
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class AnnotatedPair:
    """Two parts of annotated images: one gives the labels, the other the scores, and vice versa.

    Attributes
    ----------
    name
    parts : list of (AnnotatedImages, activations, groups)
        Images of a group are resampled together.
    """

    name: str
    parts: list[tuple[AnnotatedImages, NDArray, NDArray]]


class Material:
    """Networks, images and activations of the cells; activations are kept in a folder."""

    def __init__(self, output: Path, data: Path | None):
        self.output = output
        self._load: Any = load_data(data) if data else None
        self._data = data
        self.model = cache(self._model)
        self.split = cache(self._split)
        self.activations = cache(self._activations)
        self.masked = cache(lambda name: getattr(self._load, name)())
        self.head = cache(lambda layer: Head(self.split(layer).latent_to_logit_model))

    def _model(self, layer: str) -> Any:
        if layer == LAYER:
            return scene_network(self.output, NETWORK_IMAGES)
        return self._load.model()

    def _split(self, layer: str) -> SplitModel:
        return split_model(self.model(layer), layer)

    def _activations(self, layer: str, name: str) -> NDArray:
        """Return the activations of a set of images, computed once."""
        path = self.output / "activations" / f"{layer}_{name}.npy"
        if not path.exists():
            print(f"activations of {name} at {layer}", flush=True)
            images = self._images(name)
            g = self.split(layer).input_to_latent_model
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part.npy")
            np.save(part, compute_activations(g, images))
            part.replace(path)
        return np.load(path)

    def _images(self, name: str) -> NDArray:
        if name.startswith("scenes"):
            return annotated_scenes(SCENES, seed=int(name.removeprefix("scenes"))).images
        images = {
            "general": lambda: self._load.general()[0],
            "street": lambda: self._load.street()[0],
            "clothing": lambda: self._load.clothing()[0],
            "train": lambda: self._load.photos("train")[0],
            "test": lambda: self._load.photos("test")[0],
        }[name]()
        return self._load.preprocess(images)

    # ------------------------------------------------------------ what a cell needs

    def learned_from(self, cell: PanelCell) -> NDArray:
        """Return the activations that concepts are learned from."""
        if cell.images == "scenes":
            return self.activations(cell.layer, f"scenes{TRAINING_SEED}")
        if cell.images == "general":
            return self.activations(cell.layer, "general")
        labels = self._load.photos("train")[1]
        classes = np.unique(labels)[: 1 if cell.images == "one" else None]
        chosen = [np.flatnonzero(labels == k)[:LEARNED_PER_CLASS] for k in classes]
        return self.activations(cell.layer, "train")[np.concatenate(chosen)]

    def judged_on(self, cell: PanelCell, half: str) -> tuple[NDArray, NDArray]:
        """Return the activations and classes of the images on which fidelity is measured."""
        if cell.images == "scenes":
            seed = SCENE_SEEDS[half][0]
            labels = annotated_scenes(SCENES, seed=seed).labels
            return (
                self.activations(cell.layer, f"scenes{seed}")[: cell.photographs],
                labels[: cell.photographs],
            )
        name, first = ("train", LEARNED_PER_CLASS) if half == "choice" else ("test", 0)
        labels = self._load.photos(name)[1]
        last = first + cell.photographs
        classes = np.unique(labels)[: 1 if cell.images == "one" else None]
        chosen = np.concatenate([np.flatnonzero(labels == k)[first:last] for k in classes])
        return self.activations(cell.layer, name)[chosen], labels[chosen]

    def annotated(self, cell: PanelCell, half: str) -> list[AnnotatedPair]:
        """Return the annotated images of the cell, by set of masks."""
        made: dict[str, Callable[[], AnnotatedPair]] = {
            "scenes": lambda: self._scenes(half),
            "street": lambda: self._street(cell.layer, half),
            "clothing": lambda: self._clothing(cell.layer, half),
        }
        return [made[name]() for name in cell.masks]

    def _scenes(self, half: str) -> AnnotatedPair:
        parts = [
            (
                annotated_scenes(SCENES, seed=seed),
                self.activations(LAYER, f"scenes{seed}"),
                np.arange(SCENES),
            )
            for seed in SCENE_SEEDS[half]
        ]
        return AnnotatedPair("scenes", parts)

    def _stems(self, name: str) -> list[str]:
        return [path.stem for path in sorted((self._data / name / "images").glob("*.jpg"))]

    def _street(self, layer: str, half: str) -> AnnotatedPair:
        stems = self._stems("street")
        parts = []
        for drive in DRIVES[half]:
            which = np.array([k for k, stem in enumerate(stems) if drive in stem])
            parts.append(self._part(layer, "street", 11, which, np.arange(len(which)) // FRAMES))
        return AnnotatedPair("street", parts)

    def _clothing(self, layer: str, half: str) -> AnnotatedPair:
        photographs = np.array([stem.split("_")[0] for stem in self._stems("clothing")])
        order = np.random.default_rng(0).permutation(np.unique(photographs))
        quarters = (
            np.array_split(order, 4)[:2] if half == "choice" else np.array_split(order, 4)[2:]
        )
        parts = []
        for quarter in quarters:
            which = np.flatnonzero(np.isin(photographs, quarter))
            parts.append(self._part(layer, "clothing", 0, which, photographs[which]))
        return AnnotatedPair("clothing", parts)

    def _part(
        self, layer: str, name: str, background: int, which: NDArray, groups: NDArray
    ) -> tuple[AnnotatedImages, NDArray, NDArray]:
        images, masks, names = self.masked(name)
        annotated = AnnotatedImages.from_one_mask(
            images[which], masks[which], names, category=name, background=background
        )
        return annotated, self.activations(layer, name)[which], groups
