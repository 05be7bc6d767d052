"""Classes by name: a model's outputs, the folders of images, and what is asked for."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path

from xplique_dirpairs.commands.console import listed, printable


@dataclass(frozen=True)
class ClassNames:
    """Names of a model's K outputs.

    Attributes
    ----------
    entries : K of them
        The names that each class goes by, the one that is shown last; empty where nothing is known.
    """

    entries: tuple[tuple[str, ...], ...]

    @classmethod
    def unknown(cls, number: int) -> ClassNames:
        """Of K outputs that nobody named: they are called by their numbers."""
        return cls(((),) * number)

    @property
    def known(self) -> bool:
        """Whether there are names."""
        return any(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, k: int) -> str:
        names = self.entries[k]
        return printable(names[-1]) if names else f"class {k}"

    @cached_property
    def shown(self) -> list[str]:
        """A name for each class; those that several have, with the number."""
        plain = [self[k] for k in range(len(self))]
        times = Counter(plain)
        return [f"{name} ({k})" if times[name] > 1 else name for k, name in enumerate(plain)]

    @cached_property
    def _places(self) -> dict[str, list[int]]:
        places: dict[str, list[int]] = {}
        for k, names in enumerate(self.entries):
            for key in {_key(name) for name in (*names, "_".join(names)) if name}:
                places.setdefault(key, []).append(k)
        return places

    def find(self, name: str) -> int | None:
        """The output of that name, or number; None if there is none.

        Raises
        ------
        ValueError
            If several have the name.
        """
        found = self._places.get(_key(name), [])
        if len(found) > 1:
            raise ValueError(
                f"{printable(name)!r} is the name of classes {listed([str(k) for k in found])}: "
                "give the number"
            )
        if found:
            return found[0]
        text = name.strip()
        if text.isascii() and text.isdigit() and int(text) < len(self):
            return int(text)
        return None

    def near(self, name: str) -> str:
        """Names alike, for a message."""
        if name.strip().isdigit():
            return f"numbers go from 0 to {len(self) - 1}"
        close = get_close_matches(_key(name), list(self._places), n=3, cutoff=0.5)
        alike = list(dict.fromkeys(self.shown[self._places[key][0]] for key in close))
        return f"near it: {', '.join(alike)}" if alike else "nothing near it"

    def chosen(self, names: Sequence[str]) -> list[int]:
        """Outputs by name or number, in order.

        Raises
        ------
        ValueError
            With what is alike to those that there are not.
        """
        found = {name: self.find(name) for name in names}
        missing = [name for name, k in found.items() if k is None]
        if missing:
            said = "; ".join(f"{printable(name)!r} ({self.near(name)})" for name in missing[:10])
            hint = (
                ""
                if self.known
                else ". The outputs have no names: give --class-names FILE, or numbers"
            )
            raise ValueError(
                f"--classes: the model's {len(self)} outputs have no class {said}{hint}"
            )
        return sorted({k for k in found.values() if k is not None})


def _key(name: str) -> str:
    """Names that differ in case, spaces, hyphens and underscores are the same."""
    return "_".join(name.casefold().replace("-", " ").replace("_", " ").split())


def read_class_names(path: str | Path, number: int) -> ClassNames:
    """Names of a model's outputs, in their order.

    Parameters
    ----------
    path
        Text with one name a line, or JSON: a list of names, a list of lists of names of one class
        (the last one is shown), or an object of these by number.
    number
        K.

    Raises
    ------
    ValueError
        If it is neither, or holds another number of names.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"--class-names: {printable(path)} is not UTF-8 text ({error})") from error
    if text.lstrip().startswith(("[", "{")):
        entries = _of_json(path, text)
    else:
        entries = [(line.strip(),) for line in text.splitlines() if line.strip()]
    if len(entries) != number:
        raise ValueError(
            f"--class-names: {printable(path)} holds {len(entries)} names, but the model has "
            f"{number} outputs: give one for each, in the order of the outputs"
        )
    return ClassNames(tuple(entries))


def _of_json(path: Path, text: str) -> list[tuple[str, ...]]:
    wanted = "a list of names, or an object with the names by number"
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"--class-names: {printable(path)} is no JSON ({error})") from error
    if isinstance(data, dict):
        if sorted(data) != sorted(str(k) for k in range(len(data))):
            raise ValueError(f"--class-names: {printable(path)} must be {wanted}, from 0 on")
        data = [data[str(k)] for k in range(len(data))]
    entries = [tuple(one) if isinstance(one, list) else (one,) for one in data]
    if not all(one and all(isinstance(name, str) for name in one) for one in entries):
        raise ValueError(f"--class-names: {printable(path)} must be {wanted}")
    return entries


def outputs_of_folders(folders: Sequence[str], names: ClassNames) -> dict[str, int | None]:
    """Class folder → its output, by name or number; None where none has the name.

    Raises
    ------
    ValueError
        If two folders are of the same class.
    """
    found = {folder: names.find(folder) for folder in folders}
    by_output: dict[int, str] = {}
    for folder, k in found.items():
        if k is not None and k in by_output:
            raise ValueError(
                f"folders {printable(by_output[k])!r} and {printable(folder)!r} are both of class "
                f"{names.shown[k]}: put them together"
            )
        if k is not None:
            by_output[k] = folder
    return found


def check_all_found(found: dict[str, int | None], names: ClassNames) -> None:
    """Every class folder must be of a class.

    Raises
    ------
    ValueError
        With what is alike to those that are not.
    """
    missing = [folder for folder, k in found.items() if k is None]
    if missing:
        said = "; ".join(f"{printable(name)!r} ({names.near(name)})" for name in missing[:10])
        raise ValueError(
            f"{len(missing)} of {len(found)} class folders are no class of --class-names: {said}. "
            "Rename them, or choose others with --classes"
        )
