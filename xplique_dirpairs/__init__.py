"""Encoding-decoding direction pairs for Xplique.

The public names stand in ``__init__.pyi`` and are imported when they are first used: the command
line answers ``--help`` without TensorFlow.
"""

import lazy_loader

from xplique_dirpairs.version import __version__

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]
