"""Find out what a head ends in by evaluating it, where its graph does not show it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.models.graph import final_activation, shows_its_end
from xplique_dirpairs.models.linearity import evaluated, input_shape, precision_of, random_features

#: Largest deviation from one of a sum of probabilities, beside what rounding explains.
_TOLERANCE = 1e-3


def what_it_ends_in(model: Callable[..., Any], shape: tuple[int | None, ...] | None = None) -> str:
    """Return the final activation of a head: 'softmax', 'sigmoid' or 'linear'.

    It is read from the graph. If that hides it, the head is evaluated at random features: outputs
    that are never negative and always sum to 1 are those of a softmax; outputs that stay within
    0 and 1, and come near both, are those of sigmoids. Such a finding is given as a warning.

    Parameters
    ----------
    model : keras.Model or callable
        Activations (N, *spatial, D) to outputs (N, K).
    shape : tuple of (int or None), optional
        Shape (*spatial, D) of the activations. None: as the model tells; a function that does not
        tell is taken to return logits.

    Returns
    -------
    ends_in : str
    """
    has_graph = isinstance(model, keras.Model) and bool(getattr(model, "outputs", None))
    if has_graph:
        shown = final_activation(model)
        if shown != "linear" or shows_its_end(model):
            return shown
    shape = shape or input_shape(model)
    if shape is None or shape[-1] is None:
        return "linear"
    found, total = _found_at_random_features(model, shape)
    if found == "linear" and total is not None:
        warnings.warn(
            f"outputs of the network are never negative and always sum to {total:.4g}, also for "
            "random features: they look like probabilities on another scale, but count as logits. "
            "Give a model that ends in the softmax, and leave out the layers that scale it",
            stacklevel=4,
        )
    if found != "linear":
        looks = "sum to 1" if found == "softmax" else "stay within 0 and 1"
        warnings.warn(
            f"the graph does not show what the network ends in, but its outputs {looks}, also for "
            f"random features: they are taken for probabilities of a {found}. Give "
            f"ends_in={found!r} if that is right, or ends_in='linear' if they are not",
            stacklevel=4,
        )
    return found


def _found_at_random_features(
    model: Any, shape: tuple[int | None, ...]
) -> tuple[str, float | None]:
    """Return what outputs at random features look like, and what they always sum to.

    The first is 'softmax', 'sigmoid' or 'linear'; the second is None if the sum is not constant, or
    outputs may be negative.
    """
    try:
        outputs = np.concatenate([evaluated(model, x) for x in random_features(model, shape)])
    except Exception:  # a function of the user may raise anything here, and will again when used
        return "linear", None
    outputs = outputs[np.isfinite(outputs).all(axis=-1)]
    if outputs.ndim != 2 or not len(outputs) or outputs.min() < 0.0 or not _varies(outputs):
        return "linear", None
    tolerance = _TOLERANCE + 3.0 * precision_of(model).rounding
    sums = outputs.sum(axis=1, dtype=np.float64)
    total = float(sums.mean())
    if outputs.shape[1] > 1 and (np.abs(sums - total) <= tolerance * total).all():
        return ("softmax" if abs(total - 1.0) <= tolerance else "linear"), total
    is_between = outputs.max() <= 1.0 and outputs.min() < 0.1 and outputs.max() > 0.9
    return ("sigmoid" if is_between else "linear"), None


def _varies(outputs: Array) -> bool:
    """Return whether outputs depend on the features."""
    return bool(np.ptp(outputs, axis=0).max() > 0.0)
