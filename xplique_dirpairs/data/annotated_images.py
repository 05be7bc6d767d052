"""Images with masks of their concepts, in memory or as a stream.

A pixel has at most one label in each of several categories (object, part, texture, colour), as in
Broden (Bau et al. 2017). Functions that take annotated images read them with ``batches``, so that
sets larger than memory can be used as well.
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

#: A concept: (category, name).
Concept = tuple[str, str]
#: Images and the masks of each category.
Batch = tuple[Array, dict[str, Array]]


class Annotated(Protocol):
    """Annotated images: `AnnotatedImages`, `AnnotatedStream`, or an object with their interface.

    If an attribute ``exhaustive`` is true, an image without a label of a category contains nothing
    of it. Otherwise such an image may not have been annotated.
    """

    @property
    def concepts(self) -> Mapping[str, tuple[str, ...]]:
        """Names of the concepts of each category; number c in the masks is ``names[c - 1]``."""

    def batches(self, batch_size: int = ...) -> Iterable[tuple[Array, Mapping[str, Array]]]:
        """Yield images (n, H, W, …) and their masks, category → (n, H, W), the same at every call.

        Parameters
        ----------
        batch_size : int
            Number of images in a batch; the last batch may have fewer.
        """


def flat_concepts(concepts: Mapping[str, tuple[str, ...]]) -> list[Concept]:
    """Return (category, name) of every concept, in the order of the categories."""
    return [(category, name) for category, names in concepts.items() for name in names]


@dataclass(frozen=True, eq=False)
class AnnotatedImages:
    """Annotated images in memory.

    Parameters
    ----------
    images : ndarray of shape (N, H, W, C)
        Floats or uint8, as the network expects them.
    masks : dict of str to ndarray of shape (N, H, W), int
        Masks by category: 0 for unlabelled pixels, c for the category's concept number c.
    concepts : dict of str to sequence of str
        Names of the concepts by category; concept number c is ``names[c - 1]``.
    labels : array-like of shape (N,), optional
        Class index of each image. None: the classes are not known.
    class_names : sequence of str, optional
        Name of each class, by its index. None: the classes have no names.
    exhaustive : bool, default=False
        Whether the masks are complete, so that an image without a label of a category contains
        nothing of it. Otherwise, as in Broden, such an image may not have been annotated, and is
        not used for the category.

    Raises
    ------
    TypeError
        If masks or concepts are not given by category.
    ValueError
        If shapes, categories or numbers do not match.
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
        """Create annotated images from a single mask for each image, not ``exhaustive``.

        Parameters
        ----------
        images : array-like of shape (N, H, W, C)
            Floats or uint8, as the network expects them.
        masks : array-like of shape (N, H, W), int
            Number of the concept of each pixel.
        names : dict of int to str
            Names of the concepts by their numbers in the masks, which may have gaps.
        category : str, default="object"
            Name of the only category.
        background : int or None, default=0
            Number of pixels without a label; None if all pixels have a label.
        labels : array-like of shape (N,), optional
            Class index of each image. None: the classes are not known.

        Returns
        -------
        annotated : AnnotatedImages
            The images, with concepts of one category.

        Raises
        ------
        TypeError
            If ``names`` is not a dictionary.
        ValueError
            If the masks hold numbers without a name, or `AnnotatedImages` refuses an argument.
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
        """Yield images and masks in order.

        Parameters
        ----------
        batch_size : int, default=64
            Number of images in a batch.

        Yields
        ------
        images : ndarray of shape (n, H, W, C)
            The next n images.
        masks : dict of str to ndarray of shape (n, H, W)
            Category → its masks of these images.

        Raises
        ------
        ValueError
            If ``batch_size`` is not a positive integer.
        """
        check_integer("batch_size", batch_size)
        parts = slices(len(self), batch_size)
        return ((self.images[part], _part(self.masks, part)) for part in parts)

    def subset(self, which: ArrayLike) -> AnnotatedImages:
        """Return a subset of the images.

        Parameters
        ----------
        which : array-like of int or bool
            Indices of the images to keep, or whether to keep each of the N images.

        Returns
        -------
        subset : AnnotatedImages
            These images, with their masks and labels.

        Raises
        ------
        ValueError
            If the subset has no images.
        """
        chosen = np.asarray(which)
        labels = None if self.labels is None else self.labels[chosen]
        masks = _part(self.masks, chosen)
        return replace(self, images=self.images[chosen], masks=masks, labels=labels)

    def split(
        self, share: float = 0.5, *, groups: ArrayLike | None = None, random_state: int = 0
    ) -> tuple[AnnotatedImages, AnnotatedImages]:
        """Split the images into two disjoint sets.

        Parameters
        ----------
        share : float, default=0.5
            Share of the images (or groups) in the first set, in (0, 1).
        groups : array-like of shape (N,), optional
            Group of each image. Images of a group, such as crops of one photograph, stay together.
            None: each image is a group.
        random_state : int, default=0
            Seed of the choice of the images in the first set.

        Returns
        -------
        first : AnnotatedImages
            A share ``share`` of the groups, rounded to a whole number of them.
        second : AnnotatedImages
            The other images.

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
            raise ValueError(f"share {share} of {len(kinds)} images or groups leaves one set empty")
        in_first = np.zeros(len(kinds), bool)
        in_first[np.random.default_rng(random_state).permutation(len(kinds))[:first]] = True
        return self.subset(in_first[member]), self.subset(~in_first[member])


