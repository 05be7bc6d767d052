"""Keep learned pairs in a file, and the names that belong to earlier ones apart from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from xplique_dirpairs.commands.console import Console, printable
from xplique_dirpairs.commands.outputs import keep
from xplique_dirpairs.core.concept_names import NAMES_FILE
from xplique_dirpairs.pairs import DirectionPairs

#: What `NAMES_FILE` is renamed to when other pairs are written beside it.
EARLIER_NAMES = "names_of_earlier_pairs.json"


def keep_pairs(pairs: DirectionPairs, path: Path, console: Console) -> None:
    """Save learned pairs as `keep` does; names of other pairs are moved out of their way.

    Parameters
    ----------
    pairs : DirectionPairs
    path : Path
        Where to write them. Names beside it that the user gave to earlier pairs would be read as
        names of these: unless the pairs are the same, the file is renamed to `EARLIER_NAMES`.
    console : Console
        Notes that the file was renamed.
    """
    names = path.with_name(NAMES_FILE)
    if names.exists() and not _holds(path, pairs):
        with console.writing(names):
            names.replace(path.with_name(EARLIER_NAMES))
            console.note(
                f"{printable(names)} names the concepts of earlier pairs: renamed to "
                f"{EARLIER_NAMES}"
            )
    keep(pairs.save, path, console)


def _holds(path: Path, pairs: DirectionPairs) -> bool:
    """Return whether a file holds the same pairs, up to what rounding does to a fit."""
    try:
        earlier = DirectionPairs.load(path).filters
    except (OSError, ValueError):
        return False
    size = float(np.abs(pairs.filters).max(initial=0))
    return earlier.shape == pairs.filters.shape and np.allclose(
        earlier, pairs.filters, rtol=0, atol=1e-3 * size
    )
