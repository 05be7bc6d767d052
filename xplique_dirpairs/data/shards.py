"""Activations in files on disk (shards), for data larger than memory."""

from __future__ import annotations

import copy
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from xplique_dirpairs.core.archives import stated_array
from xplique_dirpairs.core.batching import slices
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import (
    check_activations,
    check_finite,
    check_images_fit,
    check_inputs,
    check_number,
    check_type,
)
from xplique_dirpairs.data.devices import workers
from xplique_dirpairs.data.images import outputs_of

_INDEX = "index.json"
#: Name of a file that exists while a folder is written to.
_MARKER = "being_written"
_FORMAT, _VERSION = "xplique-dirpairs activations", 1
#: Number of images in a batch if all images are given as one array.
_BATCH = 64
_MAKE = "ActivationShards.compute (from images) or ActivationShards.write (from activations)"
_AGAIN = "write the activations again, to another folder or to this one after deleting it"


class ActivationShards:
    """Activations of N images in the files of a folder, read one file at a time.

    Iterating over it yields an array of shape (n, *spatial, D) for each file of n images.
    ``*spatial`` is (H, W) for feature maps, (T,) for T tokens, and empty for vectors; D is the
    number of channels.

    Parameters
    ----------
    folder : str or os.PathLike
        Folder that `write` or `compute` filled.

    Attributes
    ----------
    folder : Path
        The folder.
    shape : tuple of int
        Shape of the activations of all images, (N, *spatial, D).
    counts : list of int
        Number of images in each file; they sum to N.

    Raises
    ------
    TypeError
        If ``folder`` is not a path.
    ValueError
        If the folder holds no activations, if `write` or `compute` has not finished writing them,
        or if the file ``index.json``, which lists them, is damaged.

    Examples
    --------
    >>> shards = ActivationShards.compute("activations", split.input_to_latent_model, dataset)
    >>> pairs, history = learn_pairs(shards, 12, head=split.head)
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = _path(folder)
        path = self.folder / _INDEX
        if not path.exists():
            raise ValueError(
                f"{self.folder} holds no complete activations: wait until they are written, or "
                f"write them with {_MAKE}, which replaces incomplete files"
            )
        try:
            index = json.loads(path.read_text())
            if (index["format"], index["version"]) != (_FORMAT, _VERSION):
                raise KeyError("format")
            self.counts: list[int] = index["counts"]
            self.shape = (sum(self.counts), *index["shape"])
            # those of early folders are not known
            self._checksums: list[int] = index.get("checksums", [])
            lengths = [*self.counts, *index["shape"]]
            if not lengths or any(type(n) is not int or n < 1 for n in lengths):
                raise ValueError("lengths")
            if self._checksums and len(self._checksums) != len(self.counts):
                raise ValueError("checksums")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self.folder} holds no complete activations: {_INDEX} is damaged, or from "
                f"another version or program; {_AGAIN}"
            ) from error
        #: Number of each file, and the indices of its images that are used (None: all).
        self._files: list[tuple[int, Array | None]] = [(k, None) for k in range(len(self.counts))]

    @classmethod
    def write(
        cls,
        folder: str | os.PathLike[str],
        batches: Iterable[Any],
        megabytes: float = 32.0,
        tokens: bool = False,
    ) -> ActivationShards:
        """Write batches of activations to a folder.

        Parameters
        ----------
        folder : str or os.PathLike
            Folder to write to, which is created if necessary. It must not hold activations yet.
        batches : iterable of array-like of shape (n, *spatial, D)
            Activations of n images each, with any n: (n, H, W, D) feature maps, (n, T, D) for T
            tokens, or (n, D) vectors, of D channels. Any iterable of arrays or tensors, such as a
            batched `tf.data.Dataset`, of which one batch at a time is in memory. A single array is
            one batch.
        megabytes : float, default=32.0
            Size of a file in MB (10⁶ bytes), which is exceeded only if one image needs more.
        tokens : bool, default=False
            Whether batches of rank 3 are token sequences (n, T, D). Without it, a list or generator
            of arrays of rank 3 is refused, since each could be the feature map (H, W, D) of a
            single image. It is not needed for a single array, or for a batched `tf.data.Dataset`
            of known rank.

        Returns
        -------
        shards : ActivationShards
            The activations, in the order of the batches, as float32.

        Raises
        ------
        TypeError
            If ``folder`` is not a path, or ``batches`` is not iterable.
        ValueError
            If there are no batches; if batches are not finite, differ in shape, or have rank 3
            without ``tokens``; if the folder holds activations already, or is being written to; or
            under a `tf.distribute` strategy with several workers.
        """
        is_dataset = isinstance(batches, tf.data.Dataset)
        has_rank = is_dataset and _element_shape(batches).rank is not None
        rank_is_clear = tokens or _is_array(batches) or has_rank

        def checked(batch: ArrayLike) -> Array:
            array = check_activations(batch)
            if array.ndim == 3 and not rank_is_clear:
                raise ValueError(
                    f"activations of shape {array.shape}: if this is the map of one image, give "
                    f"batches of maps, np.stack(maps); if it is a batch of {array.shape[0]} token "
                    "sequences, set tokens=True"
                )
            return array

        ranks = (1, 2) if tokens else (1, 2, 3)
        return cls._write(folder, _numbered(_batches(batches, ranks), checked), megabytes)

    @classmethod
    def compute(
        cls,
        folder: str | os.PathLike[str],
        model: keras.Model,
        batches: Iterable[Any],
        megabytes: float = 32.0,
    ) -> ActivationShards:
        """Compute the activations of batches of images and write them to a folder.

        Parameters
        ----------
        folder : str or os.PathLike
            Folder to write to, which is created if necessary. It must not hold activations yet.
        model : keras.Model
            Model from images to activations, such as the ``input_to_latent_model`` of
            `split_model`.
        batches : iterable of array-like of shape (n, height, width, channels)
            Batches of n images, preprocessed for the network, such as a batched `tf.data.Dataset`
            without labels. A single array holds all images, of which 64 at a time pass through the
            model.
        megabytes : float, default=32.0
            Size of a file in MB (10⁶ bytes), which is exceeded only if one image needs more.

        Returns
        -------
        shards : ActivationShards
            The activations, in the order of the images, as float32.

        Raises
        ------
        TypeError
            If ``folder`` is not a path, or ``batches`` is not iterable.
        ValueError
            If there are no images, or they do not fit the model's input; if images or activations
            are not finite; if the folder holds activations already, or is being written to; or
            under a `tf.distribute` strategy with several workers.
        """

        def activations(batch: ArrayLike) -> Array:
            images = check_inputs(batch)
            check_images_fit(images.shape[1:], model)
            return check_activations(outputs_of(model, images, len(images)))

        if _is_array(batches):
            images = check_inputs(np.asarray(batches))
            batches = [images[part] for part in slices(len(images), _BATCH)]
        return cls._write(folder, _numbered(_batches(batches), activations), megabytes)

    @classmethod
    def _write(
        cls, folder: str | os.PathLike[str], batches: Iterable[Array], megabytes: float
    ) -> ActivationShards:
        """Write batches (n, *spatial, D) that have been checked."""
        if workers() > 1:
            raise ValueError(
                "several workers cannot write to one folder: write the shards in one process, "
                "outside the strategy's scope; a fit under the strategy can read them"
            )
        check_number("megabytes", megabytes, above=0)
        with _reserved(folder) as path:
            counts: list[int] = []
            checksums: list[int] = []
            for array in _of_files(batches, megabytes):
                _check_vacant(path)  # the user may have deleted the marker too early
                np.save(path / _name(len(counts)), array, allow_pickle=False)
                counts.append(len(array))
                checksums.append(_checksum(array))
            if not counts:
                raise ValueError("there are no activations: the batches are empty")
            shape = array.shape[1:]
            index = {"format": _FORMAT, "version": _VERSION, "shape": shape}
            index |= {"counts": counts, "checksums": checksums}
            beside = path / f"{_INDEX}.new"
            beside.write_text(json.dumps(index))
            _check_vacant(path)
            os.replace(beside, path / _INDEX)  # atomic and last: an index means complete files
        return cls(path)

    def part(self, images: Array) -> ActivationShards:
        """Return the activations of some of the images, without copying or changing files.

        Parameters
        ----------
        images : ndarray of shape (n,), int
            Indices of n of the N images, from 0 to N − 1, each at most once. Their order does not
            matter.

        Returns
        -------
        part : ActivationShards
            The activations of these images, in increasing order of the indices.

        Raises
        ------
        ValueError
            If there are no indices, one of them occurs twice, or is not that of an image.
        """
        numbers = np.asarray(images)
        chosen = np.unique(numbers)
        are_numbers = numbers.dtype.kind in "iu" and numbers.shape == chosen.shape
        if not are_numbers or not chosen.size or chosen[0] < 0 or chosen[-1] >= self.shape[0]:
            raise ValueError(
                f"images must be indices from 0 to {self.shape[0] - 1}, each once (for a mask: "
                f"np.flatnonzero(mask)), not {images!r}"
            )
        part = copy.copy(self)
        part.counts, part._files, part.shape = [], [], (len(chosen), *self.shape[1:])
        first = 0
        for (number, rows), count in zip(self._files, self.counts, strict=True):
            inside = chosen[slice(*np.searchsorted(chosen, [first, first + count]))] - first
            if inside.size:
                part.counts.append(len(inside))
                part._files.append((number, inside if rows is None else rows[inside]))
            first += count
        return part

    def read(self, number: int) -> Array:
        """Return the activations of one file.

        Parameters
        ----------
        number : int
            Index of the file, from 0 to ``len(counts) - 1``.

        Returns
        -------
        activations : ndarray of shape (n, *spatial, D), float32
            Activations of the n = ``counts[number]`` images of the file in D channels;
            ``*spatial`` is (H, W) for feature maps, (T,) for T tokens, and empty for vectors.

        Raises
        ------
        IndexError
            If there is no file of this number.
        ValueError
            If the file is missing or was changed, or holds NaN or infinite values.
        """
        file, rows = self._files[number]
        path = self.folder / _name(file)
        try:
            with open(path, "rb") as opened:
                shape, dtype, size = stated_array(opened)
            is_whole = path.stat().st_size == size
            count = shape[0] if shape else 0
            enough = count == self.counts[number] if rows is None else count > rows[-1]
            if is_whole and (dtype != np.float32 or shape[1:] != self.shape[1:] or not enough):
                raise _OtherContent(
                    f"{path} holds other activations than the index describes: {_AGAIN}"
                )
            if not is_whole:
                raise ValueError(f"it has {path.stat().st_size} bytes, and states {size}")
            # with memory mapping, only the images of the part are read
            stored: Array = np.load(path, mmap_mode=None if rows is None else "r")
        except _OtherContent:
            raise
        except Exception as error:  # numpy parses the header as Python
            raise ValueError(f"{path} is missing or damaged: {_AGAIN}") from error
        array = stored if rows is None else np.asarray(stored[rows])
        check_finite(f"the activations in {path}", array)
        if rows is None and self._checksums and _checksum(array) != self._checksums[file]:
            raise ValueError(f"{path} is damaged: {_AGAIN}")
        return array

    def __iter__(self) -> Iterator[Array]:
        """Yield the activations (n, *spatial, D) of each file."""
        return map(self.read, range(len(self.counts)))


class _OtherContent(ValueError):
    """An intact file that is not the one of the index."""


def _checksum(array: Array) -> int:
    """Return a checksum of the values of an array."""
    return zlib.crc32(np.ascontiguousarray(array).data)


def _name(number: int) -> str:
    """Return the name of a file by its number."""
    return f"{number:06d}.npy"


def _path(folder: str | os.PathLike[str]) -> Path:
    """Return the absolute path of the folder, or raise a TypeError.

    A relative path would be lost where the current folder changes, as in workers of joblib.
    """
    check_type("folder", folder, (str, os.PathLike), "a path")
    return Path(folder).absolute()


@contextmanager
def _reserved(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Create a folder, check that it holds no activations, and mark it as being written to."""
    path = _path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{path} is not a folder and cannot be created: {error}") from error
    marker = path / _MARKER
    try:
        marker.touch(exist_ok=False)
    except FileExistsError as error:
        _check_vacant(path)
        raise ValueError(
            f"{path} is being written to, or its writer was killed: give another folder; or, if "
            f"no process writes to it, delete {marker} and write again"
        ) from error
    except OSError as error:
        _check_vacant(path)
        raise ValueError(f"{path} cannot be written to: {error}") from error
    try:
        _check_vacant(path)
        yield path
    finally:
        marker.unlink(missing_ok=True)


