"""Checks of the arguments of public functions.

Messages state what was received, what is expected and what to do. Checks of arrays return them in
the form that the package computes with. Internal functions do not check their arguments again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.core.types import Array

#: Names of all classes in order, or names of some classes by index.
Names: TypeAlias = Sequence[str] | Mapping[int, str] | None

#: Advice if a dataset or generator is given instead of an array.
_STREAM = (
    ". For data larger than memory, write shards with ActivationShards.write (from activations) "
    "or ActivationShards.compute (from images): learn_pairs, scan_number_of_concepts and "
    "count_skewed_sources accept them"
)
#: Numbers from here on are no class indices: floating-point numbers are not exact.
_LARGEST_INDEX = 2.0**53
#: The same for images, which extractors keep in memory.
_DATASET = (
    ". Give one array: images = np.concatenate(list(dataset)) for a dataset of batches without "
    "labels; np.concatenate([x for x, y in dataset]) for one with labels. For data larger than "
    "memory, use ActivationShards.compute and learn_pairs"
)


# ------------------------------------------------------------ images and activations


def check_images(images: ArrayLike) -> Array:
    """Return images as a float32 batch with unchanged values.

    Parameters
    ----------
    images : array-like of shape (N, height, width, C) or (height, width, C)
        One image or several. Integer images (uint8) are converted, not rescaled.

    Returns
    -------
    images : ndarray of shape (N, height, width, C), float32

    Raises
    ------
    ValueError
        If there are no images, the rank is wrong, or a value is not finite.
    """
    array = _as_float32(as_images(images))
    check_finite("images", array, advice="")
    return array


def as_images(images: ArrayLike) -> Array:
    """Return images (N, height, width, C) of unchanged dtype; values are not checked."""
    array = _as_array("images", images, _DATASET)
    if array.ndim == 3:
        array = array[None]
    if array.ndim != 4:
        advice = "; this function takes no videos" if array.ndim == 5 else ""
        raise ValueError(
            "images must have shape (N, height, width, channels) or (height, width, channels), "
            f"not {array.shape}{advice}"
        )
    if array.size == 0:
        raise ValueError(f"there are no images: shape {array.shape}")
    return array


def as_inputs(images: ArrayLike) -> Array:
    """Return images (N, height, width, C), or videos (N, T, height, width, C), unchecked.

    What has five axes are videos of T frames; everything else is checked as by `as_images`.
    """
    array = _as_array("images", images, _DATASET)
    return _not_empty(array) if array.ndim == 5 else as_images(array)


def as_videos(videos: ArrayLike) -> Array:
    """Return videos (N, T, height, width, C) of unchanged dtype; values are not checked."""
    array = _as_array("videos", videos, _DATASET)
    if array.ndim == 4:
        array = array[None]
    if array.ndim != 5:
        raise ValueError(
            "videos must have shape (N, frames, height, width, channels) or (frames, height, "
            f"width, channels), not {array.shape}"
        )
    return _not_empty(array)


def _not_empty(videos: Array) -> Array:
    """Return videos (N, T, height, width, C); raise a ValueError if there is nothing in them."""
    if videos.size == 0:
        raise ValueError(f"there are no videos: shape {videos.shape}")
    return videos


def check_inputs(images: ArrayLike) -> Array:
    """Return images, or videos (N, T, height, width, C), as finite float32, values unchanged."""
    array = _as_float32(as_inputs(images))
    check_finite("images", array, advice="")
    return array


def check_activations(activations: ArrayLike, name: str = "activations") -> Array:
    """Return activations as float32 of shape (N, *spatial, D).

    Parameters
    ----------
    activations : array-like of shape (N, T, H, W, D), (N, H, W, D), (N, T, D) or (N, D)
    name : str, default="activations"
        What they are called in error messages.

    Returns
    -------
    activations : ndarray of shape (N, *spatial, D), float32

    Raises
    ------
    ValueError
        If there are no activations, the rank is wrong, or a value is not finite.
    """
    array = as_activations(activations, name)
    check_finite(name, array)
    return array


def as_activations(activations: ArrayLike, name: str = "activations") -> Array:
    """Return activations as float32 of shape (N, *spatial, D); values are not checked."""
    array = _as_array(name, activations, _STREAM)
    if array.ndim not in (2, 3, 4, 5):
        raise ValueError(
            f"{name} must be numeric with shape (N, T, H, W, D), (N, H, W, D), (N, T, D) or "
            f"(N, D), not {array.dtype} {array.shape}"
        )
    if array.size == 0:
        raise ValueError(f"there are no activations: shape {array.shape}")
    return _as_float32(array)


def _as_float32(array: Array) -> Array:
    """Return an array as float32; values that are too large become infinite."""
    with np.errstate(over="ignore"):
        return array.astype(np.float32, copy=False)


def check_finite(
    name: str, array: Array, advice: str = ": check the images and their preprocessing"
) -> None:
    """Raise a ValueError if a value is NaN or infinite."""
    # A sum is finite only if all terms are; unlike np.isfinite, it needs no second array.
    with np.errstate(invalid="ignore", over="ignore"):
        is_finite = np.isfinite(array.sum(dtype=np.float64))
    if not is_finite and not np.isfinite(array).all():
        raise ValueError(f"{name} hold NaN or infinite values{advice}")


def check_float32(name: str, values: ArrayLike) -> Array:
    """Return values as a float32 array in C order.

    Raises
    ------
    ValueError
        If the values are not numbers, or not finite in float32.
    """
    try:
        with np.errstate(over="ignore"):  # overflow is detected below
            array = np.ascontiguousarray(values, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be an array of numbers: {error}") from error
    # minimum and maximum reveal NaN and infinity without a second array
    if array.size and not (np.isfinite(array.min()) and np.isfinite(array.max())):
        raise ValueError(f"{name} must be finite in float32, but hold NaN or infinite values")
    return array


def shape_fits(shape: tuple[int | None, ...], wanted: tuple[int | None, ...]) -> bool:
    """Return whether two shapes are equal, where None stands for any length."""
    return len(shape) == len(wanted) and all(
        None in (length, want) or length == want for length, want in zip(shape, wanted, strict=True)
    )


def check_images_fit(shape: tuple[int | None, ...], model: object) -> None:
    """Raise a ValueError if a shape (height, width, C) does not fit the input of a model.

    Videos have shape (T, height, width, C).

    A subclassed model without a known input shape accepts any images.
    """
    check_takes_images(model)
    wanted = getattr(model, "input_shape", None)
    if isinstance(wanted, tuple) and not shape_fits(shape, wanted[1:]):
        names = {3: "images", 4: "videos"}
        raise ValueError(
            f"{names.get(len(shape), 'images')} have shape {tuple(shape)}, but the network takes "
            f"{wanted[1:]}"
        )


def check_takes_images(model: object) -> None:
    """Raise a ValueError if the input of a model is known, and is not images, or videos."""
    wanted = getattr(model, "input_shape", None)
    if isinstance(wanted, tuple) and len(wanted) not in (4, 5):
        begin = (
            f"let it begin with keras.Input({(*wanted[1:], 1)}) and keras.layers.Reshape("
            f"{wanted[1:]}), or "
        )
        raise ValueError(
            f"the network takes inputs of shape {wanted[1:]}, but images have shape (height, "
            f"width, channels): {begin if len(wanted) == 3 else ''}learn from activations alone, "
            "as learn_pairs and the factorizers do"
        )


def _as_array(name: str, values: ArrayLike, stream_advice: str = "") -> Array:
    """Return values as one numeric array; ``stream_advice`` is added for iterables."""
    try:
        array = np.asarray(values)
    except ValueError:  # a list of arrays of several shapes
        array = np.array([None])
    if array.dtype == object and array.ndim:
        raise ValueError(f"{name} have several shapes: bring them to one shape, in one array")
    if array.dtype.name == "bfloat16":  # from mixed precision; numpy does not know it as a number
        array = array.astype(np.float32)
    if array.dtype.kind not in "fiub":
        received = type(values).__name__ if array.ndim == 0 else f"{array.dtype} {array.shape}"
        streams = array.ndim == 0 and hasattr(values, "__iter__") and not isinstance(values, str)
        raise ValueError(
            f"{name} must be one numeric array, not {received}{stream_advice if streams else ''}"
        )
    return array


# ------------------------------------------------------------ numbers


def check_real(name: str, values: ArrayLike, width: int | None = None, unit: str = "") -> Array:
    """Return values as an array of real numbers, whose last axis has the given width, if any.

    Raises
    ------
    ValueError
        If the values are not real numbers, or the last axis is of another length.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name} must be real numbers, not {array.dtype}")
    if width is not None and array.shape[-1:] != (width,):
        raise ValueError(
            f"the last axis of {name} must have {width} {unit}, but their shape is {array.shape}"
        )
    return array


