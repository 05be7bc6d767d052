"""Encoding-decoding direction pairs for Xplique.

The public names stand in ``__init__.pyi`` and are imported when they are first used: the command
line answers ``--help`` without TensorFlow.
"""

import lazy_loader

from xplique_dirpairs.core.settings import check_settings
from xplique_dirpairs.version import __version__

_public_name, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used."""
    if name in __all__:
        check_settings()  # before Keras is imported, which may lack the backend that is set
    return _public_name(name)