def _check_vacant(path: Path) -> None:
    """Raise a ValueError if a folder holds complete activations."""
    if (path / _INDEX).exists():
        raise ValueError(
            f"{path} holds activations already, or another {_INDEX}: open them with "
            "ActivationShards(folder), give another folder, or delete this one"
        )


def _is_array(value: Any) -> bool:
    """Return whether a value is a numpy array or a tensor."""
    return isinstance(value, np.ndarray) or tf.is_tensor(value)


def _element_shape(dataset: tf.data.Dataset) -> tf.TensorShape:
    """Return the shape of a dataset's elements; unknown if they are not single tensors."""
    return getattr(dataset.element_spec, "shape", tf.TensorShape(None))


def _of_files(batches: Iterable[Array], megabytes: float) -> Iterator[Array]:
    """Yield the activations of all batches in arrays of at most ``megabytes``."""
    held: list[Array] = []
    for array in batches:
        if held and array.shape[1:] != held[0].shape[1:]:
            shape = held[0].shape[1:]
            raise ValueError(f"activations must have one shape, not {shape} and {array.shape[1:]}")
        per_file = max(1, int(megabytes * 1e6 / array[0].nbytes))
        for part in slices(len(array), per_file):
            if held and sum(map(len, held)) + part.stop - part.start > per_file:
                yield np.concatenate(held)
                held.clear()
            held.append(array[part].copy())  # a generator may reuse its array
    if held:
        yield np.concatenate(held)


