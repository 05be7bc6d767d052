"""Progress and warnings of long computations, and results kept on Ctrl-C."""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import xplique

import xplique_dirpairs

Part = TypeVar("Part")

#: Seconds between two updates of a line of progress: where it can be rewritten, and elsewhere.
_BETWEEN, _BETWEEN_LINES = 0.2, 30.0

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


class ProgressLine:
    """A line on stdout that says how far a computation is, for how long it runs and will run.

    A terminal or notebook shows one line that is rewritten. Anything else, such as a file, gets a
    line at the end, and one every half a minute before.

    Parameters
    ----------
    count : int
        Number of parts.
    title : str
        What the line begins with.
    each : str, default="step"
        Name of one part.
    """

    def __init__(self, count: int, title: str, each: str = "step"):
        self._count, self._title, self._each = count, title, each
        is_terminal = sys.stdout is not None and sys.stdout.isatty()
        self._is_rewritten = is_terminal or "ipykernel" in sys.modules
        self._began = self._shown = time.monotonic()
        self._text, self._last, self._width = "", "", 0

    def update(self, done: int, remark: str = "") -> None:
        """Show that ``done`` parts are finished, and a remark on the last one."""
        now = time.monotonic()
        seconds = now - self._began
        self._text = f"{self._title}: {self._each} {done} of {self._count}, {duration(seconds)}"
        if done < self._count:
            self._text += f", {duration(seconds / max(done, 1) * (self._count - done))} left"
        self._text += f", {remark}" if remark else ""
        if now - self._shown >= (_BETWEEN if self._is_rewritten else _BETWEEN_LINES):
            self._shown = now
            self._show("" if self._is_rewritten else "\n")

    def close(self) -> None:
        """End the line with the last part that was finished."""
        if self._text != self._last:
            self._show("\n")
        elif self._is_rewritten and self._text:
            print(flush=True)

    def _show(self, end: str) -> None:
        """Print the line, over the one before if that is possible."""
        start = "\r" if self._is_rewritten else ""
        print(start + self._text.ljust(self._width), end=end, flush=True)
        self._last, self._width = self._text, len(self._text) if self._is_rewritten else 0


def duration(seconds: float) -> str:
    """Return a duration as "8 s" or "2 min 5 s"."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def progress(
    parts: Iterable[Part], count: int, title: str, verbose: int, each: str = "step"
) -> Iterator[Part]:
    """Yield parts in order, with a line of progress.

    Parameters
    ----------
    parts : iterable
        Parts of the computation.
    count : int
        Number of parts.
    title : str
        What the line begins with.
    verbose : int
        0 is silent.
    each : str, default="step"
        Name of one part.

    Yields
    ------
    part : object
        The next part.
    """
    if not verbose or not count:
        yield from parts
        return
    line = ProgressLine(count, title, each)
    try:
        for done, part in enumerate(parts, 1):
            yield part
            line.update(done)
    finally:
        line.close()


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
