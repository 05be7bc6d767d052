"""Images with masks of their concepts, in memory or as a stream.

A pixel has one label in each of several categories (object, part, texture, colour), or none, as in
Broden (Bau et al. 2017). Functions that take annotated images go through ``batches``, so that they
take sets larger than memory as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.core.batching import slices
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_integer, check_labels, check_type

#: (category, name).
Concept = tuple[str, str]
#: Images, and the masks of each category.
Batch = tuple[Array, dict[str, Array]]


class Annotated(Protocol):
    """Annotated images: `AnnotatedImages`, `AnnotatedStream`, or an object with their interface.

    With a true attribute ``exhaustive``, an image without a label of a category has nothing of it;
    without this attribute, it may not have been annotated.
    """

    @property
    def concepts(self) -> Mapping[str, tuple[str, ...]]:
        """Category → names; number c in the masks is ``names[c - 1]``."""

    def batches(self, batch_size: int = ...) -> Iterable[tuple[Array, Mapping[str, Array]]]:
        """Images (n, H, W, …) and masks {category: (n, H, W) int}, the same at every call."""


def flat_concepts(concepts: Mapping[str, tuple[str, ...]]) -> list[Concept]:
    """Return (category, name) of every concept, category by category."""
    return [(category, name) for category, names in concepts.items() for name in names]


@dataclass(frozen=True, eq=False)
class AnnotatedImages:
    """Images and masks, in memory.

    Parameters
    ----------
    images : ndarray of shape (N, H, W, C)
        Floats or uint8, as the network takes them.
    masks : dict of str to ndarray of shape (N, H, W), int
        By category: 0 where nothing is labelled, c for the category's concept number c.
    concepts : dict of str to sequence of str
        Names by category; number c is ``names[c - 1]``.
    labels : array-like of shape (N,), optional
        Class of each image.
    class_names : sequence of str, optional
    exhaustive : bool, default=False
        Whether the masks are complete, so that an image without a label of a category has nothing
        of that category. Otherwise it may only not have been annotated, as in Broden, and does not
        count for the category.

    Raises
    ------
    TypeError
        If masks or concepts are not given by category.
    ValueError
        If shapes, categories or numbers do not fit one another.
    """

    images: Array
    masks: dict[str, Array]
    concepts: dict[str, tuple[str, ...]]
    labels: Array | None = None
    class_names: tuple[str, ...] | None = None
    exhaustive: bool = False

    def __post_init__(self) -> None:
        concepts = _checked_concepts(self.concepts)
        images, masks = _checked_batch(self.images, self.masks, concepts)
        labels = None if self.labels is None else check_labels(self.labels, len(images), None)
        names = None if self.class_names is None else tuple(self.class_names)
        if names is not None and labels is not None and labels.max() >= len(names):
            raise ValueError(f"labels go up to {labels.max()}, but there are {len(names)} names")
        checked = {"images": images, "masks": masks, "concepts": concepts, "labels": labels}
        for name, value in {**checked, "class_names": names}.items():
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
        """Make a set of images that have a single mask each, not ``exhaustive``.

        Parameters
        ----------
        images : array-like of shape (N, H, W, C)
        masks : array-like of shape (N, H, W)
            Integers as in ``names``, in any order and with gaps.
        names : dict of int to str
            Names of the concepts by their number in the masks.
        category : str, default="object"
            Name of the one category.
        background : int or None, default=0
            The number of pixels without a label, if there is one.
        labels : array-like of shape (N,), optional

        Raises
        ------
        TypeError, ValueError
            As of the class itself; and if the masks hold numbers without a name.
        """
        advice = "dict(enumerate(names)) numbers a list from 0"
        check_type("names", names, Mapping, "a dict of number → name", advice)
        array = _integers("masks", masks)
        listed = [number for number in names if number != background]
        present, place = np.unique(array, return_inverse=True)
        new_numbers = {background: 0} | {number: k for k, number in enumerate(listed, start=1)}
        unknown = [int(number) for number in present if number not in new_numbers]
        if unknown:
            raise ValueError(f"masks hold numbers without a name: {unknown[:10]}")
        dtype = np.min_scalar_type(len(listed))
        renumbered = np.array([new_numbers[number] for number in present], dtype)[place]
        renumbered = renumbered.reshape(array.shape)
        concepts = {category: tuple(names[number] for number in listed)}
        images, labels = np.asarray(images), None if labels is None else np.asarray(labels)
        return cls(images, {category: renumbered}, concepts, labels)

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, batch_size: int = 64) -> Iterator[Batch]:
        """Yield images and masks in order, ``batch_size`` at a time.

        Raises
        ------
        ValueError
            If ``batch_size`` is not positive.
        """
        check_integer("batch_size", batch_size)
        parts = slices(len(self), batch_size)
        return ((self.images[part], _part(self.masks, part)) for part in parts)

    def subset(self, which: ArrayLike) -> AnnotatedImages:
        """Return a part of the images.

        Parameters
        ----------
        which : array-like
            Their indices, or a bool for each image.

        Raises
        ------
        ValueError
            If that leaves no image.
        """
        chosen = np.asarray(which)
        labels = None if self.labels is None else self.labels[chosen]
        masks = _part(self.masks, chosen)
        return replace(self, images=self.images[chosen], masks=masks, labels=labels)

    def split(
        self, share: float = 0.5, *, groups: ArrayLike | None = None, random_state: int = 0
    ) -> tuple[AnnotatedImages, AnnotatedImages]:
        """Split into two sets without an image in common.

        Parameters
        ----------
        share : float, default=0.5
            Share of the images (or groups) in the first set, in (0, 1).
        groups : array-like of shape (N,), optional
            Images of one group stay together, such as crops of one photograph.
        random_state : int, default=0

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


