"""The names of a model's classes: read from a file, of ImageNet, and found by any of them."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

from xplique_dirpairs.commands.console import listed, printable

#: ImageNet's 1,000 WordNet ids and names, in the order of the outputs of `keras.applications`.
_IMAGENET = Path(__file__).with_name("imagenet_classes.json")


@dataclass(frozen=True)
class ClassNames:
    """Names of a model's K classes.

    Attributes
    ----------
    entries : tuple of K tuples of str
        All names of each class, the one to print last; an empty tuple if a class has no name.
    """

    entries: tuple[tuple[str, ...], ...]

    def __len__(self) -> int:
        return len(self.entries)

    @cached_property
    def shown(self) -> list[str]:
        """The name to print for each class, followed by its number if several classes share it."""
        plain = [
            printable(names[-1]) if names else f"class {k}" for k, names in enumerate(self.entries)
        ]
        times = Counter(plain)
        return [f"{name} ({k})" if times[name] > 1 else name for k, name in enumerate(plain)]

    @cached_property
    def _classes_by_key(self) -> dict[str, list[int]]:
        """The classes of each normalised name (see `_key`)."""
        classes: dict[str, list[int]] = {}
        for k, names in enumerate(self.entries):
            for key in {_key(name) for name in (*names, "_".join(names)) if name}:
                classes.setdefault(key, []).append(k)
        return classes

    def find(self, name: str) -> int | None:
        """Return the class of a name or number; None if there is no such class.

        Raises
        ------
        ValueError
            If several classes have the name.
        """
        classes = self._classes_by_key.get(_key(name), [])
        if len(classes) > 1:
            raise ValueError(
                f"{printable(name)!r} is the name of classes {listed([str(k) for k in classes])}: "
                "give the number"
            )
        if classes:
            return classes[0]
        text = name.strip()
        is_number = text.isascii() and text.isdigit() and int(text) < len(self)
        return int(text) if is_number else None

    def chosen(self, names: Sequence[str]) -> list[int]:
        """Return the classes of names or numbers, sorted and without duplicates.

        Raises
        ------
        ValueError
            If there is no such class; the message names similar ones.
        """
        classes = {name: self.find(name) for name in names}
        missing = self._missing(classes)
        if missing:
            raise ValueError(f"--classes: the model's {len(self)} outputs have no class {missing}")
        return sorted({k for k in classes.values() if k is not None})

    def of_folders(self, folders: Sequence[str]) -> dict[str, int | None]:
        """Return folder → its class, found by name or number; None if there is no such class.

        Raises
        ------
        ValueError
            If two folders belong to the same class.
        """
        classes = {folder: self.find(folder) for folder in folders}
        for k in classes.values():
            own = [repr(printable(folder)) for folder in folders if classes[folder] == k]
            if k is not None and len(own) > 1:
                raise ValueError(
                    f"folders {' and '.join(own)} are the same class, {self.shown[k]}: merge them"
                )
        return classes

    def check_all_found(self, classes: dict[str, int | None]) -> None:
        """Raise a ValueError if a class folder has no class; the message names similar ones."""
        missing = self._missing(classes)
        if missing:
            count = sum(k is None for k in classes.values())
            raise ValueError(
                f"{count} of {len(classes)} class folders are none of the model's classes: "
                f"{missing}. Rename them, choose others with --classes, or give --class-names FILE"
            )

    def _missing(self, classes: dict[str, int | None]) -> str:
        """Return the names that have no class, each with similar names, as text."""
        missing = [name for name, k in classes.items() if k is None]
        return "; ".join(f"{printable(name)!r} ({self._near(name)})" for name in missing[:10])

    def _near(self, name: str) -> str:
        """Return a hint for a name that has no class: similar names, or the valid numbers."""
        if name.strip().isdigit():
            return f"numbers go from 0 to {len(self) - 1}"
        if not any(self.entries):
            return "the outputs have no names: give --class-names FILE, or numbers"
        close = get_close_matches(_key(name), list(self._classes_by_key), n=3, cutoff=0.5)
        alike = list(dict.fromkeys(self.shown[self._classes_by_key[key][0]] for key in close))
        return f"similar: {', '.join(alike)}" if alike else "no similar name"


def _key(name: str) -> str:
    """Return a name in lower case, with spaces and hyphens as single underscores.

    Both Unicode forms of a name, such as é in one character or in two, have the same key.
    """
    plain = unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())
    return "_".join(plain.replace("-", " ").replace("_", " ").split())


def read_class_names(path: str | Path, number: int) -> ClassNames:
    """Read the names of a model's classes, in the order of its outputs.

    Parameters
    ----------
    path : str or Path
        A text file with one name per line, or a JSON file. JSON is a list with an entry for each
        class, or an object with the entries by number. An entry is a name, or a list of names of
        the class, the one to print last.
    number : int
        Number of classes, K.

    Returns
    -------
    names : ClassNames

    Raises
    ------
    ValueError
        If the file has neither form, or holds another number of names.
    """
    option = f"--class-names: {printable(path)}"
    try:
        content = Path(path).read_bytes()
        if b"\0" in content:
            raise ValueError(f"{option} is UTF-16, or no text: save it as UTF-8")
        text = content.decode("utf-8-sig")
        if text.lstrip().startswith(("[", "{")):
            entries = _entries_of_json(option, json.loads(text))
        else:
            entries = [(line.strip(),) for line in text.splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{option} is not UTF-8 text ({error}): save it as UTF-8") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{option} is not valid JSON ({error})") from error
    if len(entries) != number:
        raise ValueError(
            f"{option} holds {len(entries)} names, but the model has {number} outputs: give one "
            "for each, in the order of the outputs"
        )
    return ClassNames(tuple(entries))


def _entries_of_json(option: str, data: list[Any] | dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the names of each class from parsed JSON."""
    wanted = f"{option} must be a list of names, or an object of names by number"
    if isinstance(data, dict):
        if sorted(data) != sorted(str(k) for k in range(len(data))):
            raise ValueError(f"{wanted}, starting at 0")
        data = [data[str(k)] for k in range(len(data))]
    entries = [tuple(names) if isinstance(names, list) else (names,) for names in data]
    if not all(names and all(isinstance(name, str) for name in names) for names in entries):
        raise ValueError(wanted)
    return entries


def imagenet_names() -> ClassNames:
    """Return WordNet id and name of ImageNet's 1,000 classes, in the order of the outputs."""
    entries = json.loads(_IMAGENET.read_text(encoding="utf-8"))
    return ClassNames(tuple((number, name.replace("_", " ")) for number, name in entries))
