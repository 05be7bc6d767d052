"""Extractors with short real fits; other tests in this folder replace the learning by a fake."""

import dataclasses

import keras
import numpy as np
import pytest

from xplique_dirpairs.extractors.craft import DirectionPairsTf
from xplique_dirpairs.extractors.manager import DirectionPairsManagerTf
from xplique_dirpairs.learning.objective import Objective
from xplique_dirpairs.learning.presets import get_recipe
from xplique_dirpairs.pairs import DirectionPairs


def short(stages="ad"):
    """Return a recipe of few steps with the given stages and all losses of the default."""
    recipe = get_recipe("default")
    stages = [
        dataclasses.replace(stage, epochs=2, steps_per_epoch=3)
        for stage in recipe.stages
        if stage.name in stages
    ]
    return dataclasses.replace(recipe, stages=tuple(stages), otherwise=None)


@pytest.mark.parametrize(
    "network, stages",
    [("conv_gap", "ad"), ("conv_flatten", "d"), ("class_token", "d"), ("vectors", "d")],
)
def test_fit_importances_and_detections_work_with_real_learning(network, stages, halves, images):
    pairs = DirectionPairsTf(
        *halves(network), 4, patch_size=16, recipe=short(stages), random_state=0, verbose=0
    )
    x = images(network, 12)
    pairs.fit(x, class_id=1)
    assert set(pairs.history_.stages) == set(stages)
    network_terms = {"a": "uur", "d": "cur"}
    assert all(network_terms[name] in terms for name, terms in pairs.history_.stages.items())
    importances = pairs.estimate_importance(nb_design=8)
    assert importances.shape == (4,) and np.isfinite(importances).all()
    assert pairs.detect(x).shape == pairs.transform(x).shape


def test_given_pairs_are_used_without_learning(tmp_path, halves, images):
    x = images("conv_gap", 12)
    first = DirectionPairsTf(*halves("conv_gap"), 4, patch_size=16, recipe=short("d"), verbose=0)
    _, crops_u, bank = first.fit(x, class_id=1)
    first.pairs.save(tmp_path / "pairs.npz")
    loaded = DirectionPairs.load(tmp_path / "pairs.npz")
    second = DirectionPairsTf(*halves("conv_gap"), patch_size=16, pairs=loaded)
    _, same_u, same_bank = second.fit(x, class_id=1)
    np.testing.assert_array_equal(same_u, crops_u)
    np.testing.assert_array_equal(same_bank, bank)
    assert second.pairs is loaded and second.history_ is None
    assert second.number_of_concepts == 4
    other = DirectionPairsTf(*halves("vectors"), patch_size=16, pairs=loaded)
    with pytest.raises(ValueError, match="8 channels"):
        other.fit(images("vectors", 12))


def test_halves_may_be_subclassed_models(images):
    class First(keras.Model):
        def __init__(self):
            super().__init__()
            self.convolution = keras.layers.Conv2D(8, 3, 4, activation="gelu")

        def call(self, x):
            return self.convolution(x)

    class Rest(keras.Model):
        def __init__(self):
            super().__init__()
            self.pooling, self.dense = keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3)

        def call(self, x):
            return self.dense(self.pooling(x))

    pairs = DirectionPairsTf(First(), Rest(), 3, patch_size=16, recipe=short("d"), verbose=0)
    pairs.fit(images("conv_gap", 12), class_id=1)
    assert pairs.estimate_importance(nb_design=8).shape == (3,)


def test_ctrl_c_ends_the_fit_of_all_classes_and_keeps_fitted_ones(
    colour_network, images, monkeypatch
):
    def interrupt(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Objective, "update_multipliers", interrupt)
    labels = np.arange(30) % 2
    colours = np.where(np.arange(3) == labels[:, None], 1.0, 0.3).astype(np.float32)
    manager = DirectionPairsManagerTf(
        colour_network, inputs=images("conv_gap", 30) * colours[:, None, None], labels=labels,
        number_of_concepts=3, patch_size=16, shared=False, recipe=short("d"), verbose=0,
    )  # fmt: skip
    np.testing.assert_array_equal(manager.compute_predictions(), labels)
    manager.fit()
    fitted = [k for k, craft in manager.craft_instances.items() if craft.factorization is not None]
    assert fitted == [0] and manager.history_[0].interrupted
