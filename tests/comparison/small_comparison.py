"""Comparisons on a small network, shared by the tests of this folder."""

import functools
from dataclasses import replace

import numpy as np
import pytest
from conftest import NETWORKS, fake_learn_pairs, make_images
from xplique.concepts import CraftTf

from xplique_dirpairs import DirectionPairsTf, PCAFactorizer, RandomFactorizer, compare
from xplique_dirpairs.core.batching import as_positions
from xplique_dirpairs.data.images import compute_activations

QUICK = {"importance_images": 2, "nb_design": 4, "verbose": 0}
LABELS = np.array([0, 1, 2, 0, 1, 2])
SHAPE = NETWORKS["conv_gap"][1]
IMAGES, FIT_IMAGES = make_images(6, SHAPE, 1), make_images(8, SHAPE, 2)


def run_comparison(halves, extractors, labels=LABELS, images=IMAGES, network="conv_gap", **options):
    """Compare extractors on one of the small networks."""
    options = {"fit_images": FIT_IMAGES, "split": halves(network)} | QUICK | options
    return compare(extractors, images, labels, **options)


class Interrupted(PCAFactorizer):
    """A factorizer whose fit is interrupted by Ctrl-C."""

    def fit(self, activations):
        raise KeyboardInterrupt


@functools.cache
def three_extractors(halves):
    """Return a comparison of three kinds of extractors, for tests that do not modify it."""
    with pytest.MonkeyPatch.context() as patch:
        module = "xplique_dirpairs.factorizers.direction_pairs"
        patch.setattr(f"{module}.learn_pairs", fake_learn_pairs)
        split = halves("conv_gap")
        extractors = {
            "CRAFT": CraftTf(*split, 3, patch_size=16),
            "pairs": DirectionPairsTf(*split, 4, patch_size=16, random_state=0, verbose=0),
            "PCA": PCAFactorizer(3),
        }
        return run_comparison(halves, extractors)


def several_seeds(halves):
    """Return comparisons of two extractors with three seeds; tests may replace their results."""
    return [replace(one, results=dict(one.results)) for one in _several_seeds(halves)]


@functools.cache
def _several_seeds(halves):
    return [
        run_comparison(
            halves,
            {"PCA": PCAFactorizer(2), "random": RandomFactorizer(3, random_state=seed)},
            random_state=seed,
        )
        for seed in range(3)
    ]


def fit_on_positions(factorizer, halves, images=FIT_IMAGES):
    """Fit a factorizer on the positions of images in the small network."""
    factorizer.fit(as_positions(compute_activations(halves("conv_gap")[0], images)))
    return factorizer
