"""Parts of a report, of what the parts of the package found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xplique_dirpairs.comparison.extractor_result import CONTROLS, upright_maps
from xplique_dirpairs.comparison.result import Comparison
from xplique_dirpairs.core.tables import Table
from xplique_dirpairs.data.annotated_images import flat_concepts
from xplique_dirpairs.data.crops import best_crops_of_images, fitting_patch
from xplique_dirpairs.explanations.model_explanation import ModelExplanation
from xplique_dirpairs.extractors.concept_layer import ConceptLayer
from xplique_dirpairs.metrics.dissection import NO_LABEL
from xplique_dirpairs.metrics.interpretability import Interpretability
from xplique_dirpairs.metrics.registry import METRICS
from xplique_dirpairs.plots.images import as_picture, pixel_limits
from xplique_dirpairs.report.content import Change, ConceptPages, ExtractorConcepts, Label
from xplique_dirpairs.report.image_reading import BINS, Overview
from xplique_dirpairs.report.thumbnails import crop_side, cut

if TYPE_CHECKING:
    from xplique_dirpairs.interventions.counterfactual_result import Counterfactuals

#: Concepts of another extractor that a class page shows, and the crops of each.
_OTHERS, _OTHER_CROPS = 5, 4
#: Side of these crops, as a share of the shorter side of an image.
_CROP = 0.3


class Gallery:
    """Each image as a picture, (height, width, 3) uint8.

    Parameters
    ----------
    images : (N, height, width, channels)
    pictures
        To be shown instead; None: the images.

    Raises
    ------
    ValueError
        If there is another number of pictures, or, when it is asked for, one is no picture.
    """

    def __init__(self, images: NDArray, pictures: Sequence[ArrayLike] | None) -> None:
        if pictures is not None and len(pictures) != len(images):
            raise ValueError(
                f"pictures must be one for each of {len(images)} images, not {len(pictures)}"
            )
        # one black and one white for all: of pictures given one by one, each has its own
        whole = images if pictures is None else pictures
        self._limits = None
        if isinstance(whole, np.ndarray) and whole.dtype.kind in "fiub" and whole.size:
            self._limits = pixel_limits(whole)
        self._pictures: Sequence[ArrayLike] | NDArray = whole

    def __getitem__(self, n: int) -> NDArray:
        picture = np.asarray(self._pictures[n])
        if picture.ndim != 3 or 0 in picture.shape or picture.dtype.kind not in "fiub":
            raise ValueError(
                f"pictures must have shape (height, width, channels), but picture {n} is "
                f"{picture.dtype} {picture.shape}"
            )
        return (255 * as_picture(picture, self._limits) + 0.5).astype(np.uint8)


def concept_pages(
    layer: ConceptLayer,
    seen: Overview,
    maps: NDArray,
    gallery: Gallery,
    shown: NDArray,
    nb_crops: int,
    interpretability: Interpretability | None,
) -> ConceptPages:
    """Pages of the concepts; ``maps`` (n, h, w, I) are of the ``shown`` images."""
    concepts = layer.number_of_concepts
    shape = seen.image_shape
    best = [seen.best_images(i, nb_crops) for i in range(concepts)]
    example = gallery[0].shape[:2]
    side = crop_side(seen.patch / min(shape[:2]) * min(example))
    crops = []
    for i, of in enumerate(best):
        cuts = [cut(gallery[int(n)], seen.place(int(n), i), side) for n in of]
        crops.append(np.stack(cuts) if cuts else np.zeros((0, side, side, 3), np.uint8))
    places = {int(n): place for place, n in enumerate(shown)}
    if seen.histogram is None:
        histogram = np.stack([np.histogram(maps[..., i], BINS, (0, 1))[0] for i in range(concepts)])
    else:
        histogram = seen.histogram
    reader = layer.reader
    return ConceptPages(
        crops=tuple(crops),
        crop_images=tuple(np.array([places.get(int(n), -1) for n in of], int) for of in best),
        presence=(seen.detected > 0).mean(axis=0),
        occupancy=seen.detected.mean(axis=0),
        histogram=histogram / histogram.sum(axis=1, keepdims=True),
        histogram_of="coefficient" if seen.histogram is None else "detection",
        signal_cosines=_cosines(reader.encoding),
        filter_cosines=None if reader.decoding is None else _cosines(reader.decoding),
        overlaps=seen.overlaps,
        labels=_labels(interpretability, concepts),
    )


def _cosines(rows: NDArray) -> NDArray:
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return unit @ unit.T


def _labels(found: Interpretability | None, concepts: int) -> tuple[Label | None, ...]:
    if found is None:
        return (None,) * concepts
    names = flat_concepts(found.concepts)
    return tuple(
        None
        if label == NO_LABEL
        else Label(
            names[label][1], names[label][0],
            *(
                float(values[i])
                for values in (found.iou, found.precision, found.recall, found.average_precision)
            ),
        )
        for i, label in enumerate(found.labels.tolist())
    )  # fmt: skip


def changes_of(found: Counterfactuals | None, shown: NDArray) -> tuple[Change | None, ...]:
    """The counterfactuals of some images."""
    if found is None:
        return (None,) * len(shown)
    changes = []
    for n in shown:
        moved = found.moved_concepts(n)
        changes.append(
            Change(
                str(found.status[n]),
                int(found.after[n]),
                moved,
                found.means_before[n, moved],
                found.means_after[n, moved],
                float(found.changed[n]),
                float(found.distances_after.percentile[n]),
            )
        )
    return tuple(changes)


def other_extractors(
    comparison: Comparison, explanation: ModelExplanation
) -> tuple[ExtractorConcepts, ...]:
    """What each extractor of a comparison says of the classes, the controls left out."""
    images, found = comparison.images, []
    shape = images.shape[1:]
    patch = fitting_patch(max(1, round(_CROP * min(shape[:2]))), shape)
    limits = pixel_limits(images)
    for name, result in comparison.results.items():
        if name in CONTROLS:
            continue
        of_images = result.fidelity.contributions
        contributions = {
            int(k): of_images[comparison.class_ids == k].mean(axis=0)
            for k in explanation.class_ids
            if (comparison.class_ids == k).any()
        }
        used = {int(i) for c in contributions.values() for i in largest(c, _OTHERS)}
        maps = upright_maps(result.shown, shape)
        if maps[0, ..., 0].size == 1:  # no places: the largest square
            patch = min(shape[:2])
        chosen = sorted(used)
        cut_out = best_crops_of_images(images, maps[..., chosen], patch, _OTHER_CROPS)
        found.append(
            ExtractorConcepts(
                name,
                contributions,
                {
                    i: (255 * as_picture(crops, limits) + 0.5).astype(np.uint8)
                    for i, crops in zip(chosen, cut_out, strict=True)
                    if len(crops)
                },
            )
        )
    return tuple(found)


def largest(values: NDArray, count: int = _OTHERS) -> NDArray:
    """Concepts by the size of their contribution, largest first; those without any left out."""
    order = np.argsort(-np.abs(values), kind="stable")[:count]
    return order[values[order] != 0]


def comparison_tables(comparison: Comparison) -> tuple[Table, ...]:
    """One for each kind of metrics."""
    kinds = dict.fromkeys(metric.kind for metric in METRICS.values())
    found = [comparison.table(kind) for kind in kinds]
    return tuple(table for table in found if len(table.headers) > 1)


def metric_descriptions() -> dict[str, str]:
    """Header of a column → what stands in it."""
    return {f"{m.name} {m.arrow}".rstrip(): m.description for m in METRICS.values()}
