"""The inputs of `compare` and `attribute`: extractors, the network, images and classes."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.comparison.extractor_result import CONTROLS, NO_LEARNING, RANDOM
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import as_inputs, check_labels, check_type
from xplique_dirpairs.data.images import compute_activations
from xplique_dirpairs.extractors.concept_layer import (
    ConceptLayer,
    Split,
    as_extractor,
    own_activations,
    split_of,
)
from xplique_dirpairs.extractors.kinds import (
    Extractor,
    channels_of,
    fitted_images,
    is_fitted,
    number_of_concepts,
)
from xplique_dirpairs.factorizers.controls import NoLearningFactorizer, RandomFactorizer
from xplique_dirpairs.metrics.manipulation import Reading
from xplique_dirpairs.models.head import Head
from xplique_dirpairs.models.split import SplitModel

#: Activations, logits and limits whose relative difference is no larger count as equal: rounding.
_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class Settings:
    """The settings of a comparison; comparisons with different settings cannot be combined.

    Attributes
    ----------
    shape : tuple of int
        Shape of the activations of one image, (*spatial, D).
    logits : ndarray of shape (N, K)
        The network's logits for the unchanged images.
    limits : tuple of float
        Lower and upper limit of the layer's range, to which features are clipped.
    fit_images : str or None
        Checksum of the images on which extractors were fitted; None if there were none.
    importance_images : int
        Number of images over which Sobol indices are averaged.
    nb_design : int
        Number of random masks in each block of the Sobol design: see `compare`.
    random_state : int or list of int
        Seed of the comparison; for an average, the seeds of all its comparisons.
    """

    shape: tuple[int, ...]
    logits: Array
    limits: tuple[float, float]
    fit_images: str | None
    importance_images: int
    nb_design: int
    random_state: Any

    def differences(self, other: Settings) -> list[str]:
        """Return a text for each setting that differs, with both values if they are short.

        Logits and limits count as equal if they differ by at most 0.1 % of the largest of them.

        Parameters
        ----------
        other : Settings
            Settings of another comparison.

        Returns
        -------
        differences : list of str
            Empty if all settings are equal.
        """
        differences = []
        if not _are_close(self.logits, other.logits):
            differences.append("logits of the intact network (the networks differ)")
        if not _are_close(np.array(self.limits), np.array(other.limits)):
            differences.append(f"limits of the layer ({self.limits} and {other.limits})")
        if self.fit_images != other.fit_images:
            differences.append("fit_images")
        for name in ("shape", "importance_images", "nb_design", "random_state"):
            ours, theirs = getattr(self, name), getattr(other, name)
            if ours != theirs:
                differences.append(f"{name} ({ours} and {theirs})")
        return differences

    def to_json(self) -> dict[str, Any]:
        """Return all settings but the logits, in a form that can be written as JSON.

        Returns
        -------
        values : dict
            The settings by name.
        """
        return {name: value for name, value in vars(self).items() if name != "logits"}

    @classmethod
    def from_json(cls, values: dict[str, Any], logits: Array) -> Settings:
        """Return the settings from what `to_json` returned, and the logits.

        Parameters
        ----------
        values : dict
            What `to_json` returned.
        logits : ndarray of shape (N, K)
            The network's logits for the unchanged images.

        Returns
        -------
        settings : Settings
        """
        arrays = {"shape": tuple(values["shape"]), "limits": tuple(values["limits"])}
        return cls(**values | arrays, logits=logits)


def checksum(images: Array | None) -> str | None:
    """Return a checksum of an array's values, type and shape; None for no array."""
    if images is None:
        return None
    digest = hashlib.sha256(f"{images.dtype} {images.shape}".encode())
    digest.update(np.ascontiguousarray(images).tobytes())
    return digest.hexdigest()[:16]


def _are_close(ours: Array, theirs: Array) -> bool:
    """Return whether two arrays have the same shape and, up to rounding, the same values."""
    scale = max(float(np.abs(ours).max()), 1e-12)
    return ours.shape == theirs.shape and bool(np.abs(ours - theirs).max() <= _TOLERANCE * scale)


