"""Convert results to data that JSON can hold, without importing numpy, which is slow to load."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any


def plain_data(value: Any, as_text: Callable[[object], str], digits: int | None = None) -> Any:
    """Convert a value to nested dictionaries and lists of text, numbers, booleans and None.

    Parameters
    ----------
    value : object
        Value to convert. Arrays become lists; NaN and infinity, which JSON lacks, become None.
    as_text : callable
        Applied to strings, to keys, and to any other object that is not a number or a collection.
    digits : int, optional
        Number of significant digits of floats; None keeps all digits.

    Returns
    -------
    data : object
    """
    if hasattr(value, "tolist"):  # arrays and numbers of numpy
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