def check_one_for_each(name: str, values: ArrayLike, count: int, things: str) -> Array:
    """Return values as one finite number for each of some things, (count,) float64.

    Raises
    ------
    ValueError
        If the values are not numbers, not as many, or not finite.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "fiub" or array.shape != (count,):
        received = f"of shape {array.shape}" if array.dtype.kind in "fiub" else f"{values!r:.80}"
        raise ValueError(
            f"{name} must be one finite number for each of {count} {things}, not {received}"
        )
    wrong = np.flatnonzero(~np.isfinite(array))
    if len(wrong):
        raise ValueError(
            f"{name} must be finite, but {len(wrong)} of {count} numbers are NaN or infinite, "
            f"first that of index {wrong[0]}"
        )
    return array.astype(np.float64)


def check_integer(name: str, value: int, minimum: int = 1) -> None:
    """Raise a ValueError unless a value is an integer of at least ``minimum``."""
    is_integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not is_integer or value < minimum:
        raise ValueError(f"{name} must be an integer of at least {minimum}, not {value!r}")


def check_number(
    name: str, value: float, above: float | None = None, minimum: float | None = None
) -> None:
    """Raise a ValueError unless a value is a finite number within its bounds."""
    is_number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not is_number or not np.isfinite(value):
        raise ValueError(f"{name} must be a finite number, not {value!r}")
    if above is not None and value <= above:
        raise ValueError(f"{name} must be more than {above:g}, not {value!r}")
    if minimum is not None and value < minimum:
        raise ValueError(f"{name} must be at least {minimum:g}, not {value!r}")


def check_limits(
    limits: Sequence[float | None], name: str = "limits"
) -> tuple[float | None, float | None]:
    """Return a range (lowest, highest) with None for an infinite or missing bound.

    Raises
    ------
    ValueError
        If the limits are not two numbers in ascending order.
    """
    try:
        low, high = (None if end is None or np.isinf(end) else float(end) for end in limits)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} must be (lowest, highest), each a number or None for no bound, not {limits!r}"
        ) from error
    if any(end is not None and np.isnan(end) for end in (low, high)):
        raise ValueError(f"{name} must not be NaN, but are {limits!r}")
    if low is not None and high is not None and not low < high:
        raise ValueError(f"{name} must be in order, lowest first, not {limits!r}")
    return low, high


def check_fraction(name: str, value: float) -> None:
    """Raise a ValueError unless a value lies strictly between 0 and 1."""
    if not 0.0 < value < 1.0:
        raise ValueError(f"{name} must lie between 0 and 1, not {value!r}")


def check_grid(grid: tuple[int, int]) -> None:
    """Raise a ValueError unless a grid is (rows, columns), integers of at least 1."""
    if np.shape(grid) != (2,):
        raise ValueError(f"grid must be (rows, columns), not {grid!r}")
    for length in grid:
        check_integer("rows and columns of the grid", length)


def check_named(name: str, values: Mapping[str, Any], wanted: str) -> None:
    """Raise a TypeError unless values are given by the names of networks, in a mapping.

    ``wanted`` says what the value of each network is, such as "activations".
    """
    example = f'{{"first network": {wanted}, "second network": {wanted}}}'
    if not isinstance(values, Mapping):
        raise TypeError(f"{name} must be a mapping, {example}, not {type(values).__name__}")
    for one in values:
        if not isinstance(one, str):
            raise TypeError(f"{name}: names of networks must be str, as in {example}, not {one!r}")


@contextmanager
def errors_of(name: str) -> Iterator[None]:
    """Put the name of a network or layer in front of errors in its concepts or features."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from error


