"""Compiled functions are traced once, for any class and any number of images in a batch."""

import logging

import keras
import numpy as np
import pytest
from conftest import make_images, make_pairs

from xplique_dirpairs import (
    ConceptLayer,
    DirectionPairsTf,
    ReportSettings,
    explain_model,
    split_model,
    write_report,
)
from xplique_dirpairs.interventions.counterfactuals import counterfactuals

SHAPE = (16, 16, 3)


class Counted(keras.layers.Layer):
    """Counts how often it is traced or evaluated in Python."""

    calls = 0

    def call(self, x):
        Counted.calls += 1
        return x


@pytest.fixture
def halves():
    keras.utils.set_random_seed(0)
    inputs = keras.Input(SHAPE)
    x = keras.layers.Conv2D(8, 3, 2, activation="relu", name="features")(inputs)
    x = keras.layers.Flatten()(Counted()(x))
    return split_model(keras.Model(inputs, keras.layers.Dense(6)(x)), "features")


def traces(call):
    before = Counted.calls
    call()
    return Counted.calls - before


def test_a_last_batch_or_another_class_traces_nothing_again(halves):
    x = halves[0].predict(make_images(9, SHAPE), verbose=0)
    head = halves.head
    assert traces(lambda: head.predict(x[:4])) == 1
    assert traces(lambda: [head.predict(x[:n], batch_size=4) for n in (1, 3, 5, 9)]) == 0

    images = make_images(9, SHAPE)
    first = DirectionPairsTf(halves, pairs=make_pairs(8, 3), batch_size=7, random_state=0)
    first.fit(images, class_id=0)
    assert traces(lambda: first.estimate_importance(nb_design=4)) > 0
    assert traces(lambda: first.estimate_importance(nb_design=6)) == 0
    assert traces(lambda: first.estimate_importance(images[:2], nb_design=5)) == 0


def test_users_see_no_warnings_about_tracing(halves, caplog, tmp_path):
    images = make_images(23, SHAPE)
    layer = ConceptLayer.of(make_pairs(8, 3), halves)
    with caplog.at_level(logging.WARNING, logger="tensorflow"):
        for class_id in range(6):
            craft = DirectionPairsTf(halves, pairs=make_pairs(8, 3), batch_size=7, random_state=0)
            craft.fit(images[: 20 - class_id], class_id=class_id)
            craft.estimate_importance(nb_design=4)
        explain_model(layer, images, np.arange(23) % 6, batch_size=4, verbose=0)
        for target in range(3):
            counterfactuals(layer, images[: 3 + target], images, target=target, verbose=0)
        settings = ReportSettings(batch_size=5)
        write_report(tmp_path, layer, images[:9], np.arange(9) % 6, settings=settings, verbose=0)
    assert not [record for record in caplog.records if "retracing" in record.getMessage()]
