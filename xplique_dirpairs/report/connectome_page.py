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


def connectome_page(
    connectome: Connectome,
    title: str = "Connectome",
    *,
    report: str | None = None,
    report_layer: int | None = None,
) -> str:
    """Return a page of a connectome as HTML, with its pictures in it.

    Parameters
    ----------
    connectome : Connectome
        The connectome, with or without its network.
    title : str, default="Connectome"
        Title of the page.
    report : str, optional
        Address of a report of the same network, relative to the page, which the page links to.
    report_layer : int, optional
        Index of the layer whose concepts are those of the report: each of them has a link to its
        page there. None: there is none.

    Returns
    -------
    page : str
        HTML that a browser opens from disk. A click on a concept shows what makes it and what it
        makes; a click on a class shows the strongest chains that lead to it.
    """
    content = _content(connectome) | {"report": report, "ownLayer": report_layer}
    data = plain_data(content, clean, 6)
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
    classes = [{"name": name, "crops": []} for name in connectome.upper_names(-1)]
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
        [[*path.concepts, path.effect] for path in connectome.paths(k, _CHAINS)]
        for k in connectome.class_ids
    ]
    return {
        "layers": layers,
        "edges": edges,
        "tested": [np.isfinite(each.p_values).sum() for each in connectome.edges],
        "chains": chains,
        "built": f"Built from {connectome.settings['images']} images.",
        "words": _words(connectome),
    }


def _words(connectome: Connectome) -> list[tuple[str, str]]:
    """Return the words that the page explains, and what they mean in this connectome."""
    settings = connectome.settings
    effect = (
        "How far the upper concept moves for one spread more of the lower one, in its own spreads; "
        "a spread is the standard deviation over images. An effect of +2 is large, one of +0.1 "
        "small. For a class, what moves is its logit, less the mean over all classes."
    )
    test = "against random directions of the same length"
    if settings["direction"] == "cav":  # of the published form
        effect = "2 ITCAV \u2212 1, the score again: the published form has no sizes."
        test = "by a paired t-test against random images"
    elif settings.get("noise") == "permuted labels":
        test = "against signal vectors of permuted labels"
    corrected = "" if settings["correction"] == "none" else (
        f" after correction for all edges between two layers ({settings['correction']})"
    )  # fmt: skip
    return [
        (
            "Concept",
            "Something that the network recognises at a layer. Its pictures are the parts of "
            "images in which it is strongest. Concepts without a name have a number.",
        ),
        (
            "Edge",
            "More of the concept on the left raises (red, solid) or lowers (blue, dashed) the one "
            "on the right. Wide lines are large effects, beside the others between the same "
            "layers. It says what the network computes, not what belongs together in the world.",
        ),
        ("Effect", effect),
        (
            "Score",
            "Among the images that show most of the upper concept: the share in which more of the "
            "lower one raises it, minus the share in which it lowers it. It is stated unless it is "
            "+1 or \u22121, which means: in all of them.",
        ),
        (
            "Significant",
            f"p below {settings['level']:g} {test}{corrected}. Only such edges are shown. One that "
            "is not shown may exist.",
        ),
        (
            "Chain",
            "Edges from concept to concept up to a class. Its number is the product of the "
            "effects: two that lower make one that raises.",
        ),
    ]


def _inline(picture: Array) -> str:
    """Return a picture as the address of an image that is part of the page."""
    content, ending = encoded(np.repeat(picture, 3, axis=-1) if picture.shape[-1] == 1 else picture)
    return f"data:{_MIME[ending]};base64,{base64.b64encode(content).decode('ascii')}"
