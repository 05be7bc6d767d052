"""What a correction changed: accuracy by group, confusion matrices, and every other change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import keras
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from xplique_dirpairs.core.tables import Cell, Table
from xplique_dirpairs.core.validation import check_images
from xplique_dirpairs.data.activations import outputs_of
from xplique_dirpairs.metrics.manipulation import class_probabilities
from xplique_dirpairs.models.graph import check_keras_model, final_activation
from xplique_dirpairs.plots.interventions import plot_correction


@dataclass(frozen=True, eq=False)
class GroupChange:
    """One group of n images, before and after.

    Attributes
    ----------
    labels : (n,) int
    before, after : (n, K)
        Class probabilities.
    """

    labels: NDArray
    before: NDArray
    after: NDArray

    @property
    def accuracies(self) -> tuple[float, float]:
        """Share of images that are right, before and after."""
        right_before, right_after = self._right
        return float(right_before.mean()), float(right_after.mean())

    @property
    def confusions(self) -> tuple[NDArray, NDArray]:
        """Images by class (rows) and prediction (columns), (K, K) int, before and after."""
        before, after = (self._confusion(p) for p in (self.before, self.after))
        return before, after

    @property
    def mended(self) -> int:
        """Images that are right only since."""
        right_before, right_after = self._right
        return int((~right_before & right_after).sum())

    @property
    def broken(self) -> int:
        """Images that were right, and are not any more."""
        right_before, right_after = self._right
        return int((right_before & ~right_after).sum())

    @property
    def changed(self) -> int:
        """Images with another prediction than before, right or wrong."""
        return int((self.before.argmax(axis=1) != self.after.argmax(axis=1)).sum())

    @property
    def moved(self) -> NDArray:
        """How much probability went to other classes, (n,) in [0, 1]: Σ_k |p_k − p'_k| / 2."""
        return np.abs(self.before - self.after).sum(axis=1) / 2.0

    @property
    def _right(self) -> tuple[NDArray, NDArray]:
        return (
            self.before.argmax(axis=1) == self.labels,
            self.after.argmax(axis=1) == self.labels,
        )

    def _confusion(self, probabilities: NDArray) -> NDArray:
        classes = probabilities.shape[1]
        predicted = probabilities.argmax(axis=1)
        flat = np.bincount(self.labels * classes + predicted, minlength=classes**2)
        return flat.reshape(classes, classes)


@dataclass(frozen=True, eq=False)
class CorrectionReport:
    """A model before and after a correction, on groups of images.

    Attributes
    ----------
    groups
        By name, in the order given.
    class_names : K of them
    """

    groups: dict[str, GroupChange]
    class_names: tuple[str, ...]

    def __str__(self) -> str:
        return str(self.table())

    def _repr_html_(self) -> str:
        return self.table().formatted("html")

    def table(self) -> Table:
        """A row for each group, and one for all of them where there are several."""
        groups = dict(self.groups)
        if len(groups) > 1:
            parts = list(groups.values())
            groups["all of them"] = GroupChange(
                *(np.concatenate([getattr(part, name) for part in parts])
                  for name in ("labels", "before", "after"))
            )  # fmt: skip
        rows = []
        for name, group in groups.items():
            before, after = group.accuracies
            largest = float(group.moved.max())
            rows.append(
                [
                    Cell(name),
                    Cell(str(len(group.labels)), numbers=(len(group.labels),)),
                    Cell(f"{before:.3f}", numbers=(before,)),
                    Cell(f"{after:.3f}", numbers=(after,)),
                    Cell(str(group.mended), numbers=(group.mended,)),
                    Cell(str(group.broken), numbers=(group.broken,)),
                    Cell(str(group.changed), numbers=(group.changed,)),
                    Cell(f"{group.moved.mean():.4f}", numbers=(float(group.moved.mean()),)),
                    Cell(f"{largest:.3f}", numbers=(largest,)),
                ]
            )
        headers = [
            "group", "images", "accuracy before", "after", "mended", "broken", "other prediction",
            "moved, mean", "largest",
        ]  # fmt: skip
        note = "Moved: probability that went to other classes, Σ|p − p'|/2."
        return Table(headers, rows, [note])

    def plot(self, groups: Sequence[str] | None = None) -> Figure:
        """Confusion matrices of every group, before and after; see `plot_correction`."""
        names = list(self.groups) if groups is None else list(groups)
        unknown = [name for name in names if name not in self.groups]
        if unknown or not names:
            raise ValueError(f"there is no group {unknown}; there are: {', '.join(self.groups)}")
        return plot_correction(
            {name: self.groups[name].confusions for name in names}, self.class_names
        )


def report_correction(
    before: keras.Model,
    after: keras.Model,
    groups: Mapping[str, tuple[ArrayLike, ArrayLike]],
    class_names: Sequence[str] | None = None,
    *,
    batch_size: int = 64,
) -> CorrectionReport:
    """Compare two models of the same classes on groups of images.

    Parameters
    ----------
    before, after
        Classifiers, (n, K); any two: a corrected one, one that was trained again. One output counts
        as two classes, no (0) and yes (1).
    groups
        By name: images and labels. Such as "clean" and "marked".
    class_names : K of them
        None: their numbers.

    Raises
    ------
    TypeError, ValueError
        If the models are not of the same classes, or images and labels do not fit.
    """
    for name, model in (("before", before), ("after", after)):
        check_keras_model(name, model)
    if not groups:
        raise ValueError("give at least one group of images: {'clean': (images, labels)}")
    changes = {}
    for name, pair in groups.items():
        try:
            images, labels = pair
        except (TypeError, ValueError) as error:
            raise ValueError(f"group {name!r} must be (images, labels)") from error
        images = check_images(images)
        probabilities = [probabilities_of(m, images, batch_size) for m in (before, after)]
        changes[name] = _checked_change(name, np.asarray(labels), *probabilities)
    classes = next(iter(changes.values())).before.shape[1]
    if class_names is None:
        class_names = [str(number) for number in range(classes)]
    if len(class_names) != classes:
        raise ValueError(f"class_names must be {classes} names, not {len(class_names)}")
    return CorrectionReport(changes, tuple(map(str, class_names)))


def probabilities_of(model: keras.Model, images: NDArray, batch_size: int) -> NDArray:
    """Class probabilities, (n, K); of a model of one output, (n, 2): no and yes."""
    outputs = np.asarray(outputs_of(model, images, batch_size), np.float64)
    if outputs.ndim != 2:
        raise ValueError(f"models must end in classes, (n, K), not {outputs.shape}")
    linear = final_activation(model) == "linear"
    if outputs.shape[1] == 1:
        yes = class_probabilities(outputs, "sigmoid") if linear else outputs
        return np.hstack([1.0 - yes, yes])
    return class_probabilities(outputs) if linear else outputs


def _checked_change(name: str, labels: NDArray, before: NDArray, after: NDArray) -> GroupChange:
    if before.shape != after.shape:
        raise ValueError(
            f"both models must have the same classes, not {before.shape[1]} and {after.shape[1]}"
        )
    if labels.shape != (len(before),) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"labels of {name!r} must be {len(before)} class numbers, not {labels.dtype} "
            f"{labels.shape}"
        )
    if labels.min() < 0 or labels.max() >= before.shape[1]:
        raise ValueError(f"labels of {name!r} must be from 0 to {before.shape[1] - 1}")
    return GroupChange(labels, before, after)
