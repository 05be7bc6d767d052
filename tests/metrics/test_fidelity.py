"""Deletion, insertion and μ-fidelity against a reference, and at the ends of their ranges."""

import dataclasses
from itertools import pairwise, permutations

import keras
import numpy as np
import pytest
from readings import CLASSES, POSITIONS, ReluHead, make_additive, make_reading

from xplique_dirpairs.metrics.fidelity import (
    FRACTIONS,
    SUBSETS,
    Curves,
    contribution_orders,
    deletion_curves,
    fidelity,
    insertion_curves,
    leave_one_out,
    mu_fidelity,
    probabilities_at,
    random_orders,
    random_subsets,
)
from xplique_dirpairs.metrics.manipulation import (
    outcomes,
)
from xplique_dirpairs.models.head import Head
from xplique_dirpairs.models.split import split_model


@pytest.fixture(params=POSITIONS)
def reading(request, rng):
    return make_reading(rng, POSITIONS[request.param])


def per_image(result):
    """Return all values and curves of every image, (N, …) arrays by name."""
    return result.values | {
        "crossed": result.crossed,
        "deletion_curve": result.deletion.probabilities,
        "deletion_norm": result.deletion.changed,
        "insertion_curve": result.insertion.probabilities,
    }


def assert_same(one, other, rows=slice(None)):
    one, other = per_image(one), per_image(other)
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_allclose(one[name][rows], other[name], rtol=2e-4, atol=1e-5, err_msg=name)


# The reference implementation: one image, one concept, one position at a time.


def slow_softmax(logits):
    e = [np.exp(value) for value in logits]
    return [value / sum(e) for value in e]


def slow_features(reading, n, off, clip=True):
    """Return the features x − Σ_{i off} u_i B_i at every position, in float64."""
    low, high = (float(limit) for limit in reading.limits)
    x = reading.activations[n].astype(float)
    flat = x.reshape(-1, x.shape[-1]).copy()
    u = reading.coefficients[n].reshape(len(flat), -1)
    for p in range(len(flat)):
        for i in off:
            flat[p] -= float(u[p, i]) * reading.bank[i].astype(float)
        if clip:
            flat[p] = [min(max(value, low), high) for value in flat[p]]
    return flat.reshape(x.shape)


def slow_image(reading, n, subsets):
    """Return every metric and curve of image n, computed from the definitions."""
    k, concepts = reading.class_ids[n], reading.number_of_concepts
    x = reading.activations[n].astype(float)
    everything = list(range(concepts))

    def logits(off):
        return reading.predict(slow_features(reading, n, off)[None])[0]

    def probability(off):
        return slow_softmax(logits(off))[k]

    def fraction(off):
        moved = slow_features(reading, n, off)
        return np.sqrt(((moved - x) ** 2).sum()) / np.sqrt((x**2).sum())

    def trapezoid(points):
        return sum((a + b) / 2 / concepts for a, b in pairwise(points))

    contributions = [logits([])[k] - logits([i])[k] for i in everything]
    order = sorted(everything, key=lambda i: -contributions[i])
    deletion = [probability(order[:j]) for j in range(concepts + 1)]
    changed = [fraction(order[:j]) for j in range(concepts + 1)]
    insertion = [min(probability(order[j:]), probability([])) for j in range(concepts + 1)]
    result = {"deletion": trapezoid(deletion), "insertion": trapezoid(insertion)}
    crossed = []
    for f in FRACTIONS:
        at, is_crossed = deletion[-1], False
        for j in range(1, concepts + 1):
            if changed[j] >= f:
                t = (f - changed[j - 1]) / (changed[j] - changed[j - 1])
                at, is_crossed = deletion[j - 1] + t * (deletion[j] - deletion[j - 1]), True
                break
        result[f"p_at_{f}"] = at
        crossed.append(is_crossed)
    sets = [list(np.flatnonzero(subset)) for subset in subsets]
    sums = [sum(contributions[i] for i in members) for members in sets]
    drops = [logits([])[k] - logits(members)[k] for members in sets]
    result["mu_fidelity"] = np.corrcoef(sums, drops)[0, 1]
    result["all_off_norm"] = fraction(everything)
    unclipped = slow_features(reading, n, everything, clip=False)
    outside = np.abs(unclipped - slow_features(reading, n, everything)).sum()
    result["all_off_negative_mass"] = outside / np.abs(x).sum()
    result["all_off_probability"] = probability(everything)
    off = slow_softmax(logits(everything))
    result["all_off_entropy"] = -sum(p * np.log2(p) for p in off)
    return result, {
        "crossed": crossed,
        "deletion_curve": deletion,
        "deletion_norm": changed,
        "insertion_curve": insertion,
    }


