"""Match class folders to the outputs of a model, and check the match against the predictions."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
from scipy.optimize import linear_sum_assignment

from xplique_dirpairs.commands.class_names import ClassNames, imagenet_names, read_class_names
from xplique_dirpairs.commands.console import Console, printable
from xplique_dirpairs.core.types import Array

#: Number of outputs of a model of ImageNet, and what its class folders begin with.
_IMAGENET, _WORDNET_ID = 1000, re.compile(r"n\d{8}(?!\d)")
#: Orders of class folders: what they are sorted by → key. Keras sorts them as text.
_ORDERS: dict[str, Callable[[str], Any]] = {
    "as text, as in Keras": lambda name: name,
    "by the numbers in their names": lambda name: [
        (int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)
    ],
    "as text in the other Unicode form (NFC)": lambda name: normalize("NFC", name),
    "as text in the other Unicode form (NFD)": lambda name: normalize("NFD", name),
    "as text, whatever their case": lambda name: name.casefold(),
}
#: Labels are doubtful if fewer images than this share are predicted as them, while another order
#: of the same folders would be right in more than this share.
_DOUBTFUL = 0.5


@dataclass(frozen=True)
class Matching:
    """One way to match class folders to the outputs of a model.

    Attributes
    ----------
    names : ClassNames
        Names of the outputs.
    classes : dict of str to int or None, or None
        Folder → output, None for a folder that is no class of the model. None as a whole if the
        folders are not matched to outputs.
    how : str, default=""
        What the folders were matched by, if other ways are possible.
    """

    names: ClassNames
    classes: dict[str, int | None] | None
    how: str = ""

    def labels(self, folders: Array) -> Array | None:
        """Return the label of each image from its folder, ndarray of shape (N,), or None."""
        if self.classes is None:
            return None
        return np.array([self.classes[name] for name in folders])


def matchings(
    folders: Sequence[str],
    number: int,
    path: Path | None,
    console: Console,
    own_names: Sequence[str] | None = None,
) -> list[Matching]:
    """Return the ways in which class folders may match the outputs of a model.

    Parameters
    ----------
    folders : sequence of str
        Names of the class folders; empty if there are none.
    number : int
        Number of classes, K.
    path : Path or None
        File with the names of the outputs.
    console : Console
        Takes a note of what was concluded.
    own_names : sequence of str, optional
        Names that the network itself gives to its outputs, `Head.class_names`.

    Returns
    -------
    matchings : list of Matching
        The first one holds unless the predictions contradict it.
    """
    if path is not None:
        names = read_class_names(path, number)
        return [Matching(names, names.of_folders(folders) if folders else None)]
    names = ClassNames(tuple((name,) for name in own_names) if own_names else ((),) * number)
    if number == _IMAGENET:
        names = imagenet_names()
        found = _of_imagenet(names, folders)
        if found is not None:
            console.note("1,000 outputs and these class folders: the outputs are ImageNet's")
            return [Matching(names, found)]
    numbered = _numbered(folders, number)
    if numbered is not None:
        if number != _IMAGENET:
            names = ClassNames(tuple((str(k),) for k in range(number)))
        if len(folders) < number:
            console.note(
                f"{len(folders)} class folders are numbers: each is the output of its number, of "
                f"{number} outputs"
            )
        first = Matching(names, numbered, "by their numbers, as the numbers of the outputs")
        others = _sorted(folders) if len(folders) == number else []
        return [first, *(one for one in others if one.classes != numbered)]
    if len(folders) == number:
        return _sorted(folders)
    if number == _IMAGENET:
        console.note(
            "1,000 outputs and no --class-names: they are given the names of ImageNet's classes"
        )
    if folders:
        console.note(
            f"{len(folders)} class folders for {number} outputs: the classes are those that the "
            "network predicts. To match folders to outputs, give --class-names FILE"
        )
    return [Matching(names, None)]


def _of_imagenet(names: ClassNames, folders: Sequence[str]) -> dict[str, int | None] | None:
    """Return folder → class of ImageNet; None unless ids or all names are of ImageNet."""
    if not folders or all(name.isdecimal() for name in folders):
        return None
    has_ids = all(_WORDNET_ID.match(name.casefold()) for name in folders)
    by_id = {entry[0]: k for k, entry in enumerate(names.entries)}
    if has_ids:  # whatever follows the id
        ids = {name: by_id.get(name.casefold()[:9]) for name in folders}
        if len(set(ids.values())) == len(ids):
            return dict(ids)
        return names.of_folders(folders)
    try:
        classes = names.of_folders(folders)
    except ValueError:  # a name that two classes share
        return None
    return None if None in classes.values() else classes


def _numbered(folders: Sequence[str], number: int) -> dict[str, int | None] | None:
    """Return folder → output if all folders are different numbers of outputs, otherwise None."""
    if not folders or not all(name.isascii() and name.isdecimal() for name in folders):
        return None
    classes: dict[str, int | None] = {name: int(name) for name in folders}
    fits = len(set(classes.values())) == len(classes) and max(map(int, folders)) < number
    return classes if fits else None


def _sorted(folders: Sequence[str]) -> list[Matching]:
    """Return a matching for each order of the folders that differs from the others."""
    known = {entry[0]: entry for entry in imagenet_names().entries}
    orders: dict[tuple[str, ...], str] = {}
    for how, key in _ORDERS.items():
        orders.setdefault(tuple(sorted(folders, key=key)), how)
    return [
        Matching(
            ClassNames(tuple(known.get(name.casefold(), (name,)) for name in order)),
            {name: k for k, name in enumerate(order)},
            f"sorted {how}",
        )
        for order, how in orders.items()
    ]


def settled(choices: Sequence[Matching], folders: Array, predicted: Array, console: Console) -> int:
    """Return which matching the predictions agree with.

    The first one is taken unless another one is clearly better. Doubts are noted.

    Parameters
    ----------
    choices : sequence of Matching
    folders : ndarray of shape (N,), object
        Class folder of each image.
    predicted : ndarray of shape (N,), int
        Predicted class of each image.
    console : Console

    Returns
    -------
    index : int
    """
    if choices[0].classes is None or not choices[0].how:
        return 0
    right = [np.asarray(one.labels(folders)) == predicted for one in choices]
    best = int(np.argmax([np.sum(hits) for hits in right]))
    if len(choices) > 1:
        others = [hits for k, hits in enumerate(right) if k != best]
        is_told = all(is_clearly_better(right[best], hits) for hits in others)
        best = best if is_told else 0
        console.note(_choice_text(choices, best, is_told, [float(np.mean(hits)) for hits in right]))
    share = float(np.mean(right[best]))
    possible = _best_possible(np.asarray(choices[best].labels(folders)), predicted)
    if share < _DOUBTFUL < possible:
        console.note(
            f"only {share:.0%} of the images are predicted as the class of their folder, but "
            f"{possible:.0%} would be if the folders were other outputs: give the names of the "
            "outputs in their order, with --class-names FILE"
        )
    return best


def _choice_text(
    choices: Sequence[Matching], best: int, is_told: bool, shares: Sequence[float]
) -> str:
    """Return how folders were matched, why, and a folder that another way matches otherwise."""
    first, second = (one.classes or {} for one in choices[:2])
    example = next(name for name in first if first[name] != second[name])
    why = (
        "The predictions tell this"
        if is_told
        else ("The predictions do not tell it: check it, or give --class-names FILE")
    )
    ways = "; ".join(
        f"{one.how}: {share:.0%} of the images are predicted as their class"
        for one, share in zip(choices, shares, strict=True)
    )
    return (
        f"class folders are matched to outputs {choices[best].how} (folder {printable(example)!r} "
        f"is output {(choices[best].classes or {})[example]}). {why} ({ways})"
    )


def is_clearly_better(hits: Array, others: Array) -> bool:
    """Return whether one of two ways is right more often than chance explains (2 sigma).

    Parameters
    ----------
    hits, others : ndarray of shape (N,), bool
        Whether each way is right in each image.
    """
    gained, lost = int((hits & ~others).sum()), int((others & ~hits).sum())
    return bool(gained - lost > 2.0 * float(gained + lost) ** 0.5)


def _best_possible(labels: Array, predicted: Array) -> float:
    """Return the share of images that the best order of the same folders would get right."""
    size = int(max(labels.max(), predicted.max())) + 1
    counts = np.zeros((size, size))
    np.add.at(counts, (labels, predicted), 1)
    counts = counts[np.unique(labels)]
    return float(counts[linear_sum_assignment(counts, maximize=True)].sum() / len(labels))
