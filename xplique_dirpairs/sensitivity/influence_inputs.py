"""What is accepted for measuring influence, checked once, in the form it is computed with."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xplique_dirpairs.core.validation import check_float32


def checked_shifts(directions: ArrayLike, amount: float, channels: int) -> NDArray:
    """a ŝ/‖ŝ‖, (I, D), of directions of any length.

    Raises
    ------
    ValueError
    """
    vectors = check_float32("directions", directions)
    if vectors.ndim != 2 or vectors.shape[1] != channels or not len(vectors):
        raise ValueError(
            f"directions must be (I, D) with D = {channels}, as activations are, but have shape "
            f"{vectors.shape}"
        )
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not lengths.all():
        zero = np.flatnonzero(lengths == 0).tolist()
        raise ValueError(f"directions must not be zero, but rows {zero} are")
    if not (np.isfinite(amount) and amount != 0):
        raise ValueError(f"amount must be a number other than 0, not {amount!r}")
    return amount * vectors / lengths


def checked_labels(labels: ArrayLike | None, images: int, classes: int) -> NDArray | None:
    """A class for each image, or None.

    Raises
    ------
    TypeError, ValueError
    """
    if labels is None:
        return None
    ids = np.asarray(labels)
    if not np.issubdtype(ids.dtype, np.integer):
        raise TypeError(f"labels must be integers, a class for each image, not {ids.dtype}")
    if ids.shape != (images,):
        raise ValueError(f"labels must be one for each of {images} images, not {ids.shape}")
    if ids.min() < 0 or ids.max() >= classes:
        raise ValueError(
            f"labels must be classes, 0 to {classes - 1}, but reach from {ids.min()} to {ids.max()}"
        )
    return ids


def labelled_positions(
    features: ArrayLike | None, activations: ArrayLike, detections: ArrayLike, of: tuple[int, ...]
) -> tuple[NDArray, NDArray]:
    """Features (P, D) and detections (P, I), of as many directions and channels as ``of``.

    Raises
    ------
    TypeError, ValueError
    """
    x = check_float32("features", activations if features is None else features)
    detected = np.asarray(detections)
    if detected.dtype != bool:
        raise TypeError(
            f"detections must be bool, not {detected.dtype}: pairs.detect(features) > 0.5"
        )
    wanted = (*x.shape[:-1], of[0])
    if x.shape[-1:] != of[1:] or detected.shape != wanted:
        name = "activations" if features is None else "features"
        hint = "; pass what they are of as features" if features is None else ""
        raise ValueError(
            f"detections must be {wanted}, one for each position and direction, beside {name} of "
            f"shape {x.shape} and {of[0]} directions of {of[1]} channels, but have shape "
            f"{detected.shape}{hint}"
        )
    return x.reshape(-1, x.shape[-1]), detected.reshape(-1, of[0])


def generators_of(random_state: int | None, count: int) -> list[np.random.Generator]:
    """A generator of its own for each direction.

    Raises
    ------
    ValueError
    """
    try:
        seeds = np.random.SeedSequence(random_state).spawn(count)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"random_state must be None or an integer of at least 0, not {random_state!r}"
        ) from error
    return [np.random.default_rng(seed) for seed in seeds]