def _batches(batches: Any, unbatched_ranks: tuple[int, ...] = ()) -> Iterable[Any]:
    """Return the batches as an iterable; a single array is one batch.

    A dataset is refused if its elements have one of ``unbatched_ranks``, the ranks of a single
    image's activations, and a known first length: the dataset was probably not batched.
    """
    if _is_array(batches):
        return [batches]
    if isinstance(batches, tf.data.Dataset):
        shape = _element_shape(batches)
        # a batched dataset usually has an unknown first length, as its last batch may be smaller
        if shape.rank in unbatched_ranks and shape[0] is not None:
            raise ValueError(
                f"the elements of the dataset have shape {tuple(shape)}: if each is one image, "
                "batch them, dataset.batch(64); if each is a batch, give "
                f"dataset.as_numpy_iterator(){', and tokens=True' if shape.rank == 3 else ''}"
            )
    if isinstance(batches, str) or not hasattr(batches, "__iter__"):
        raise TypeError(
            "batches must be an iterable of arrays (a list, generator or tf.data.Dataset), not "
            f"{batches!r}"
        )
    iterable: Iterable[Any] = batches
    return iterable


def _numbered(batches: Iterable[Any], make: Callable[[Any], Array]) -> Iterator[Array]:
    """Yield ``make(batch)`` for non-empty batches; error messages name the batch."""
    for number, batch in enumerate(batches):
        if isinstance(batch, (tuple, dict)):
            raise ValueError(
                f"batch {number} is a {type(batch).__name__} of {len(batch)}, not one array: "
                "if it holds labels, drop them, dataset.map(lambda x, y: x)"
            )
        if tuple(getattr(batch, "shape", ()))[:1] == (0,):
            continue
        try:
            array = make(batch)
        except ValueError as error:
            raise ValueError(f"batch {number}: {error}") from error
        yield array
