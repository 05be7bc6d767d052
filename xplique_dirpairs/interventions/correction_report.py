"""Report what a correction changed: accuracies, confusion matrices, predictions of image groups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import keras
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from sklearn.metrics import confusion_matrix

from xplique_dirpairs.core.tables import Cell, Table
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_class_names, check_inputs, check_labels
from xplique_dirpairs.metrics.manipulation import class_probabilities
from xplique_dirpairs.models.graph import check_keras_model, plain_model
from xplique_dirpairs.models.head import Head
from xplique_dirpairs.plots.interventions import plot_correction


@dataclass(frozen=True, eq=False)
class GroupChange:
    """Predictions of K classes for one group of N images, before and after a correction.

    Attributes
    ----------
    labels : ndarray of int of shape (N,)
        True classes.
    before : ndarray of shape (N, K)
        Class probabilities p of the original model.
    after : ndarray of shape (N, K)
        Class probabilities p' of the corrected model.
    """

    labels: Array
    before: Array
    after: Array

    @classmethod
    def joined(cls, groups: Iterable[GroupChange]) -> GroupChange:
        """Return one group that contains the images of all given groups."""
        columns = zip(*((group.labels, group.before, group.after) for group in groups), strict=True)
        return cls(*map(np.concatenate, columns))

    @property
    def accuracies(self) -> tuple[float, float]:
        """Share of images that are classified correctly, before and after."""
        was_right, is_right = self._right
        return float(was_right.mean()), float(is_right.mean())

    @property
    def confusions(self) -> tuple[Array, Array]:
        """Counts of images by class (rows) and prediction (columns), (K, K), before and after."""
        classes = range(self.before.shape[1])
        before, after = (
            confusion_matrix(self.labels, predicted, labels=classes) for predicted in self._classes
        )
        return before, after

    @property
    def fixed(self) -> int:
        """Number of images that only the corrected model classifies correctly."""
        return int((self._right[0] < self._right[1]).sum())

    @property
    def broken(self) -> int:
        """Number of images that only the original model classifies correctly."""
        return int((self._right[0] > self._right[1]).sum())

    @property
    def changed(self) -> int:
        """Number of images whose predicted class changed, whether it is right or wrong."""
        before, after = self._classes
        return int((before != after).sum())

    @property
    def moved(self) -> Array:
        """Probability that moved to other classes, Σ_k |p_k − p'_k| / 2 in [0, 1], (N,)."""
        return np.asarray(np.abs(self.before - self.after).sum(axis=1) / 2.0)

    @property
    def _classes(self) -> Array:
        """Predicted classes before and after, (2, N)."""
        return np.asarray(np.stack([self.before, self.after]).argmax(axis=2))

    @property
    def _right(self) -> Array:
        """Whether each image is classified correctly, before and after, (2, N)."""
        return np.asarray(self._classes == self.labels)

    def row(self, name: str) -> list[Cell]:
        """Return the row of this group in `CorrectionReport.table`."""
        counts = (self.fixed, self.broken, self.changed)
        return [
            Cell(name),
            Cell.figure(len(self.labels), 0),
            *map(Cell.figure, self.accuracies),
            *(Cell.figure(count, 0) for count in counts),
            Cell.figure(self.moved.mean(), 4),
            Cell.figure(self.moved.max()),
        ]


