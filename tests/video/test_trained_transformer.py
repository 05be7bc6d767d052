"""A tiny transformer that is trained on moving shapes: accuracy and removal curves."""

import keras
import pytest

from xplique_dirpairs import (
    KMeansFactorizer,
    VideoProbe,
    discover_video_concepts,
    is_correct,
    masked_importance,
)  # fmt: skip
from xplique_dirpairs.datasets.motion_network import train_video_transformer, video_transformer
from xplique_dirpairs.datasets.moving_shapes import moving_shapes


def test_the_untrained_network_has_a_grid_of_tokens_and_twelve_heads():
    keras.utils.set_random_seed(0)
    model = video_transformer(5)
    probe = VideoProbe(model)
    assert probe.grid == (8, 4, 4) and len(probe.heads) == 12
    assert model.get_layer("tokens").output.shape == (None, 8, 4, 4, 32)


@pytest.mark.slow
def test_motions_are_learned_and_removing_what_matters_costs_most():
    model = train_video_transformer(moving_shapes(500, random_state=1), "motion", epochs=10)
    data = moving_shapes(100, random_state=2)
    classes = data.labels("motion")
    right = model.predict(data.videos, verbose=0).argmax(axis=1) == classes
    assert right.mean() >= 0.9
    concepts = discover_video_concepts(
        VideoProbe(model), data.videos[:30], proposals="positions", rate=0.3,
        extractor=lambda: KMeansFactorizer(4, random_state=0),
    )  # fmt: skip
    found = masked_importance(
        concepts, data.videos[:30], is_correct(classes[:30]), subsets=200, batch_size=30
    )
    areas = found.curves(step=4).areas
    assert areas["most to least"] + 0.05 <= areas["random"] <= areas["least to most"] - 0.05
