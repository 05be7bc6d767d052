"""Standard streams that no character and no closed pipe can stop."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from typing import Any, TextIO, cast


class _Heedless:
    """A stream that loses what it cannot write: progress must not end a long computation.

    Parameters
    ----------
    stream : text stream
        The stream to write to.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text if possible; return its length."""
        with suppress(OSError, ValueError):  # ValueError: the stream has been closed
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush the stream if possible."""
        with suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def safe_streams() -> Iterator[None]:
    """While the block runs, escape what stdout cannot encode, and lose what stderr cannot write."""
    reconfigured = []
    for stream in (sys.stdout, sys.stderr):
        # Notebooks and tests may have streams of other kinds; a windowed program has none.
        if hasattr(stream, "reconfigure"):
            reconfigured.append((stream, stream.errors))
            stream.reconfigure(errors="backslashreplace")
    try:
        if sys.stderr is None:
            yield
            return
        with redirect_stderr(cast(TextIO, _Heedless(sys.stderr))):
            yield
    finally:
        for stream, errors in reconfigured:
            with suppress(OSError, ValueError):
                stream.reconfigure(errors=errors)


def can_encode(text: str) -> bool:
    """Return whether the encoding of stdout has all characters of a text."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def discard_stdout() -> None:
    """Send what stdout still holds to nowhere: Python would fail to write it when it exits."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
