"""Performances of a network that `masked_importance` asks concepts to account for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_class

#: A function of outputs (N, …) and inputs (N, …) to one number for each input, (N,).
Performance: TypeAlias = Callable[[Array, Array], ArrayLike]


def probability_of(class_id: int) -> Performance:
    """Return the performance "probability of a class", for outputs that are probabilities.

    Parameters
    ----------
    class_id : int
        Index of the class.

    Returns
    -------
    performance : callable
        Function of outputs (N, K) and inputs to (N,).
    """
    check_class(class_id, None)
    return lambda outputs, inputs: outputs[:, class_id]


def is_correct(classes: int | ArrayLike) -> Performance:
    """Return the performance "1 if the class is recognised, 0 if not".

    Parameters
    ----------
    classes : int or array-like of shape (N,)
        True class of all inputs, or of each.

    Returns
    -------
    performance : callable
        Function of outputs (N, K) and inputs to (N,).
    """
    wanted = np.asarray(classes)
    return lambda outputs, inputs: (outputs.argmax(axis=-1) == wanted).astype(np.float64)


def agreement(outputs: ArrayLike) -> Performance:
    """Return the performance "1 if the likeliest class is the one of other outputs".

    Parameters
    ----------
    outputs : array-like of shape (N, K)
        Outputs of the intact network.

    Returns
    -------
    performance : callable
        Function of outputs (N, K) and inputs to (N,).
    """
    return is_correct(np.asarray(outputs).argmax(axis=-1))
