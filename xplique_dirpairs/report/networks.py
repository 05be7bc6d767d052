"""The concepts of other networks that those of a report resemble most."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from xplique_dirpairs.core.validation import as_inputs
from xplique_dirpairs.data.images import best_crops_of_images, concept_maps
from xplique_dirpairs.extractors.concept_layer import ConceptLayer
from xplique_dirpairs.extractors.scan import Scan
from xplique_dirpairs.matching.match_extractors import LEAST_IMAGES, match_extractors
from xplique_dirpairs.plots.images import pixel_limits
from xplique_dirpairs.report.content import OtherNetwork, ReportSettings
from xplique_dirpairs.report.pictures import as_bytes

#: Largest number of images on which networks are compared, evenly spaced.
_IMAGES = 500
#: Number of crops of each concept of another network.
_CROPS = 4


def check_others(others: Mapping[str, Any], total: int) -> None:
    """Check that concepts of other networks can be compared, before anything is computed.

    Parameters
    ----------
    others : mapping of str to object
        See `write_report`.
    total : int
        Number of images of the report.

    Raises
    ------
    ValueError
        If there are too few images, or a network has other ones.
    """
    if others and total < LEAST_IMAGES:
        raise ValueError(
            f"others: concepts of two networks are compared on {LEAST_IMAGES} or more images, not "
            f"{total}: give more images, or leave the other networks out"
        )
    for name, other in others.items():
        if isinstance(other, tuple) and len(other[1]) != total:
            raise ValueError(
                f"others: {name!r} has {len(other[1])} images, but the report has {total}: give "
                "the same images in the same order, preprocessed for that network"
            )


def other_networks(
    seen: Scan, others: Mapping[str, Any], settings: ReportSettings
) -> tuple[OtherNetwork, ...]:
    """Find, for each concept, the concept of each other network that it resembles most.

    Parameters
    ----------
    seen : Scan
        Result of `scan` for the images and the concepts of the report.
    others : mapping of str to object
        See `write_report`; checked by `check_others`.
    settings : ReportSettings

    Returns
    -------
    networks : tuple of OtherNetwork
    """
    total = len(seen.images)
    chosen = np.linspace(0, total - 1, min(total, _IMAGES)).round().astype(int)
    pictures = np.asarray(seen.images[chosen])
    limits = pixel_limits(np.asarray(seen.images))
    own = seen.activations(chosen)
    networks = []
    for name, other in others.items():
        concepts, images = other if isinstance(other, tuple) else (other, seen.images)
        layer, images = ConceptLayer.of(concepts), as_inputs(images)
        x = layer.activations(images[chosen], settings.batch_size)
        matches = match_extractors(
            {"report": (seen.layer, own), "other": (layer, x)},
            cross=False,
            random_state=settings.random_state,
        )
        nearest = matches.nearest("report", "other")
        used = np.unique(nearest.concepts)
        maps = concept_maps(layer.shown(x), pictures.shape[1:], layer.split.extra_tokens)
        crops = best_crops_of_images(pictures, maps[..., used], _CROPS)
        networks.append(
            OtherNetwork(
                name=str(name),
                concept_names=layer.concept_names,
                nearest=nearest.concepts,
                correlation=nearest.correlation,
                phi=nearest.phi,
                same=nearest.same,
                crops={int(j): as_bytes(one, limits) for j, one in zip(used, crops, strict=True)},
            )
        )
    return tuple(networks)
