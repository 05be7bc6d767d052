"""Images with masks of what is where: the form in which annotated data is handed on.

A pixel has one label in each of several categories (object, part, texture, colour), or none, as in
Broden (Bau et al. 2017). What takes annotated images goes through ``batches``, so that it takes
sets that memory does not hold as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: (category, name).
Concept = tuple[str, str]
#: Images, and the masks of each category.
Batch = tuple[NDArray, dict[str, NDArray]]


class _Annotated:
    """What sets in memory and streams share: the list of concepts."""

    concepts: dict[str, tuple[str, ...]]
    exhaustive: bool

    @property
    def flat_concepts(self) -> list[Concept]:
        """(category, name) of every concept, category by category."""
        return [(category, name) for category, names in self.concepts.items() for name in names]

    def concept_number(self, category: str, name: str) -> int:
        """Which number marks a concept in the masks of its category.

        Raises
        ------
        ValueError
            If there is no such concept.
        """
        if category not in self.concepts:
            raise ValueError(f"there is no category {category!r}, only {list(self.concepts)}")
        if name not in self.concepts[category]:
            raise ValueError(
                f"there is no {category} {name!r}, only {list(self.concepts[category])}"
            )
        return self.concepts[category].index(name) + 1


@dataclass(frozen=True, eq=False)
class AnnotatedImages(_Annotated):
    """Images and masks, in memory.

    Parameters
    ----------
    images : (N, H, W, C)
        Floats or uint8, as the network takes them.
    masks
        Category → (N, H, W) integers: 0 where nothing is labelled, c for the category's concept
        number c.
    concepts
        Category → names; number c is ``names[c - 1]``.
    labels : (N,), optional
        Class of each image.
    class_names
        Of the classes, if they have names.
    exhaustive
        Whether the masks show all that there is, so that an image without a label of a category has
        nothing of that category. Otherwise it may only not have been annotated, as in Broden, and
        says nothing about the category.

    Raises
    ------
    TypeError
        If masks or concepts are not given by category.
    ValueError
        If shapes, categories or numbers do not fit one another.
    """

    images: NDArray
    masks: dict[str, NDArray]
    concepts: dict[str, tuple[str, ...]]
    labels: NDArray | None = None
    class_names: tuple[str, ...] | None = None
    exhaustive: bool = False

    def __post_init__(self):
        concepts = _checked_concepts(self.concepts)
        images, masks = _checked_batch(self.images, self.masks, concepts)
        labels = None if self.labels is None else _checked_labels(self.labels, len(images))
        names = None if self.class_names is None else tuple(self.class_names)
        if names is not None and labels is not None and labels.max() >= len(names):
            raise ValueError(f"labels go up to {labels.max()}, but there are {len(names)} names")
        for name, value in (
            ("images", images),
            ("masks", masks),
            ("concepts", concepts),
            ("labels", labels),
            ("class_names", names),
        ):
            object.__setattr__(self, name, value)

    @classmethod
    def from_one_mask(
        cls,
        images: ArrayLike,
        masks: ArrayLike,
        names: Mapping[int, str],
        *,
        category: str = "object",
        background: int | None = 0,
        labels: ArrayLike | None = None,
    ) -> AnnotatedImages:
        """Images that have a single mask each, not taken to be ``exhaustive``.

        Parameters
        ----------
        images : (N, H, W, C)
        masks : (N, H, W)
            Integers as ``names`` lists them, in any order and with gaps.
        names
            Number in the masks → name of the concept.
        category
            Name of the one category.
        background
            The number of pixels without a label; None: there is none.
        labels : (N,), optional

        Raises
        ------
        TypeError, ValueError
            As of the class itself; and if the masks hold numbers without a name.
        """
        if not isinstance(names, Mapping):
            raise TypeError(
                f"names must be a dict of number → name, not {type(names).__name__}: dict("
                "enumerate(names)) numbers a list from 0"
            )
        array = _integers("masks", masks)
        listed = [number for number in names if number != background]
        found = np.unique(array)
        known = listed if background is None else [background, *listed]
        unknown = [int(number) for number in found if number not in known]
        if unknown:
            raise ValueError(f"masks hold numbers without a name: {unknown[:10]}")
        order = np.argsort([*known])
        numbers = np.arange(len(known)) + (background is None)
        place = np.searchsorted(np.array(known)[order], array)
        renumbered = numbers[order][place].astype(np.min_scalar_type(len(known)))
        concepts = {category: tuple(names[number] for number in listed)}
        images, labels = np.asarray(images), None if labels is None else np.asarray(labels)
        return cls(images, {category: renumbered}, concepts, labels)

    def __len__(self) -> int:
        return len(self.images)

    def mask(self, category: str, name: str) -> NDArray:
        """Where a concept is, (N, H, W) bool."""
        number = self.concept_number(category, name)
        return self.masks[category] == number

    def occurrence(self) -> NDArray:
        """Which image shows which concept, (N, I) bool in the order of ``flat_concepts``."""
        columns = []
        for category, names in self.concepts.items():
            there = np.zeros((len(self), len(names) + 1), bool)
            for row, mask in zip(there, self.masks[category], strict=True):
                row[np.unique(mask)] = True
            columns.append(there[:, 1:])
        return np.concatenate(columns, axis=1)

    def batches(self, batch_size: int = 64) -> Iterator[Batch]:
        """Images and masks in order, ``batch_size`` at a time.

        Raises
        ------
        ValueError
            If ``batch_size`` is not positive.
        """
        _check_size(batch_size)
        starts = range(0, len(self), batch_size)
        parts = (slice(start, start + batch_size) for start in starts)
        return ((self.images[part], _part(self.masks, part)) for part in parts)

    def subset(self, which: ArrayLike) -> AnnotatedImages:
        """Some of the images.

        Parameters
        ----------
        which
            Their numbers, or a bool for each image.

        Raises
        ------
        ValueError
            If that leaves no image.
        """
        which = np.asarray(which)
        labels = None if self.labels is None else self.labels[which]
        images, masks = self.images[which], _part(self.masks, which)
        return replace(self, images=images, masks=masks, labels=labels)

    def split(
        self, share: float = 0.5, *, groups: ArrayLike | None = None, random_state: int = 0
    ) -> tuple[AnnotatedImages, AnnotatedImages]:
        """Two sets without an image in common.

        Parameters
        ----------
        share
            Of the images (of the groups, if there are any) in the first set, in (0, 1).
        groups : (N,), optional
            Images of one group stay together, such as crops of one photograph.
        random_state
            Which ones go where.

        Raises
        ------
        ValueError
            If the share leaves one set empty, or there is not one group for each image.
        """
        groups = np.arange(len(self)) if groups is None else np.asarray(groups)
        if groups.shape != (len(self),):
            raise ValueError(f"groups must have shape {(len(self),)}, not {groups.shape}")
        kinds, member = np.unique(groups, return_inverse=True)
        first = round(share * len(kinds))
        if not 0 < first < len(kinds):
            raise ValueError(
                f"share {share} of {len(kinds)} images or groups leaves one of the two sets empty"
            )
        in_first = np.zeros(len(kinds), bool)
        in_first[np.random.default_rng(random_state).permutation(len(kinds))[:first]] = True
        return self.subset(in_first[member]), self.subset(~in_first[member])


class AnnotatedStream(_Annotated):
    """Images and masks that come batch by batch, as often as they are asked for.

    Parameters
    ----------
    make_batches
        Batch size → a fresh iterator of (images (n, H, W, C), masks by category), the same images
        in the same order at every call.
    concepts
        Category → names, as of `AnnotatedImages`.
    exhaustive
        As of `AnnotatedImages`.

    Raises
    ------
    TypeError, ValueError
        If ``make_batches`` cannot be called, or the concepts are not names by category.
    """

    def __init__(
        self,
        make_batches: Callable[[int], Iterable[tuple[ArrayLike, Mapping[str, ArrayLike]]]],
        concepts: Mapping[str, Sequence[str]],
        *,
        exhaustive: bool = False,
    ):
        if not callable(make_batches):
            raise TypeError(
                "make_batches must be a function of the batch size that returns a fresh iterator, "
                f"not {type(make_batches).__name__}: a generator could be read only once"
            )
        self._make_batches = make_batches
        self.concepts = _checked_concepts(concepts)
        self.exhaustive = exhaustive

    def batches(self, batch_size: int = 64) -> Iterator[Batch]:
        """Images and masks in order, one batch at a time in memory.

        Raises
        ------
        TypeError, ValueError
            If ``batch_size`` is not positive; while iterating, if a batch does not fit.
        """
        _check_size(batch_size)
        return (
            _checked_batch(images, masks, self.concepts)
            for images, masks in self._make_batches(batch_size)
        )


def _part(masks: Mapping[str, NDArray], which) -> dict[str, NDArray]:
    return {category: mask[which] for category, mask in masks.items()}


def _check_size(batch_size: int) -> None:
    whole = isinstance(batch_size, (int, np.integer)) and not isinstance(batch_size, bool)
    if not whole or batch_size < 1:
        raise ValueError(f"batch_size must be an integer of at least 1, not {batch_size!r}")


def _checked_concepts(concepts: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    if not isinstance(concepts, Mapping):
        raise TypeError(
            "concepts must be a dict of category → names, such as {'object': ['house', 'tree']}, "
            f"not {type(concepts).__name__}"
        )
    if not concepts:
        raise ValueError("concepts are empty: at least one category is needed")
    checked = {}
    for category, names in concepts.items():
        if isinstance(names, str) or not all(isinstance(name, str) for name in names):
            raise TypeError(f"concepts[{category!r}] must be a list of names, not {names!r}")
        twice = {name for name in names if list(names).count(name) > 1}
        if not names or twice:
            problem = f"names {sorted(twice)} twice" if twice else "is empty"
            raise ValueError(f"concepts[{category!r}] {problem}")
        checked[category] = tuple(names)
    return checked


def _checked_batch(images, masks, concepts: Mapping[str, tuple[str, ...]]) -> Batch:
    images = np.asarray(images)
    if images.ndim != 4 or images.dtype.kind not in "uif":
        raise ValueError(
            "images must be numbers of shape (N, height, width, channels), "
            f"not {images.dtype} {images.shape}"
        )
    if images.size == 0:
        raise ValueError(f"there are no images: shape {images.shape}")
    if not isinstance(masks, Mapping):
        raise TypeError(
            f"masks must be a dict of category → (N, height, width), not {type(masks).__name__}: "
            "AnnotatedImages.from_one_mask takes one mask for each image"
        )
    if set(masks) != set(concepts):
        raise ValueError(
            f"masks are of the categories {sorted(masks)}, concepts of {sorted(concepts)}"
        )
    checked = {}
    for category, names in concepts.items():
        mask = _integers(f"masks[{category!r}]", masks[category])
        if mask.shape != images.shape[:3]:
            raise ValueError(
                f"masks[{category!r}] have shape {mask.shape}, but the images {images.shape}: "
                f"{images.shape[:3]} is wanted"
            )
        low, high = int(mask.min()), int(mask.max())
        if low < 0 or high > len(names):
            raise ValueError(
                f"masks[{category!r}] hold numbers from {low} to {high}, but there are "
                f"{len(names)} names: 0 to {len(names)} is wanted, 0 for what has no label"
            )
        checked[category] = mask
    return images, checked


def _integers(name: str, values: ArrayLike) -> NDArray:
    array = np.asarray(values)
    if array.dtype == bool:
        return array.astype(np.uint8)
    if array.dtype.kind not in "ui" or array.size == 0:
        raise ValueError(f"{name} must be integers, not {array.dtype} of shape {array.shape}")
    return array


def _checked_labels(labels: ArrayLike, images: int) -> NDArray:
    array = np.asarray(labels)
    if array.shape != (images,) or array.dtype.kind not in "ui" or array.min() < 0:
        raise ValueError(
            f"labels must be a class number for each of the {images} images, not {array.dtype} of "
            f"shape {array.shape}"
            + (f" from {array.min()}" if array.size and array.dtype.kind in "ui" else "")
        )
    return array