@dataclass(frozen=True, eq=False)
class CorrectionReport:
    """Comparison of a model before and after a correction, on groups of images.

    Attributes
    ----------
    groups : dict of str to GroupChange
        For each group, by its name: true classes ``labels`` (N,) of its N images, class
        probabilities ``before`` and ``after`` the correction, (N, K) each, and properties computed
        from them, such as ``accuracies``.
    class_names : tuple of str
        Names of the K classes.
    """

    groups: dict[str, GroupChange]
    class_names: tuple[str, ...]

    def __str__(self) -> str:
        return str(self.table())

    def _repr_html_(self) -> str:
        return self.table().formatted("html")

    def table(self) -> Table:
        """Return a table with a row for each group and, if there are several, one for all images.

        Returns
        -------
        table : Table
            Number of images; accuracy before and after; numbers of images that only the corrected
            model classifies right ("fixed"), that only the original does ("broken"), and whose
            prediction changed; mean over the images and largest value of the probability, 0 to 1,
            that moved to other classes.
        """
        rows = [group.row(name) for name, group in self.groups.items()]
        if len(rows) > 1:
            rows.append(GroupChange.joined(self.groups.values()).row("all of them"))
        headers = [
            "group", "images", "accuracy before", "after", "fixed", "broken", "other prediction",
            "mean moved", "largest",
        ]  # fmt: skip
        note = "Moved: probability that moved to other classes, Σ|p − p'|/2."
        return Table(headers, rows, [note])

    def plot(self, groups: Sequence[str] | None = None) -> Figure:
        """Draw the confusion matrices of groups, before and after the correction.

        Parameters
        ----------
        groups : sequence of str, optional
            Names of the groups to draw. None: all.

        Returns
        -------
        figure : matplotlib.figure.Figure
            Two matrices for each group; rows are true classes, columns are predictions.

        Raises
        ------
        ValueError
            If no group is given, or there is no group of a given name.
        """
        names = list(self.groups) if groups is None else list(groups)
        unknown = [name for name in names if name not in self.groups]
        if unknown or not names:
            raise ValueError(f"groups must be some of {list(self.groups)}, not {unknown or names}")
        confusions = {name: self.groups[name].confusions for name in names}
        return plot_correction(confusions, self.class_names)


def report_correction(
    before: keras.Model,
    after: keras.Model,
    groups: Mapping[str, tuple[ArrayLike, ArrayLike]],
    class_names: Sequence[str] | None = None,
    *,
    batch_size: int = 64,
) -> CorrectionReport:
    """Compare two models with the same classes on groups of images.

    Parameters
    ----------
    before : keras.Model
        The original classifier, with outputs (N, K) for N images and K classes: logits or
        probabilities. A single output counts as two classes, no (0) and yes (1). Models may hold
        their one input and their one output in a list or a dict.
    after : keras.Model
        The classifier to compare with it, such as a corrected or retrained one, with the same
        classes.
    groups : dict of str to tuple of (images, labels)
        Groups of images with their labels, by names such as "clean" and "marked". Images have shape
        (N, height, width, channels), labels are class indices (N,) or one-hot rows (N, K).
    class_names : sequence of str, optional
        Names of the K classes. None: their numbers, "0", "1", …
    batch_size : int, default=64
        Number of images that pass through the models at a time.

    Returns
    -------
    report : CorrectionReport
        The comparison, by group; ``print(report)`` shows it as a table.

    Raises
    ------
    TypeError
        If the models are not Keras models.
    ValueError
        If a model has several inputs or outputs, the models have different numbers of classes,
        there are no groups, or images, labels or names do not match.
    """
    for name, model in (("before", before), ("after", after)):
        check_keras_model(name, model)
    if not groups:
        raise ValueError("give at least one group of images: {'clean': (images, labels)}")
    heads, changes, classes = (Head(plain_model(before)), Head(plain_model(after))), {}, 0
    for name, pair in groups.items():
        try:
            images, labels = pair
        except (TypeError, ValueError) as error:
            raise ValueError(f"group {name!r} must be (images, labels)") from error
        images = check_inputs(images)
        first, second = (_probabilities(head, images, batch_size) for head in heads)
        classes = first.shape[1]
        if second.shape[1] != classes:
            raise ValueError(
                f"both models must have equally many classes, not {classes} and {second.shape[1]}"
            )
        indices = check_labels(labels, len(images), classes, name=f"labels of {name!r}")
        changes[name] = GroupChange(indices, first, second)
    if class_names is None:
        class_names = [str(number) for number in range(classes)]
    return CorrectionReport(changes, check_class_names(class_names, classes))


def _probabilities(head: Head, images: Array, batch_size: int) -> Array:
    """Compute the class probabilities of images, (N, K)."""
    head = head.by_class(images)
    return class_probabilities(head.logits(images, batch_size), head.class_activation)
