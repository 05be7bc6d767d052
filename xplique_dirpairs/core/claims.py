"""Concepts of several networks that are claimed to be the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from xplique_dirpairs.core.linear_algebra import UNMATCHED
from xplique_dirpairs.core.types import Array
from xplique_dirpairs.core.validation import check_concepts


def check_claims(concepts: ArrayLike, numbers: Sequence[int], least: int = 2) -> Array:
    """Return concepts (U, M) of M networks that are claimed to be the same, −1 for none.

    ``numbers`` are those of the concepts of each network, and each row must have the concepts of
    ``least`` networks, 1 or 2.

    Raises
    ------
    ValueError
        If there is no column for each network, an index is no concept's, a concept is in two rows,
        or a row has fewer than ``least`` concepts.
    """
    groups = np.asarray(concepts)
    if groups.ndim != 2 or groups.shape[1] != len(numbers) or groups.dtype.kind not in "iu":
        raise ValueError(
            f"concepts must be integers with a column for each of the {len(numbers)} networks, not "
            f"{groups.dtype} of shape {groups.shape}"
        )
    for m, number in enumerate(numbers):
        own = groups[groups[:, m] != UNMATCHED, m]
        if len(np.unique(own)) < len(own):
            raise ValueError(f"no concept may be in two rows of concepts, but column {m} has some")
        if len(own):
            check_concepts(own, number)
    if ((groups != UNMATCHED).sum(axis=1) < least).any():
        networks = "one network" if least == 1 else "two networks"
        raise ValueError(f"each row of concepts must have the concepts of {networks} or more")
    return groups.astype(int)
