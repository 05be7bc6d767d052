"""Doubts that a fit reports about its own result."""

import warnings
from dataclasses import replace

import numpy as np
import pytest

from xplique_dirpairs.datasets.synthetic import random_directions, signal_maps
from xplique_dirpairs.learning import initialisation
from xplique_dirpairs.learning.coordinates import Moments, whitened
from xplique_dirpairs.learning.features import Features
from xplique_dirpairs.learning.history import LearningWarning
from xplique_dirpairs.learning.learner import learn_pairs
from xplique_dirpairs.learning.presets import get_recipe
from xplique_dirpairs.learning.starts import count_maxima, make_start
from xplique_dirpairs.metrics.recovery import detector_iou


def signals(images=1000, concepts=4, seed=0, **settings):
    """Return signals of two positions per image with one concept each, in 32 channels."""
    return signal_maps(images, *random_directions(seed, concepts, 2, 32), seed=seed + 1, **settings)


def learn(features, concepts, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LearningWarning)
        return learn_pairs(features, concepts, random_state=0, verbose=0, **settings)


def doubts(features, concepts):
    """Return the doubts of a fit with very few steps, as one text."""
    recipe = get_recipe("default")
    soft = replace(recipe.otherwise, start="random", stages=brief(recipe.otherwise.stages)[1:])
    recipe = replace(recipe, stages=brief(recipe.stages)[1:], otherwise=soft)
    return "; ".join(learn(features, concepts, recipe=recipe)[1].doubts)


def brief(stages):
    return tuple(replace(s, epochs=1, steps_per_epoch=2, meant_for_axes=None) for s in stages)


def test_two_bright_images_are_left_out_and_do_not_distort_signals():
    data = signals()
    data.features[[3, 77]] *= 30
    pairs, history = learn(data.features, 4)
    assert np.abs(pairs.signals @ data.signals.T).max(axis=0).min() > 0.98
    assert "images [3, 77] are unlike all others" in history.doubts[0]


def test_many_bright_images_are_kept_and_reported():
    features = signals().features
    features[:30] *= 3
    assert "30 images are unlike the others" in doubts(features, 4)


@pytest.mark.parametrize("seed", [1, 3])
def test_a_concept_on_a_third_of_all_positions_is_found_by_the_start(seed):
    data = signals(5000, 8, seed, zipf=1.0)
    features = Features(data.features)
    coordinates = whitened(Moments.of(features), 8)
    sample = features.sample(coordinates, 10_000, np.random.default_rng(0))
    start = make_start("skewness", sample, 8, np.random.default_rng(0), coordinates.backward)
    assert start.clear and start.per_position == 1
    detected = (
        coordinates.features(data.features.reshape(-1, 32)) @ start.filters.T > start.thresholds
    )
    assert detector_iou(detected, data.masks.reshape(-1, 8)).max(axis=0).min() > 0.8


def test_clusters_are_reported_where_the_spectrum_suggests_concepts(monkeypatch):
    monkeypatch.setattr(initialisation, "make_start", lambda _, *rest: make_start("random", *rest))
    assert "directions are cluster centres" in doubts(signals(1000, 8).features, 8)


def test_clusters_in_a_smooth_spectrum_are_not_reported(rng):
    features = rng.gamma(0.3, size=(600, 20)) * np.exp(-np.arange(20) / 5)
    assert "cluster centres" not in doubts(features.astype(np.float32), 4)


@pytest.mark.parametrize("concepts", [1, 7])
def test_fewer_concepts_than_skewed_sources_are_reported(concepts):
    assert f"at least 8 skewed sources for {concepts} concepts" in doubts(
        signals(1000, 8).features, concepts
    )


@pytest.mark.parametrize("concepts", [8, 9])
def test_enough_concepts_for_all_skewed_sources_are_not_doubted(concepts):
    assert "skewed sources" not in doubts(signals(1000, 8).features, concepts)


@pytest.mark.parametrize("images", [60, 200, 1000])
@pytest.mark.parametrize("concepts", [2, 3, 4, 5, 8])
def test_count_maxima_does_not_exceed_the_number_of_sources(concepts, images):
    data = signals(images, concepts, 1).features.reshape(-1, 32)
    coordinates = whitened(Moments.of(data), concepts)
    assert count_maxima(coordinates.features(data), np.random.default_rng(0)) <= concepts


def test_more_concepts_than_dimensions_are_reported_without_other_problems(monkeypatch):
    monkeypatch.setattr(initialisation, "make_start", lambda _, *rest: make_start("random", *rest))
    recipe = replace(get_recipe("soft"), stages=brief(get_recipe("soft").stages)[1:])
    recipe = replace(get_recipe("default"), otherwise=recipe)
    _, history = learn(signals(200).features, 10, recipe=recipe)
    text = "; ".join(history.problems() + history.notes)
    assert "vary in 6 dimensions: at most 6 directions can be told apart, not 10" in text
    assert "ill-conditioned" not in text and "floor of noise" not in text


def test_copies_of_images_are_reported_and_counted_once():
    text = doubts(signals(5).features.repeat(200, axis=0), 4)
    assert "995 of 1000 images are copies of other images" in text
    assert "4 of 4 concepts are detected on fewer than 60 positions" in text, (
        "each distinct image counts once"
    )
