"""Results as JSON has them. Nothing here imports numpy: the command line starts at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any


def plain_data(value: Any, as_text: Callable[[object], str], digits: int | None = None) -> Any:
    """Return nested dictionaries and lists of text, numbers, booleans and None.

    Parameters
    ----------
    value : object
        Arrays become lists; NaN and infinity, which JSON does not have, become None.
    as_text : callable
        Applied to strings, to keys, and to whatever else is no number, array or collection.
    digits : int, optional
        Significant digits of floats; None: all.
    """
    if hasattr(value, "tolist"):  # numpy's arrays and numbers
        value = value.tolist()
    if isinstance(value, Mapping):
        return {as_text(key): plain_data(each, as_text, digits) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_data(each, as_text, digits) for each in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return value if digits is None else float(f"{value:.{digits}g}")
    if value is None or isinstance(value, int):
        return value
    return as_text(value)
