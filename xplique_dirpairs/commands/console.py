"""The output of a command: progress and notes on stderr, its result on stdout."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from typing import Any

from xplique_dirpairs.core.plain_data import plain_data

#: Maximum number of entries of a list that a terminal shows; JSON has all of them.
SHOWN = 20


class UsageError(Exception):
    """Raised if a command cannot be run as given; its message says what to change."""


@dataclass
class Console:
    """Where a command prints.

    Attributes
    ----------
    quiet : bool, default=False
        Print errors only.
    as_json : bool, default=False
        Print the result as one JSON object, and nothing else on stdout.
    verbose : bool, default=False
        Also print other libraries' warnings that are meant for developers.
    notes : list of str, default=[]
        The notes printed so far.
    skipped : list of str, default=[]
        Path of each file that could not be read, with the reason; printed with the result.
    """

    quiet: bool = False
    as_json: bool = False
    verbose: bool = False
    notes: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    @property
    def progress(self) -> int:
        """The value to pass as ``verbose``: 0 if the console is quiet, 1 otherwise."""
        return 0 if self.quiet else 1

    def step(self, text: str) -> None:
        """Print the name of the step that starts now."""
        if not self.quiet:
            print(f"• {text} …", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """Print a note on the result and add it to `notes`; repeated notes are ignored."""
        if text in self.notes:
            return
        self.notes.append(text)
        if not self.quiet:
            print(f"note: {text}", file=sys.stderr, flush=True)

    def skipped_notes(self) -> list[str]:
        """Return a note that lists the files that could not be read; empty if there are none."""
        if not self.skipped:
            return []
        return [f"{len(self.skipped)} files could not be read: {listed(self.skipped)}"]

    def result(self, text: str, data: Mapping[str, Any]) -> None:
        """Print the result of the command as text, or its data and all notes as JSON."""
        if self.skipped and not self.quiet:
            files = listed(self.skipped, separator="\n    ")
            print(f"{len(self.skipped)} files could not be read:\n    {files}", file=sys.stderr)
        if self.as_json:
            print(as_json({**data, "notes": self.notes}))
        elif not self.quiet:
            print(text)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Send what libraries print to stdout to stderr, and turn their warnings into notes."""

        def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
            if str(message).startswith("Glyph "):  # matplotlib warns once for each character
                self.note(
                    "some characters of names are not in the font of the pictures: drawn as boxes"
                )
            elif issubclass(category, UserWarning):
                self.note(" ".join(str(message).split()))
            elif self.verbose:
                print(f"{category.__name__}: {message}", file=sys.stderr)

        with redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.simplefilter("default")
            warnings.showwarning = show
            yield


def as_json(data: Any) -> str:
    """Return standard JSON: arrays as lists, NaN as null, unprintable characters escaped."""
    return json.dumps(plain_data(data, printable), ensure_ascii=False, allow_nan=False, indent=2)


def printable(name: object) -> str:
    """Return a name with control characters and bytes that are not UTF-8 escaped."""
    text = str(name).encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def listed(items: Sequence[str], at_most: int = SHOWN, separator: str = ", ") -> str:
    """Return the first items joined by a separator, and how many more there are."""
    rest = len(items) - at_most
    return separator.join(items[:at_most]) + (f" and {rest} more" if rest > 0 else "")
