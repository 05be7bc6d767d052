"""Files of arrays with a header: numpy archives, written and read without pickle."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.core.types import Array

Content = TypeVar("Content")


@dataclass(frozen=True)
class ArchiveFormat:
    """A kind of file.

    Parameters
    ----------
    name : str
        Identifies the format within the file.
    version : int
        Of the format; files of later versions are refused.
    content : str
        What a file holds, for messages: "direction pairs".
    writer : str
        What writes files of this format, for messages.
    compressed : bool, default=False
        Whether arrays are deflated.
    """

    name: str
    version: int
    content: str
    writer: str
    compressed: bool = False

    def write(
        self, path: str | Path, arrays: Mapping[str, ArrayLike], about: Mapping[str, Any] = {}
    ) -> None:
        """Write arrays, and values that JSON can hold, to ``path``; no suffix is added."""
        header = {"format": self.name, "version": self.version, "arrays": sorted(arrays), **about}
        content: dict[str, Any] = {**arrays, "header": np.array(json.dumps(header))}
        write = np.savez_compressed if self.compressed else np.savez
        with open(path, "wb") as file:
            write(file, **content)

    def load(
        self, path: str | Path, build: Callable[[dict[str, Array], dict[str, Any]], Content]
    ) -> Content:
        """Return what ``build`` makes of the arrays and the header of a file.

        Raises
        ------
        FileNotFoundError, IsADirectoryError, ValueError
            As `read`; also a ValueError if ``build`` cannot use what the file holds.
        """
        arrays, header = self.read(path)
        try:
            return build(arrays, header)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is damaged: {type(error).__name__}: {error}") from error

    def read(self, path: str | Path) -> tuple[dict[str, Array], dict[str, Any]]:
        """Return (arrays, header) of a file that `write` wrote.

        Raises
        ------
        FileNotFoundError, IsADirectoryError
            If there is no file at ``path``, or it is a folder.
        ValueError
            If the file is damaged, of another kind, or of a newer format than this version reads.
        """
        if Path(path).is_dir():
            raise IsADirectoryError(f"{path} is a folder, not a file of {self.content}")
        if not Path(path).is_file():
            raise FileNotFoundError(f"no file of {self.content} at {path}")
        foreign = f"{path} is not a file of {self.content} (as {self.writer} writes)"
        if not zipfile.is_zipfile(path):
            raise ValueError(f"{foreign}, or it is damaged")
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
        except Exception as error:  # zlib, zip and numpy each raise their own
            raise ValueError(f"{path} is damaged: {error}") from error
        try:
            header = json.loads(str(arrays.pop("header")))
            kind, version = header["format"], header["version"]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(foreign) from error
        if kind != self.name:
            raise ValueError(f"{foreign}: it holds {kind!r}")
        if type(version) is not int or version < 1:
            raise ValueError(f"{path} is damaged: its header is {header}")
        if version > self.version:
            raise ValueError(
                f"{path} has format version {version}, this installation reads up to "
                f"{self.version}: update xplique-dirpairs"
            )
        if sorted(arrays) != header.get("arrays"):
            raise ValueError(f"{path} is damaged: it does not hold the arrays its header names")
        return arrays, header
