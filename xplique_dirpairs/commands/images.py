"""Read the images of a folder, and match class folders to the outputs of a model by name.

The folder holds one folder of images for each class, or images only. Broken files are left out and
listed; all others are scaled and cropped to the same size.
"""

from __future__ import annotations

import json
import os
import warnings
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from xplique_dirpairs.commands.console import listed, printable
from xplique_dirpairs.core.batching import in_turns
from xplique_dirpairs.core.types import Array

#: Endings of the names of image files, in lower case.
ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif")


# -------------------------------------------------------------------- folders


@dataclass(frozen=True)
class ImageFiles:
    """The image files of a folder.

    Attributes
    ----------
    root : Path
        The folder itself.
    by_class : dict of str to list of Path
        Name of each class folder → its files, sorted. Without class folders the name
        is "".
    notes : tuple of str, default=()
        Messages about files and folders that are left out.
    """

    root: Path
    by_class: dict[str, list[Path]]
    notes: tuple[str, ...] = ()

    @property
    def classes(self) -> list[str]:
        """The names of the class folders, list of str; empty if there are none."""
        return [name for name in self.by_class if name]

    def of_classes(self, chosen: Collection[str]) -> ImageFiles:
        """Return the files of the chosen class folders only."""
        return replace(self, by_class={k: v for k, v in self.by_class.items() if k in chosen})


class Skipped(NamedTuple):
    """The path of a file that could not be read, and the reason."""

    path: str
    reason: str


@dataclass(frozen=True, eq=False)
class FolderImages:
    """N images of the same size.

    Attributes
    ----------
    pixels : ndarray of shape (N, height, width, C), uint8
        C is 1 or 3.
    names : ndarray of shape (N,), str
        Paths relative to the folder, with unprintable characters escaped.
    folders : ndarray of shape (N,), object
        The class folder of each image; "" if there are no class folders.
    skipped : tuple of Skipped
        Files that could not be read.
    file_count : int
        Number of image files in the folder.
    """

    pixels: Array
    names: Array
    folders: Array
    skipped: tuple[Skipped, ...]
    file_count: int

    def part(self, chosen: Array) -> FolderImages:
        """Return the images of an index array or boolean mask."""
        return replace(
            self, pixels=self.pixels[chosen], names=self.names[chosen], folders=self.folders[chosen]
        )


def find_images(folder: str | os.PathLike[str]) -> ImageFiles:
    """Find the image files of a folder: all files below each class folder, or else its own.

    Parameters
    ----------
    folder : str or path-like

    Returns
    -------
    files : ImageFiles

    Raises
    ------
    ValueError
        If the folder holds no image.
    """
    root = Path(folder)
    own = sorted(path for path in root.iterdir() if _is_image(path))
    by_class = {
        path.name: sorted(filter(_is_image, path.rglob("*")))
        for path in sorted(root.iterdir(), key=lambda path: path.name)
        if path.is_dir() and not path.name.startswith((".", "__"))
    }
    full = {name: files for name, files in by_class.items() if files}
    if not full:
        if not own:
            raise ValueError(
                f"{printable(root)} holds no images ({', '.join(ENDINGS)}): give --images a folder "
                "of images, or a folder that holds one folder of images for each class"
            )
        return ImageFiles(root, {"": own})
    notes = [f"{len(own)} images beside the class folders are left out"] if own else []
    empty = [printable(name) for name in by_class if name not in full]
    if empty:
        notes.append(f"folders without images are left out: {listed(empty)}")
    return ImageFiles(root, full, tuple(notes))


def _is_image(path: Path) -> bool:
    """Return whether a path is a file with the name of an image, not hidden."""
    has_image_name = not path.name.startswith(".") and path.suffix.lower() in ENDINGS
    return has_image_name and path.is_file()


