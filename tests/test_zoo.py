"""Each family of models is analysed from the split to the report, or refused as documented."""

import dataclasses

import keras
import numpy as np
import pytest
from zoo import ZOO, make_inputs

from xplique_dirpairs import (
    ConceptLayer,
    DirectionPairsTf,
    correct,
    counterfactuals,
    explain_model,
    explain_prediction,
    split_model,
    write_report,
)
from xplique_dirpairs.learning.presets import get_recipe

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

CONCEPTS, IMAGES = 3, 12
EVERY_DAY = ("class_token",)


def short_recipe():
    """Return a recipe of one stage with two steps: what is learned does not matter here."""
    recipe = get_recipe("soft")
    stage = dataclasses.replace(recipe.stages[-1], epochs=1, steps_per_epoch=2)
    return dataclasses.replace(recipe, stages=(stage,), otherwise=None, start="random")


class Analysis:
    """The steps of an analysis of one model, in their order."""

    def __init__(self, member, folder):
        keras.utils.set_random_seed(0)
        self.member, self.folder = member, folder
        self.model = member.make()
        self.inputs = make_inputs(member.shape, IMAGES)
        self.outputs = self.model.predict(self.inputs, verbose=0)

    def split(self):
        self.halves = split_model(self.model, self.member.layer, **self.member.options)
        # Both halves are the model: probabilities where it returns probabilities.
        head, first = self.halves.head, self.halves.input_to_latent_model
        x = np.asarray(first.predict(self.inputs, verbose=0))
        ends_in = head.logits(x)
        assert np.isfinite(ends_in).all() and len(ends_in) == IMAGES
        y = self.outputs.astype(np.float64)
        in_simplex = y.min() >= 0 and np.allclose(y.sum(axis=1), 1, atol=1e-2)
        if in_simplex and y.shape[1] > 1:  # softmax: logits are log p, up to a constant
            y = np.log(y) - np.log(y).mean(axis=1, keepdims=True)
            ends_in = ends_in - ends_in.mean(axis=1, keepdims=True)
        elif y.min() > 0 and y.max() < 1 and self.model.layers[-1].activation.__name__ == "sigmoid":
            y = np.log(y / (1 - y))
            if y.shape[1] == 1 and ends_in.shape[1] == 2:
                ends_in = ends_in[:, 1:] - ends_in[:, :1]
        self.close(ends_in, y, slack=10)

    def fit(self):
        self.craft = DirectionPairsTf(
            self.halves, number_of_concepts=CONCEPTS, patch_size=8, recipe=short_recipe(),
            random_state=0, verbose=0,
        )  # fmt: skip
        self.craft.fit(self.inputs, class_id=0)
        self.layer = ConceptLayer.of(self.craft)
        x = self.layer.activations(self.inputs)
        u = self.layer.coefficients(x)
        assert u.shape == (*x.shape[:-1], CONCEPTS) and x.shape[-1] == self.member.channels
        flat = x.reshape(-1, x.shape[-1])
        factorizer = self.craft.factorizer
        decoded = factorizer.decode(factorizer.encode(flat)) + factorizer.residual(flat)
        np.testing.assert_allclose(decoded, flat, atol=1e-4 * np.abs(flat).max())

    def importance(self):
        importances = self.craft.estimate_importance(nb_design=4)
        assert importances.shape == (CONCEPTS,)
        assert np.isfinite(importances).all() and importances.min() >= 0

    def explain(self):
        explanation = explain_model(self.layer, self.inputs, path_images=2, verbose=0)
        assert np.isfinite(explanation.contributions).all()
        explained = explain_prediction(self.layer, self.inputs[0])
        whole = explained.concept_contributions.sum() + explained.residual
        assert whole == pytest.approx(explained.score, abs=0.02 * max(1, abs(explained.score)))

    def counterfactual(self):
        result = counterfactuals(self.layer, self.inputs[:3], self.inputs, verbose=0)
        assert len(result) == 3 and str(result)

    def correct(self):
        pairs = self.layer.direction_pairs
        x = self.layer.activations(self.inputs)
        silent = dataclasses.replace(pairs, biases=pairs.project(x).max() + 1 + 0 * pairs.biases)
        for number, tested in enumerate((silent, pairs)):
            layer = ConceptLayer.of(tested, self.halves)
            corrected = correct(layer, [0, 1])
            path = self.folder / f"{number}.keras"
            corrected.save(path)
            loaded = keras.saving.load_model(path)
            outputs = loaded.predict(self.inputs, verbose=0)
            self.close(corrected.predict(self.inputs, verbose=0), outputs)
            if tested is silent:
                self.close(outputs, self.outputs)
                continue
            # Behind the layer, the corrected model is the original on the suppressed features.
            moved = tested.suppress(x, [0, 1], self.halves.limits)
            again = split_model(loaded, f"{self.member.layer}_corrected", **self.member.options)
            self.close(
                again.head.logits(again[0].predict(self.inputs, verbose=0)),
                self.halves.head.logits(moved.astype(np.float32)),
                slack=10,
            )

    def report(self):
        page = write_report(self.folder / "report", self.layer, self.inputs, verbose=0)
        assert page.stat().st_size > 1000

    def close(self, found, wanted, slack=1.0):
        atol = slack * self.member.tolerance * max(1e-3, float(np.abs(wanted).max()))
        np.testing.assert_allclose(np.asarray(found, float), np.asarray(wanted, float), 0, atol)


STEPS = ("split", "fit", "importance", "explain", "counterfactual", "correct", "report")


def marks_of(name):
    marks = [] if name in EVERY_DAY else [pytest.mark.slow]
    return marks


@pytest.mark.parametrize("name", [pytest.param(name, marks=marks_of(name)) for name in ZOO])
def test_a_family_is_analysed_as_a_whole_or_refused_as_documented(name, tmp_path):
    member = ZOO[name]
    analysis = Analysis(member, tmp_path)
    for step in STEPS:
        if step not in member.refused:
            getattr(analysis, step)()
            continue
        error, words = member.refused[step]
        with pytest.raises(error, match=words):
            getattr(analysis, step)()
        if step in ("split", "fit"):
            return