def check_type(
    name: str, value: object, kind: type | tuple[type, ...], wanted: str, advice: str = ""
) -> None:
    """Raise a TypeError unless a value is of a kind, which the message describes as ``wanted``."""
    if not isinstance(value, kind):
        more = advice and f": {advice}"
        raise TypeError(f"{name} must be {wanted}, not {type(value).__name__}{more}")


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise a ValueError unless a value is one of the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {tuple(choices)}, not {value!r}")


def check_random_state(random_state: int | np.random.SeedSequence | None) -> np.random.Generator:
    """Return the random generator for a seed.

    Raises
    ------
    ValueError
        If the seed is invalid.
    """
    return np.random.default_rng(check_seed(random_state))


def check_seed(random_state: int | np.random.SeedSequence | None) -> np.random.SeedSequence:
    """Return a seed as a `numpy.random.SeedSequence`, from which further seeds can be spawned.

    Raises
    ------
    ValueError
        If the seed is invalid.
    """
    if isinstance(random_state, np.random.SeedSequence):
        return random_state
    try:
        return np.random.SeedSequence(random_state)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"random_state must be None or an integer of at least 0, not {random_state!r}"
        ) from error


# ------------------------------------------------------------ classes, labels and names


def check_class(class_id: int, number_of_classes: int | None) -> None:
    """Raise an error unless ``class_id`` is the index of a class.

    Parameters
    ----------
    class_id : int
        Index to check.
    number_of_classes : int or None
        Number of classes K; None if it is not known.

    Raises
    ------
    TypeError
        If the index is not an integer.
    ValueError
        If it is out of range.
    """
    if isinstance(class_id, bool) or not isinstance(class_id, (int, np.integer)):
        raise TypeError(f"class_id must be an integer, not {class_id!r}")
    if class_id < 0 or (number_of_classes is not None and class_id >= number_of_classes):
        of_classes = "" if number_of_classes is None else f" for {number_of_classes} classes"
        raise ValueError(f"class_id {class_id} is out of range{of_classes}")