def read_images(
    files: ImageFiles,
    size: tuple[int, int],
    channels: int = 3,
    max_images: int | None = None,
    seed: int = 0,
) -> FolderImages:
    """Read images, scale each until it covers (height, width), and cut out its centre.

    Parameters
    ----------
    files : ImageFiles
    size : tuple of int
        (height, width) of the images that are returned.
    channels : {1, 3}, default=3
        3 for RGB, 1 for grey.
    max_images : int, optional
        Maximum number of images, spread evenly over the classes. A broken file is replaced by
        another one of its class. By default all images are read.
    seed : int, default=0
        Seed of the choice of images.

    Returns
    -------
    images : FolderImages

    Raises
    ------
    ValueError
        If none of the images can be read.
    """
    counts = [len(paths) for paths in files.by_class.values()]
    rng = np.random.default_rng(seed)
    images: list[tuple[str, Path, Array]] = []
    skipped = []
    quotas = spread(counts, max_images)
    for (folder, paths), quota in zip(files.by_class.items(), quotas, strict=True):
        order = np.arange(len(paths)) if quota == len(paths) else rng.permutation(len(paths))
        own: list[tuple[str, Path, Array]] = []
        for path in (paths[n] for n in order):
            if len(own) == quota:
                break
            try:
                own.append((folder, path, read_image(path, size, channels)))
            except Exception as error:  # decoders raise many kinds of errors for broken files
                name = printable(path.relative_to(files.root))
                skipped.append(Skipped(name, _reason(error)))
        images += sorted(own, key=itemgetter(1))
    if not images:
        shown = listed([f"{name} ({reason})" for name, reason in skipped], 5)
        raise ValueError(f"none of the {sum(counts)} images can be read: {shown}")
    folders, kept, pixels = zip(*images, strict=True)
    return FolderImages(
        np.stack(pixels),
        np.array([printable(path.relative_to(files.root)) for path in kept]),
        np.array(folders, object),
        tuple(sorted(skipped)),
        sum(counts),
    )


def _reason(error: Exception) -> str:
    """Return why a file could not be read, as one printable line."""
    if isinstance(error, UnidentifiedImageError):  # its text repeats the path
        return "not an image that can be read"
    return printable(" ".join(str(error).split()))[:200] or type(error).__name__


def spread(counts: Sequence[int], total: int | None) -> list[int]:
    """Divide a number of elements evenly among groups.

    What a small group cannot take goes to the others.

    Parameters
    ----------
    counts : sequence of int
        Sizes of the groups.
    total : int or None
        Number of elements to take in all; None takes every group in full.

    Returns
    -------
    quotas : list of int
        Number of elements to take from each group.
    """
    groups = np.repeat(np.arange(len(counts)), counts)
    quotas = np.bincount(groups[in_turns(groups)[:total]], minlength=len(counts))
    return [int(quota) for quota in quotas]


