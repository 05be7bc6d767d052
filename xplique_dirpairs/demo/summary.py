"""The results of the demo as text and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from xplique_dirpairs.core.tables import Cell, Table
from xplique_dirpairs.demo.detectors import Detectors, difference
from xplique_dirpairs.demo.shortcut import Repair
from xplique_dirpairs.learning.history import ABOUT_STAGES, History
from xplique_dirpairs.metrics.registry import Summary as Figure

#: Names of the two methods.
PAIRS, CRAFT = "direction pairs", "CRAFT"
#: Name of a picture's file, without ``.png`` → its caption.
CAPTIONS = {
    "concepts": "True concepts in held-out scenes (top), and where the best detector of each "
    "method fires, with its IoU over all held-out scenes.",
    "repair": "Scenes that the shortcut misled, before and after its concepts were switched off.",
    "prediction": "Why the network predicts what it predicts for one of these scenes.",
    "counterfactual": "The least removal of at most three concepts that changes this prediction: "
    "just so much that both classes are about equally likely.",
    "classes": "What more of each concept does to each class, in logits.",
    "learning": "Losses and constraint violations in every stage of the learning.",
}
#: Ranks beyond this are explained.
_LOW_RANK = 5
#: Effects below this are small, in logits.
_SMALL = 0.5


@dataclass(frozen=True, eq=False)
class DefiningObject:
    """The importance of an object that defines a class, by its best detector, and its true effect.

    Attributes
    ----------
    class_name, name : str
    effect : float
        How much lower the class's logit (less the mean logit) is if the object is left out of the
        scenes of the class, mean over scenes.
    ranks : mapping of str to int
        Method → rank of the importance of the object's best detector, from 1.
    importances : mapping of str to float
        Method → this importance.
    above : tuple of str
        What the concepts of the direction pairs with a higher importance detect best.
    """

    class_name: str
    name: str
    effect: float
    ranks: Mapping[str, int]
    importances: Mapping[str, float]
    above: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Summary:
    """Results of the demo.

    Attributes
    ----------
    accuracy : float
        Accuracy of the network on held-out images of the kind it was trained on, in [0, 1].
    images : tuple of (int, int)
        Number of images that both methods learned from, and of held-out images.
    methods : mapping of str to Detectors
        Method → its detectors.
    objects : sequence of DefiningObject
        What defines the classes.
    repair : Repair
        The shortcut.
    counterfactual : str
        One counterfactual, in words.
    history : History
        History of the learning of the direction pairs.
    seconds : mapping of str to float
        Step → wall time in seconds; "everything" is the whole run.
    figures : sequence of str
        Names of the picture files in the output folder, without the ending ``.png``.
    """

    accuracy: float
    images: tuple[int, int]
    methods: Mapping[str, Detectors]
    objects: Sequence[DefiningObject]
    repair: Repair
    counterfactual: str
    history: History
    seconds: Mapping[str, float]
    figures: Sequence[str]

    @property
    def mean_iou(self) -> dict[str, float]:
        """Method → mean IoU of the best detectors of all true concepts."""
        return {name: detectors.mean_iou for name, detectors in self.methods.items()}

    @property
    def difference(self) -> Figure:
        """Difference of the mean IoU, direction pairs − CRAFT, with its interval over images."""
        return difference(self.methods[PAIRS], self.methods[CRAFT])

    def text(self) -> str:
        """Return the results as plain text, for the terminal."""
        return "\n\n".join(
            f"{title.lstrip('# ')}\n\n{content}" for title, content in self._sections("plain")
        )

    def markdown(self) -> str:
        """Return the results, times and pictures as Markdown."""
        glance, *pictures = (f"{CAPTIONS[name]}\n\n![{name}]({name}.png)" for name in self.figures)
        seconds = [[Cell(step), Cell.figure(value, 1)] for step, value in self.seconds.items()]
        sections = [
            *self._sections("markdown"),
            ("## More pictures", "\n\n".join(pictures)),
            ("## How the learning went", self._fit()),
            ("## Time", Table(["step", "seconds"], seconds).formatted("markdown")),
        ]
        head = (
            "# Direction pairs and CRAFT on scenes whose truth is known",
            "The HTML report of all concepts, classes and scenes: [open](report/index.html).",
            glance,
        )
        return "\n\n".join([*head, *(f"{name}\n\n{text}" for name, text in sections)]) + "\n"

    def _sections(self, form: str) -> list[tuple[str, str]]:
        """Return the titles of the sections and their contents, with tables in a format."""
        learned, held_out = self.images
        concepts = len(self.methods[PAIRS].dissection.thresholds)
        setting = (
            f"Both methods learned {concepts} concepts from the same {learned} scenes of all eight "
            f"classes. For each of {len(self.methods[PAIRS].best)} true concepts (objects, parts, "
            "textures, colours) the best detector was chosen on these scenes, and its overlap with "
            f"the truth (IoU) counted on {held_out} others. CRAFT's detectors have no threshold of "
            f"their own: theirs is the better of two quantiles ({self.methods[CRAFT].threshold})."
        )
        network = f"The network is right in {self.accuracy:.1%} of new scenes of the kind it knows."
        compared = [self._iou_table().formatted(form), setting, self._verdict(), network]
        importance = [self._object_table().formatted(form), self._about_ranks()]
        return [
            ("## Concepts beside the truth", "\n\n".join(compared)),
            (
                "## A shortcut, found and switched off",
                f"{self.repair.text()}\n\n{self.repair.table().formatted(form)}",
            ),
            ("## Importance of what defines a class", "\n\n".join(importance)),
            ("## What would change a prediction", self.counterfactual),
        ]

    def _iou_table(self) -> Table:
        """Return a table of the mean IoU of both methods, and their difference."""
        categories = list(self.methods[PAIRS].categories)
        rows = []
        for name, detectors in self.methods.items():
            values = [detectors.mean_iou, *detectors.categories.values()]
            others = [
                [m.mean_iou, *m.categories.values()]
                for m in self.methods.values()
                if m is not detectors
            ]
            best = np.greater(values, np.max(others, axis=0))
            cells = [
                Cell(f"{value:.3f}", bool(is_best), (value,))
                for value, is_best in zip(values, best, strict=True)
            ]
            rows.append([Cell(name), *cells])
        value, low, high, _ = self.difference
        spread = Cell(f"{value:+.3f} [{low:+.3f}, {high:+.3f}]", numbers=(value, low, high))
        ours, theirs = (self.methods[name].categories for name in (PAIRS, CRAFT))
        differences = [Cell.signed(ours[name] - theirs[name], 3) for name in categories]
        rows.append([Cell("difference"), spread, *differences])
        note = "Mean IoU of the best detector of each true concept; in brackets: 95 % over images."
        return Table(["method", "all true concepts", *categories], rows, [note])

    def _verdict(self) -> str:
        """Return a paragraph on which method is better at what."""
        value, low, high, _ = self.difference
        which = "higher" if value > 0 else "lower"
        beyond = "beyond its interval" if low > 0 or high < 0 else "within its interval of zero"
        parts = [f"The direction pairs' mean IoU is {which} by {abs(value):.3f}, {beyond}."]
        ours, theirs = (self.methods[name] for name in (PAIRS, CRAFT))
        names = ours.dissection.flat_concepts
        gaps = np.nan_to_num(theirs.scores.iou - ours.scores.iou)
        behind = [k for k in np.argsort(-gaps, kind="stable") if gaps[k] > _VISIBLE]
        if behind:
            listed = [
                f"{names[k][1]} ({names[k][0]}, {theirs.scores.iou[k]:.2f} against "
                f"{ours.scores.iou[k]:.2f})"
                for k in behind[:_LISTED]
            ]
            more = f" and {len(behind) - _LISTED} more" if len(behind) > _LISTED else ""
            parts.append(
                f"CRAFT is better at {len(behind)} of {len(names)} true concepts by more than "
                f"{_VISIBLE}: {', '.join(listed)}{more}."
            )
        ahead = int((gaps < -_VISIBLE).sum())
        parts.append(f"The direction pairs are better at {ahead} by as much.")
        return " ".join(parts)

    def _object_table(self) -> Table:
        """Return a table of what defines the classes: true effect, rank of the nearest concept."""
        rows = []
        for one in self.objects:
            cells = [Cell(one.class_name), Cell(one.name), Cell.signed(one.effect, 1)]
            for method in (PAIRS, CRAFT):
                text = f"{one.ranks[method]} ({one.importances[method]:.3f})"
                cells.append(Cell(text, numbers=(one.ranks[method], one.importances[method])))
            rows.append(cells)
        notes = (
            "effect: how many logits the class has less (relative to the other classes) if the "
            "object is left out of its scenes",
            "direction pairs, CRAFT: rank of the object's best detector (by IoU) among all "
            "concepts, and in brackets its total Sobol index",
        )
        return Table(["class", "object", "effect", PAIRS, CRAFT], rows, notes)

    def _about_ranks(self) -> str:
        """Return a paragraph on the objects whose concept has a low rank."""
        low = [one for one in self.objects if one.ranks[PAIRS] > _LOW_RANK]
        theirs = sum(one.ranks[CRAFT] > _LOW_RANK for one in self.objects)
        sentences = [
            f"Of {len(self.objects)} objects, {len(low)} have a rank beyond {_LOW_RANK} by the "
            f"direction pairs and {theirs} by CRAFT."
        ]
        unused = [f"{one.name} in {one.class_name}" for one in low if one.effect < _SMALL]
        if unused:
            sentences.append(
                f"For these a late rank is right: the class loses less than {_SMALL} logits "
                f"without the object: {', '.join(unused)}. This network tells classes by their "
                "grounds, which its average over positions favours."
            )
        hidden = [
            f"{one.name} in {one.class_name} (above it: {', '.join(one.above[:4])})"
            for one in low
            if one.effect >= _SMALL
        ]
        if hidden:
            sentences.append(
                "For these it is too late: a Sobol index is a share, and grounds or other "
                f"detectors of the object make up more of the logit: {'; '.join(hidden)}."
            )
        return " ".join(sentences)

    def _fit(self) -> str:
        """Return a Markdown list on the learning of the direction pairs."""
        lines = "\n".join(f"- {line}" for line in self.history.summary().splitlines())
        return f"{ABOUT_STAGES}\n\n{lines}" if self.history.stages else lines


#: A difference of IoU that one can see, and how many concepts with one are listed.
_VISIBLE, _LISTED = 0.05, 6
