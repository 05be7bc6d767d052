"""Images of a folder, and their classes by name.

A folder has a folder of images for each class, or images alone. Broken files are left out and
listed; the others are brought to one size.
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

ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif")


# -------------------------------------------------------------------- folders


@dataclass(frozen=True)
class ImageFiles:
    """The image files of a folder.

    Attributes
    ----------
    root : Path
    by_class : dict of str to list of Path
        Files of each class folder, sorted; of images that lie flat, under the name "".
    notes : tuple of str
        What was left out.
    """

    root: Path
    by_class: dict[str, list[Path]]
    notes: tuple[str, ...] = ()

    @property
    def classes(self) -> list[str]:
        """Names of the class folders; none where images lie flat."""
        return [name for name in self.by_class if name]

    def of_classes(self, chosen: Collection[str]) -> ImageFiles:
        """Return the files of some classes."""
        return replace(self, by_class={k: v for k, v in self.by_class.items() if k in chosen})


class Skipped(NamedTuple):
    """A file that could not be read, and why."""

    path: str
    reason: str


@dataclass(frozen=True, eq=False)
class FolderImages:
    """N images of one size.

    Attributes
    ----------
    pixels : ndarray of shape (N, height, width, channels), uint8
    names : ndarray of shape (N,), str
        Paths within the folder, printable.
    folders : ndarray of shape (N,), object
        The class folder of each image; "" where images lie flat.
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
        """Return some of the images."""
        return replace(
            self, pixels=self.pixels[chosen], names=self.names[chosen], folders=self.folders[chosen]
        )


def find_images(folder: str | os.PathLike[str]) -> ImageFiles:
    """Find the image files of a folder: those of each of its folders and below, or its own.

    Raises
    ------
    ValueError
        If it holds no image.
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
                "of images, or of one folder of images for each class"
            )
        return ImageFiles(root, {"": own})
    notes = [f"{len(own)} images beside the class folders are left out"] if own else []
    empty = [printable(name) for name in by_class if name not in full]
    if empty:
        notes.append(f"folders without images are left out: {listed(empty)}")
    return ImageFiles(root, full, tuple(notes))


def _is_image(path: Path) -> bool:
    has_image_name = not path.name.startswith(".") and path.suffix.lower() in ENDINGS
    return has_image_name and path.is_file()


def read_images(
    files: ImageFiles,
    size: tuple[int, int],
    channels: int = 3,
    max_images: int | None = None,
    seed: int = 0,
) -> FolderImages:
    """Read images, scaled until they cover (height, width), and cut out their middle.

    Parameters
    ----------
    files : ImageFiles
    size : tuple of int
        (height, width).
    channels : {1, 3}, default=3
        3: RGB; 1: grey.
    max_images : int, optional
        Maximum number of images, spread evenly over the classes; where a file is broken the next
        one of its class is taken.
    seed : int, default=0
        Seed of the choice of images.

    Raises
    ------
    ValueError
        If none can be read.
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
            except Exception as error:  # whatever a decoder meets in a broken file
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
    if isinstance(error, UnidentifiedImageError):  # its text repeats the path
        return "not an image that can be read"
    return printable(" ".join(str(error).split()))[:200] or type(error).__name__


def spread(counts: Sequence[int], total: int | None) -> list[int]:
    """Share ``total`` among groups of the given sizes, evenly: what small ones lack others get."""
    groups = np.repeat(np.arange(len(counts)), counts)
    quotas = np.bincount(groups[in_turns(groups)[:total]], minlength=len(counts))
    return [int(quota) for quota in quotas]


