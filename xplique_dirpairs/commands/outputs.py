"""Files that a command writes: whether it can, before the work, and what is kept if it fails."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from xplique_dirpairs.commands.console import Console, printable


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
