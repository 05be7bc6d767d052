"""Encoding-decoding direction pairs for Xplique.

Names are imported when they are first used: the command line answers ``--help`` without
TensorFlow.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from xplique_dirpairs.version import __version__

if TYPE_CHECKING:
    from xplique_dirpairs.comparison.attributions import Attributions, attribute
    from xplique_dirpairs.comparison.average import average
    from xplique_dirpairs.comparison.compare import compare
    from xplique_dirpairs.comparison.result import Comparison
    from xplique_dirpairs.explanations.contributions import compare_predictions, explain_prediction
    from xplique_dirpairs.explanations.global_report import explain_model
    from xplique_dirpairs.explanations.model_explanation import ModelExplanation
    from xplique_dirpairs.explanations.prediction_explanation import (
        PredictionComparison,
        PredictionExplanation,
    )
    from xplique_dirpairs.extractors.craft import FactorizerCraftTf
    from xplique_dirpairs.extractors.direction_pairs import (
        DirectionPairsManagerTf,
        DirectionPairsTf,
    )
    from xplique_dirpairs.extractors.holistic import HolisticDirectionPairsTf
    from xplique_dirpairs.factorizers.autoencoders import (
        ArchetypalFactorizer,
        RelaxedArchetypalFactorizer,
        TopKFactorizer,
    )
    from xplique_dirpairs.factorizers.controls import NoLearningFactorizer, RandomFactorizer
    from xplique_dirpairs.factorizers.decompositions import (
        FastICAFactorizer,
        KMeansFactorizer,
        PCAFactorizer,
    )
    from xplique_dirpairs.factorizers.direction_pairs import DirectionPairsFactorizer
    from xplique_dirpairs.factorizers.nonnegative import NMFFactorizer, SemiNMFFactorizer
    from xplique_dirpairs.interventions.correction import choose_k, correct
    from xplique_dirpairs.interventions.correction_report import CorrectionReport, report_correction
    from xplique_dirpairs.interventions.counterfactual_result import Counterfactual, Counterfactuals
    from xplique_dirpairs.interventions.counterfactual_search import CounterfactualSearch
    from xplique_dirpairs.interventions.counterfactuals import counterfactuals
    from xplique_dirpairs.interventions.distance import TrainingDistance
    from xplique_dirpairs.learning.concept_scan import scan_number_of_concepts
    from xplique_dirpairs.learning.estimate_signals import estimate_signals
    from xplique_dirpairs.learning.history import History, LearningWarning
    from xplique_dirpairs.learning.number_of_concepts import count_skewed_sources
    from xplique_dirpairs.learning.recipe import Recipe, Stage
    from xplique_dirpairs.learning.supervised import SupervisedPairs, supervised_pairs
    from xplique_dirpairs.learning.trainer import learn_pairs
    from xplique_dirpairs.maximisation import maximise
    from xplique_dirpairs.maximisation_report import FiringReport, measure_firing
    from xplique_dirpairs.metrics.dissection import Dissection, dissect
    from xplique_dirpairs.metrics.interpretability import Interpretability
    from xplique_dirpairs.metrics.labelled_detectors import interpretability, score_labels
    from xplique_dirpairs.network import Head, split_model
    from xplique_dirpairs.pairs import DirectionPairs
    from xplique_dirpairs.plots.counterfactuals import plot_moves
    from xplique_dirpairs.plots.maximisation import plot_maximised
    from xplique_dirpairs.plots.number_of_concepts import plot_number_of_concepts
    from xplique_dirpairs.report.content import Report
    from xplique_dirpairs.report.make_report import make_report, write_report
    from xplique_dirpairs.shards import ActivationShards

_MODULES = {
    "ActivationShards": "shards",
    "ArchetypalFactorizer": "factorizers.autoencoders",
    "Attributions": "comparison.attributions",
    "Comparison": "comparison.result",
    "CorrectionReport": "interventions.correction_report",
    "Counterfactual": "interventions.counterfactual_result",
    "CounterfactualSearch": "interventions.counterfactual_search",
    "Counterfactuals": "interventions.counterfactual_result",
    "DirectionPairs": "pairs",
    "DirectionPairsFactorizer": "factorizers.direction_pairs",
    "DirectionPairsManagerTf": "extractors.direction_pairs",
    "DirectionPairsTf": "extractors.direction_pairs",
    "Dissection": "metrics.dissection",
    "FactorizerCraftTf": "extractors.craft",
    "FastICAFactorizer": "factorizers.decompositions",
    "FiringReport": "maximisation_report",
    "Head": "network",
    "History": "learning.history",
    "HolisticDirectionPairsTf": "extractors.holistic",
    "Interpretability": "metrics.interpretability",
    "KMeansFactorizer": "factorizers.decompositions",
    "LearningWarning": "learning.history",
    "ModelExplanation": "explanations.model_explanation",
    "NMFFactorizer": "factorizers.nonnegative",
    "NoLearningFactorizer": "factorizers.controls",
    "PCAFactorizer": "factorizers.decompositions",
    "PredictionComparison": "explanations.prediction_explanation",
    "PredictionExplanation": "explanations.prediction_explanation",
    "RandomFactorizer": "factorizers.controls",
    "Recipe": "learning.recipe",
    "RelaxedArchetypalFactorizer": "factorizers.autoencoders",
    "Report": "report.content",
    "SemiNMFFactorizer": "factorizers.nonnegative",
    "Stage": "learning.recipe",
    "SupervisedPairs": "learning.supervised",
    "TopKFactorizer": "factorizers.autoencoders",
    "TrainingDistance": "interventions.distance",
    "attribute": "comparison.attributions",
    "average": "comparison.average",
    "choose_k": "interventions.correction",
    "compare": "comparison.compare",
    "compare_predictions": "explanations.contributions",
    "correct": "interventions.correction",
    "count_skewed_sources": "learning.number_of_concepts",
    "counterfactuals": "interventions.counterfactuals",
    "dissect": "metrics.dissection",
    "estimate_signals": "learning.estimate_signals",
    "explain_model": "explanations.global_report",
    "explain_prediction": "explanations.contributions",
    "interpretability": "metrics.labelled_detectors",
    "learn_pairs": "learning.trainer",
    "make_report": "report.make_report",
    "maximise": "maximisation",
    "measure_firing": "maximisation_report",
    "plot_maximised": "plots.maximisation",
    "plot_moves": "plots.counterfactuals",
    "plot_number_of_concepts": "plots.number_of_concepts",
    "report_correction": "interventions.correction_report",
    "scan_number_of_concepts": "learning.concept_scan",
    "score_labels": "metrics.labelled_detectors",
    "split_model": "network",
    "supervised_pairs": "learning.supervised",
    "write_report": "report.make_report",
}

__all__ = [
    "ActivationShards",
    "ArchetypalFactorizer",
    "Attributions",
    "Comparison",
    "CorrectionReport",
    "Counterfactual",
    "CounterfactualSearch",
    "Counterfactuals",
    "DirectionPairs",
    "DirectionPairsFactorizer",
    "DirectionPairsManagerTf",
    "DirectionPairsTf",
    "Dissection",
    "FactorizerCraftTf",
    "FastICAFactorizer",
    "FiringReport",
    "Head",
    "History",
    "HolisticDirectionPairsTf",
    "Interpretability",
    "KMeansFactorizer",
    "LearningWarning",
    "ModelExplanation",
    "NMFFactorizer",
    "NoLearningFactorizer",
    "PCAFactorizer",
    "PredictionComparison",
    "PredictionExplanation",
    "RandomFactorizer",
    "Recipe",
    "RelaxedArchetypalFactorizer",
    "Report",
    "SemiNMFFactorizer",
    "Stage",
    "SupervisedPairs",
    "TopKFactorizer",
    "TrainingDistance",
    "__version__",
    "attribute",
    "average",
    "choose_k",
    "compare",
    "compare_predictions",
    "correct",
    "count_skewed_sources",
    "counterfactuals",
    "dissect",
    "estimate_signals",
    "explain_model",
    "explain_prediction",
    "interpretability",
    "learn_pairs",
    "make_report",
    "maximise",
    "measure_firing",
    "plot_maximised",
    "plot_moves",
    "plot_number_of_concepts",
    "report_correction",
    "scan_number_of_concepts",
    "score_labels",
    "split_model",
    "supervised_pairs",
    "write_report",
]


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__():
    return sorted(__all__)
