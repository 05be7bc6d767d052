"""Explanations as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from xplique_dirpairs.core.tables import Cell, Table

if TYPE_CHECKING:
    from xplique_dirpairs.explanations.model_explanation import Confusion, ModelExplanation
    from xplique_dirpairs.explanations.prediction_explanation import (
        PredictionComparison,
        PredictionExplanation,
    )

_MARKS = {0: "", 1: " (before correction)", 2: " (significant)"}


def signed_cell(value: float, decimals: int = 2) -> Cell:
    """A number with its sign; a dash for NaN."""
    if not np.isfinite(value):
        return Cell("–", numbers=(np.nan,))
    return Cell(f"{value:+.{decimals}f}", numbers=(float(value),))


def share_cell(value: float) -> Cell:
    """A share in percent; a dash for NaN."""
    if not np.isfinite(value):
        return Cell("–", numbers=(np.nan,))
    return Cell(f"{value:.0%}", numbers=(float(value),))


def overview_table(explanation: ModelExplanation, count: int = 3) -> Table:
    """A row for each class."""
    rows = []
    for c, name in enumerate(explanation.class_names):
        sides = explanation.ranked(int(explanation.class_ids[c]), count)
        rows.append(
            [
                Cell(name),
                Cell(str(explanation.images[c]), numbers=(float(explanation.images[c]),)),
                share_cell(explanation.accuracy[c]),
                signed_cell(explanation.logits[c]),
                signed_cell(explanation.residuals[c]),
                signed_cell(explanation.contributions[c].sum()),
                *(Cell(_listed(explanation, c, side)) for side in sides),
            ]
        )
    notes = [
        "residual: mean logit with every concept off; contributions: mean of what each concept "
        "adds to the class's logit, over the class's images."
    ]
    largest = float(np.abs(explanation.gaps).max())
    if largest > 1e-3:
        notes.append(f"logit − residual − contributions is up to {largest:.2g}.")
    headers = ["class", "images", "right", "logit", "residual", "concepts", "for", "against"]
    return Table(headers, rows, notes)


def _listed(explanation: ModelExplanation, c: int, concepts: NDArray) -> str:
    found = [
        f"{explanation.concept_names[i]} ({explanation.contributions[c, i]:+.2f})" for i in concepts
    ]
    return ", ".join(found) or "–"


def class_table(explanation: ModelExplanation, c: int, sides: tuple[NDArray, NDArray]) -> Table:
    """Concepts for a class, then those against it."""
    found = explanation.influence
    rows = []
    for side, concepts in zip(("for", "against"), sides, strict=True):
        for i in concepts:
            p = found.p_values[i, c]
            said = "–" if np.isnan(p) else f"{p:.2g}{_MARKS[int(explanation.significance[i, c])]}"
            rows.append(
                [
                    Cell(explanation.concept_names[i]),
                    Cell(side),
                    signed_cell(explanation.contributions[c, i]),
                    signed_cell(found.changes[i, c], 3),
                    signed_cell(found.scores[i, c]),
                    Cell(said, numbers=(float(p),)),
                    share_cell(explanation.presence[c, i]),
                    share_cell(explanation.presence_outside[c, i]),
                    share_cell(explanation.occupancy[c, i]),
                    share_cell(explanation.occupancy_outside[c, i]),
                ]
            )
    headers = [
        "concept", "side", "contribution", "mean Δ (nats)", "SC", "p", "images", "images outside",
        "positions", "positions outside",
    ]  # fmt: skip
    notes = [
        f"{explanation.class_names[c]}, {explanation.images[c]} images: contribution to its logit "
        f"({explanation.logits[c]:.2f}, of which {explanation.residuals[c]:.2f} with every concept "
        f"off); influence of {explanation.amount:g} along the signal vector at every position; "
        "share of images, and of positions, where the concept is detected."
    ]
    return Table(headers, rows, notes)


def shared_table(explanation: ModelExplanation, at_least: float) -> Table:
    """Concepts that matter to several classes."""
    sides = explanation.shared(at_least)
    rows = []
    for i in np.argsort(-(sides != 0).sum(axis=0), kind="stable"):
        if (sides[:, i] != 0).sum() < 2:
            continue
        listed = [
            ", ".join(explanation.class_names[c] for c in np.flatnonzero(sides[:, i] == sign))
            for sign in (1, -1)
        ]
        number = int((sides[:, i] != 0).sum())
        rows.append(
            [
                Cell(explanation.concept_names[i]),
                Cell(str(number), numbers=(float(number),)),
                *(Cell(text or "–") for text in listed),
            ]
        )
    note = (
        f"Concepts whose mean contribution is at least {at_least:.0%} of all concepts' (in size), "
        "in more than one class."
    )
    return Table(["concept", "classes", "for", "against"], rows, [note])


def confusion_table(explanation: ModelExplanation, found: Confusion, count: int) -> Table:
    """Concepts that push a class towards another, then those that hold it."""
    from xplique_dirpairs.explanations.model_explanation import strongest

    rows = []
    for side, concepts in zip(
        ("pushes", "holds"), strongest(found.contributions, count), strict=True
    ):
        rows += [
            [
                Cell(explanation.concept_names[i]),
                Cell(side),
                signed_cell(found.contributions[i]),
                signed_cell(found.confused_contributions[i]),
                signed_cell(found.changes[i], 3),
            ]
            for i in concepts
        ]
    a, b = found.names
    notes = [
        f"{found.images} images of {a}, {found.confused} of them taken for {b}: mean contribution "
        f"to logit({b}) − logit({a}), which is {found.difference:+.2f}, {found.residual:+.2f} "
        "with every concept off; change of the log odds by more of the concept."
    ]
    headers = ["concept", "side", "contribution", "where confused", "change (nats)"]
    return Table(headers, rows, notes)


def prediction_table(explanation: PredictionExplanation, concepts: NDArray) -> Table:
    """Concepts of one image, the others, the residual, the gap, the score."""
    values = explanation.concept_contributions
    present = explanation.presence.reshape(-1, len(values))
    rows = [
        [
            Cell(explanation.concept_names[i]),
            signed_cell(values[i], 3),
            share_cell((present[:, i] > 0).mean()),
        ]
        for i in concepts
    ]
    none = Cell("", numbers=(np.nan,))
    others = np.delete(values, concepts)
    if len(others):
        rows.append([Cell(f"{len(others)} others"), signed_cell(others.sum(), 3), none])
    rows.append([Cell("residual"), signed_cell(explanation.residual, 3), none])
    rows.append([Cell("gap"), Cell(f"{explanation.gap:+.1e}", numbers=(explanation.gap,)), none])
    rows.append([Cell(explanation.score_name), signed_cell(explanation.score, 3), none])
    how = (
        f"{explanation.steps} gradients along the path from every concept off to the image."
        if explanation.steps
        else "Exact: the head is linear."
    )
    return Table(["concept", "contribution", "positions with it"], rows, [how])


def comparison_table(comparison: PredictionComparison, concepts: NDArray) -> Table:
    """Concepts of two images, the others, the residual, the score."""
    one, other = comparison.first, comparison.second
    pairs = np.stack([one.concept_contributions, other.concept_contributions], axis=1)
    lines = [(one.concept_names[i], *pairs[i]) for i in concepts]
    rest = np.delete(pairs, concepts, axis=0)
    if len(rest):
        lines.append((f"{len(rest)} others", *rest.sum(axis=0)))
    lines.append(("residual", one.residual, other.residual))
    lines.append((one.score_name, one.score, other.score))
    rows = [
        [Cell(name), signed_cell(a, 3), signed_cell(b, 3), signed_cell(a - b, 3)]
        for name, a, b in lines
    ]
    return Table(["concept", "first", "second", "difference"], rows)
