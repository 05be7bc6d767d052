"""Encoding-decoding direction pairs for Xplique.

Names are imported when they are first used: the command line answers ``--help`` without
TensorFlow.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from xplique_dirpairs.version import __version__

if TYPE_CHECKING:
    from xplique_dirpairs.comparison import Comparison, compare
    from xplique_dirpairs.extractors.craft import FactorizerCraftTf
    from xplique_dirpairs.extractors.direction_pairs import (
        DirectionPairsManagerTf,
        DirectionPairsTf,
    )
    from xplique_dirpairs.extractors.holistic import HolisticDirectionPairsTf
    from xplique_dirpairs.factorizers.controls import NoLearningFactorizer, RandomFactorizer
    from xplique_dirpairs.factorizers.decompositions import (
        FastICAFactorizer,
        KMeansFactorizer,
        PCAFactorizer,
    )
    from xplique_dirpairs.factorizers.direction_pairs import DirectionPairsFactorizer
    from xplique_dirpairs.factorizers.nonnegative import NMFFactorizer, SemiNMFFactorizer
    from xplique_dirpairs.learning.concept_scan import scan_number_of_concepts
    from xplique_dirpairs.learning.history import History, LearningWarning
    from xplique_dirpairs.learning.number_of_concepts import count_skewed_sources
    from xplique_dirpairs.learning.recipe import Recipe, Stage
    from xplique_dirpairs.learning.trainer import learn_pairs
    from xplique_dirpairs.maximisation import maximise
    from xplique_dirpairs.maximisation_report import FiringReport, measure_firing
    from xplique_dirpairs.network import Head, split_model
    from xplique_dirpairs.pairs import DirectionPairs
    from xplique_dirpairs.plots.maximisation import plot_maximised
    from xplique_dirpairs.plots.number_of_concepts import plot_number_of_concepts
    from xplique_dirpairs.shards import ActivationShards

_MODULES = {
    "ActivationShards": "shards",
    "Comparison": "comparison",
    "DirectionPairs": "pairs",
    "DirectionPairsFactorizer": "factorizers.direction_pairs",
    "DirectionPairsManagerTf": "extractors.direction_pairs",
    "DirectionPairsTf": "extractors.direction_pairs",
    "FactorizerCraftTf": "extractors.craft",
    "FastICAFactorizer": "factorizers.decompositions",
    "FiringReport": "maximisation_report",
    "Head": "network",
    "History": "learning.history",
    "HolisticDirectionPairsTf": "extractors.holistic",
    "KMeansFactorizer": "factorizers.decompositions",
    "LearningWarning": "learning.history",
    "NMFFactorizer": "factorizers.nonnegative",
    "NoLearningFactorizer": "factorizers.controls",
    "PCAFactorizer": "factorizers.decompositions",
    "RandomFactorizer": "factorizers.controls",
    "Recipe": "learning.recipe",
    "SemiNMFFactorizer": "factorizers.nonnegative",
    "Stage": "learning.recipe",
    "compare": "comparison",
    "count_skewed_sources": "learning.number_of_concepts",
    "learn_pairs": "learning.trainer",
    "maximise": "maximisation",
    "measure_firing": "maximisation_report",
    "plot_maximised": "plots.maximisation",
    "plot_number_of_concepts": "plots.number_of_concepts",
    "scan_number_of_concepts": "learning.concept_scan",
    "split_model": "network",
}

__all__ = [
    "ActivationShards",
    "Comparison",
    "DirectionPairs",
    "DirectionPairsFactorizer",
    "DirectionPairsManagerTf",
    "DirectionPairsTf",
    "FactorizerCraftTf",
    "FastICAFactorizer",
    "FiringReport",
    "Head",
    "History",
    "HolisticDirectionPairsTf",
    "KMeansFactorizer",
    "LearningWarning",
    "NMFFactorizer",
    "NoLearningFactorizer",
    "PCAFactorizer",
    "RandomFactorizer",
    "Recipe",
    "SemiNMFFactorizer",
    "Stage",
    "__version__",
    "compare",
    "count_skewed_sources",
    "learn_pairs",
    "maximise",
    "measure_firing",
    "plot_maximised",
    "plot_number_of_concepts",
    "scan_number_of_concepts",
    "split_model",
]


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__():
    return sorted(__all__)
