"""Encoding-decoding direction pairs for Xplique."""

from xplique_dirpairs.version import __version__

__all__ = ["__version__"]
