"""Types that every room uses."""

from __future__ import annotations

from typing import Any, TypeAlias

from numpy.typing import NDArray

#: An array of any shape and dtype: docstrings say which.
Array: TypeAlias = NDArray[Any]