def check_labels(
    labels: ArrayLike, count: int, number_of_classes: int | None, name: str = "labels"
) -> Array:
    """Return one class index for each image.

    Parameters
    ----------
    labels : array-like of shape (N,), (N, 1) or (N, K)
        Class indices, or one-hot rows.
    count : int
        Number of images N.
    number_of_classes : int or None
        Number of classes K; None if it is not known.
    name : str, default="labels"
        Name of the argument in messages.

    Returns
    -------
    labels : ndarray of shape (N,), int

    Raises
    ------
    TypeError
        If the labels are not numbers.
    ValueError
        If there is not one label for each image, or labels are neither integers nor one-hot, or are
        out of range.
    """
    try:
        array = np.asarray(labels)
    except ValueError as error:  # rows of several lengths
        raise ValueError(f"{name} must be one array, (N,) or (N, K): {error}") from error
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} must be class indices or one-hot rows, not {array.dtype}")
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 2:
        if number_of_classes is not None and array.shape[1] != number_of_classes:
            raise ValueError(
                f"one-hot {name} must have {number_of_classes} columns, not {array.shape[1]}"
            )
        if not (np.isin(array, (0, 1)).all() and (array.sum(axis=1) == 1).all()):
            raise ValueError(f"rows of {name} must be one-hot: a single 1, and 0 elsewhere")
        array = array.argmax(axis=1)
    if array.shape != (count,):
        raise ValueError(
            f"{name} must be one for each of {count} images, class indices ({count},) or one-hot "
            f"rows, not of shape {np.shape(labels)}"
        )
    with np.errstate(invalid="ignore"):  # numbers that are no 64-bit integers are found below
        indices = array.astype(int)
    if (indices != array).any() or (np.abs(array.astype(np.float64)) >= _LARGEST_INDEX).any():
        raise ValueError(f"{name} must be integer class indices")
    if number_of_classes is None:
        if count and indices.min() < 0:
            raise ValueError(f"{name} must be class indices of at least 0, not {indices.min()}")
    elif count and (indices.min() < 0 or indices.max() >= number_of_classes):
        raise ValueError(
            f"{name} must be classes 0 to {number_of_classes - 1}, but go from {indices.min()} to "
            f"{indices.max()}"
        )
    return indices


def check_concepts(concepts: ArrayLike | None, number_of_concepts: int) -> Array:
    """Return indices of concepts as an array; None stands for all concepts.

    Raises
    ------
    ValueError
        If the values are not indices, or are out of range.
    """
    if concepts is None:
        return np.arange(number_of_concepts)
    indices = np.atleast_1d(np.asarray(concepts))
    if indices.ndim != 1 or indices.size == 0 or indices.dtype.kind not in "iu":
        raise ValueError(f"concepts must be indices of concepts, or None for all, not {concepts!r}")
    if indices.min() < 0 or indices.max() >= number_of_concepts:
        wrong = indices[(indices < 0) | (indices >= number_of_concepts)].tolist()
        raise ValueError(
            f"concepts are numbered 0 to {number_of_concepts - 1}, not "
            f"{', '.join(map(str, wrong[:10]))}"
        )
    return indices


def check_class_names(names: Names, number_of_classes: int) -> tuple[str, ...]:
    """Return a name for each class, such as "class 3" for a class without a name.

    Parameters
    ----------
    names : sequence of str, dict of int to str, or None
        Names of all classes in order, or names of some classes by index.
    number_of_classes : int
        Number of classes K.

    Returns
    -------
    names : tuple of str

    Raises
    ------
    ValueError
        If a sequence does not have K names.
    """
    numbered = (f"class {k}" for k in range(number_of_classes))
    if names is None:
        return tuple(numbered)
    if isinstance(names, Mapping):
        return tuple(str(names.get(k, default)) for k, default in enumerate(numbered))
    if isinstance(names, str) or len(names) != number_of_classes:
        received = repr(names) if isinstance(names, str) else len(names)
        raise ValueError(
            f"class_names must be {number_of_classes} names, one for each class in order (for a "
            f"network with one output: negative, positive), or a dictionary, not {received}"
        )
    return tuple(str(name) for name in names)