class AnnotatedStream:
    """Annotated images that are generated batch by batch, each time that they are read.

    Parameters
    ----------
    make_batches : callable
        Function of the batch size that returns a new iterator over (images of shape (n, H, W, C),
        masks by category), with the same images in the same order at every call.
    concepts : dict of str to sequence of str
        Names of the concepts by category; concept number c of a mask is ``names[c - 1]``, and 0
        stands for pixels without a label.
    exhaustive : bool, default=False
        Whether an image without a label of a category contains nothing of it. Otherwise such an
        image may not have been annotated, and is not used for the category.

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
                "make_batches must be a function of the batch size that returns a new iterator, "
                f"not {type(make_batches).__name__}: a generator could be read only once"
            )
        self._make_batches = make_batches
        self.concepts = _checked_concepts(concepts)
        self.exhaustive = exhaustive

    def batches(self, batch_size: int = 64) -> Iterator[Batch]:
        """Yield images and masks in order, with one batch at a time in memory.

        Parameters
        ----------
        batch_size : int, default=64
            Number of images in a batch.

        Yields
        ------
        images : ndarray of shape (n, H, W, C)
            The next n images.
        masks : dict of str to ndarray of shape (n, H, W)
            Category → its masks of these images.

        Raises
        ------
        TypeError, ValueError
            If ``batch_size`` is not a positive integer; while iterating, if a batch is invalid.
        """
        check_integer("batch_size", batch_size)
        return (
            _checked_batch(images, masks, self.concepts)
            for images, masks in self._make_batches(batch_size)
        )


def _part(masks: Mapping[str, Array], which: slice | Array) -> dict[str, Array]:
    """Return the masks of some of the images."""
    return {category: mask[which] for category, mask in masks.items()}


def _checked_concepts(concepts: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Return the names of concepts by category, as tuples, after checking them."""
    wanted = "a dict of category → names, such as {'object': ['house', 'tree']}"
    check_type("concepts", concepts, Mapping, wanted)
    if not concepts:
        raise ValueError("concepts are empty: give at least one category")
    checked = {}
    for category, names in concepts.items():
        if isinstance(names, str) or not all(isinstance(name, str) for name in names):
            raise TypeError(f"concepts[{category!r}] must be a list of names, not {names!r}")
        twice = {name for name in names if list(names).count(name) > 1}
        if not names or twice:
            problem = f"contains {sorted(twice)} twice" if twice else "is empty"
            raise ValueError(f"concepts[{category!r}] {problem}")
        checked[category] = tuple(names)
    return checked


def _checked_batch(
    given: ArrayLike, masks: Mapping[str, ArrayLike], concepts: Mapping[str, tuple[str, ...]]
) -> Batch:
    """Return images and masks as arrays, after checking them."""
    images = np.asarray(given)
    if images.ndim != 4 or images.dtype.kind not in "uif":
        raise ValueError(
            f"images must be numbers (N, height, width, C), not {images.dtype} {images.shape}"
        )
    if images.size == 0:
        raise ValueError(f"there are no images: shape {images.shape}")
    checked = check_masks(masks, concepts, len(images))
    shape = next(iter(checked.values())).shape
    if shape != images.shape[:3]:
        raise ValueError(
            f"masks of images {images.shape} must have shape {images.shape[:3]}, not {shape}"
        )
    return images, checked


def check_masks(
    masks: Mapping[str, ArrayLike], concepts: Mapping[str, tuple[str, ...]], count: int
) -> dict[str, Array]:
    """Return the masks of N images by category, as integers of one shape.

    Parameters
    ----------
    masks : mapping of str to array-like of shape (N, H, W)
        Masks by category.
    concepts : mapping of str to tuple of str
        Names of the concepts by category.
    count : int
        Number of images N.

    Returns
    -------
    masks : dict of str to ndarray of shape (N, H, W)
        Masks by category, as arrays of integers.

    Raises
    ------
    TypeError
        If masks are not given by category.
    ValueError
        If masks are not integers, not of one shape, or hold numbers without a concept.
    """
    advice = "AnnotatedImages.from_one_mask takes one mask for each image"
    check_type("masks", masks, Mapping, "a dict of category → (N, height, width)", advice)
    if set(masks) != set(concepts):
        raise ValueError(f"masks must have the categories {sorted(concepts)}, not {sorted(masks)}")
    checked = {}
    for category, names in concepts.items():
        mask = _integers(f"masks[{category!r}]", masks[category])
        if mask.ndim != 3 or len(mask) != count:
            raise ValueError(
                f"masks[{category!r}] must have shape ({count}, height, width), not {mask.shape}"
            )
        low, high = int(mask.min()), int(mask.max())
        if low < 0 or high > len(names):
            raise ValueError(
                f"masks[{category!r}] hold numbers from {low} to {high}, but there are "
                f"{len(names)} names: use 0 for pixels without a label, and 1 to {len(names)}"
            )
        checked[category] = mask
    if len({mask.shape for mask in checked.values()}) > 1:
        shapes = {category: mask.shape for category, mask in checked.items()}
        raise ValueError(f"masks of all categories must have the same shape, not {shapes}")
    return checked


def _integers(name: str, values: ArrayLike) -> Array:
    """Return values as an array of integers."""
    array = np.asarray(values)
    if array.dtype == bool:
        return array.astype(np.uint8)
    if array.dtype.kind not in "ui" or array.size == 0:
        raise ValueError(f"{name} must be integers, not {array.dtype} of shape {array.shape}")
    return array
