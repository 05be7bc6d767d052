"""The planted shortcut: found by its influence, switched off, and what that changes."""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np
from matplotlib.figure import Figure
from scipy.special import softmax

from xplique_dirpairs.core.tables import Cell, Table
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.data.annotated_images import AnnotatedImages
from xplique_dirpairs.demo.pictures import plot_repaired
from xplique_dirpairs.demo.scenes import SHORTCUT, SHORTCUT_CLASS, SHORTCUT_SHARE
from xplique_dirpairs.explanations.model_explanation import ModelExplanation
from xplique_dirpairs.extractors.concept_layer import ConceptLayer
from xplique_dirpairs.interventions.correction import correct

#: Number of images that the picture of the repair shows.
_SHOWN = 6
#: A suspect is detected in more than this share of the class's images, and less of the others.
_WITHIN, _OUTSIDE = 0.5, 0.1


@dataclass(frozen=True, eq=False)
class Repair:
    """What a network predicts before and after concepts are switched off.

    Attributes
    ----------
    concepts : tuple of str
        Names of the concepts that were switched off.
    effects : tuple of float
        Their influence on the class with the shortcut, in logits.
    ranks : tuple of int
        Ranks of these influences among those of all concepts, from 1.
    before, after : ndarray of shape (N,), int
        Predicted class of each image.
    labels : ndarray of shape (N,), int
        Its true class.
    has_shortcut : ndarray of shape (N,), bool
        Whether the planted thing is in it.
    class_names : tuple of str
    sureness : ndarray of shape (N,)
        Probability of the class predicted before, in [0, 1].
    """

    concepts: tuple[str, ...]
    effects: tuple[float, ...]
    ranks: tuple[int, ...]
    before: Array
    after: Array
    labels: Array
    has_shortcut: Array
    class_names: tuple[str, ...]
    sureness: Array

    def groups(self) -> dict[str, Array]:
        """Return name of a group of images → which they are, (N,) bool."""
        is_class = self.labels == self.class_names.index(SHORTCUT_CLASS)
        return {
            f"other classes, with a {SHORTCUT}": self.has_shortcut & ~is_class,
            f"other classes, without a {SHORTCUT}": ~self.has_shortcut & ~is_class,
            f"{SHORTCUT_CLASS}, with a {SHORTCUT}": self.has_shortcut & is_class,
            f"{SHORTCUT_CLASS}, without a {SHORTCUT}": ~self.has_shortcut & is_class,
            "all": np.ones(len(self.labels), bool),
        }

    def accuracies(self) -> dict[str, tuple[float, float]]:
        """Return name of a group of images → accuracy before and after."""
        right = np.stack([self.before, self.after]) == self.labels
        return {
            name: (float(right[0, group].mean()), float(right[1, group].mean()))
            for name, group in self.groups().items()
            if group.any()
        }

    def example(self) -> int:
        """Return the surest error that the shortcut made and the repair put right."""
        put_right = (self.before != self.labels) & (self.after == self.labels) & self.has_shortcut
        return int(np.argmax(np.where(put_right, self.sureness, self.sureness - 1)))

    def table(self) -> Table:
        """Return a table of the accuracies of all groups."""
        counts = {name: int(group.sum()) for name, group in self.groups().items()}
        rows = [
            [Cell(name), Cell(str(counts[name])), Cell.share(before), Cell.share(after)]
            for name, (before, after) in self.accuracies().items()
        ]
        return Table(["scenes", "number", "right before", "right after"], rows)

    def text(self) -> str:
        """Return a paragraph on what was planted, and how it was found."""
        listed = ", ".join(
            f"“{name}” ({effect:+.1f} logits, rank {rank})"
            for name, effect, rank in zip(self.concepts, self.effects, self.ranks, strict=True)
        )
        return (
            f"A shortcut was planted: in the network's training images, {SHORTCUT_SHARE:.0%} of "
            f"the {SHORTCUT_CLASS} scenes have a white {SHORTCUT}, and no other scene has. Of the "
            f"concepts with an influence on “{SHORTCUT_CLASS}”, these are detected in most of its "
            f"learning images and in less than {_OUTSIDE:.0%} of the others: {listed}. `correct` "
            "switched them off, without training. Measured on new scenes, of which half have a "
            f"{SHORTCUT} whatever their class:"
        )

    def plot(self, images: Array) -> Figure:
        """Draw images that the shortcut misled, before and after the repair.

        Parameters
        ----------
        images : ndarray of shape (N, height, width, 3)
            The images that were predicted.

        Returns
        -------
        figure : Figure
        """
        misled = np.flatnonzero((self.before != self.labels) & self.has_shortcut)
        if not len(misled):
            misled = np.flatnonzero(self.has_shortcut)
        _, first = np.unique(self.labels[misled], return_index=True)  # one of each class, then more
        chosen = np.concatenate([misled[first], np.delete(misled, first)])[:_SHOWN]
        names = np.array(self.class_names)
        before, after, truth = (
            names[classes[chosen]].tolist() for classes in (self.before, self.after, self.labels)
        )
        return plot_repaired(images[chosen], before, after, truth)


def suspects(explanation: ModelExplanation) -> list[int]:
    """Return the concepts that raise the class with the shortcut and that no other class has.

    They raise its logit and are detected in most of its images, and in few of all others. If there
    are none, it is the concept with the largest influence.
    """
    class_id = explanation.class_names.index(SHORTCUT_CLASS)
    effects = explanation.influence.effects[:, class_id]
    ranked = np.argsort(-effects, kind="stable")
    is_suspect = (
        (effects > 0)
        & (explanation.presence[class_id] > _WITHIN)
        & (explanation.presence_outside[class_id] < _OUTSIDE)
    )
    found = [int(i) for i in ranked if is_suspect[i]]
    return found or [int(ranked[0])]


def repaired(
    concepts: ConceptLayer, explanation: ModelExplanation, scenes: AnnotatedImages
) -> tuple[Repair, keras.Model]:
    """Switch off the `suspects` of the class that has the shortcut.

    Parameters
    ----------
    concepts : ConceptLayer
        Direction pairs, and the network.
    explanation : ModelExplanation
        Explanation of the network on images with the shortcut.
    scenes : AnnotatedImages
        Images in which the shortcut does not depend on the class.

    Returns
    -------
    repair : Repair
    model : keras.Model
        The repaired network.
    """
    assert scenes.labels is not None
    class_id = explanation.class_names.index(SHORTCUT_CLASS)
    effects = explanation.influence.effects[:, class_id]
    chosen = suspects(explanation)
    corrected = correct(concepts, chosen, off="absent", images=scenes.images[:4])
    number = scenes.concepts["object"].index(SHORTCUT) + 1
    before, after = (
        model.predict(scenes.images, verbose=0) for model in (concepts.model, corrected)
    )
    repair = Repair(
        concepts=tuple(explanation.concept_names[i] for i in chosen),
        effects=tuple(float(effects[i]) for i in chosen),
        ranks=tuple(int(1 + (effects > effects[i]).sum()) for i in chosen),
        before=before.argmax(axis=1),
        after=after.argmax(axis=1),
        sureness=softmax(before, axis=1).max(axis=1),
        labels=scenes.labels,
        has_shortcut=(scenes.masks["object"] == number).any(axis=(1, 2)),
        class_names=tuple(explanation.class_names),
    )
    return repair, corrected
