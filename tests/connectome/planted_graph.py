"""A planted connectome that several files of tests use."""

import functools

from xplique_dirpairs.connectome.build import build_connectome
from xplique_dirpairs.datasets.planted_connectome import LOWER, UPPER, planted_connectome


@functools.cache
def planted_network():
    """Return the network with its images and its truth."""
    return planted_connectome(48, channels=64)


@functools.cache
def its_connectome():
    """Return its connectome of the true pairs."""
    planted = planted_network()
    pairs = {LOWER: planted.lower, UPPER: planted.upper}
    return build_connectome(planted.model, pairs, planted.images, verbose=0)
