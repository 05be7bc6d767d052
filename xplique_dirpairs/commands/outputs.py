"""Files that a command writes: whether it can, before the work, and what is kept if it fails."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from xplique_dirpairs.commands.console import Console, printable
from xplique_dirpairs.core.concept_names import NAMES_FILE
from xplique_dirpairs.pairs import DirectionPairs

#: What `NAMES_FILE` is renamed to when other pairs are written beside it.
EARLIER_NAMES = "names_of_earlier_pairs.json"


def check_can_write(folder: Path) -> None:
    """Raise an OSError unless files can be written to a folder; the folder need not exist.

    It is tried, since permissions alone do not tell (read-only disks, quotas, administrators). What
    was created for the trial is removed again.

    Parameters
    ----------
    folder : Path

    Raises
    ------
    OSError
        If the folder cannot be created, or a file in it cannot be written.
    """
    missing: list[Path] = []
    try:
        missing += [place for place in (folder, *folder.parents) if not place.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0" * 4096)
            file.flush()
    except OSError as error:
        raise OSError(
            f"--output: nothing can be written to {printable(folder)} "
            f"({error.strerror or error}): choose another place"
        ) from error
    finally:
        for place in missing:  # the innermost first
            with suppress(OSError):
                place.rmdir()


def keep(save: Callable[[Path], object], path: Path, console: Console) -> None:
    """Save what took long to compute; if that fails, save it among the temporary files.

    Parameters
    ----------
    save : callable
        Writes a file at a path.
    path : Path
        Where to write it.
    console : Console
        Lists the file if it could not be written, and notes where it is instead.
    """
    with console.writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path)
    if not console.has_failed(path):
        return
    with suppress(OSError):
        elsewhere = Path(tempfile.mkdtemp(prefix="xplique-dirpairs-")) / path.name
        save(elsewhere)
        console.note(f"{path.name} is kept in {printable(elsewhere)}")


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
