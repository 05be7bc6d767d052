"""Types used throughout the package."""

from __future__ import annotations

from typing import Any, TypeAlias

from numpy.typing import NDArray

#: Array of any shape and dtype; docstrings state both.
Array: TypeAlias = NDArray[Any]