def test_every_metric_matches_a_reference_implementation(reading):
    fast = per_image(fidelity(reading, random_state=3))
    subsets = random_subsets(reading.number_of_concepts, SUBSETS, 3)
    for n in range(reading.number_of_images):
        values, curves = slow_image(reading, n, subsets)
        assert fast.keys() == values.keys() | curves.keys()
        for name, value in (values | curves).items():
            np.testing.assert_allclose(fast[name][n], value, rtol=1e-3, atol=1e-5, err_msg=name)


def test_the_readings_of_these_tests_are_not_trivial(rng):
    reading = make_reading(rng, images=30)
    result = fidelity(reading)
    assert (result.contributions < 0).any() and (result.contributions > 0).any()
    assert (result.values["all_off_negative_mass"] > 0).all()  # clipping has an effect
    crossings = make_reading(rng, images=30, bank=rng.normal(size=(5, 8)) / 20)
    crossed = fidelity(crossings).crossed
    assert crossed.any() and not crossed.all()


def test_curves_of_a_keras_network_match_its_predictions(rng):
    inputs = keras.Input((3, 2, 8))
    features = keras.layers.Activation("relu", name="features")(inputs)
    pooled = keras.layers.Flatten()(features)
    model = keras.Model(inputs, keras.layers.Dense(CLASSES, activation="softmax")(pooled))
    head = Head(split_model(model, "features")[1])
    reading = make_reading(rng, predict=head.predict)
    curves = deletion_curves(reading, random_orders(6, 5, 0))
    row, ids = np.arange(6), reading.class_ids
    intact = model.predict_on_batch(reading.activations)[row, ids]
    np.testing.assert_allclose(curves.probabilities[:, 0], intact, rtol=1e-4)
    moved = reading.activations - reading.coefficients @ reading.bank
    off = model.predict_on_batch(moved)[row, ids]  # its ReLU clips to the layer's range
    np.testing.assert_allclose(curves.probabilities[:, -1], off, rtol=1e-4)
    assert np.abs(intact - off).max() > 0.01


# Ends of the ranges


def test_contributions_of_an_additive_head_are_its_terms(rng):
    reading = make_additive(rng)
    weights = reading.predict(np.eye(4))[:, 0]
    np.testing.assert_allclose(leave_one_out(reading), reading.coefficients * weights, rtol=1e-4)


def test_no_order_beats_the_signed_one_for_an_additive_head(rng):
    reading = make_additive(rng)
    best = fidelity(reading)
    orders = contribution_orders(best.contributions)
    reverse = deletion_curves(reading, orders[:, ::-1]).areas
    for order in permutations(range(4)):
        given = np.tile(order, (4, 1))
        deleted, inserted = deletion_curves(reading, given), insertion_curves(reading, given)
        assert (best.values["deletion"] <= deleted.areas + 1e-6).all()
        assert (deleted.areas <= reverse + 1e-6).all()
        assert (best.values["insertion"] >= inserted.areas - 1e-6).all()
    shuffled = deletion_curves(reading, random_orders(4, 4, 1)).areas
    assert best.values["deletion"].mean() < shuffled.mean() < reverse.mean()


