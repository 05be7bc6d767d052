"""Write and read arrays with a header, as numpy archives without pickle."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.core.types import Array

Content = TypeVar("Content")


@dataclass(frozen=True)
class ArchiveFormat:
    """Format of an archive file.

    Parameters
    ----------
    name : str
        Identifies the format within the file.
    version : int
        Version of the format; files of later versions are refused.
    content : str
        Description of the content in messages, such as "direction pairs".
    writer : str
        Name of the function that writes such files, in messages.
    compressed : bool, default=False
        Whether arrays are compressed.
    """

    name: str
    version: int
    content: str
    writer: str
    compressed: bool = False

    def write(
        self, path: str | Path, arrays: Mapping[str, ArrayLike], about: Mapping[str, Any] = {}
    ) -> None:
        """Write arrays and a header to a file.

        Parameters
        ----------
        path : str or Path
            File to write; no suffix is added.
        arrays : mapping of str to array-like
            Arrays by name.
        about : mapping of str to object, default={}
            Further values of the header, which JSON must be able to hold.
        """
        header = {"format": self.name, "version": self.version, "arrays": sorted(arrays), **about}
        content: dict[str, Any] = {**arrays, "header": np.array(json.dumps(header))}
        write = np.savez_compressed if self.compressed else np.savez
        with open(path, "wb") as file:
            write(file, **content)

    def load(
        self, path: str | Path, build: Callable[[dict[str, Array], dict[str, Any]], Content]
    ) -> Content:
        """Read a file and build an object from its arrays and header.

        Parameters
        ----------
        path : str or Path
            File to read.
        build : callable
            Function of the arrays by name and the header.

        Returns
        -------
        content : object
            The result of ``build``.

        Raises
        ------
        FileNotFoundError, IsADirectoryError
            See `read`.
        ValueError
            See `read`; also if ``build`` fails on the content of the file.
        """
        arrays, header = self.read(path)
        try:
            return build(arrays, header)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is damaged: {type(error).__name__}: {error}") from error

    def read(self, path: str | Path) -> tuple[dict[str, Array], dict[str, Any]]:
        """Return the arrays and the header of a file that `write` wrote.

        Parameters
        ----------
        path : str or Path
            File to read.

        Returns
        -------
        arrays : dict of str to ndarray
        header : dict of str to object

        Raises
        ------
        FileNotFoundError, IsADirectoryError
            If there is no file at ``path``, or it is a folder.
        ValueError
            If the file is damaged, of another kind, or of a newer format version.
        """
        if Path(path).is_dir():
            raise IsADirectoryError(f"{path} is a folder, not a file of {self.content}")
        if not Path(path).is_file():
            raise FileNotFoundError(f"no file of {self.content} at {path}")
        foreign = f"{path} is not a file of {self.content} (as {self.writer} writes)"
        if not zipfile.is_zipfile(path):
            raise ValueError(f"{foreign}, or it is damaged")
        try:
            with zipfile.ZipFile(path) as archive:
                is_ours = "header.npy" in archive.namelist()
        except Exception as error:  # as below
            raise ValueError(f"{path} is damaged: {error}") from error
        if not is_ours:
            raise ValueError(foreign)
        try:
            arrays = read_arrays(path, self.compressed)
        except Exception as error:  # zlib, zipfile and numpy raise different errors
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
                f"{path} has format version {version}, but this installation reads versions up to "
                f"{self.version}: update xplique-dirpairs"
            )
        if sorted(arrays) != header.get("arrays"):
            raise ValueError(f"{path} is damaged: it does not hold the arrays its header names")
        return arrays, header


def read_arrays(path: str | Path, compressed: bool = False) -> dict[str, Array]:
    """Return the arrays of a numpy archive, whose members must have the sizes that they state.

    The sizes are checked before anything is unpacked, because an archive of a few kilobytes could
    state, or unpack to, terabytes.

    Parameters
    ----------
    path : str or Path
        The archive.
    compressed : bool, default=False
        Whether its members may be compressed.

    Returns
    -------
    arrays : dict of str to ndarray

    Raises
    ------
    Exception
        Of any kind, because zlib, zipfile and numpy raise different ones.
    """
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if not compressed and member.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{member.filename} is compressed")
            with archive.open(member) as stream:
                size = member.file_size
                _, _, stated = stated_array(stream)
            if stated != size:
                raise ValueError(f"{member.filename} has {size} bytes, and states {stated}")
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def stated_array(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Return the shape and dtype that the header of a numpy file states, and its size in bytes.

    Raises
    ------
    ValueError
        If the stream is not a numpy file.
    """
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0
    shape, _, dtype = (read if version == (1, 0) else np.lib.format.read_array_header_2_0)(stream)
    return shape, dtype, stream.tell() + math.prod(shape) * dtype.itemsize
