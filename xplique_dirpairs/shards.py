"""Activations on disk, in shards: for more images than memory holds."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from xplique_dirpairs.activations import check_activations, check_images, outputs_of
from xplique_dirpairs.distribution import workers

_INDEX = "index.json"
_FORMAT, _VERSION = "xplique-dirpairs activations", 1


class ActivationShards:
    """Activations ``(N, *spatial, D)`` in the files of a folder, read one file at a time.

    Parameters
    ----------
    folder
        As `write` or `compute` made it.

    Attributes
    ----------
    shape : (N, *spatial, D)
    counts
        Images in each file.

    Raises
    ------
    ValueError
        If the folder does not hold complete activations.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        try:
            index = json.loads((self.folder / _INDEX).read_text())
            if (index["format"], index["version"]) != (_FORMAT, _VERSION):
                raise KeyError("format")
            self.counts: list[int] = index["counts"]
            self.shape = (sum(self.counts), *index["shape"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self.folder} holds no complete activations: make them with "
                "ActivationShards.compute or ActivationShards.write"
            ) from error

    @classmethod
    def write(
        cls,
        folder: str | os.PathLike,
        batches: Iterable,
        megabytes: float = 32.0,
    ) -> ActivationShards:
        """Write batches of activations.

        Parameters
        ----------
        folder
            Made if it is not there; must hold no activations yet.
        batches
            Arrays or tensors ``(n, *spatial, D)``, a `tf.data.Dataset` for one; taken one by one.
        megabytes
            Size of a file, about.

        Raises
        ------
        ValueError
            If there are no batches, they are not finite or of several shapes, or the folder holds
            activations already; or if several workers would write to it.
        """
        if workers() > 1:
            raise ValueError(
                "several workers cannot write one folder: write the shards in one process, outside "
                "the strategy's scope; a fit under the strategy reads them on every worker"
            )
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / _INDEX).exists():
            raise ValueError(f"{folder} holds activations already: give another folder")
        counts: list[int] = []
        held: list[NDArray] = []
        shape: tuple[int, ...] | None = None

        def flush() -> None:
            if held:
                np.save(folder / _name(len(counts)), np.concatenate(held), allow_pickle=False)
                counts.append(sum(map(len, held)))
                held.clear()

        for batch in batches:
            array = check_activations(batch)
            if shape is None:
                shape = array.shape[1:]
            if array.shape[1:] != shape:
                raise ValueError(f"activations of shape {array.shape[1:]} after others of {shape}")
            per_file = max(1, int(megabytes * 1e6 / array[0].nbytes))
            for start in range(0, len(array), per_file):
                part = array[start : start + per_file]
                if sum(map(len, held)) + len(part) > per_file:
                    flush()
                held.append(part)
        flush()
        if shape is None:
            raise ValueError("there are no activations: the batches are empty")
        index = {"format": _FORMAT, "version": _VERSION, "shape": shape, "counts": counts}
        (folder / _INDEX).write_text(json.dumps(index))  # last: what is there is complete
        return cls(folder)

    @classmethod
    def compute(
        cls,
        folder: str | os.PathLike,
        model: keras.Model,
        batches: Iterable,
        megabytes: float = 32.0,
    ) -> ActivationShards:
        """Write the activations of batches of images.

        Parameters
        ----------
        folder, megabytes
            As in `write`.
        model
            ``input_to_latent_model``.
        batches
            Images ``(n, height, width, channels)``, a batched `tf.data.Dataset` for one.
        """
        checked = map(check_images, batches)
        return cls.write(folder, (outputs_of(model, x, len(x)) for x in checked), megabytes)

    def read(self, number: int) -> NDArray:
        """Activations ``(n, *spatial, D)`` of one file."""
        try:
            array = np.load(self.folder / _name(number), allow_pickle=False)
        except (OSError, ValueError) as error:
            raise ValueError(f"{self.folder / _name(number)} is missing or damaged") from error
        if array.shape != (self.counts[number], *self.shape[1:]):
            raise ValueError(f"{self.folder / _name(number)} is of other activations")
        return array

    def __iter__(self) -> Iterator[NDArray]:
        """File by file."""
        return map(self.read, range(len(self.counts)))


def _name(number: int) -> str:
    return f"{number:06d}.npy"
