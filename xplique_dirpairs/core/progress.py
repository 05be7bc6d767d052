"""Long work: a progress bar over its parts, and what Ctrl-C leaves of it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import keras

Part = TypeVar("Part")


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
    parts: Iterable[Part], count: int, what: str, verbose: int, each: str = "step"
) -> Iterator[Part]:
    """Yield parts, one after the other, with Keras' bar below a line that says what they are.

    Parameters
    ----------
    parts : iterable
    count : int
        How many there are.
    what : str
        The line.
    verbose : int
        0 for silence.
    each : str, default="step"
        What a part is.
    """
    if not verbose or not count:
        yield from parts
        return
    print(what, flush=True)
    bar = keras.utils.Progbar(count, unit_name=each)
    for part in parts:
        yield part
        bar.add(1)


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
