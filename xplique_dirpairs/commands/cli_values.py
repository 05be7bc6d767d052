"""Values of the command line's options: what is accepted, and what is said otherwise."""

from __future__ import annotations

import argparse

from xplique_dirpairs.commands.extractor_list import extractor_name


def demo_concepts(text: str) -> int:
    """2 to 16: CRAFT's plots have 16 colours."""
    number = _integer(text)
    if not 2 <= number <= 16:
        raise argparse.ArgumentTypeError(f"must be from 2 to 16, not {number}")
    return number


def concepts(text: str) -> int | str:
    """A number of concepts, or "auto"."""
    return text if text == "auto" else count(text)


def concept(text: str) -> int:
    """A concept by its number, from 0."""
    number = _integer(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"must be 0 or more, not {number}")
    return number


def count(text: str) -> int:
    """A number of things, from 1."""
    number = _integer(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {number}")
    return number


def seed(text: str) -> int:
    """0 to 2**32 - 1, as numpy takes it."""
    number = _integer(text)
    if not 0 <= number < 2**32:
        raise argparse.ArgumentTypeError(f"must be from 0 to 2**32 - 1, not {number}")
    return number


def size(text: str) -> tuple[int, int]:
    """N or HxW, in pixels: (height, width)."""
    parts = [count(part) for part in text.lower().split("x")]
    if len(parts) > 2:
        raise argparse.ArgumentTypeError(f"must be N or HxW, not {text!r}")
    return parts[0], parts[-1]


def share(text: str) -> float:
    """A share, from 0 up to, not including, 1."""
    value = _number(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"must be from 0 up to, not including, 1, not {text}")
    return value


def positive(text: str) -> float:
    """A finite number above 0."""
    value = _number(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be a number, not {text!r}") from error


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be a whole number, not {text!r}") from error


def extractor(text: str) -> str:
    """An extractor's name, in any spelling that `extractor_name` knows."""
    try:
        return extractor_name(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
