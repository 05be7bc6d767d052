"""Data of a report in the form that its pages read: JSON, and pictures as encoded files.

The keys of the JSON are those that the scripts in ``assets`` read. Names given by users are only
values, never keys, parts of paths or markup.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from matplotlib.colors import to_hex

from xplique_dirpairs.core.batching import slices
from xplique_dirpairs.core.plain_data import plain_data
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.report.content import Report
from xplique_dirpairs.report.pictures import SMALL, encoded, still, strip
from xplique_dirpairs.sensitivity.influence_result import described_test
from xplique_dirpairs.version import __version__

#: Number of images whose maps are written to one file.
MAPS_AT_ONCE = 25
#: Upper limit on the number of concepts of another extractor that a class page shows.
MOST_OTHERS = 5
#: Number of nearest concepts that the page of a concept lists.
_NEAREST = 6
#: Concepts whose signal vectors have a cosine above this value are called similar.
_SIMILAR = 0.6
#: Significant digits that numbers are written with: those of float32.
_DIGITS = 7


class Payload:
    """Data of a report that are written to disk.

    Parameters
    ----------
    report : Report
        Content of the report.
    connectome_pages : sequence of str, default=()
        Address of the page of each connectome of the report, relative to the report's page.

    Attributes
    ----------
    pictures : dict of str to bytes
        Content of each picture by its path; filled by `data`.
    """

    def __init__(self, report: Report, connectome_pages: Sequence[str] = ()):
        self.report, self.connectome_pages = report, connectome_pages
        self.pictures: dict[str, bytes] = {}

    def parts(self) -> Iterator[tuple[str, Any]]:
        """Yield the key and value of each part that is written as JSON."""
        yield "data", plain_data(self.data(), clean, _DIGITS)
        yield from self.maps()

    def data(self) -> dict[str, Any]:
        """Return the data of all pages except the maps, and fill `pictures`."""
        report, explained = self.report, self.report.explanation
        return {
            "title": report.title,
            "version": __version__,
            "names": report.class_names,
            "concepts": [self._concept(i) for i in range(len(explained.concept_names))],
            "classes": [self._class(c) for c in range(len(explained.class_ids))],
            "images": [self._image(n) for n in range(len(report.images.names))],
            "tables": [asdict(table) for table in report.tables],
            "metrics": report.metrics,
            "influence": {
                "reachable": explained.influence.reachable(),
                "test": described_test(explained.influence),
            },
            "imagesOfAll": explained.images.sum(),
            "histogramOf": report.concepts.histogram_of,
            "pointedBy": report.concepts.pointed_by,
            "similarFrom": _SIMILAR,
            "notes": report.notes,
            "connectomes": [
                {"name": one.name, "page": page, "layer": one.layer}
                for one, page in zip(report.connectomes, self.connectome_pages, strict=True)
            ],
            "mapsAtOnce": MAPS_AT_ONCE,
        }

    def maps(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the key and maps of each group of images.

        Each image has maps of the concepts that are detected in it, with one byte for each cell.
        """
        maps = self.report.images.maps
        for number, part in enumerate(slices(len(maps), MAPS_AT_ONCE)):
            images = []
            for image_maps in maps[part]:
                present = np.flatnonzero(image_maps.max(axis=(0, 1)) > 0)
                cells = np.ceil(255 * np.clip(image_maps[..., present], 0, 1)).astype(np.uint8)
                packed = base64.b64encode(np.moveaxis(cells, -1, 0).tobytes()).decode("ascii")
                images.append({"concepts": present.tolist(), "cells": packed})
            shape = {"height": maps.shape[1], "width": maps.shape[2]}
            yield f"maps-{number:04d}", {**shape, "images": images}

    # ---------------------------------------------------------------- parts

    def _concept(self, i: int) -> dict[str, Any]:
        """Return the data of a concept's page."""
        pages, explained = self.report.concepts, self.report.explanation
        label, filters = pages.labels[i], pages.filter_cosines
        likeness = np.maximum(np.abs(pages.signal_cosines[i]), pages.overlaps[i])
        nearest = np.argsort(-likeness, kind="stable")
        similar = np.argsort(-pages.signal_cosines[i], kind="stable")
        return {
            "name": explained.concept_names[i],
            "color": to_hex(explained.colors[i]),
            "presence": pages.presence[i],
            "occupancy": pages.occupancy[i],
            "histogram": pages.histogram[i],
            "crops": self._strip(f"concept-{i:04d}", pages.crops[i], True),
            "cropImages": pages.crop_images[i],
            "label": label and label._asdict(),
            "nearest": [
                {
                    "concept": j,
                    "signal": pages.signal_cosines[i, j],
                    "filter": None if filters is None else filters[i, j],
                    "overlap": pages.overlaps[i, j],
                }
                for j in nearest[nearest != i][:_NEAREST]
            ],
            "others": [
                {
                    "network": network.name,
                    "concept": network.concept_names[network.nearest[i]],
                    "correlation": network.correlation[i],
                    "phi": network.phi[i],
                    "same": bool(network.same[i]),
                    "crops": self._nearest_crops(number, int(network.nearest[i])),
                }
                for number, network in enumerate(self.report.networks)
            ],
            "similar": [
                {"concept": j, "cosine": pages.signal_cosines[i, j]}
                for j in similar.tolist()
                if j != i and pages.signal_cosines[i, j] > _SIMILAR
            ],
            "pointed": [
                {"class": k, "value": value}
                for k, value in zip(pages.pointed_classes[i], pages.pointed_values[i], strict=True)
            ],
            "maximised": self._maximised(i),
            "facts": [
                {**fact._asdict(), "crops": self._strip(f"fact-{i:04d}-{f:02d}", fact.crops)}
                for f, fact in enumerate(pages.facts[i] if pages.facts else ())
            ],
        }

    def _maximised(self, i: int) -> dict[str, Any] | None:
        """Store the picture that was generated for a concept, and return it; None if none was."""
        if not self.report.concepts.maximised:
            return None
        picture = self.report.concepts.maximised[i]
        height, width = picture.shape[:2]
        return {
            "picture": self._stored(f"maximised/{i:04d}", picture),
            "width": width,
            "height": height,
            "small": min(height, width) <= SMALL,
        }

    def _class(self, c: int) -> dict[str, Any]:
        """Return the data of a class's page."""
        explained = self.report.explanation
        influence, k = explained.influence, int(explained.class_ids[c])
        return {
            "id": k,
            "images": explained.images[c],
            "accuracy": explained.accuracy[c],
            "logit": explained.logits[c],
            "residual": explained.residuals[c],
            "contributions": explained.contributions[c],
            "effects": influence.effects[:, c],
            "intervals": influence.intervals[:, c],
            "units": influence.unit_effects[:, c],
            "p": influence.p_values[:, c],
            "untested": {
                i: influence.reason(i, c) or "too few noise vectors"
                for i in np.flatnonzero(explained.significance[:, c] < 0).tolist()
            },
            "significance": explained.significance[:, c],
            "presence": explained.presence[c],
            "outside": explained.presence_outside[c],
            "confusions": [asdict(one) for one in explained.confusions if one.source == k],
            "extractors": [
                {
                    "name": extractor.name,
                    "concepts": [
                        {
                            "concept": i,
                            "contribution": extractor.contributions[k][i],
                            "crops": self._strip(f"other-{e:02d}-{i:04d}", extractor.crops.get(i)),
                        }
                        for i in largest_contributions(extractor.contributions[k])
                    ],
                }
                for e, extractor in enumerate(self.report.extractors)
                if k in extractor.contributions
            ],
        }

    def _image(self, n: int) -> dict[str, Any]:
        """Return the data of an image's page, and store its picture."""
        pages = self.report.images
        picture, change = pages.pictures[n], pages.changes[n]
        height, width = picture.shape[-3:-1]
        path = f"images/{n:05d}"
        over_time = pages.over_time[n] if pages.over_time else None
        return {
            "name": pages.names[n],
            "picture": self._stored(path, picture),
            "frames": self._stored(f"{path}.frames", strip(picture)) if picture.ndim == 4 else None,
            "frameCount": len(picture) if picture.ndim == 4 else None,
            "overTime": over_time,
            "width": width,
            "height": height,
            "small": min(height, width) <= SMALL,
            "label": pages.labels[n],
            "likeliest": pages.likeliest[n],
            "probabilities": pages.probabilities[n],
            "score": pages.scores[n],
            "residual": pages.residuals[n],
            "contributions": pages.contributions[n],
            "change": change and change._asdict(),
            "diagnosis": self._diagnosis(n),
            "place": pages.places[n] if np.isfinite(pages.places[n]).all() else None,
        }

    def _diagnosis(self, n: int) -> dict[str, Any] | None:
        """Store the picture of the diagnosis of an image, and return it; None without one."""
        found = self.report.images.diagnoses[n] if self.report.images.diagnoses else None
        if found is None:
            return None
        height, width = found.picture.shape[:2]
        path = self._stored(f"diagnoses/{n:05d}", found.picture)
        return {"picture": path, "width": width, "height": height, "text": found.text}

    def _nearest_crops(self, number: int, j: int) -> dict[str, Any] | None:
        """Return the crops of concept ``j`` of another network."""
        crops = self.report.networks[number].crops.get(j)
        return self._strip(f"network-{number:02d}-{j:04d}", crops)

    def _strip(
        self, name: str, crops: Array | None, with_frames: bool = False
    ) -> dict[str, Any] | None:
        """Store k crops side by side in one picture, and return it; None if k is 0.

        With frames, a second picture has a strip of the frames of each crop of a video, one below
        the other.
        """
        if crops is None or not len(crops):
            return None
        path = self._stored(f"crops/{name}", np.concatenate(list(crops), axis=-2))
        stored = {"picture": path, "count": len(crops), "small": crops.shape[-2] <= SMALL}
        if with_frames and crops.ndim == 5:
            frames = np.concatenate([strip(crop) for crop in crops], axis=1)
            stored["frames"] = self._stored(f"crops/{name}.frames", frames)
            stored["shape"] = frames.shape[2] / (frames.shape[1] / len(crops))
        return stored

    def _stored(self, name: str, picture: Array) -> str:
        """Store a picture, and return its path: the name with a file extension.

        An animation NAME.webp has a picture NAME.still.webp beside it, which is shown where motion
        is switched off.
        """
        content, ending = encoded(picture)
        if picture.ndim == 4 and len(picture) > 1:
            self.pictures[f"{name}.still{ending}"] = encoded(still(picture))[0]
        self.pictures[name + ending] = content
        return name + ending


def clean(text: object) -> str:
    """Return text without lone surrogates, which file names may contain but UTF-8 may not."""
    return str(text).encode("utf-8", "replace").decode("utf-8")


def as_script(value: Any) -> str:
    """Return JSON that is safe in an HTML page: it can neither end a script nor begin markup."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)  # ASCII only
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def largest_contributions(values: Array) -> list[int]:
    """Return the concepts with the largest contributions by size; contributions of 0 are left out.

    Parameters
    ----------
    values : ndarray of shape (I,)
        Signed contributions.

    Returns
    -------
    concepts : list of int
        At most `MOST_OTHERS` indices, that of the largest size first.
    """
    order = np.argsort(-np.abs(values), kind="stable")[:MOST_OTHERS]
    return [int(i) for i in order if values[i] != 0]
