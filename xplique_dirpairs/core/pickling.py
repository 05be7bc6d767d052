"""Leave out of pickles and deep copies what objects compute on demand."""

from __future__ import annotations

from functools import cached_property
from typing import Any, TypeVar

_Twin = TypeVar("_Twin", bound="ComputesAgain")


class ComputesAgain:
    """Mixin: pickles and deep copies leave out what a `cached_property` keeps.

    Compiled functions cannot be pickled, and a copied function would still call the network of the
    original. Values that are left out are computed again when they are needed. A cached None is
    kept: it may be the answer of data that are no longer at hand.
    """

    def __getstate__(self) -> dict[str, Any]:
        return {
            name: value
            for name, value in vars(self).items()
            if value is None or not isinstance(getattr(type(self), name, None), cached_property)
        }

    def __copy__(self: _Twin) -> _Twin:
        twin = object.__new__(type(self))  # a shallow copy shares everything
        vars(twin).update(vars(self))
        return twin
