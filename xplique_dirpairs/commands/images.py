"""Read the images of a folder.

The folder holds one folder of images for each class, or images only. Broken files are left out and
listed; all others are scaled and cropped to the same size. (Where videos are: see `videos`.)
"""

from __future__ import annotations

import os
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from xplique_dirpairs.commands.console import listed, printable
from xplique_dirpairs.core.batching import in_turns
from xplique_dirpairs.core.progress import ProgressLine
from xplique_dirpairs.core.types import Array

#: Endings of the names of image files, in lower case.
ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
#: Endings of images that are not read, of which a note says so.
_NOT_READ = {
    ".apng", ".arw", ".avif", ".cr2", ".cr3", ".dcm", ".dds", ".dng", ".exr", ".fits", ".hdr",
    ".heic", ".heif", ".ico", ".j2k", ".jp2", ".jxl", ".nef", ".npy", ".npz", ".orf", ".pbm",
    ".pcx", ".pgm", ".pnm", ".ppm", ".psd", ".raw", ".svg", ".tga",
}  # fmt: skip
#: What folders are called that are parts of a data set, and no classes.
_PARTS = {
    "train", "training", "val", "valid", "validation", "test", "testing", "dev", "eval", "holdout",
}  # fmt: skip


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
    pixels : ndarray of shape (N, height, width, C) or (N, T, height, width, C), uint8
        Images, or videos of T frames. C is 1 or 3.
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
        If the folder holds no image, two class folders have one name, or the folders are the parts
        of a data set (train, val, test), each with class folders of its own.
    """
    root = Path(folder)
    own = sorted(path for path in root.iterdir() if _is_image(path))
    by_class = {
        path.name: sorted(filter(_is_image, path.rglob("*")))
        for path in sorted(root.iterdir(), key=lambda path: path.name)
        if path.is_dir() and not path.name.startswith((".", "__"))
    }
    full = {name: files for name, files in by_class.items() if files}
    check_folders(root, full)
    if not full:
        if not own:
            raise ValueError(
                f"{printable(root)} holds no images ({', '.join(ENDINGS)}): give --images a folder "
                "of images, or a folder that holds one folder of images for each class"
            )
        return ImageFiles(root, {"": own}, tuple(_not_read(root.iterdir())))
    notes = [f"{len(own)} images beside the class folders are left out"] if own else []
    empty = [printable(name) for name in by_class if name not in full]
    if empty:
        notes.append(f"folders without images are left out: {listed(empty)}")
    notes += _not_read(path for name in by_class for path in (root / name).rglob("*"))
    return ImageFiles(root, full, (*notes, *_inner_folders(root, full)))


def _not_read(paths: Iterable[Path]) -> Iterator[str]:
    """Yield a note on the images among some paths whose format is not read, if there are any."""
    endings = Counter(path.suffix.lower() for path in paths if not path.name.startswith("."))
    unread = [f"{count} {end}" for end, count in endings.most_common() if end in _NOT_READ]
    if unread:
        yield f"files whose format is not read are left out: {listed(unread)}"


def _inner_folders(root: Path, by_class: dict[str, list[Path]]) -> Iterator[str]:
    """Yield a note on folders within class folders that have images beside the folders' own."""
    inner: Counter[str] = Counter()
    for name, files in by_class.items():
        parents = Counter(path.parent for path in files)
        if parents.pop(root / name, 0):
            for parent, count in parents.items():
                inner[printable(parent.relative_to(root / name))] += count
    if inner:
        shown = listed([f"{name} ({count} images)" for name, count in inner.most_common()], 5)
        yield (
            "class folders have images of their own and folders with images, which are taken for "
            f"images of the class, too: {shown}. Move masks and thumbnails elsewhere"
        )


def check_folders(root: Path, by_class: dict[str, list[Path]]) -> None:
    """Raise a ValueError if two class folders have one name, or they are parts of a data set."""
    _check_names_differ(by_class)
    _check_are_classes(root, by_class)


def _check_are_classes(root: Path, by_class: dict[str, list[Path]]) -> None:
    """Raise a ValueError if all folders are parts of a data set, with class folders in them."""
    if not by_class or not all(name.casefold() in _PARTS for name in by_class):
        return
    if not any(path.parent == root / name for name, files in by_class.items() for path in files):
        one = printable(root / next(iter(by_class)))
        raise ValueError(
            f"the folders {listed([repr(name) for name in by_class])} are parts of a data set, not "
            f"classes: give --images one of them, such as {one}"
        )


def _check_names_differ(folders: Collection[str]) -> None:
    """Raise a ValueError if two folders have one name in two Unicode forms."""
    known: dict[str, str] = {}
    for name in folders:
        other = known.setdefault(unicodedata.normalize("NFC", name), name)
        if other != name:
            raise ValueError(
                f"two class folders have the name {printable(name)!r}, in two Unicode forms "
                f"({other!a}, {name!a}): merge them"
            )


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
    verbose: int = 0,
    read: Callable[[Path, tuple[int, int], int], Array] | None = None,
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
    verbose : int, default=0
        0 shows no progress.
    read : callable, optional
        Reads one file, given its path, the size and the number of channels. None: `read_image`.

    Returns
    -------
    images : FolderImages

    Raises
    ------
    ValueError
        If none of the images can be read.
    """
    read = read or read_image
    counts = [len(paths) for paths in files.by_class.values()]
    rng = np.random.default_rng(seed)
    images: list[tuple[str, Path, Array]] = []
    skipped = []
    quotas = spread(counts, max_images)
    line = ProgressLine(sum(quotas), "images", "image")
    for (folder, paths), quota in zip(files.by_class.items(), quotas, strict=True):
        order = np.arange(len(paths)) if quota == len(paths) else rng.permutation(len(paths))
        own: list[tuple[str, Path, Array]] = []
        for path in (paths[n] for n in order):
            if len(own) == quota:
                break
            try:
                own.append((folder, path, read(path, size, channels)))
                if verbose:
                    line.update(len(images) + len(own))
            except Exception as error:  # decoders raise many kinds of errors for broken files
                name = printable(path.relative_to(files.root))
                skipped.append(Skipped(name, _reason(error)))
        images += sorted(own, key=itemgetter(1))
    line.close()
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
            return fitted_picture(ImageOps.exif_transpose(opened), size, channels)


def fitted_picture(picture: Image.Image, size: tuple[int, int], channels: int) -> Array:
    """Return a picture scaled and cropped to (height, width), as uint8 with 1 or 3 channels."""
    height, width = size
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
