"""`prune_heads`: close the heads of a transformer that matter least."""

from __future__ import annotations

from collections.abc import Mapping

import keras
import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.core.validation import check_fraction, check_one_for_each
from xplique_dirpairs.models.attention import attention_layers, projection
from xplique_dirpairs.models.copies import reloaded_model
from xplique_dirpairs.video.probe import Head, VideoProbe


def prune_heads(
    probe: VideoProbe,
    head_importance: Mapping[Head, float] | ArrayLike,
    fraction: float = 1 / 3,
) -> keras.Model:
    """Close the least important heads of a transformer.

    The projections of queries, keys and values of a closed head are set to 0, so that it adds
    nothing but the bias of the output projection, which all heads share.

    Parameters
    ----------
    probe : VideoProbe
        Probe of the network.
    head_importance : mapping of (int, int) to float, or array-like
        Importance of each head, by (layer, head) as `MaskedImportance.by_head` returns it, or in
        the order of ``probe.heads``, such as ``masked_importance(probe, …).importance``.
    fraction : float, default=1/3
        Share of the heads to close, in (0, 1).

    Returns
    -------
    pruned : keras.Model
        A copy of the network, of the same layers and shapes.

    Raises
    ------
    ValueError
        If there is not one finite number for each head, or ``fraction`` is out of range or so small
        that it closes none.
    """
    check_fraction("fraction", fraction)
    if isinstance(head_importance, Mapping):
        missing = [head for head in probe.heads if head not in head_importance]
        if missing:
            raise ValueError(f"head_importance has no number for head {missing[0]}")
        head_importance = [head_importance[head] for head in probe.heads]
    values = check_one_for_each("head_importance", head_importance, len(probe.heads), "heads")
    closed = np.argsort(values, kind="stable")[: round(fraction * len(values))]
    if not len(closed):
        raise ValueError(
            f"fraction {fraction} closes none of {len(values)} heads: give "
            f"{1 / len(values):.2g} to close one"
        )
    pruned = reloaded_model(probe.model)
    by_name = {one.name: one.layer for one in attention_layers(pruned)}
    for layer, head in (probe.heads[q] for q in closed):
        for name in ("query", "key", "value"):
            dense = projection(by_name[probe.layer_names[layer]], name)
            weights = dense.get_weights()
            weights[0][:, head] = 0.0
            if len(weights) > 1:
                weights[1][head] = 0.0
            dense.set_weights(weights)
    return pruned
