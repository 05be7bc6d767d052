"""A report as its pages read it: JSON, and pictures as files' contents.

Keys of the JSON are those that the scripts in ``assets`` read. Names given by users are values
only, never keys, parts of paths or markup.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.core.tables import Table
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.plots.palette import concept_colors
from xplique_dirpairs.report.content import Change, Label, Report
from xplique_dirpairs.report.pictures import SMALL, encoded, strip
from xplique_dirpairs.version import __version__

#: Images whose maps come in one file.
MAPS_AT_ONCE = 25
#: Concepts of another extractor that a class page shows.
MOST_OTHERS = 5
#: Neighbours that a concept's page lists.
_NEAREST = 6
#: Digits that numbers are given with.
_DIGITS = 4


class Payload:
    """What is written of a report.

    Parameters
    ----------
    report : Report

    Attributes
    ----------
    pictures : dict of str to bytes
        Path → content; filled by `data`.
    """

    def __init__(self, report: Report) -> None:
        self.report = report
        self.pictures: dict[str, bytes] = {}
        self._colors = concept_colors(len(report.explanation.concept_names))

    def parts(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield key and value of everything that is written as JSON."""
        yield "data", self.data()
        yield from self.maps()

    def data(self) -> dict[str, Any]:
        """Return everything but the maps; fill `pictures`."""
        report = self.report
        explained = report.explanation
        return {
            "title": clean(report.title),
            "version": __version__,
            "names": {str(k): clean(name) for k, name in report.class_names.items()},
            "concepts": [self._concept(i) for i in range(len(explained.concept_names))],
            "classes": [self._class(c) for c in range(len(explained.class_ids))],
            "images": [self._image(n) for n in range(len(report.images.names))],
            "tables": [_table(table) for table in report.tables],
            "metrics": {clean(name): clean(text) for name, text in report.metrics.items()},
            "influence": {
                "level": explained.influence.level,
                "permutations": explained.influence.permutations,
                "amount": explained.amount,
            },
            "imagesOfAll": int(explained.images.sum()),
            "histogramOf": report.concepts.histogram_of,
            "notes": [clean(note) for note in report.notes],
            "mapsAtOnce": MAPS_AT_ONCE,
        }

    def maps(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield key and maps of some images: of each the concepts in it, a byte for a cell."""
        maps = self.report.images.maps
        for start in range(0, len(maps), MAPS_AT_ONCE):
            images = []
            for image_maps in maps[start : start + MAPS_AT_ONCE]:
                there = np.flatnonzero(image_maps.max(axis=(0, 1)) > 0)
                cells = np.ceil(255 * np.clip(image_maps[..., there], 0, 1)).astype(np.uint8)
                packed = base64.b64encode(np.moveaxis(cells, -1, 0).tobytes()).decode("ascii")
                images.append({"concepts": there.tolist(), "cells": packed})
            shape = {"height": maps.shape[1], "width": maps.shape[2]}
            yield f"maps-{start // MAPS_AT_ONCE:04d}", {**shape, "images": images}

    # ---------------------------------------------------------------- parts

    def _concept(self, i: int) -> dict[str, Any]:
        pages = self.report.concepts
        near = np.argsort(-np.abs(pages.signal_cosines[i]), kind="stable")
        near = near[near != i][:_NEAREST]
        return {
            "name": clean(self.report.explanation.concept_names[i]),
            "color": "#{:02x}{:02x}{:02x}".format(*(round(255 * part) for part in self._colors[i])),
            "presence": number(pages.presence[i]),
            "occupancy": number(pages.occupancy[i]),
            "histogram": numbers(pages.histogram[i]),
            "crops": self._strip(f"concept-{i:04d}", pages.crops[i]),
            "cropImages": pages.crop_images[i].tolist(),
            "label": _label(pages.labels[i]),
            "nearest": [
                {
                    "concept": int(j),
                    "signal": number(pages.signal_cosines[i, j]),
                    "filter": None
                    if pages.filter_cosines is None
                    else number(pages.filter_cosines[i, j]),
                    "overlap": number(pages.overlaps[i, j]),
                }
                for j in near
            ],
        }

    def _class(self, c: int) -> dict[str, Any]:
        found, k = self.report.explanation, int(self.report.explanation.class_ids[c])
        return {
            "id": k,
            "images": int(found.images[c]),
            "accuracy": number(found.accuracy[c]),
            "logit": number(found.logits[c]),
            "residual": number(found.residuals[c]),
            "contributions": numbers(found.contributions[c]),
            "changes": numbers(found.influence.changes[:, c]),
            "scores": numbers(found.influence.scores[:, c]),
            "p": numbers(found.influence.p_values[:, c]),
            "significance": found.significance[:, c].tolist(),
            "presence": numbers(found.presence[c]),
            "outside": numbers(found.presence_outside[c]),
            "confusions": [
                {
                    "target": int(one.target),
                    "images": one.images,
                    "confused": one.confused,
                    "difference": number(one.difference),
                    "residual": number(one.residual),
                    "contributions": numbers(one.contributions),
                }
                for one in found.confusions
                if one.source == k
            ],
            "extractors": [
                {
                    "name": clean(extractor.name),
                    "concepts": [
                        {
                            "concept": int(i),
                            "contribution": number(extractor.contributions[k][i]),
                            "crops": self._strip(f"other-{e:02d}-{int(i):04d}", extractor.crops[i])
                            if int(i) in extractor.crops
                            else None,
                        }
                        for i in largest_contributions(extractor.contributions[k])
                    ],
                }
                for e, extractor in enumerate(self.report.extractors)
                if k in extractor.contributions
            ],
        }

    def _image(self, n: int) -> dict[str, Any]:
        pages = self.report.images
        picture = pages.pictures[n]
        height, width = picture.shape[:2]
        content, ending = encoded(picture)
        path = f"images/{n:05d}{ending}"
        self.pictures[path] = content
        return {
            "name": clean(pages.names[n]),
            "picture": path,
            "width": width,
            "height": height,
            "small": min(height, width) <= SMALL,
            "label": int(pages.labels[n]),
            "likeliest": pages.likeliest[n].tolist(),
            "probabilities": numbers(pages.probabilities[n]),
            "score": number(pages.scores[n]),
            "residual": number(pages.residuals[n]),
            "contributions": numbers(pages.contributions[n]),
            "change": _change(pages.changes[n]),
        }

    def _strip(self, name: str, crops: Array) -> dict[str, Any] | None:
        """Store crops side by side in one picture; None if there are none."""
        if not len(crops):
            return None
        content, ending = encoded(strip(crops))
        path = f"crops/{name}{ending}"
        self.pictures[path] = content
        return {"picture": path, "count": len(crops), "small": crops.shape[1] <= SMALL}


def _label(label: Label | None) -> dict[str, Any] | None:
    if label is None:
        return None
    return {
        "name": clean(label.name), "category": clean(label.category), "iou": number(label.iou),
        "precision": number(label.precision), "recall": number(label.recall),
        "averagePrecision": number(label.average_precision),
    }  # fmt: skip


def _change(change: Change | None) -> dict[str, Any] | None:
    if change is None:
        return None
    return {
        "status": change.status, "after": change.after, "concepts": change.concepts.tolist(),
        "before": numbers(change.before_means, 8), "means": numbers(change.after_means, 8),
        "changed": number(change.changed), "percentile": number(change.percentile),
    }  # fmt: skip


def _table(table: Table) -> dict[str, Any]:
    return {
        "headers": [clean(header) for header in table.headers],
        "rows": [
            [
                {
                    "text": clean(cell.text),
                    "best": cell.best,
                    "number": number(cell.numbers[0]) if cell.numbers else None,
                }
                for cell in row
            ]
            for row in table.rows
        ],
        "caption": [clean(note) for note in table.caption],
    }


# ------------------------------------------------------------------------------ text


def clean(text: object) -> str:
    """Return text without halves of surrogate pairs, which file names may have."""
    return str(text).encode("utf-8", "replace").decode("utf-8")


def number(value: float, digits: int = _DIGITS) -> float | None:
    """Round to a few digits; None for NaN and infinity, which JSON does not have."""
    value = float(value)
    if not math.isfinite(value):
        return None
    return float(f"{value:.{digits}g}")


def numbers(values: ArrayLike, digits: int = _DIGITS) -> list[float | None]:
    """Return `number` of each value."""
    return [number(value, digits) for value in np.asarray(values, np.float64)]


def as_script(value: Any) -> str:
    """Return JSON that may stand in a page: nothing in it ends a script or begins markup."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)  # ASCII only
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def largest_contributions(values: Array) -> Array:
    """Return concepts by the size of their contribution, largest first, without those of 0."""
    order = np.argsort(-np.abs(values), kind="stable")[:MOST_OTHERS]
    return order[values[order] != 0]
