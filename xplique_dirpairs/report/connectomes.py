"""Connectomes of a report's network: their pages, and diagnoses of images."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO

import matplotlib.pyplot as plt
import numpy as np

from xplique_dirpairs.connectome.diagnose import Diagnosis
from xplique_dirpairs.connectome.result import Connectome
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.extractors.concept_layer import ConceptLayer
from xplique_dirpairs.report.content import LayerByLayer, LinkedConnectome
from xplique_dirpairs.report.pictures import as_bytes

#: Resolution of the picture of a diagnosis, in dots per inch.
_DPI = 110


def check_diagnoses(diagnoses: Mapping[int, Diagnosis], total: int) -> None:
    """Raise a ValueError unless all diagnoses are of one of ``total`` images."""
    for n in diagnoses:
        if not isinstance(n, (int, np.integer)) or not 0 <= n < total:
            raise ValueError(
                f"diagnoses must be by index of the image, from 0 to {total - 1}, not {n!r}"
            )


def linked_connectomes(
    connectomes: Mapping[str, Connectome], layer: ConceptLayer
) -> tuple[LinkedConnectome, ...]:
    """Return connectomes with the layer at which their concepts are those of the report."""
    found = []
    for name, connectome in connectomes.items():
        own = [n for n, concepts in enumerate(connectome.layers) if concepts.are(layer)]
        found.append(LinkedConnectome(str(name), connectome, own[0] if own else None))
    return tuple(found)


def layer_by_layer(diagnosis: Diagnosis) -> LayerByLayer:
    """Return the picture of a diagnosis, and the shares of the image in words."""
    figure, buffer = diagnosis.plot(), BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    plt.close(figure)
    buffer.seek(0)
    picture = as_bytes(plt.imread(buffer)[..., :3], (0.0, 1.0))
    return LayerByLayer(picture, _in_words(diagnosis))


def _in_words(diagnosis: Diagnosis) -> str:
    """Return which share of the image is nearest to which class at each layer."""
    shares = [
        f"{layer}: {_listed(diagnosis.names, own)}"
        for layer, own in zip(diagnosis.layer_names, diagnosis.shares, strict=True)
    ]
    return "; ".join(shares) + "."


def _listed(names: tuple[str, ...], shares: Array) -> str:
    return ", ".join(f"{share:.0%} {name}" for name, share in zip(names, shares, strict=True))
