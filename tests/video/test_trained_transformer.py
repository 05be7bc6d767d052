"""Tiny transformers that are trained on moving shapes: accuracy, shares and removal curves."""

import keras
import numpy as np
import pytest

from xplique_dirpairs import (
    KMeansFactorizer,
    VideoProbe,
    discover_video_concepts,
    masked_importance,
    split_model,
    static_dynamic,
)  # fmt: skip
from xplique_dirpairs.datasets.motion_network import train_video_transformer, video_transformer
from xplique_dirpairs.datasets.moving_shapes import CLASSES, moving_shapes


def test_the_untrained_network_has_a_grid_of_tokens_and_twelve_heads():
    keras.utils.set_random_seed(0)
    probe = VideoProbe(video_transformer(5))
    assert probe.grid == (8, 4, 4) and len(probe.heads) == 12


@pytest.fixture(scope="module")
def trained():
    """Networks that tell motions, and shapes, and videos that they have not seen."""
    data = moving_shapes(800, random_state=1)
    return {by: train_video_transformer(data, by) for by in CLASSES}, moving_shapes(100)


@pytest.mark.slow
def test_motions_are_learned(trained):
    models, data = trained
    right = models["motion"].predict(data.videos, verbose=0).argmax(axis=1) == data.labels("motion")
    assert right.mean() >= 0.9


@pytest.mark.slow
def test_a_network_of_motions_is_more_dynamic_than_one_of_shapes(trained):
    models, data = trained
    dynamic = {
        by: np.nanmean(static_dynamic(split_model(model, "tokens"), data.videos).shares.dynamic)
        for by, model in models.items()
    }
    assert dynamic["motion"] > dynamic["shape"]


@pytest.mark.slow
def test_removing_what_matters_costs_most(trained):
    models, data = trained
    videos, classes = data.videos[:30], data.labels("motion")[:30]
    concepts = discover_video_concepts(
        VideoProbe(models["motion"]), videos, proposals="positions", rate=0.3,
        extractor=lambda: KMeansFactorizer(4, random_state=0),
    )  # fmt: skip
    found = masked_importance(
        concepts, videos, lambda y, x: y[np.arange(30), classes], subsets=300, batch_size=30
    )
    areas = found.curves(step=4).areas
    assert areas["most to least"] + 0.05 <= areas["random"] <= areas["least to most"] - 0.05
