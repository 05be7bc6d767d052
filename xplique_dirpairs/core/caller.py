"""Warnings that point at the user's line, from wherever in the package they are raised."""

from __future__ import annotations

import os
import sys
import warnings

import xplique

import xplique_dirpairs

#: Frames in these folders are not the user's: the extractors are called through Xplique's.
_FOLDERS = tuple(
    os.path.dirname(os.path.abspath(path)) + os.sep
    for path in (xplique_dirpairs.__file__, xplique.__file__)
)


def warn_caller(message: str, category: type[Warning]) -> None:
    """Warn at the line that called into this package."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_FOLDERS):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
