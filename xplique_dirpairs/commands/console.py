"""What a command says: progress and notes on stderr, its result on stdout."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from typing import Any

import numpy as np

#: How many of a list are shown in a terminal; JSON has them all.
SHOWN = 20


class UsageError(Exception):
    """The command cannot be run as it was given; the message says how it can."""


@dataclass
class Console:
    """Where a command's words go.

    Attributes
    ----------
    quiet
        Only errors.
    as_json
        The result is one JSON object, and nothing else stands on stdout.
    verbose
        Also what other libraries warn of.
    notes
        What has been noted so far.
    skipped
        Files that were passed over, and why; listed at the end.
    """

    quiet: bool = False
    as_json: bool = False
    verbose: bool = False
    notes: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    @property
    def progress(self) -> int:
        """As functions take ``verbose``: 0 for silence."""
        return 0 if self.quiet else 1

    def step(self, text: str) -> None:
        """What is being done."""
        if not self.quiet:
            print(f"• {text} …", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """What a user should know of the result; once."""
        if text in self.notes:
            return
        self.notes.append(text)
        if not self.quiet:
            print(f"note: {text}", file=sys.stderr, flush=True)

    def skipped_notes(self) -> list[str]:
        """The files that were passed over, as a note."""
        if not self.skipped:
            return []
        return [f"{len(self.skipped)} files could not be read: {listed(self.skipped)}"]

    def result(self, text: str, data: Mapping[str, Any]) -> None:
        """The command's result: text, or the data with all notes as JSON."""
        if self.skipped and not self.quiet:
            print(f"{len(self.skipped)} files could not be read:", file=sys.stderr)
            for line in self.skipped[:SHOWN]:
                print(f"    {line}", file=sys.stderr)
            if len(self.skipped) > SHOWN:
                print(f"    … and {len(self.skipped) - SHOWN} more", file=sys.stderr)
        if self.as_json:
            print(as_json({**data, "notes": self.notes}))
        elif not self.quiet:
            print(text)

    @contextmanager
    def running(self) -> Iterator[None]:
        """What libraries print goes to stderr, and what they warn of becomes notes."""

        def noted(message, category, filename, lineno, file=None, line=None) -> None:
            if str(message).startswith("Glyph "):  # matplotlib's, one for each character
                self.note(
                    "some characters of names are not in the font of the pictures: boxes there"
                )
            elif issubclass(category, UserWarning):
                self.note(" ".join(str(message).split()))
            elif self.verbose:
                print(f"{category.__name__}: {message}", file=sys.stderr)

        with redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.simplefilter("default")
            warnings.showwarning = noted
            yield


def as_json(data: Any) -> str:
    """JSON that any reader takes: numpy's numbers and arrays as JSON's, NaN as null."""
    return json.dumps(_plain(data), ensure_ascii=False, allow_nan=False, indent=2)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(of_key) for key, of_key in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if value is None or isinstance(value, (bool, int)):
        return value
    return printable(str(value))


def printable(name: object) -> str:
    """A name that can be printed: control characters, and bytes that are no text, escaped."""
    text = str(name).encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def listed(items: list[str], at_most: int = SHOWN) -> str:
    """Names, separated by commas; of many, the first ones."""
    rest = len(items) - at_most
    return ", ".join(items[:at_most]) + (f" and {rest} more" if rest > 0 else "")
