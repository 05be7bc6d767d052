"""A page of a connectome that one can walk: what makes a concept, and what it makes."""

from __future__ import annotations

import base64
import html
from importlib.resources import files
from typing import Any

import numpy as np

from xplique_dirpairs.connectome.result import Connectome
from xplique_dirpairs.core.plain_data import plain_data
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.report.payload import as_script, clean
from xplique_dirpairs.report.pictures import encoded

_ASSETS = files("xplique_dirpairs.report") / "walk"
#: Number of chains to a class that the page lists.
_CHAINS = 10
_MIME = {".jpg": "image/jpeg", ".png": "image/png"}


def connectome_page(connectome: Connectome, title: str = "Connectome") -> str:
    """Return a page of a connectome as HTML, with its pictures in it.

    Parameters
    ----------
    connectome : Connectome
        The connectome, with or without its network.
    title : str, default="Connectome"
        Title of the page.

    Returns
    -------
    page : str
        HTML that a browser opens from disk. A click on a concept shows what makes it and what it
        makes; a click on a class shows the strongest chains that lead to it.
    """
    data = plain_data(_content(connectome), clean, 6)
    return (_ASSETS / "page.html").read_text(encoding="utf-8").format(
        title=html.escape(clean(title)),
        style=(_ASSETS / "page.css").read_text(encoding="utf-8"),
        data=as_script(data),
        script=(_ASSETS / "walk.js").read_text(encoding="utf-8"),
    )  # fmt: skip


def _content(connectome: Connectome) -> dict[str, Any]:
    """Return what the page shows; names of users are only values."""
    layers = [
        {
            "name": layer.name,
            "concepts": [
                {"name": name, "crops": [_inline(crop) for crop in crops[:3]]}
                for name, crops in zip(layer.concept_names, layer.crops, strict=True)
            ],
        }
        for layer in connectome.layers
    ]
    classes = [{"name": name, "crops": []} for name in connectome.class_names]
    layers.append({"name": "class", "concepts": classes})
    edges = []
    for each in connectome.edges:
        lower, upper = np.nonzero(each.kept)
        effects = each.effects[lower, upper]
        order = np.argsort(-np.abs(effects), kind="stable")
        edges.append(
            [
                [lower[n], upper[n], effects[n], each.scores[lower[n], upper[n]]]
                for n in order.tolist()
            ]
        )
    chains = [
        [[*path.concepts, path.effect] for path in connectome.paths(name, _CHAINS)]
        for name in connectome.class_names
    ]
    return {"layers": layers, "edges": edges, "chains": chains}


def _inline(picture: Array) -> str:
    """Return a picture as the address of an image that is part of the page."""
    content, ending = encoded(np.repeat(picture, 3, axis=-1) if picture.shape[-1] == 1 else picture)
    return f"data:{_MIME[ending]};base64,{base64.b64encode(content).decode('ascii')}"
