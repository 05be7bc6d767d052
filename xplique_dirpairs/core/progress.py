"""What a user is told while a computation runs, and what Ctrl-C leaves of it."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
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


class KeepOnInterrupt:
    """Context manager that ends a block on Ctrl-C, where there is a result worth keeping.

    Parameters
    ----------
    is_worth_keeping : callable, optional
        Returns whether there is a result. If not, KeyboardInterrupt passes.

    Attributes
    ----------
    interrupted : bool
        Whether Ctrl-C ended the block.

    Examples
    --------
    >>> with KeepOnInterrupt(lambda: bool(results)) as block:
    ...     for part in parts:
    ...         results.append(measure(part))
    >>> block.interrupted
    """

    def __init__(self, is_worth_keeping: Callable[[], bool] = lambda: True):
        self._is_worth_keeping = is_worth_keeping
        self.interrupted = False

    def __enter__(self) -> KeepOnInterrupt:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> bool:
        is_interrupt = kind is not None and issubclass(kind, KeyboardInterrupt)
        self.interrupted = is_interrupt and self._is_worth_keeping()
        return self.interrupted


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


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what TensorFlow and Keras warn of that does not concern the user.

    Several computations in one process trace several functions, which TensorFlow takes for a
    mistake; ReduceLROnPlateau reads a variable in a way that numpy deprecates.
    """
    tensorflow = logging.getLogger("tensorflow")
    level = tensorflow.level
    tensorflow.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
            yield
    finally:
        tensorflow.setLevel(level)