# ------------------------------------------------------------ extractors and the network


def check_extractors(extractors: Mapping[str, Any]) -> dict[str, Extractor]:
    """Return the extractors by name; direction pairs are replaced by their factorizer.

    Raises
    ------
    TypeError
        If ``extractors`` is not a dictionary, a name is not a string, or a value is not an
        extractor.
    ValueError
        If there are no extractors, or one has the name of a control.
    """
    check_type("extractors", extractors, Mapping, "a dictionary of names to extractors")
    if not extractors:
        raise ValueError("there are no extractors to compare: give at least one")
    for name in extractors:
        if not isinstance(name, str) or not name.strip():
            raise TypeError(f"names of extractors must be non-empty strings, not {name!r}")
        if name in CONTROLS:
            raise ValueError(f"{name!r} is the name of a control: give the extractor another name")
    return {name: as_extractor(given, repr(name)) for name, given in extractors.items()}


def find_split(extractors: Iterable[Any], split: Split | None) -> SplitModel:
    """Return the network's halves: the given ones, or those of the first extractor that has them.

    Raises
    ------
    ValueError
        If no halves are given and no extractor has them.
    """
    if split is not None:
        return SplitModel.of(split)
    known = [halves for halves in map(split_of, extractors) if halves is not None]
    if not known:
        raise ValueError("no extractor knows the network: pass split=split_model(model, layer)")
    return known[0]


def check_same_layer(extractors: Mapping[str, Any], images: Array, activations: Array) -> None:
    """Raise a ValueError if extractors belong to another layer or to another network.

    Parameters
    ----------
    extractors : dict of str to extractor or ConceptLayer
        Extractors by name.
    images : ndarray of shape (n, height, width, channels)
        A few images.
    activations : ndarray of shape (n, *spatial, D)
        Activations of these images at the layer where the network is split.

    Raises
    ------
    ValueError
        With the names of these extractors.
    """
    others = []
    for name, fitted in extractors.items():
        channels, own = channels_of(as_extractor(fitted)), own_activations(fitted, images)
        if channels not in (None, activations.shape[-1]):
            others.append(f"{name!r} ({channels} channels)")
        elif own is not None and not _are_close(activations, own):
            others.append(f"{name!r} ({_size(own)})")
    if others:
        raise ValueError(
            f"all extractors must belong to the layer of the split ({_size(activations)}), unlike "
            f"{', '.join(others)}: compare the extractors of each layer separately"
        )


def _size(activations: Array) -> str:
    """Return the shape of the activations of one image as text."""
    return " x ".join(str(length) for length in activations.shape[1:])


def controls_for(extractors: Mapping[str, Extractor], random_state: int) -> dict[str, Extractor]:
    """Return both controls by name.

    Their number of concepts is the most frequent one among the extractors, and the largest of those
    that are equally frequent.

    Raises
    ------
    ValueError
        If the number of concepts is known for no extractor.
    """
    numbers = [number_of_concepts(extractor) for extractor in extractors.values()]
    known = [number for number in numbers if number is not None]
    if not known:
        raise ValueError(
            "the controls need a number of concepts: fit an extractor, or pass controls=False"
        )
    concepts = max(sorted(set(known), reverse=True), key=known.count)
    return {
        RANDOM: RandomFactorizer(concepts, random_state=random_state),
        NO_LEARNING: NoLearningFactorizer(concepts, random_state=random_state),
    }


# ------------------------------------------------------------ images and classes


