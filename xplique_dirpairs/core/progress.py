"""A progress bar over the parts of long work."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

import keras

Part = TypeVar("Part")


def progress(
    parts: Iterable[Part], count: int, what: str, verbose: int, each: str = "step"
) -> Iterator[Part]:
    """Parts, one after the other, with Keras' bar below a line that says what they are.

    Parameters
    ----------
    parts
    count
        How many there are.
    what
        The line.
    verbose
        0 for silence.
    each
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
