"""The output of a command: progress and notes on stderr, its result on stdout."""

from __future__ import annotations

import errno
import json
import logging
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xplique_dirpairs.commands.streams import can_encode, discard_stdout
from xplique_dirpairs.core.plain_data import plain_data

#: Maximum number of entries of a list that a terminal shows; JSON has all of them.
SHOWN = 20
#: Packages whose warnings and messages are for developers, and the names of their loggers.
_PACKAGES, _LOGGERS = {"tensorflow", "keras", "tf_keras"}, ("tensorflow", "absl")
#: Errors after which a file is left half written: a full disk, a quota, a limit, a broken device.
_HALF_WRITTEN = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


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
    unwritten : dict of str to str, default={}
        Path of each file that could not be written → the reason.
    """

    quiet: bool = False
    as_json: bool = False
    verbose: bool = False
    notes: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    unwritten: dict[str, str] = field(default_factory=dict)
    _began: float = field(default_factory=time.monotonic, init=False, repr=False)

    @property
    def progress(self) -> int:
        """The value to pass as ``verbose``: 0 if the console is quiet, 1 otherwise."""
        return 0 if self.quiet else 1

    def step(self, text: str) -> None:
        """Print the name of the step that starts now, and how long the command has run."""
        if not self.quiet:
            print(f"• {text} … ({self._duration})", file=sys.stderr, flush=True)

    @property
    def _duration(self) -> str:
        """How long the command has run, as text."""
        minutes, seconds = divmod(round(time.monotonic() - self._began), 60)
        return f"{minutes}:{seconds:02d}"

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

    @contextmanager
    def writing(self, path: Path) -> Iterator[None]:
        """Go on if a file cannot be written in the block: it is listed in `unwritten`."""
        try:
            yield
        except OSError as error:
            self.unwritten[str(path)] = error.strerror or " ".join(str(error).split())
            if error.errno in _HALF_WRITTEN and path.is_file():
                with suppress(OSError):
                    path.unlink()

    def has_failed(self, path: Path) -> bool:
        """Return whether a file could not be written."""
        return str(path) in self.unwritten

    def result(self, text: str, data: Mapping[str, Any]) -> None:
        """Print the result of the command as text, or its data and all notes as JSON.

        Raises
        ------
        BrokenPipeError
            If nobody reads stdout.
        OSError
            If stdout cannot be written, or files could not be written.
        """
        if self.skipped and not self.quiet:
            files = listed(self.skipped, separator="\n    ")
            print(f"{len(self.skipped)} files could not be read:\n    {files}", file=sys.stderr)
        try:
            if self.as_json:
                print(as_json({**data, "notes": self.notes}, for_stdout=True), flush=True)
            elif not self.quiet:
                print(text, flush=True)
        except BrokenPipeError:
            raise
        except OSError as error:
            discard_stdout()
            kept = f": everything is in {data['output']}/" if "output" in data else ""
            reason = error.strerror or error
            raise OSError(f"the result cannot be written to stdout ({reason}){kept}") from error
        if self.unwritten:
            files = listed([f"{printable(path)} ({why})" for path, why in self.unwritten.items()])
            raise OSError(f"{len(self.unwritten)} files could not be written: {files}")

    @contextmanager
    def running(self) -> Iterator[None]:
        """Send what libraries print to stdout to stderr, and turn their warnings into notes.

        Unless the console is verbose, warnings and messages of TensorFlow and Keras are dropped.
        """

        def show(
            message: Warning | str, category: type[Warning], filename: str, *_: Any, **__: Any
        ) -> None:
            if str(message).startswith("Glyph "):  # matplotlib warns once for each character
                self.note(
                    "some characters of names are not in the font of the pictures: drawn as boxes"
                )
            elif issubclass(category, UserWarning) and not _PACKAGES & set(Path(filename).parts):
                self.note(" ".join(str(message).split()))
            elif self.verbose:
                print(f"{category.__name__}: {message}", file=sys.stderr)

        # A logger that its package has not made yet must not be made here, of another class.
        made = [name for name in _LOGGERS if name in logging.root.manager.loggerDict]
        levels = {name: logging.getLogger(name).level for name in made if not self.verbose}
        for name in levels:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            with redirect_stdout(sys.stderr), warnings.catch_warnings():
                warnings.simplefilter("default")
                warnings.showwarning = show
                yield
            if not self.quiet:
                print(f"• done ({self._duration})", file=sys.stderr, flush=True)
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


def as_json(data: Any, for_stdout: bool = False) -> str:
    """Return standard JSON: arrays as lists, NaN as null, unprintable characters escaped.

    For a stdout whose encoding lacks a character, all beyond ASCII are escaped.
    """
    plain = plain_data(data, printable)
    text = json.dumps(plain, ensure_ascii=False, allow_nan=False, indent=2)
    if for_stdout and not can_encode(text):
        return json.dumps(plain, allow_nan=False, indent=2)
    return text


def printable(name: object) -> str:
    """Return a name with control characters and bytes that are not UTF-8 escaped."""
    text = str(name)
    try:  # where the locale knows ASCII only, Python keeps the other bytes of a name apart
        text = text.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError:
        text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def listed(items: Sequence[str], at_most: int = SHOWN, separator: str = ", ") -> str:
    """Return the first items joined by a separator, and how many more there are."""
    rest = len(items) - at_most
    return separator.join(items[:at_most]) + (f" and {rest} more" if rest > 0 else "")
