"""Find out why the file of a model cannot be loaded, and say what to do, in one line."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import keras

from xplique_dirpairs.commands.console import printable

#: How a network of Keras 2 becomes one of Keras 3.
_FROM_KERAS_2 = (
    "build the same network with Keras 3, copy the weights, "
    "network.set_weights(tf_keras.models.load_model(path).get_weights()), and save it as .keras"
)
_SAVE_AGAIN = "save the model again, with model.save(path)"
#: Suffixes of the files that Keras loads.
_SUFFIXES = (".keras", ".h5", ".hdf5")
#: Largest text that is read from a file, in bytes, and largest number of characters of a message.
_LARGEST_TEXT, _LONGEST = 2**26, 200
#: What a pointer of Git LFS begins with.
_LFS = b"version https://git-lfs"
_UNKNOWN_LAYER = re.compile(r"Unknown layer: '?(\w+)")


class _Contents(NamedTuple):
    """What a file says of itself."""

    version: str  # of Keras, empty if it is unknown
    config: Any  # None if the file holds no model
    is_damaged: bool = False


def why_not_loaded(path: Path, error: Exception) -> str:
    """Return why a model could not be loaded, and what to do, in a line.

    Parameters
    ----------
    path : Path
        The file, or folder.
    error : Exception
        What Keras raised.

    Returns
    -------
    reason : str
    """
    if not path.exists():
        return "there is no such file"
    if path.is_dir():
        if (path / "saved_model.pb").exists():
            return f"it is a SavedModel, whose layers Keras 3 cannot load: {_FROM_KERAS_2}"
        return "it is a folder: give the .keras or .h5 file of the model"
    if path.suffix.lower() not in _SUFFIXES:
        return f"its name does not end in {', '.join(_SUFFIXES)}: {_SAVE_AGAIN} to a .keras file"
    other = _other_kind(path)
    if other:
        return other
    version, config, is_damaged = _contents(path)
    if is_damaged:
        return f"it is empty, damaged or no file of Keras: {_SAVE_AGAIN}, or copy it again"
    if config is None:
        return f"it holds no model, perhaps only weights: {_SAVE_AGAIN}"
    said = " ".join(str(error).split())
    if version.startswith(("1.", "2.")):
        last = _last_words(said)
        return f"Keras 2 saved it (version {version}), and Keras 3 says {last!r}: {_FROM_KERAS_2}"
    if "Lambda" in said and ("disallowed" in said or "unsafe" in said):
        return (
            "a Lambda layer holds Python code, which Keras does not load: replace it by a layer "
            "class, or, if you trust the file, call keras.config.enable_unsafe_deserialization() "
            "in a module that you give with --import MODULE"
        )
    own = sorted(set(_unknown_classes(config)) | set(_UNKNOWN_LAYER.findall(said)))
    if own:
        return (
            f"it has layers of its own, {', '.join(own)}: give the module that registers them "
            "(@keras.saving.register_keras_serializable()) with --import MODULE"
        )
    newer = f"Keras {version} saved it, this is Keras {keras.__version__}; "
    return f"{newer if _is_newer(version) else ''}Keras says {_last_words(said)!r}"


def _other_kind(path: Path) -> str:
    """Return why a file is of another kind than its name says; the empty string if it is not."""
    is_archive = path.suffix.lower() == ".keras"
    with suppress(OSError):  # what makes a file unreadable is found again when it is loaded
        with path.open("rb") as file:
            if file.read(len(_LFS)) == _LFS:
                return "it is a pointer of Git LFS in place of the file: run git lfs pull"
        if is_archive and h5py.is_hdf5(path):
            return "it is an HDF5 file by its content: rename it, so that its name ends in .h5"
        if not is_archive and zipfile.is_zipfile(path):
            return "it is a .keras file by its content: rename it, so that its name ends in .keras"
    return ""


def _contents(path: Path) -> _Contents:
    """Return what a .keras or .h5 file says of itself."""
    try:
        if path.suffix.lower() == ".keras":
            return _contents_of_archive(path)
        with h5py.File(path) as file:
            version, config = (file.attrs.get(name) for name in ("keras_version", "model_config"))
        return _Contents(_text(version or ""), json.loads(_text(config)) if config else None)
    except Exception:  # a damaged file may raise anything
        return _Contents("", None, is_damaged=True)


def _contents_of_archive(path: Path) -> _Contents:
    """Return what a .keras file says of itself."""
    with zipfile.ZipFile(path) as archive:
        texts = {}
        for name in {"metadata.json", "config.json"} & set(archive.namelist()):
            if archive.getinfo(name).file_size > _LARGEST_TEXT:
                return _Contents("", None, is_damaged=True)
            texts[name] = json.loads(archive.read(name))
    version = texts.get("metadata.json", {}).get("keras_version", "")
    return _Contents(str(version), texts.get("config.json"))


def _text(value: str | bytes) -> str:
    """Return an attribute of an HDF5 file as text."""
    return value.decode() if isinstance(value, bytes) else str(value)


def _unknown_classes(config: Any) -> Iterator[str]:
    """Yield the names of a configuration's classes that Keras does not know."""
    if isinstance(config, list):
        for part in config:
            yield from _unknown_classes(part)
    if not isinstance(config, dict):
        return
    name, module = config.get("class_name"), config.get("module")
    if isinstance(name, str) and "config" in config and "registered_name" in config:
        registered = config["registered_name"] or name
        is_of_keras = str(module or "").split(".")[0] in ("keras", "builtins")
        if not is_of_keras and keras.saving.get_registered_object(registered) is None:
            yield name
    for part in config.values():
        yield from _unknown_classes(part)


def _is_newer(version: str) -> bool:
    """Return whether a version of Keras is newer than the installed one."""
    of_file, installed = (
        [int(number) for number in re.findall(r"\d+", text)[:2]]
        for text in (version, keras.__version__)
    )
    return of_file > installed


def _last_words(said: str) -> str:
    """Return the end of a message of Keras, which tells the cause, without configurations."""
    cause = said.rsplit("Exception encountered:", 1)[-1].strip()
    if "config={" in cause or len(cause) > _LONGEST:
        cause = cause.split("config={")[0].strip()
    return printable(cause[:_LONGEST])
