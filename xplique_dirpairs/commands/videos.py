"""Read the videos of a folder: folders of frames, animations and video files.

A folder of frames is one that holds images, in the order of the numbers in their names. Animations
are GIF and WebP files, which Pillow reads; OpenCV reads all other videos.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from PIL import Image

from xplique_dirpairs.commands.console import printable
from xplique_dirpairs.commands.images import (
    ENDINGS,
    ImageFiles,
    check_folders,
    fitted_picture,
    read_image,
)
from xplique_dirpairs.core.types import Array

#: Endings of the names of animations and of video files, in lower case.
ANIMATIONS = (".gif", ".webp")
VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm")
#: What is taken for a video, as text.
KINDS = f"a folder of frames, or a file {', '.join((*ANIMATIONS, *VIDEOS))}"
# FFmpeg is quiet (−8) about broken files: why a file is left out is printed with the result.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
T = TypeVar("T")
_FRAMES = tuple(ending for ending in ENDINGS if ending not in ANIMATIONS)


def find_videos(folder: str | os.PathLike[str]) -> ImageFiles:
    """Find the videos of a folder: all videos below each class folder, or else its own.

    A folder that holds images is a video, whose frames they are; it is no class folder.

    Parameters
    ----------
    folder : str or path-like

    Returns
    -------
    files : ImageFiles
        Files, and folders of frames.

    Raises
    ------
    ValueError
        If the folder holds no video, is itself a folder of frames, two class folders have one name,
        or the folders are the parts of a data set (train, val, test).
    """
    root = Path(folder)
    if _is_folder_of_frames(root):
        raise ValueError(
            f"{printable(root)} holds images, but the model takes videos: give --images a folder "
            f"of videos, each of which is {KINDS}"
        )
    own = sorted(path for path in root.iterdir() if _is_video(path))
    by_class = {
        path.name: sorted(filter(_is_video, path.rglob("*")))
        for path in sorted(root.iterdir(), key=lambda path: path.name)
        if path.is_dir() and path not in own and not path.name.startswith((".", "__"))
    }
    full = {name: files for name, files in by_class.items() if files}
    check_folders(root, full)
    if not full:
        if not own:
            raise ValueError(
                f"{printable(root)} holds no videos, each of which is {KINDS}: give --images a "
                "folder of videos, or a folder that holds one folder of videos for each class"
            )
        return ImageFiles(root, {"": own}, tuple(_taken_for_videos(own)))
    notes = [f"{len(own)} videos beside the class folders are left out"] if own else []
    empty = [printable(name) for name in by_class if name not in full]
    if empty:
        notes.append(f"folders without videos are left out: {', '.join(empty)}")
    return ImageFiles(root, full, tuple(notes))


def _taken_for_videos(paths: Sequence[Path]) -> Iterator[str]:
    """Yield a note if folders beside one another are videos: they might be meant as classes."""
    counts = sorted(sum(map(_is_frame, path.iterdir())) for path in paths if path.is_dir())
    if counts:
        images = f"{counts[0]} to {counts[-1]}" if counts[0] < counts[-1] else str(counts[0])
        yield (
            f"{len(counts)} folders of images ({images} in each) are taken for {len(counts)} "
            "videos, whose frames they are. Are the folders classes? Then put folders of frames, "
            "or other videos, into them: the model takes no single images"
        )


def read_video(
    path: str | os.PathLike[str], size: tuple[int, int], channels: int = 3, frames: int = 16
) -> Array:
    """Read evenly spaced frames of one video, each scaled and cropped as `read_image` does.

    Parameters
    ----------
    path : str or path-like
        A folder of frames, an animation or a video file.
    size : tuple of int
        (height, width).
    channels : {1, 3}, default=3
        3 for RGB, 1 for grey.
    frames : int, default=16
        Number of frames T: those in the middle of T equal parts of the video. A video of fewer
        frames repeats some.

    Returns
    -------
    pixels : ndarray of shape (T, height, width, channels), uint8

    Raises
    ------
    OSError, ValueError or another exception of the decoder
        If the video cannot be read, or is a single picture.
    """
    path = Path(path)
    if path.is_dir():
        names = [one for one in path.iterdir() if _is_frame(one)]
        chosen = _evenly(sorted(names, key=_numbers), frames)
        return np.stack([read_image(one, size, channels) for one in chosen])
    if path.suffix.lower() in ANIMATIONS:
        return _animation(path, size, channels, frames)
    return _video(path, size, channels, frames)


def _animation(path: Path, size: tuple[int, int], channels: int, frames: int) -> Array:
    """Return frames of a GIF or WebP file."""
    pixels = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(path) as opened:
            for number in _evenly(range(getattr(opened, "n_frames", 1)), frames):
                opened.seek(number)
                pixels.append(fitted_picture(opened, size, channels))
    return np.stack(pixels)


def _video(path: Path, size: tuple[int, int], channels: int, frames: int) -> Array:
    """Return frames of a video file. The number of frames that a file declares may be wrong."""
    count = sum(1 for _ in _grabbed(path))
    if not count:
        raise ValueError("not a video that OpenCV can read")
    chosen = _evenly(range(count), frames)
    pixels: dict[int, Array] = {}
    for number, capture in enumerate(_grabbed(path)):
        if number in chosen:
            _, picture = capture.retrieve()
            rgb = Image.fromarray(np.ascontiguousarray(picture[..., ::-1]))
            pixels[number] = fitted_picture(rgb, size, channels)
    return np.stack([pixels[number] for number in chosen])


def _grabbed(path: Path) -> Iterator[Any]:
    """Yield the capture of a video file at each of its frames."""
    capture = cv2.VideoCapture(str(path))
    try:
        while capture.grab():
            yield capture
    finally:
        capture.release()


def _evenly(values: Sequence[T], count: int) -> list[T]:
    """Return the values in the middle of equal parts of a sequence.

    Raises
    ------
    ValueError
        If there is one value only.
    """
    if len(values) < 2:
        raise ValueError("a single picture, not a video")
    places = (np.arange(count) + 0.5) * len(values) / count
    return [values[int(place)] for place in places]


def _numbers(path: Path) -> list[tuple[int, str]]:
    """Return what frames are sorted by: the numbers in their names, and the text between."""
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _is_frame(path: Path) -> bool:
    """Return whether a path is a file with the name of an image that is no animation."""
    return not path.name.startswith(".") and path.suffix.lower() in _FRAMES and path.is_file()


def _is_folder_of_frames(path: Path) -> bool:
    return path.is_dir() and any(map(_is_frame, path.iterdir()))


def _is_video(path: Path) -> bool:
    """Return whether a path is a video, not hidden."""
    if path.name.startswith("."):
        return False
    has_video_name = path.suffix.lower() in (*ANIMATIONS, *VIDEOS)
    return (has_video_name and path.is_file()) or _is_folder_of_frames(path)