def images_to_fit(
    extractors: Mapping[str, Extractor], fit_images: ArrayLike | None, controls: bool
) -> Array | None:
    """Return the images to fit on: the given ones, or those that all extractors were fitted on.

    Raises
    ------
    ValueError
        If images are needed for a fit, but are neither given nor known.
    """
    if fit_images is not None:
        return as_inputs(fit_images)
    missing = [name for name, extractor in extractors.items() if not is_fitted(extractor)]
    if missing:
        raise ValueError(f"extractors {missing} are not fitted: fit them, or pass fit_images")
    known = fitted_images(extractors.values())
    if known and all(np.array_equal(known[0], other) for other in known[1:]):
        return known[0]
    if controls:
        reason = "the extractors were fitted on different images" if known else "none are known"
        raise ValueError(
            f"the controls need images to fit, but {reason}: pass fit_images, or controls=False"
        )
    return None


@dataclass(frozen=True, eq=False)
class Subject:
    """The activations and logits of images, and the class whose score is measured for each image.

    Attributes
    ----------
    activations : ndarray of shape (N, *spatial, D)
        Activations of the images at the layer.
    head : Head
        The rest of the network, with one output for each class.
    logits : ndarray of shape (N, K)
        The network's logits for the unchanged images.
    class_ids : ndarray of shape (N,), int
        For each image, the class whose score is measured.
    true_classes : ndarray of shape (N,) or (N, K), or None
        True classes. None if they are not known, because there are no labels, or because labels are
        class indices while the network's outputs are independent.
    batch_size : int
        Number of images in a batch.
    """

    activations: Array
    head: Head
    logits: Array
    class_ids: Array
    true_classes: Array | None
    batch_size: int

    @classmethod
    def of(
        cls,
        split: SplitModel,
        images: Array,
        labels: ArrayLike | None,
        batch_size: int,
        name: str = "labels",
    ) -> Subject:
        """Return the subject that results from passing images through the network.

        Parameters
        ----------
        split : SplitModel
            The network's halves.
        images : ndarray of shape (N, height, width, channels)
            Images to measure on.
        labels : array-like of shape (N,) or (N, K), or None
            Class indices, one-hot rows, or, for independent outputs, rows of 0 and 1; None for the
            predicted classes.
        batch_size : int
            Number of images in a batch.
        name : str, default="labels"
            Name of the labels in error messages.

        Returns
        -------
        subject : Subject

        Raises
        ------
        ValueError
            If the halves, images and labels do not match.
        """
        activations = compute_activations(split.input_to_latent_model, images, batch_size)
        split.head.check_takes(activations.shape[1:])
        head = split.head.by_class(activations[:1])
        logits = head.logits(activations, batch_size)
        class_ids, true_classes = _scored_classes(labels, logits, head, name)
        return cls(activations, head, logits, class_ids, true_classes, batch_size)

    def reading(self, concepts: ConceptLayer, limits: tuple[float, float]) -> Reading:
        """Return the reading of the images by concepts, at a layer with these limits."""
        return Reading(
            self.activations,
            concepts.coefficients(self.activations),
            concepts.bank,
            functools.partial(self.head.logits, batch_size=self.batch_size),
            self.class_ids,
            limits,
            self.head.class_activation,
        )


def _scored_classes(
    labels: ArrayLike | None, logits: Array, head: Head, name: str
) -> tuple[Array, Array | None]:
    """Return the class whose score is measured for each image (N,), and the true classes."""
    if labels is None:
        return logits.argmax(axis=1), None
    rows = np.asarray(labels)
    if head.has_exclusive_classes or rows.shape != logits.shape:
        images, classes = logits.shape
        indices = check_labels(labels, images, classes, name)
        if not head.is_multilabel:
            return indices, indices
        # For sigmoids, completeness needs rows of 0 and 1.
        one_hot = np.eye(classes, dtype=int)[indices]
        return indices, one_hot if head.has_exclusive_classes else None
    if not np.isin(rows, (0, 1)).all():
        raise ValueError(f"{name} of shape {rows.shape} must be rows of 0 and 1 only")
    rows = rows.astype(int)
    # If no class of an image is true, the likeliest of all classes is measured.
    candidates = np.where(rows.any(axis=1, keepdims=True), rows == 1, True)
    return np.where(candidates, logits, -np.inf).argmax(axis=1), rows
