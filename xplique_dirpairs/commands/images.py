"""Images of a folder, and their classes by name.

A folder has a folder of images for each class, or images alone. Broken files are left out and
listed; the others are brought to one size.
"""

from __future__ import annotations

import json
import os
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from xplique_dirpairs.commands.console import listed, printable
from xplique_dirpairs.core.types import Array

ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif")


# -------------------------------------------------------------------- folders


@dataclass(frozen=True)
class ImageFiles:
    """The image files of a folder.

    Attributes
    ----------
    root : Path
    classes : tuple of str
        Names of its folders that hold images, sorted; empty where the images lie flat.
    files : tuple of tuple of Path
        Sorted, for each class; one entry where the images lie flat.
    notes : tuple of str
        What was left out.
    """

    root: Path
    classes: tuple[str, ...]
    files: tuple[tuple[Path, ...], ...]
    notes: tuple[str, ...] = ()

    def of_classes(self, chosen: Sequence[str]) -> ImageFiles:
        """Return the files of some classes."""
        kept = [k for k, name in enumerate(self.classes) if name in set(chosen)]
        classes = tuple(self.classes[k] for k in kept)
        return ImageFiles(self.root, classes, tuple(self.files[k] for k in kept), self.notes)


class Skipped(NamedTuple):
    """A file that could not be read, and why."""

    path: str
    reason: str


@dataclass(frozen=True, eq=False)
class FolderImages:
    """Images of one size.

    Attributes
    ----------
    pixels : ndarray of shape (N, height, width, channels), uint8
    names : tuple of N str
        Paths within the folder, printable.
    folders : ndarray of shape (N,), int
        Index of an image's class in `classes`; 0 where images lie flat.
    classes : tuple of str
        See `ImageFiles`.
    skipped : tuple of Skipped
        Files that could not be read.
    file_count : int
        Number of image files in the folder.
    """

    pixels: Array
    names: tuple[str, ...]
    folders: Array
    classes: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    file_count: int


def find_images(folder: str | os.PathLike[str]) -> ImageFiles:
    """Find the image files of a folder: those of each of its folders and below, or its own.

    Raises
    ------
    ValueError
        If it holds no image.
    """
    root = Path(folder)
    own = tuple(sorted(path for path in root.iterdir() if _is_image(path)))
    by_class = {
        path.name: tuple(sorted(_images_below(path)))
        for path in sorted(root.iterdir(), key=lambda path: path.name)
        if path.is_dir() and not path.name.startswith((".", "__"))
    }
    full = {name: files for name, files in by_class.items() if files}
    if not own and not full:
        raise ValueError(
            f"{printable(root)} holds no images ({', '.join(ENDINGS)}): give --images a folder of "
            "images, or of one folder of images for each class"
        )
    if not full:
        return ImageFiles(root, (), (own,))
    notes = []
    if own:
        notes.append(f"{len(own)} images beside the class folders are left out")
    empty = [printable(name) for name in by_class if name not in full]
    if empty:
        notes.append(f"folders without images are left out: {listed(empty)}")
    return ImageFiles(root, tuple(full), tuple(full.values()), tuple(notes))


def _images_below(folder: Path) -> list[Path]:
    return [
        path
        for parent, _, names in os.walk(folder)
        for name in names
        if _is_image(path := Path(parent, name))
    ]


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
    counts = [len(paths) for paths in files.files]
    rng = np.random.default_rng(seed)
    kept: list[tuple[int, Path, Array]] = []
    skipped = []
    for k, (paths, quota) in enumerate(zip(files.files, spread(counts, max_images), strict=True)):
        order = np.arange(len(paths)) if quota == len(paths) else rng.permutation(len(paths))
        wanted = len(kept) + quota
        for path in (paths[n] for n in order):
            if len(kept) == wanted:
                break
            try:
                kept.append((k, path, read_image(path, size, channels)))
            except Exception as error:  # whatever a decoder meets in a broken file
                name = printable(path.relative_to(files.root))
                skipped.append(Skipped(name, _reason(error)))
    if not kept:
        shown = listed([f"{name} ({reason})" for name, reason in skipped], 5)
        raise ValueError(f"none of the {sum(counts)} images can be read: {shown}")
    kept.sort(key=lambda image: image[:2])
    return FolderImages(
        pixels=np.stack([pixels for _, _, pixels in kept]),
        names=tuple(printable(path.relative_to(files.root)) for _, path, _ in kept),
        folders=np.array([k for k, _, _ in kept]),
        classes=files.classes,
        skipped=tuple(sorted(skipped)),
        file_count=sum(counts),
    )


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):  # its text repeats the path
        return "not an image that can be read"
    return printable(" ".join(str(error).split()))[:200] or type(error).__name__


def spread(counts: Sequence[int], total: int | None) -> list[int]:
    """Share ``total`` among groups of the given sizes, evenly: what small ones lack others get."""
    quotas = [0] * len(counts)
    left = sum(counts) if total is None else min(total, sum(counts))
    while left:
        unfilled = [k for k, count in enumerate(counts) if quotas[k] < count]
        share = max(1, left // len(unfilled))
        for k in unfilled:
            more = min(share, counts[k] - quotas[k], left)
            quotas[k] += more
            left -= more
    return quotas


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
    scale = max(height / picture.height, width / picture.width)
    # Only the part that stays is scaled: a thin strip would be huge when it covers the size.
    across, down = min(width / scale, picture.width), min(height / scale, picture.height)
    left, top = (picture.width - across) / 2, (picture.height - down) / 2
    part = (left, top, left + across, top + down)
    scaled = picture.resize((width, height), Image.Resampling.BILINEAR, box=part)
    pixels = np.asarray(scaled, np.uint8)
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

    @classmethod
    def unknown(cls, number: int) -> ClassNames:
        """Return names of K classes that nobody named: they are called by their numbers."""
        return cls(((),) * number)

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
            hint = "" if any(self.entries) else (
                ". The outputs have no names: give --class-names FILE, or numbers"
            )  # fmt: skip
            raise ValueError(
                f"--classes: the model's {len(self)} outputs have no class {missing}{hint}"
            )
        return sorted({k for k in classes.values() if k is not None})

    def of_folders(self, folders: Sequence[str]) -> dict[str, int | None]:
        """Return the class of each class folder, by name or number; None where there is none.

        Raises
        ------
        ValueError
            If two folders are of the same class.
        """
        classes = {folder: self.find(folder) for folder in folders}
        folder_of: dict[int, str] = {}
        for folder, k in classes.items():
            if k is None:
                continue
            if k in folder_of:
                raise ValueError(
                    f"folders {printable(folder_of[k])!r} and {printable(folder)!r} are both of "
                    f"class {self.shown[k]}: put them together"
                )
            folder_of[k] = folder
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
