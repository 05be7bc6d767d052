"""Features with concepts switched off, and predictions from logits."""

import dataclasses

import numpy as np
import pytest
from readings import ReluHead, make_reading

from xplique_dirpairs.metrics.fidelity import fidelity
from xplique_dirpairs.metrics.manipulation import (
    Reading,
    agreement,
    all_off_negative_mass,
    class_probabilities,
    entropy_bits,
    kl_bits,
    outcomes,
)


def test_outcomes_of_many_masks_in_several_chunks_match_those_of_few_masks(rng):
    sizes = []
    reading = make_reading(rng)

    def predict(features):
        sizes.append(len(features))
        return reading.predict(features)

    masks = rng.uniform(size=(20_000, 5)).astype(np.float32)
    together = outcomes(dataclasses.replace(reading, predict=predict), masks)
    assert len(sizes) > 1
    for part in (slice(0, 300), slice(19_800, None)):
        for values, alone in zip(together, outcomes(reading, masks[part]), strict=True):
            np.testing.assert_allclose(values[:, part], alone, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["activations", "coefficients", "bank"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_values_that_are_not_finite_in_float32_are_refused(rng, name, value):
    wrong = np.full(getattr(make_reading(rng), name).shape, value)
    with pytest.raises(ValueError, match=f"{name} must be finite"):
        make_reading(rng, **{name: wrong})


def test_probabilities_of_far_apart_logits_are_exact():
    np.testing.assert_allclose(class_probabilities([[1000.0, 0.0]]), [[1, 0]])
    np.testing.assert_allclose(class_probabilities([[-1000.0]], "sigmoid"), [[0]])


def test_negative_mass_is_the_mass_of_the_negative_features():
    reading = Reading(
        activations=[[1.0, 3.0]],
        coefficients=[[2.0]],
        bank=[[1.0, 1.0]],
        predict=lambda features: features,
        class_ids=[0],
        limits=(0, np.inf),
    )
    np.testing.assert_allclose(all_off_negative_mass(reading), [1 / 4])  # x° = (−1, 1)
    np.testing.assert_allclose(reading.all_off.changed, [[np.sqrt(1 + 4) / np.sqrt(10)]])


def test_features_are_clipped_to_the_range_of_each_channel(rng):
    seen = []

    def predict(features):
        seen.append(features)
        return ReluHead(np.random.default_rng(0), 8)(features)

    reading = make_reading(rng, predict=predict)
    low, high = np.full(8, -0.1), reading.activations.max(axis=(0, 1, 2)) + 0.05
    fidelity(dataclasses.replace(reading, limits=(low, high)))
    seen = np.concatenate(seen).reshape(-1, 8)
    np.testing.assert_allclose(seen.min(axis=0), low, rtol=1e-6)
    assert (seen.max(axis=0) <= np.float32(high)).all()
    assert (seen.max(axis=0) == np.float32(high)).any()


def test_the_divergence_is_asymmetric_and_in_bits():
    p, q = np.log([[0.5, 0.5]]), np.log([[0.25, 0.75]])
    expected = 0.5 * np.log2(0.5 / 0.25) + 0.5 * np.log2(0.5 / 0.75)
    np.testing.assert_allclose(kl_bits(p, q), [expected])
    assert abs(kl_bits(q, p)[0] - expected) > 0.01
    assert np.isfinite(kl_bits([[0.0, 900.0]], [[900.0, 0.0]])).all()


def test_entropy_is_in_bits():
    np.testing.assert_allclose(entropy_bits(np.zeros((2, 8))), 3)
    np.testing.assert_allclose(entropy_bits([[500.0, 0.0]]), 0, atol=1e-12)
    np.testing.assert_allclose(entropy_bits(np.zeros((2, 8)), "sigmoid"), 1)
    np.testing.assert_allclose(entropy_bits([[np.log(3)]], "sigmoid"), [0.811278], rtol=1e-6)


def test_measures_of_one_output_match_those_of_two_classes(rng):
    one, other = rng.normal(size=(2, 40, 1))
    two, two_other = (np.concatenate([z, np.zeros_like(z)], axis=1) for z in (one, other))
    np.testing.assert_allclose(kl_bits(one, other, "sigmoid"), kl_bits(two, two_other))
    np.testing.assert_allclose(entropy_bits(one, "sigmoid"), entropy_bits(two))
    np.testing.assert_array_equal(agreement(one, other, "sigmoid"), agreement(two, two_other))


def test_agreement_of_independent_outputs_is_the_share_that_agrees():
    np.testing.assert_allclose(
        agreement([[1.0, -2.0, 3.0, 4.0]], [[2.0, 1.0, 1.0, -1.0]], "sigmoid"), [0.5]
    )