def test_mu_fidelity_is_one_for_an_additive_head_and_minus_one_if_reversed(rng):
    reading = make_additive(rng)
    np.testing.assert_allclose(fidelity(reading).values["mu_fidelity"], 1, atol=1e-5)
    subsets = random_subsets(4, SUBSETS, 0)
    drops = reading.intact.logits - outcomes(reading, ~subsets).logits
    reverse = mu_fidelity(-leave_one_out(reading), subsets, drops)
    np.testing.assert_allclose(reverse, -1, atol=1e-5)


def test_curves_follow_the_order_of_contributions(rng):
    reading = make_reading(rng)
    result = fidelity(reading)
    np.testing.assert_array_equal(result.contributions, leave_one_out(reading))
    orders = contribution_orders(result.contributions)
    np.testing.assert_array_equal(
        result.deletion.probabilities, deletion_curves(reading, orders).probabilities
    )


def test_leave_one_out_gives_an_interaction_in_full_to_both_concepts():
    reading = make_reading(
        np.random.default_rng(0),
        positions=(),
        concepts=3,
        channels=3,
        activations=np.ones((1, 3)),
        coefficients=np.ones((1, 3)),
        bank=np.eye(3),
        predict=lambda x: np.stack([7 * x[:, 0] * x[:, 1], x[:, 0]], axis=1),
        class_ids=[0],
    )
    np.testing.assert_allclose(leave_one_out(reading), [[7, 7, 0]])


def test_concepts_are_ordered_by_signed_contribution():
    np.testing.assert_array_equal(contribution_orders([[-3.0, 1.0, 0.0, 2.0]]), [[3, 1, 2, 0]])


def test_deletion_ends_where_insertion_begins_and_vice_versa(reading):
    result = fidelity(reading)
    p, inserted = result.deletion.probabilities, result.insertion.probabilities
    np.testing.assert_allclose(inserted[:, -1], p[:, 0])
    np.testing.assert_allclose(inserted[:, 0], np.minimum(p[:, 0], p[:, -1]))
    np.testing.assert_allclose(result.deletion.changed[:, 0], 0)
    np.testing.assert_allclose(result.insertion.changed[:, 0], result.deletion.changed[:, -1])
    np.testing.assert_allclose(result.insertion.changed[:, -1], 0)


def test_insertion_is_capped_at_the_intact_probability(rng):
    reading = make_reading(rng, images=40)
    orders = contribution_orders(leave_one_out(reading))
    curves = insertion_curves(reading, orders)
    turn = np.argsort(orders, axis=1)
    raw = outcomes(reading, turn[:, None, :] < np.arange(6)[:, None]).probabilities
    intact = reading.intact.probabilities
    assert (raw > intact + 0.01).any()  # there was something to cap
    np.testing.assert_allclose(curves.probabilities, np.minimum(raw, intact), rtol=1e-4)


def test_zero_coefficients_give_constant_curves(reading):
    nothing = dataclasses.replace(reading, coefficients=np.zeros_like(reading.coefficients))
    result = fidelity(nothing)
    intact = nothing.intact.probabilities
    for curve in (result.deletion, result.insertion):
        np.testing.assert_allclose(curve.probabilities, np.tile(intact, 6), rtol=1e-5)
        np.testing.assert_array_equal(curve.changed, 0)
    assert not result.crossed.any()
    for name in ("deletion", "insertion", "p_at_0.1", "p_at_0.3"):
        np.testing.assert_allclose(result.values[name], intact[:, 0], rtol=1e-5)
    np.testing.assert_array_equal(result.values["all_off_norm"], 0)
    np.testing.assert_array_equal(result.values["all_off_negative_mass"], 0)
    assert np.isnan(result.values["mu_fidelity"]).all()


