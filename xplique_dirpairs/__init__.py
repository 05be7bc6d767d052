"""Encoding-decoding direction pairs for Xplique.

Names are imported when they are first used: the command line answers ``--help`` without
TensorFlow.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from xplique_dirpairs.version import __version__

if TYPE_CHECKING:
    from xplique_dirpairs.extractors.craft import FactorizerCraftTf
    from xplique_dirpairs.extractors.direction_pairs import (
        DirectionPairsManagerTf,
        DirectionPairsTf,
    )
    from xplique_dirpairs.extractors.holistic import HolisticDirectionPairsTf
    from xplique_dirpairs.factorizers.direction_pairs import DirectionPairsFactorizer
    from xplique_dirpairs.learning.history import History, LearningWarning
    from xplique_dirpairs.learning.recipe import Recipe, Stage
    from xplique_dirpairs.learning.trainer import learn_pairs
    from xplique_dirpairs.network import Head, split_model
    from xplique_dirpairs.pairs import DirectionPairs

_MODULES = {
    "DirectionPairs": "pairs",
    "DirectionPairsFactorizer": "factorizers.direction_pairs",
    "DirectionPairsManagerTf": "extractors.direction_pairs",
    "DirectionPairsTf": "extractors.direction_pairs",
    "FactorizerCraftTf": "extractors.craft",
    "Head": "network",
    "History": "learning.history",
    "HolisticDirectionPairsTf": "extractors.holistic",
    "LearningWarning": "learning.history",
    "Recipe": "learning.recipe",
    "Stage": "learning.recipe",
    "learn_pairs": "learning.trainer",
    "split_model": "network",
}

__all__ = [
    "DirectionPairs",
    "DirectionPairsFactorizer",
    "DirectionPairsManagerTf",
    "DirectionPairsTf",
    "FactorizerCraftTf",
    "Head",
    "History",
    "HolisticDirectionPairsTf",
    "LearningWarning",
    "Recipe",
    "Stage",
    "__version__",
    "learn_pairs",
    "split_model",
]


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__():
    return sorted(__all__)
