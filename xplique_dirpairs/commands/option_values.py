"""Parsers of the values of options, without numpy and TensorFlow: see `options`."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable
from pathlib import Path

#: Names of the extractors on the command line; the first one stands for the direction pairs.
EXTRACTORS = (
    "pairs", "CRAFT", "PCA", "FastICA", "K-Means", "NMF", "semi-NMF", "convex NMF",
    "dictionary learning", "TopK SAE", "A-SAE", "RA-SAE",
)  # fmt: skip

#: Names of the recipes; `learning.presets` has them.
RECIPES = (
    "default", "soft", "sparse", "constrained", "paper-deep", "paper-synthetic", "uibe", "cbe",
)  # fmt: skip


def whole_number(minimum: int, maximum: int | None = None) -> Callable[[str], int]:
    """Return a parser of whole numbers from ``minimum`` to ``maximum`` (None: without limit)."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError as error:
            raise ArgumentTypeError(f"must be a whole number, not {text!r}") from error
        if number < minimum or (maximum is not None and number > maximum):
            bounds = f"{minimum} or more" if maximum is None else f"from {minimum} to {maximum}"
            raise ArgumentTypeError(f"must be {bounds}, not {number}")
        return number

    return parse


def number_of_concepts(text: str) -> int | str:
    """Parse a positive number of concepts; "auto" is returned as it is."""
    return text if text == "auto" else whole_number(1)(text)


def size(text: str) -> tuple[int, int]:
    """Parse "N" or "HxW", in pixels; return (height, width)."""
    sides = [whole_number(1)(part) for part in text.lower().split("x")]
    if len(sides) > 2:
        raise ArgumentTypeError(f"must be N or HxW, not {text!r}")
    return sides[0], sides[-1]


def layer_and_file(text: str) -> tuple[str, Path | None]:
    """Parse "NAME" or "NAME=FILE"; return the name of a layer, and the path of its file or None."""
    name, given, path = text.partition("=")
    if not name or (given and not path):
        raise ArgumentTypeError(f"must be NAME or NAME=FILE, not {text!r}")
    return name, Path(path) if path else None


def share(text: str) -> float:
    """Parse a share in [0, 1)."""
    value = float(text)
    if not 0 <= value < 1:
        raise ArgumentTypeError(f"must be at least 0 and below 1, not {text}")
    return value


def open_share(text: str) -> float:
    """Parse a share in (0, 1)."""
    value = float(text)
    if not 0 < value < 1:
        raise ArgumentTypeError(f"must be above 0 and below 1, not {text}")
    return value


def strength(text: str) -> float:
    """Parse a finite, positive number."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise ArgumentTypeError(f"must be a finite number above 0, not {text}")
    return value


def extractor(text: str) -> str:
    """Return the name in `EXTRACTORS`; case, spaces and hyphens of the text are ignored."""
    wanted = _letters(text)
    for name in EXTRACTORS:
        if wanted in (_letters(name), _letters(name.removesuffix(" SAE"))):
            return name
    raise ArgumentTypeError(f"there is no extractor {text!r}; choose from {', '.join(EXTRACTORS)}")


def _letters(name: str) -> str:
    """Return the letters and digits of a name, in lower case."""
    return "".join(c for c in name.casefold() if c.isalnum())
