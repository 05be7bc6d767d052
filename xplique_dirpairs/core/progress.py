"""What a user is told while a computation runs: progress, and warnings that show their own line."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from typing import TypeVar

import keras
import xplique

import xplique_dirpairs

Part = TypeVar("Part")

#: Frames in these folders are not the user's: Xplique's methods call ours, and ours call them.
_FOLDERS = tuple(
    os.path.dirname(os.path.abspath(path)) + os.sep
    for path in (xplique_dirpairs.__file__, xplique.__file__)
)


def progress(
    parts: Iterable[Part], count: int, title: str, verbose: int, each: str = "step"
) -> Iterator[Part]:
    """Yield parts in order, with Keras' progress bar below a title.

    Parameters
    ----------
    parts : iterable
    count : int
        Number of parts.
    title : str
        Printed on a line of its own above the bar.
    verbose : int
        0 for silence.
    each : str, default="step"
        What one part is, as the bar names it.

    Yields
    ------
    part
    """
    if not verbose or not count:
        yield from parts
        return
    print(title, flush=True)
    bar = keras.utils.Progbar(count, unit_name=each)
    for part in parts:
        yield part
        bar.add(1)


def warn_caller(message: str, category: type[Warning]) -> None:
    """Warn at the user's line that called into this package, however deep the warning is raised."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_FOLDERS):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