def test_one_concept_is_deleted_in_one_step(rng):
    reading = make_reading(rng, concepts=1)
    result = fidelity(reading)
    intact, off = reading.intact.probabilities[:, 0], reading.all_off.probabilities[:, 0]
    np.testing.assert_allclose(result.values["deletion"], (intact + off) / 2)
    np.testing.assert_allclose(
        result.values["insertion"], (intact + np.minimum(off, intact)) / 2, rtol=1e-6
    )
    assert np.isnan(result.values["mu_fidelity"]).all()  # all subsets are the same


def test_metrics_relative_to_the_norm_are_undefined_for_zero_features(rng):
    reading = make_reading(rng)
    activations = reading.activations.copy()
    activations[2] = 0
    result = fidelity(dataclasses.replace(reading, activations=activations))
    for name in ("p_at_0.1", "p_at_0.2", "p_at_0.3", "all_off_norm", "all_off_negative_mass"):
        np.testing.assert_array_equal(np.isnan(result.values[name]), np.arange(6) == 2)
    assert np.isfinite(result.values["deletion"]).all()


# P@


def curves(probabilities, changed):
    return Curves(np.array([probabilities], float), np.array([changed], float))


@pytest.mark.parametrize(
    ("changed", "expected", "crosses"),
    [
        ([0, 0.1, 0.3, 0.6], 0.6, True),  # halfway between the second and the third point
        ([0, 0.2, 0.3, 0.6], 0.8, True),  # exactly at a step
        ([0, 0.4, 0.1, 0.6], 0.9, True),  # the first crossing counts, though it comes back
        ([0, 0.05, 0.1, 0.2], 0.1, True),  # exactly at the last step
        ([0, 0.05, 0.1, 0.19], 0.1, False),  # never: the last value
        ([0, 0, 0, 0], 0.1, False),
        ([0, 0.1, 0.1, 0.3], 0.25, True),  # a step that changed nothing
    ],
)
def test_p_at_a_fraction_is_the_value_at_its_first_crossing(changed, expected, crosses):
    at, crossed = probabilities_at(curves([1.0, 0.8, 0.4, 0.1], changed), 0.2)
    np.testing.assert_allclose(at, expected)
    assert crossed == [crosses]


def test_areas_are_integrals_over_the_share_of_the_concepts():
    two = Curves(np.array([[1, 0], [0.3, 0.3]]), np.zeros((2, 2)))
    np.testing.assert_allclose(two.areas, [0.5, 0.3])
    np.testing.assert_allclose(curves([1, 1, 0, 0, 0], np.zeros(5)).areas, [1.5 / 4])


# Invariances


def test_the_order_of_the_images_does_not_matter(reading):
    rows = np.array([3, 1, 5, 0, 4, 2])
    shuffled = dataclasses.replace(
        reading,
        activations=reading.activations[rows],
        coefficients=reading.coefficients[rows],
        class_ids=reading.class_ids[rows],
    )
    assert_same(fidelity(reading), fidelity(shuffled), rows)


def test_the_order_of_the_concepts_does_not_matter(reading):
    swap = np.array([2, 4, 1, 0, 3])
    other = dataclasses.replace(
        reading, coefficients=reading.coefficients[..., swap], bank=reading.bank[swap]
    )
    one, two = fidelity(reading), fidelity(other)
    # Subsets are drawn by position, so the same draw selects other concepts here.
    subsets = random_subsets(5, 50, 0)
    drops = reading.intact.logits - outcomes(reading, ~subsets).logits
    swapped = outcomes(other, ~subsets[:, swap]).logits
    np.testing.assert_allclose(drops, other.intact.logits - swapped, atol=1e-5)
    two.values["mu_fidelity"] = mu_fidelity(two.contributions, subsets[:, swap], drops)
    assert_same(one, two)


def test_the_dtype_of_the_arguments_does_not_matter(rng):
    reading = make_reading(rng)
    doubled = {
        name: getattr(reading, name).astype(np.float64)
        for name in ("activations", "coefficients", "bank")
    }
    assert_same(fidelity(reading), fidelity(dataclasses.replace(reading, **doubled)))


