"""Images of a folder: a class in each of its folders, or all of them flat.

Broken files are passed over and listed; what is kept has one size.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from xplique_dirpairs.commands.console import listed, printable

ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif")


class Skipped(NamedTuple):
    """A file that was passed over, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class ImageFiles:
    """What a folder holds.

    Attributes
    ----------
    root
    classes
        Names of its folders with images, sorted; empty: the images lie flat.
    files
        Of each class, sorted; of one entry where they lie flat.
    notes
        What was left out, in words.
    """

    root: Path
    classes: tuple[str, ...]
    files: tuple[tuple[Path, ...], ...]
    notes: tuple[str, ...] = ()

    def of_classes(self, chosen: Sequence[str]) -> ImageFiles:
        """Only some of the classes."""
        kept = [k for k, name in enumerate(self.classes) if name in set(chosen)]
        return ImageFiles(
            self.root,
            tuple(self.classes[k] for k in kept),
            tuple(self.files[k] for k in kept),
            self.notes,
        )


@dataclass(frozen=True, eq=False)
class FolderImages:
    """Images of one size.

    Attributes
    ----------
    pixels : (N, height, width, channels) uint8
    names : N of them
        Paths within the folder, printable.
    folders : (N,) int
        Place of an image's class in `classes`; 0 where images lie flat.
    classes
        As of `ImageFiles`.
    skipped
        Files that could not be read.
    found
        Files that there are.
    """

    pixels: NDArray
    names: tuple[str, ...]
    folders: NDArray
    classes: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    found: int


def find_images(folder: str | os.PathLike) -> ImageFiles:
    """Image files of a folder: of each of its folders and what is below, or its own.

    Raises
    ------
    ValueError
        If it holds no image.
    """
    root = Path(folder)
    own = tuple(sorted(path for path in root.iterdir() if _is_image(path)))
    by_class = {
        path.name: _below(path)
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


def _below(folder: Path) -> tuple[Path, ...]:
    found = []
    for where, _, names in os.walk(folder):
        found += [path for name in names if _is_image(path := Path(where, name))]
    return tuple(sorted(found))


def _is_image(path: Path) -> bool:
    is_ours = not path.name.startswith(".") and path.suffix.lower() in ENDINGS
    return is_ours and path.is_file()


def read_images(
    found: ImageFiles,
    size: tuple[int, int],
    channels: int = 3,
    max_images: int | None = None,
    seed: int = 0,
) -> FolderImages:
    """Images, scaled until they cover (height, width), the middle cut out.

    Parameters
    ----------
    found
    size
        (height, width).
    channels
        3: RGB; 1: grey.
    max_images
        At most so many, spread evenly over the classes; where a file is broken the next one of its
        class is taken.
    seed
        Chooses which.

    Raises
    ------
    ValueError
        If none can be read.
    """
    counts = [len(files) for files in found.files]
    rng = np.random.default_rng(seed)
    kept: list[tuple[Path, int, NDArray]] = []
    skipped = []
    for k, (files, quota) in enumerate(zip(found.files, spread(counts, max_images), strict=True)):
        order = np.arange(len(files)) if quota == len(files) else rng.permutation(len(files))
        taken = 0
        for n in order:
            if taken == quota:
                break
            try:
                kept.append((files[n], k, read_image(files[n], size, channels)))
                taken += 1
            except Exception as error:  # whatever a decoder meets in a broken file
                name = printable(files[n].relative_to(found.root))
                skipped.append(Skipped(name, _reason(error)))
    if not kept:
        shown = listed([f"{name} ({reason})" for name, reason in skipped], 5)
        raise ValueError(f"none of the {sum(counts)} images can be read: {shown}")
    kept.sort(key=lambda one: (one[1], one[0]))
    return FolderImages(
        pixels=np.stack([pixels for _, _, pixels in kept]),
        names=tuple(printable(path.relative_to(found.root)) for path, _, _ in kept),
        folders=np.array([k for _, k, _ in kept]),
        classes=found.classes,
        skipped=tuple(sorted(skipped)),
        found=sum(counts),
    )


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):  # its text repeats the path
        return "not an image that can be read"
    return printable(" ".join(str(error).split()))[:200] or type(error).__name__


def spread(counts: Sequence[int], total: int | None) -> list[int]:
    """At most ``total`` of so many, evenly: what small classes lack goes to the others."""
    quotas = [0] * len(counts)
    left = sum(counts) if total is None else min(total, sum(counts))
    while left:
        open_ones = [k for k, count in enumerate(counts) if quotas[k] < count]
        share = max(1, left // len(open_ones))
        for k in open_ones:
            more = min(share, counts[k] - quotas[k], left)
            quotas[k] += more
            left -= more
    return quotas


def read_image(path: str | os.PathLike, size: tuple[int, int], channels: int = 3) -> NDArray:
    """One image, (height, width, channels) uint8: of an animation the first picture.

    Turned as its camera says. Scaled until it covers the size, the middle cut out; what is
    transparent is shown as the file has it, as Keras does.

    Raises
    ------
    OSError, ValueError, …
        Whatever its decoder meets.
    """
    height, width = size
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of metadata, and of large pictures: there is a limit
        with Image.open(path) as opened:
            opened.draft(None, (2 * width, 2 * height))  # large JPEGs are decoded smaller
            picture = ImageOps.exif_transpose(opened)
            picture = _eight_bits(picture).convert("L" if channels == 1 else "RGB")
    scale = max(height / picture.height, width / picture.width)
    # the part that stays is scaled alone: a thin strip would be huge when it covers the size
    across, down = min(width / scale, picture.width), min(height / scale, picture.height)
    left, top = (picture.width - across) / 2, (picture.height - down) / 2
    part = (left, top, left + across, top + down)
    scaled = picture.resize((width, height), Image.Resampling.BILINEAR, box=part)
    pixels = np.asarray(scaled, np.uint8)
    return pixels[..., None] if channels == 1 else pixels


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Pictures of 16 bits, whose higher values Pillow would cut off."""
    if picture.mode == "F":
        raise ValueError("its pixels are floating-point numbers: save it as an 8-bit image")
    if not picture.mode.startswith("I"):
        return picture
    values = np.asarray(picture).astype(np.int64)
    if values.max(initial=0) > 255:
        values = values // 257
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