def read_image(path: str | os.PathLike[str], size: tuple[int, int], channels: int = 3) -> Array:
    """Read one image, or the first picture of an animation.

    The image is rotated as its EXIF data say, scaled until it covers the size, and its centre is
    cut out. Transparent pixels have the colour that the file stores for them, as in Keras.

    Parameters
    ----------
    path : str or path-like
    size : tuple of int
        (height, width).
    channels : {1, 3}, default=3
        3 for RGB, 1 for grey.

    Returns
    -------
    pixels : ndarray of shape (height, width, channels), uint8

    Raises
    ------
    OSError, ValueError or another exception of the decoder
        If the file cannot be read.
    """
    height, width = size
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on metadata and large images; Pillow has a hard limit
        with Image.open(path) as opened:
            opened.draft(None, (2 * width, 2 * height))  # decodes large JPEGs at a smaller scale
            picture = ImageOps.exif_transpose(opened)
            picture = _eight_bits(picture).convert("L" if channels == 1 else "RGB")
    pixels = np.asarray(ImageOps.fit(picture, (width, height), Image.Resampling.BILINEAR))
    return pixels[..., None] if channels == 1 else pixels


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Return a picture with 16-bit values scaled to 8 bits; Pillow would clip them."""
    if picture.mode == "F":
        raise ValueError("its pixels are floating-point numbers: save it as an 8-bit image")
    if not picture.mode.startswith("I"):
        return picture
    values = np.asarray(picture).astype(np.int64)
    if values.max(initial=0) > 255:
        values = values // 257
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


# -------------------------------------------------------------------- names of classes


@dataclass(frozen=True)
class ClassNames:
    """Names of a model's K classes.

    Attributes
    ----------
    entries : tuple of K tuples of str
        All names of each class, the one to print last; an empty tuple if a class has no name.
    """

    entries: tuple[tuple[str, ...], ...]

    def __len__(self) -> int:
        return len(self.entries)

    @cached_property
    def shown(self) -> list[str]:
        """The name to print for each class, followed by its number if several classes share it."""
        plain = [
            printable(names[-1]) if names else f"class {k}" for k, names in enumerate(self.entries)
        ]
        times = Counter(plain)
        return [f"{name} ({k})" if times[name] > 1 else name for k, name in enumerate(plain)]

    @cached_property
    def _classes_by_key(self) -> dict[str, list[int]]:
        """The classes of each normalised name (see `_key`)."""
        classes: dict[str, list[int]] = {}
        for k, names in enumerate(self.entries):
            for key in {_key(name) for name in (*names, "_".join(names)) if name}:
                classes.setdefault(key, []).append(k)
        return classes

    def find(self, name: str) -> int | None:
        """Return the class of a name or number; None if there is no such class.

        Raises
        ------
        ValueError
            If several classes have the name.
        """
        classes = self._classes_by_key.get(_key(name), [])
        if len(classes) > 1:
            raise ValueError(
                f"{printable(name)!r} is the name of classes {listed([str(k) for k in classes])}: "
                "give the number"
            )
        if classes:
            return classes[0]
        text = name.strip()
        is_number = text.isascii() and text.isdigit() and int(text) < len(self)
        return int(text) if is_number else None

    def chosen(self, names: Sequence[str]) -> list[int]:
        """Return the classes of names or numbers, sorted and without duplicates.

        Raises
        ------
        ValueError
            If there is no such class; the message names similar ones.
        """
        classes = {name: self.find(name) for name in names}
        missing = self._missing(classes)
        if missing:
            raise ValueError(f"--classes: the model's {len(self)} outputs have no class {missing}")
        return sorted({k for k in classes.values() if k is not None})

    def of_folders(self, folders: Sequence[str]) -> dict[str, int | None]:
        """Return folder → its class, found by name or number; None if there is no such class.

        Raises
        ------
        ValueError
            If two folders belong to the same class.
        """
        classes = {folder: self.find(folder) for folder in folders}
        for k in classes.values():
            own = [repr(printable(folder)) for folder in folders if classes[folder] == k]
            if k is not None and len(own) > 1:
                raise ValueError(
                    f"folders {' and '.join(own)} are the same class, {self.shown[k]}: merge them"
                )
        return classes

    def check_all_found(self, classes: dict[str, int | None]) -> None:
        """Raise a ValueError if a class folder has no class; the message names similar ones."""
        missing = self._missing(classes)
        if missing:
            count = sum(k is None for k in classes.values())
            raise ValueError(
                f"{count} of {len(classes)} class folders are not named in --class-names: "
                f"{missing}. Rename them, or choose others with --classes"
            )

    def _missing(self, classes: dict[str, int | None]) -> str:
        """Return the names that have no class, each with similar names, as text."""
        missing = [name for name, k in classes.items() if k is None]
        return "; ".join(f"{printable(name)!r} ({self._near(name)})" for name in missing[:10])

    def _near(self, name: str) -> str:
        """Return a hint for a name that has no class: similar names, or the valid numbers."""
        if name.strip().isdigit():
            return f"numbers go from 0 to {len(self) - 1}"
        if not any(self.entries):
            return "the outputs have no names: give --class-names FILE, or numbers"
        close = get_close_matches(_key(name), list(self._classes_by_key), n=3, cutoff=0.5)
        alike = list(dict.fromkeys(self.shown[self._classes_by_key[key][0]] for key in close))
        return f"similar: {', '.join(alike)}" if alike else "no similar name"


def _key(name: str) -> str:
    """Return a name in lower case, with spaces and hyphens as single underscores."""
    return "_".join(name.casefold().replace("-", " ").replace("_", " ").split())


def read_class_names(path: str | Path, number: int) -> ClassNames:
    """Read the names of a model's classes, in the order of its outputs.

    Parameters
    ----------
    path : str or Path
        A text file with one name per line, or a JSON file. JSON is a list with an entry for each
        class, or an object with the entries by number. An entry is a name, or a list of names of
        the class, the one to print last.
    number : int
        Number of classes, K.

    Returns
    -------
    names : ClassNames

    Raises
    ------
    ValueError
        If the file has neither form, or holds another number of names.
    """
    option = f"--class-names: {printable(path)}"
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        if text.lstrip().startswith(("[", "{")):
            entries = _entries_of_json(option, json.loads(text))
        else:
            entries = [(line.strip(),) for line in text.splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{option} is not UTF-8 text ({error})") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{option} is not valid JSON ({error})") from error
    if len(entries) != number:
        raise ValueError(
            f"{option} must hold a name for each of {number} outputs in order, not {len(entries)}"
        )
    return ClassNames(tuple(entries))


def _entries_of_json(option: str, data: list[Any] | dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the names of each class from parsed JSON."""
    wanted = f"{option} must be a list of names, or an object of names by number"
    if isinstance(data, dict):
        if sorted(data) != sorted(str(k) for k in range(len(data))):
            raise ValueError(f"{wanted}, starting at 0")
        data = [data[str(k)] for k in range(len(data))]
    entries = [tuple(names) if isinstance(names, list) else (names,) for names in data]
    if not all(names and all(isinstance(name, str) for name in names) for names in entries):
        raise ValueError(wanted)
    return entries
