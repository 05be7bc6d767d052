"""Progress bars and warnings of long computations, and results kept on Ctrl-C."""

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

#: Stack frames of files in these folders belong to this package or to Xplique, not to the user.
_FOLDERS = tuple(
    os.path.dirname(os.path.abspath(path)) + os.sep
    for path in (xplique_dirpairs.__file__, xplique.__file__)
)


class KeepOnInterrupt:
    """Context manager that ends a block on Ctrl-C if there is a result worth keeping.

    Parameters
    ----------
    is_worth_keeping : callable, default=always True
        Returns whether there is a result to keep. Otherwise KeyboardInterrupt is raised as usual.

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
    """Yield parts in order while showing a Keras progress bar below a title.

    Parameters
    ----------
    parts : iterable
        Parts of the computation.
    count : int
        Number of parts.
    title : str
        Title that is printed above the bar.
    verbose : int
        0 is silent.
    each : str, default="step"
        Name of one part, shown by the bar.

    Yields
    ------
    part : object
        The next part.
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
    """Warn at the line of the user's code that called this package, at whatever depth."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_FOLDERS):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings of TensorFlow and Keras that do not concern the user.

    TensorFlow warns when several functions are traced in one process, which several fits do; and
    Keras' ReduceLROnPlateau reads a variable in a way that numpy deprecates.
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