class AnnotatedStream:
    """Images and masks that are made batch by batch, as often as they are read.

    Parameters
    ----------
    make_batches : callable
        Batch size → a fresh iterator of (images (n, H, W, C), masks by category), the same images
        in the same order at every call.
    concepts, exhaustive
        As in `AnnotatedImages`.

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
        """Yield images and masks in order, one batch at a time in memory.

        Raises
        ------
        TypeError, ValueError
            If ``batch_size`` is not positive; while iterating, if a batch does not fit.
        """
        check_integer("batch_size", batch_size)
        return (
            _checked_batch(images, masks, self.concepts)
            for images, masks in self._make_batches(batch_size)
        )


def _part(masks: Mapping[str, Array], which: slice | Array) -> dict[str, Array]:
    return {category: mask[which] for category, mask in masks.items()}


def _checked_concepts(concepts: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    wanted = "a dict of category → names, such as {'object': ['house', 'tree']}"
    check_type("concepts", concepts, Mapping, wanted)
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


def _checked_batch(
    given: ArrayLike, masks: Mapping[str, ArrayLike], concepts: Mapping[str, tuple[str, ...]]
) -> Batch:
    images = np.asarray(given)
    if images.ndim != 4 or images.dtype.kind not in "uif":
        raise ValueError(
            "images must be numbers of shape (N, height, width, channels), "
            f"not {images.dtype} {images.shape}"
        )
    if images.size == 0:
        raise ValueError(f"there are no images: shape {images.shape}")
    checked = check_masks(masks, concepts, len(images))
    shape = next(iter(checked.values())).shape
    if shape != images.shape[:3]:
        raise ValueError(
            f"masks have shape {shape}, but must have {images.shape[:3]} for images of shape "
            f"{images.shape}"
        )
    return images, checked


def check_masks(
    masks: Mapping[str, ArrayLike], concepts: Mapping[str, tuple[str, ...]], count: int
) -> dict[str, Array]:
    """Return the masks of ``count`` images by category, integers of one shape (count, H, W).

    Raises
    ------
    TypeError, ValueError
        If they are not given by category, not integers, not of one shape, or hold numbers without
        a concept.
    """
    advice = "AnnotatedImages.from_one_mask takes one mask for each image"
    check_type("masks", masks, Mapping, "a dict of category → (N, height, width)", advice)
    if set(masks) != set(concepts):
        raise ValueError(
            f"masks are of the categories {sorted(masks)}, concepts of {sorted(concepts)}"
        )
    checked = {}
    for category, names in concepts.items():
        mask = _integers(f"masks[{category!r}]", masks[category])
        if mask.ndim != 3 or len(mask) != count:
            raise ValueError(
                f"masks[{category!r}] must have shape (n, H, W) for {count} images, not "
                f"{mask.shape}"
            )
        low, high = int(mask.min()), int(mask.max())
        if low < 0 or high > len(names):
            raise ValueError(
                f"masks[{category!r}] hold numbers from {low} to {high}, but there are "
                f"{len(names)} names: expected 0 to {len(names)}, 0 for pixels without a label"
            )
        checked[category] = mask
    if len({mask.shape for mask in checked.values()}) > 1:
        shapes = {category: mask.shape for category, mask in checked.items()}
        raise ValueError(f"masks of all categories must be of one shape, not {shapes}")
    return checked


def _integers(name: str, values: ArrayLike) -> Array:
    array = np.asarray(values)
    if array.dtype == bool:
        return array.astype(np.uint8)
    if array.dtype.kind not in "ui" or array.size == 0:
        raise ValueError(f"{name} must be integers, not {array.dtype} of shape {array.shape}")
    return array
