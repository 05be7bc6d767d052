"""Names that people give to concepts, in arguments and in files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

#: Names of all concepts in order, names of some by index, or a file that holds either as JSON.
ConceptNames: TypeAlias = Sequence[str] | Mapping[int, str] | Mapping[str, str] | str | Path | None

#: Name of the file beside the pairs that commands read names of their concepts from.
NAMES_FILE = "names.json"


def check_concept_names(names: ConceptNames, number_of_concepts: int) -> tuple[str, ...]:
    """Return a name for each concept; concepts without one are named by their indices.

    Parameters
    ----------
    names : sequence of I str, dict of int or str to str, str or Path, or None
        Names of all I concepts in order; names of some concepts by index, which may be a text such
        as "3", as in JSON; or a JSON file that holds either.
    number_of_concepts : int
        Number of concepts I.

    Returns
    -------
    names : tuple of I str

    Raises
    ------
    ValueError
        If the number of names is wrong, an index does not exist, or a name is not a text or is
        empty; or if the file is not JSON.
    OSError
        If the file cannot be read.
    """
    source = "concept_names"
    if isinstance(names, (str, Path)):
        source, names = str(names), read_concept_names(names)
    numbered = [str(i) for i in range(number_of_concepts)]
    if names is None:
        return tuple(numbered)
    if isinstance(names, Mapping):
        unknown = [key for key in names if str(key) not in numbered]
        if unknown:
            raise ValueError(
                f"{source}: concepts are numbered 0 to {number_of_concepts - 1}, not {unknown[0]!r}"
            )
        named = {str(key): name for key, name in names.items()}
        given = [named.get(number, number) for number in numbered]
    elif len(names) == number_of_concepts:
        given = list(names)
    else:
        raise ValueError(
            f"{source} must be {number_of_concepts} names, or names by the number of the concept "
            f"such as {{0: 'wheel'}}, not {len(names)} names"
        )
    for name in given:
        if not str(name).strip():
            raise ValueError(f"{source}: a name must not be empty: leave the concept out")
    return tuple(str(name) for name in given)


def read_concept_names(path: str | Path) -> list[str] | dict[str, str]:
    """Read names of concepts from a JSON file.

    Parameters
    ----------
    path : str or Path
        A file with a list of the names of all concepts, or with an object of names by number, such
        as ``{"0": "wheel"}``.

    Returns
    -------
    names : list of str or dict of str to str
        As in the file.

    Raises
    ------
    ValueError
        If the file holds anything else.
    OSError
        If the file cannot be read.
    """
    wanted = 'a JSON list of names, or names by number such as {"0": "wheel"}'
    try:
        names = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path} must hold {wanted}: {error}") from error
    if isinstance(names, (list, dict)):
        texts = names.values() if isinstance(names, dict) else names
        strange = [name for name in texts if not isinstance(name, str)]
        if not strange:
            return names
        raise ValueError(f"{path} must hold {wanted}; one of the names is {strange[0]!r}")
    raise ValueError(f"{path} must hold {wanted}, not {names!r}")