def test_the_scale_of_the_coefficients_does_not_matter(reading):
    scaled = dataclasses.replace(
        reading, coefficients=reading.coefficients * 37, bank=reading.bank / 37
    )
    assert_same(fidelity(reading), fidelity(scaled))


def test_the_scale_and_sign_of_each_concept_do_not_matter(reading):
    scale = np.array([-1, 2, -0.5, 10, 1])
    scaled = dataclasses.replace(
        reading, coefficients=reading.coefficients * scale, bank=reading.bank / scale[:, None]
    )
    assert_same(fidelity(reading), fidelity(scaled))


def test_the_reading_is_not_changed(reading):
    before = [reading.activations.copy(), reading.coefficients.copy(), reading.bank.copy()]
    fidelity(reading, reconstructions=reading.coefficients @ reading.bank)
    for kept, now in zip(
        before, (reading.activations, reading.coefficients, reading.bank), strict=True
    ):
        np.testing.assert_array_equal(kept, now)


def test_the_intact_and_the_all_off_predictions_are_computed_once(rng):
    count = []

    def predict(features):
        count.append(len(features))
        return ReluHead(np.random.default_rng(0), 8)(features)

    reading = make_reading(rng, predict=predict)
    fidelity(reading, reconstructions=reading.activations, labels=reading.class_ids)
    concepts = 5
    passes = 1 + 1 + concepts + 2 * (concepts - 1) + SUBSETS + 1  # the last: the reconstruction
    assert sum(count) == 6 * passes


# Networks of one output, or of several independent ones


def test_one_output_is_equivalent_to_two_with_one_logit_of_zero(rng):
    head = ReluHead(rng, 8, classes=1)
    reading = make_reading(
        rng, predict=head, class_ids=np.zeros(6, int), final_activation="sigmoid"
    )

    def two(features):
        logits = head(features)
        return np.concatenate([logits, np.zeros_like(logits)], axis=1)

    assert_same(
        fidelity(reading),
        fidelity(dataclasses.replace(reading, predict=two, final_activation="softmax")),
    )


def test_independent_outputs_do_not_compete(rng):
    reading = make_reading(rng, final_activation="sigmoid")
    logits = reading.intact_logits[np.arange(6), reading.class_ids]
    np.testing.assert_allclose(reading.intact.probabilities[:, 0], 1 / (1 + np.exp(-logits)))
    assert (reading.all_off.entropies <= 1).all()


# Random draws


def test_random_orders_hold_every_concept_once_and_differ_between_images():
    orders = random_orders(30, 6, 0)
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.tile(np.arange(6), (30, 1)))
    assert len(np.unique(orders, axis=0)) > 20
    np.testing.assert_array_equal(orders, random_orders(30, 6, 0))


@pytest.mark.parametrize(("concepts", "size"), [(1, 1), (2, 1), (3, 2), (5, 2), (25, 5), (40, 8)])
def test_subsets_hold_a_fifth_of_the_concepts_and_at_least_two_if_possible(concepts, size):
    subsets = random_subsets(concepts, 20, 0)
    np.testing.assert_array_equal(subsets.sum(axis=1), size)
    np.testing.assert_array_equal(subsets, random_subsets(concepts, 20, 0))


# Invalid networks


def test_logits_that_are_not_finite_are_refused(rng):
    reading = make_reading(rng, predict=lambda x: np.full((len(x), CLASSES), np.nan))
    with pytest.raises(ValueError, match="logits are not finite"):
        fidelity(reading)


def test_a_network_that_overwrites_its_input_does_not_change_the_result(rng):
    head = ReluHead(rng, 8)

    def careless(features):
        features *= 2
        features /= 2
        logits = head(features)
        features[:] = 0
        return logits

    reading = make_reading(rng, predict=head)
    assert_same(
        fidelity(reading, reconstructions=reading.activations),
        fidelity(
            dataclasses.replace(reading, predict=careless), reconstructions=reading.activations
        ),
    )