def read_image(path: str | os.PathLike[str], size: tuple[int, int], channels: int = 3) -> Array:
    """Read one image, (height, width, channels) uint8; of an animation the first picture.

    It is turned as its camera recorded, scaled until it covers the size, and its middle is cut out.
    Transparent pixels have the colour that the file gives them, as in Keras.

    Raises
    ------
    OSError, ValueError, …
        Whatever its decoder meets.
    """
    height, width = size
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about metadata and large pictures: there is a limit
        with Image.open(path) as opened:
            opened.draft(None, (2 * width, 2 * height))  # large JPEGs are decoded smaller
            picture = ImageOps.exif_transpose(opened)
            picture = _eight_bits(picture).convert("L" if channels == 1 else "RGB")
    pixels = np.asarray(ImageOps.fit(picture, (width, height), Image.Resampling.BILINEAR))
    return pixels[..., None] if channels == 1 else pixels


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Reduce pictures of 16 bits, whose higher values Pillow would cut off."""
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
        The names that each class goes by, the one that is shown last; empty where none is known.
    """

    entries: tuple[tuple[str, ...], ...]

    def __len__(self) -> int:
        return len(self.entries)

    @cached_property
    def shown(self) -> list[str]:
        """One name for each class; those that several have, with the number."""
        plain = [
            printable(names[-1]) if names else f"class {k}" for k, names in enumerate(self.entries)
        ]
        times = Counter(plain)
        return [f"{name} ({k})" if times[name] > 1 else name for k, name in enumerate(plain)]

    @cached_property
    def _classes_by_key(self) -> dict[str, list[int]]:
        classes: dict[str, list[int]] = {}
        for k, names in enumerate(self.entries):
            for key in {_key(name) for name in (*names, "_".join(names)) if name}:
                classes.setdefault(key, []).append(k)
        return classes

    def find(self, name: str) -> int | None:
        """Return the class of a name, or number; None if there is none.

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
        """Return classes by name or number, in order.

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
        """Return the class of each class folder, by name or number; None where there is none.

        Raises
        ------
        ValueError
            If two folders are of the same class.
        """
        classes = {folder: self.find(folder) for folder in folders}
        for k in classes.values():
            own = [repr(printable(folder)) for folder in folders if classes[folder] == k]
            if k is not None and len(own) > 1:
                raise ValueError(
                    f"folders {' and '.join(own)} are of one class, {self.shown[k]}: put them "
                    "together"
                )
        return classes

    def check_all_found(self, classes: dict[str, int | None]) -> None:
        """Raise a ValueError if a class folder has no class; the message names similar ones."""
        missing = self._missing(classes)
        if missing:
            count = sum(k is None for k in classes.values())
            raise ValueError(
                f"{count} of {len(classes)} class folders are no class of --class-names: "
                f"{missing}. Rename them, or choose others with --classes"
            )

    def _missing(self, classes: dict[str, int | None]) -> str:
        """Return the names without a class, each with those that are similar."""
        missing = [name for name, k in classes.items() if k is None]
        return "; ".join(f"{printable(name)!r} ({self._near(name)})" for name in missing[:10])

    def _near(self, name: str) -> str:
        if name.strip().isdigit():
            return f"numbers go from 0 to {len(self) - 1}"
        if not any(self.entries):
            return "the outputs have no names: give --class-names FILE, or numbers"
        close = get_close_matches(_key(name), list(self._classes_by_key), n=3, cutoff=0.5)
        alike = list(dict.fromkeys(self.shown[self._classes_by_key[key][0]] for key in close))
        return f"near it: {', '.join(alike)}" if alike else "nothing near it"


def _key(name: str) -> str:
    """Return what names that differ in case, spaces, hyphens and underscores have in common."""
    return "_".join(name.casefold().replace("-", " ").replace("_", " ").split())


def read_class_names(path: str | Path, number: int) -> ClassNames:
    """Read the names of a model's classes, in the order of its outputs.

    Parameters
    ----------
    path : str or Path
        Text with one name a line, or JSON: a list of names, a list of lists of names of one class
        (the last one is shown), or an object of these by number.
    number : int
        K.

    Raises
    ------
    ValueError
        If it is neither, or holds another number of names.
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
        raise ValueError(f"{option} is no JSON ({error})") from error
    if len(entries) != number:
        raise ValueError(
            f"{option} holds {len(entries)} names, but the model has {number} outputs: give one "
            "for each, in the order of the outputs"
        )
    return ClassNames(tuple(entries))


def _entries_of_json(option: str, data: list[Any] | dict[str, Any]) -> list[tuple[str, ...]]:
    wanted = f"{option} must be a list of names, or an object with the names by number"
    if isinstance(data, dict):
        if sorted(data) != sorted(str(k) for k in range(len(data))):
            raise ValueError(f"{wanted}, from 0 on")
        data = [data[str(k)] for k in range(len(data))]
    entries = [tuple(names) if isinstance(names, list) else (names,) for names in data]
    if not all(names and all(isinstance(name, str) for name in names) for names in entries):
        raise ValueError(wanted)
    return entries
