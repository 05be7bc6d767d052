"""Tests of counterfactuals: predictions change, within limits, by the least possible change."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_images, make_pairs
from sklearn.exceptions import NotFittedError

from xplique_dirpairs.extractors.concept_layer import ConceptLayer
from xplique_dirpairs.factorizers.decompositions import PCAFactorizer
from xplique_dirpairs.factorizers.nonnegative import NMFFactorizer
from xplique_dirpairs.interventions import counterfactuals as search_module
from xplique_dirpairs.interventions import least_changes as least_changes_module
from xplique_dirpairs.interventions import moved_features as moved_features_module
from xplique_dirpairs.interventions.counterfactuals import CounterfactualSearch, counterfactuals
from xplique_dirpairs.interventions.least_changes import Goal, LeastChanges
from xplique_dirpairs.interventions.moved_features import CoefficientRange, MovedFeatures
from xplique_dirpairs.models.head import Head
from xplique_dirpairs.models.split import split_model
from xplique_dirpairs.pairs import DirectionPairs

D, CLASSES = 6, 3


def pooling_network(rows, bias=0.0, activation=None):
    """Return the halves of a network: the identity, then pooling and a dense layer."""
    inputs = keras.Input((2, 3, D))
    features = keras.layers.Identity()(inputs)
    dense = keras.layers.Dense(len(rows), activation=activation)
    outputs = dense(keras.layers.GlobalAveragePooling2D()(features))
    dense.set_weights([np.asarray(rows, np.float32).T, np.full(len(rows), bias, np.float32)])
    return keras.Model(inputs, features), keras.Model(features, outputs)


def search_of(concepts, rows, x, **settings):
    """Return a search in the network of `pooling_network`."""
    return CounterfactualSearch(ConceptLayer.of(concepts, pooling_network(rows)), x, **settings)


@pytest.fixture(scope="module")
def pairs():
    """Return pairs whose concepts are the first four channels, so that results are known."""
    eye = np.eye(D)[:4]
    return DirectionPairs(eye, np.ones(4), eye, np.zeros(D), np.zeros(4))


@pytest.fixture(scope="module")
def rows():
    """Return class weights: class k depends on channel k, and class 0 negatively on channel 3."""
    weights = np.eye(CLASSES, D) * 2.0
    weights[0, 3] = -1.0
    return weights


@pytest.fixture(scope="module")
def x():
    """Return features (60, 2, 3, 6) ≥ 0; one of the first three channels dominates each image."""
    rng = np.random.default_rng(0)
    x = rng.exponential(0.5, size=(60, 2, 3, D))
    x[np.arange(60), ..., np.arange(60) % 3] += rng.uniform(0.5, 3.0, size=(60, 2, 3))
    return x.astype(np.float32)


@pytest.fixture(scope="module")
def search(pairs, rows, x):
    return search_of(pairs, rows, x)


@pytest.fixture(scope="module")
def found(search, x):
    return search.find(x, stay_within=None)


def test_progress_is_shown_unless_verbose_is_zero(search, x, capsys):
    capsys.readouterr()
    search.find(x[:3], verbose=0)
    assert capsys.readouterr().out == ""
    search.find(x[:3])
    assert "counterfactuals: part" in capsys.readouterr().out


def reference_features(x, shifts, bounds, limits):
    """Compute x' position by position, for pairs whose concepts are channels."""
    moved = x.astype(np.float64).copy()
    for image in range(len(x)):
        for place in np.ndindex(x.shape[1:-1]):
            for i, t in enumerate(shifts[image]):
                u = float(x[image][place][i])
                moved[image][place][i] = min(
                    max(u + t, min(u, bounds.low[i])), max(u, bounds.high[i])
                )
    return np.clip(moved, *limits)


# ------------------------------------------------------------------------------ guarantees


def test_predictions_change_on_clipped_features(search, found, x):
    assert found.found.all()
    moved = reference_features(x, found.shifts, search.moved.bounds, (0.0, x.max()))
    logits = search.moved.head.logits(moved.astype(np.float32))
    assert (logits.argmax(axis=1) != found.before).all()
    np.testing.assert_array_equal(logits.argmax(axis=1), found.after)
    size = np.linalg.norm((moved - x).reshape(60, -1), axis=1)
    np.testing.assert_allclose(
        found.changed, size / np.linalg.norm(x.reshape(60, -1), axis=1), rtol=1e-3
    )


def test_the_move_ends_where_the_prediction_just_changes(search, found, x):
    logits = search.moved.head.logits(search.moved.features(x, x[..., :4], 0.9995 * found.shifts))
    np.testing.assert_array_equal(logits.argmax(axis=1), found.before)


def test_no_more_concepts_are_moved_than_allowed(search, x):
    for most in (1, 2):
        few = search.find(x[:20], max_concepts=most, stay_within=None)
        assert (few.number_moved <= most).all()
        assert (few.number_moved > 0).all()


@pytest.mark.parametrize("missing", ["in an image", "not allowed"])
def test_no_more_concepts_are_moved_where_the_first_concept_cannot_be_lowered(search, x, missing):
    """All lower levels of this concept cost nothing, like leaving it unmoved."""
    some, only = x[:12].copy(), None
    if missing == "in an image":
        some[0, ..., 0] = 0.0
    else:
        only = [1, 2, 3]
    found = search.find(some, max_concepts=1, only=only, stay_within=None)
    assert (found.number_moved <= 1).all()
    alone = search.find(some[1:], max_concepts=1, only=only, stay_within=None)
    np.testing.assert_allclose(found.changed[1:], alone.changed, rtol=1e-3)


def test_more_concepts_never_need_a_larger_change(search, found, x):
    single = search.find(x, max_concepts=1, stay_within=None)
    both = single.found & found.found
    assert both.mean() > 0.5
    assert (found.changed[both] <= 1.001 * single.changed[both]).all()
    assert found.changed[both].mean() < single.changed[both].mean()


def test_single_concept_changes_match_an_exhaustive_search(search, x):
    """The reference tries every concept in both directions, in 2000 steps."""
    found = search.find(x[:6], max_concepts=1, stay_within=None)
    u = x[:6, ..., :4]
    least, most = search.moved.bounds.furthest_shifts(u.reshape(6, -1, 4))
    for k in range(6):
        best = np.inf
        for i in range(4):
            for end in (least[k, i], most[k, i]):
                shifts = np.zeros((2000, 4), np.float32)
                shifts[:, i] = np.linspace(0, end, 2000)
                logits, norm = search.moved.outcomes(
                    x[k : k + 1], u[k : k + 1], np.zeros(2000, int), shifts
                )
                changes = logits.argmax(axis=1) != found.before[k]
                best = min([best, *norm[changes]])
        norm = found.changed[k] * np.linalg.norm(x[k])
        assert norm == pytest.approx(best, rel=5e-3) or (not found.found[k] and best == np.inf)


def test_a_linear_head_without_limits_gets_the_closed_form(pairs, rows, x):
    """Without clipping, the least norm is √P gap / ‖difference of the classes' rows‖."""
    head, wide = Head(pooling_network(rows)[1]), np.full(4, 20.0)
    bounds = CoefficientRange(-wide, wide, -wide, wide)
    moved = MovedFeatures(head, pairs.bank(), (-np.inf, np.inf), bounds)
    x, u = x[:12], x[:12, ..., :4]
    logits = head.logits(x)
    original = logits.argmax(axis=1)
    limits = bounds.furthest_shifts(u.reshape(12, -1, 4))
    shifts, is_met = LeastChanges(moved, x, u, logits, limits, Goal(max_concepts=4)).attempts()
    assert is_met[:, 0].all()
    _, norms = moved.outcomes(x, u, np.arange(12), shifts[:, 0])
    for k, own in enumerate(original):
        distances = [
            (logits[k, own] - logits[k, j]) / np.linalg.norm((rows[own] - rows[j])[:4])
            for j in range(CLASSES)
            if j != own
        ]
        assert norms[k] == pytest.approx(np.sqrt(6) * min(distances), rel=5e-4)


# ------------------------------------------------------------------------------ limits


def test_coefficients_stay_within_those_of_training_images(search, found, x):
    u = x[..., :4].reshape(60, -1, 4)
    moved = search.moved.bounds.shifted(u, found.shifts)
    assert (moved >= 0).all()
    assert (moved <= np.maximum(u, search.moved.bounds.high) + 1e-6).all()
    assert (
        found.means_after <= np.maximum(found.means_before, search.moved.bounds.high_mean) + 1e-5
    ).all()


def test_removing_only_lowers_and_adding_only_raises(search, x):
    removed = search.find(x, moves="remove", stay_within=None)
    added = search.find(x, moves="add", stay_within=None)
    assert (removed.shifts <= 0).all() and removed.found.any()
    assert (added.shifts >= 0).all() and added.found.any()
    assert (removed.means_after <= removed.means_before + 1e-6).all()


def test_only_the_concepts_given_are_moved(search, x):
    found = search.find(x, only=[1, 3], stay_within=None)
    assert (found.shifts[:, [0, 2]] == 0).all()
    assert (found.shifts[:, 1] != 0).any()


def test_a_target_wins_against_all_others(search, x):
    found = search.find(x, target=2, stay_within=None)
    was = found.before == 2
    assert (found.status[was] == "already the target").all()
    assert (found.shifts[was] == 0).all()
    assert found.found[~was].mean() > 0.9
    assert (found.after[found.found] == 2).all()


def test_a_margin_is_a_lead_in_logits(search, x):
    found = search.find(x[:20], margin=0.5, stay_within=None)
    logits = search.moved.head.logits(search.moved.features(x[:20], x[:20, ..., :4], found.shifts))
    lead = np.sort(logits, axis=1)[:, -1] - logits[np.arange(20), found.before]
    assert found.found.mean() > 0.8
    assert (lead[found.found] >= 0.5 - 1e-4).all()
    assert (lead[found.found] < 0.55).all()


def test_predictions_that_cannot_be_changed_are_reported_as_not_found(search, x):
    """Adding concept 3 only lowers class 0, so it cannot change predictions of other classes."""
    others = x[search.moved.head.logits(x).argmax(axis=1) != 0]
    found = search.find(others, only=[3], moves="add", stay_within=None)
    assert (found.status == "not found").all()
    assert not found.found.any()
    assert "0 of" in str(found) and "not found within the limits" in str(found)
    assert "not found" in str(found[0])
    assert (found.before == found.after).all()


def test_staying_within_the_data_costs_more_change_and_less_distance(search, found, x):
    within = search.find(x, stay_within=90.0)
    assert within.found.all()
    assert within.within(90.0).sum() >= found.within(90.0).sum()
    assert (within.changed >= found.changed * 0.999).all()


def test_a_target_is_tried_even_if_other_classes_seem_nearer(search, x, monkeypatch):
    wanted = search.find(x, target=2, stay_within=None)
    monkeypatch.setattr(least_changes_module, "CLASSES_TRIED", 1)
    found = search.find(x, target=2, stay_within=None)
    np.testing.assert_array_equal(found.found, wanted.found)


def test_features_outside_the_layers_limits_are_kept(pairs, rows, x):
    search = search_of(pairs, rows, np.clip(x, 0.2, 1.0))
    same = search.moved.features(x, x[..., :4], np.zeros((len(x), 4)))
    np.testing.assert_array_equal(same, x)
    raised = search.moved.features(x, x[..., :4], np.full((len(x), 4), 0.5))
    assert (raised <= np.maximum(x, 1.0)).all()
    assert (raised > x).any()


# ------------------------------------------------------------------------------ invariances


def test_order_and_batches_of_images_do_not_matter(search, found, x, monkeypatch):
    monkeypatch.setattr(search_module, "chunk_size", lambda *_, **__: 2)
    monkeypatch.setattr(moved_features_module, "chunk_size", lambda *_: 7)
    some = search.find(x[:9][::-1], stay_within=None)
    np.testing.assert_allclose(some.changed[::-1], found.changed[:9], rtol=2e-3)
    np.testing.assert_array_equal(some.after[::-1], found.after[:9])


def test_the_order_of_concepts_does_not_matter(rows, x, found):
    order = [3, 1, 0, 2]
    eye = np.eye(D)[:4][order]
    turned = DirectionPairs(eye, np.ones(4), eye, np.zeros(D), np.zeros(4))
    there = search_of(turned, rows, x).find(x[:9], stay_within=None)
    np.testing.assert_allclose(there.changed, found.changed[:9], rtol=2e-3)


def test_the_unit_of_coefficients_does_not_matter(rows, x, found):
    eye = np.eye(D)[:4]
    large = DirectionPairs(7 * eye, np.ones(4), eye, np.zeros(D), np.zeros(4))
    there = search_of(large, rows, x).find(x[:9], stay_within=None)
    np.testing.assert_allclose(there.changed, found.changed[:9], rtol=2e-3)


def test_an_image_without_features_has_no_relative_change(search, x):
    found = search.find(np.zeros_like(x[:1]), stay_within=None)
    assert np.isnan(found.changed[0])


def test_float64_features_are_accepted(search, found, x):
    there = search.find(x[:3].astype(np.float64), stay_within=None)
    np.testing.assert_allclose(there.shifts, found.shifts[:3], rtol=1e-5)


# ------------------------------------------------------------------------------ one image


def test_one_image_has_its_path_and_its_maps(search, found, x):
    one = found[4]
    assert one.found and one.before == found.before[4]
    assert one.path[0] == 0 and one.path[-1] == 1
    np.testing.assert_allclose(one.probabilities.sum(axis=1), 1.0, rtol=1e-6)
    assert one.probabilities[0].argmax() == one.before
    assert one.probabilities[-1].argmax() == one.after
    assert one.probabilities[:-1].argmax(axis=1).tolist() == [one.before] * 20
    np.testing.assert_allclose(one.maps_before, x[4][..., one.concepts], rtol=1e-6)
    np.testing.assert_allclose(one.maps_after.mean(axis=(0, 1)), one.means_after, rtol=1e-4)
    assert set(one.words) <= {"removed", "lowered", "raised", "added"}
    assert found[-1].before == found.before[-1]
    assert "→" in one.plot().get_suptitle()
    assert len(found.plot_moves().axes[0].get_xticklabels()) == 4
    with pytest.raises(IndexError, match="no image 60"):
        found[60]


def test_set_levels_sets_the_given_levels(search, x):
    found = search.set_levels(x[:5], {0: 0.0, 2: 0.4})
    np.testing.assert_allclose(found.means_after[:, 0], 0.0, atol=1e-6)
    np.testing.assert_allclose(found.means_after[:, 2], 0.4, rtol=1e-3)
    np.testing.assert_allclose(found.means_after[:, 1], found.means_before[:, 1], rtol=1e-6)
    assert found[0].words.count("removed") == 1
    with pytest.raises(ValueError, match="not 99"):
        search.set_levels(x, {0: 99.0})
    with pytest.raises(ValueError, match="numbered 0 to 3"):
        search.set_levels(x, {9: 0.0})


# ------------------------------------------------------------------------------ other networks


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_counterfactuals_work_with_heads_that_end_in_probabilities(pairs, rows, x, activation):
    weights = rows if activation == "softmax" else rows[:1]
    bias = 0.0 if activation == "softmax" else -1.0
    g, h = pooling_network(weights, bias, activation)
    search = CounterfactualSearch(ConceptLayer.of(pairs, (g, h)), x)
    found = search.find(x[:12], stay_within=None)
    assert found.found.mean() > 0.9
    moved = reference_features(x[:12], found.shifts, search.moved.bounds, (0.0, x.max()))
    outputs = h.predict(moved.astype("f4"), verbose=0)
    classes = (
        outputs.argmax(axis=1) if activation == "softmax" else (outputs[:, 0] > 0.5).astype(int)
    )
    assert (classes != found.before)[found.found].all()
    yes = found[0].probabilities[0, -1]
    assert yes == pytest.approx(h.predict(x[:1], verbose=0)[0, -1], rel=1e-4)


def test_a_margin_of_one_output_is_in_the_units_of_differences_of_its_class_logits(pairs, rows, x):
    """The classes no and yes have the logits −z and z of `Head.by_class`, as explanations have."""
    g, h = pooling_network(rows[:1], -1.0)
    layer = ConceptLayer.of(pairs, (g, h))
    search = CounterfactualSearch(layer, x)
    found = search.find(x[:12], margin=0.5, stay_within=None)
    assert found.found.mean() > 0.5
    moved = search.moved.features(x[:12], x[:12, ..., :4], found.shifts)[found.found]
    z = h.predict(moved, verbose=0)[:, 0]
    after = found.after[found.found]
    logits = layer.head.logits(moved)
    lead = logits[np.arange(len(z)), after] - logits[np.arange(len(z)), 1 - after]
    np.testing.assert_allclose(lead, np.where(after == 1, 2 * z, -2 * z), rtol=1e-4)
    assert (lead >= 0.5 - 1e-4).all() and (lead < 0.55).all()


def test_independent_outputs_are_refused(pairs, rows, x):
    layer = ConceptLayer.of(pairs, pooling_network(rows, activation="sigmoid"))
    with pytest.raises(ValueError, match="independent yes/no decisions"):
        CounterfactualSearch(layer, x)


@pytest.mark.parametrize("name", ["conv_flatten", "tokens", "vectors", "gelu"])
def test_counterfactuals_work_with_any_head_and_layer(halves, images, name):
    g, h = halves(name)
    x = g.predict(images(name, 24), verbose=0)
    pairs = make_pairs(x.shape[-1], 4)
    search = CounterfactualSearch(ConceptLayer.of(pairs, (g, h)), x, quantile=1.0)
    found = search.find(x[:6], max_concepts=4, stay_within=None)
    moved = search.moved.features(x[:6], pairs.coefficients(x[:6]), found.shifts)
    after = Head(h).logits(moved).argmax(axis=1)
    assert ((after != found.before) == found.found).all()
    short = search.moved.features(x[:6], pairs.coefficients(x[:6]), 0.999 * found.shifts)
    assert (Head(h).logits(short).argmax(axis=1) == found.before).all()
    assert found[0].maps_before.shape == (*x.shape[1:-1], found.number_moved[0])


@pytest.mark.parametrize("factorizer", [NMFFactorizer(4, random_state=0), PCAFactorizer(4)])
def test_counterfactuals_work_with_any_extractor(rows, x, factorizer):
    with pytest.raises(NotFittedError, match="call fit"):
        search_of(factorizer, rows, x)
    factorizer.fit(x.reshape(-1, D))
    search = search_of(factorizer, rows, x)
    found = search.find(x[:10], max_concepts=4, stay_within=None)
    assert found.found.mean() >= 0.8
    u = factorizer.encode(x[:10].reshape(-1, D)).reshape(10, 6, 4)
    change = search.moved.bounds.shifted(u, found.shifts) - u
    residual_kept = x[:10] + (change @ factorizer.get_concept_bank()).reshape(10, 2, 3, D)
    np.testing.assert_allclose(
        search.moved.features(x[:10], u.reshape(10, 2, 3, 4), found.shifts),
        np.clip(residual_kept, x.min(), x.max()),
        atol=1e-4,
    )


def test_one_call_finds_counterfactuals_of_images(halves):
    g, h = halves("conv_gap")
    model = keras.Model(g.inputs[0], h(g.outputs[0]))
    pictures = make_images(12, (32, 32, 3))
    split = split_model(model, "features")
    concepts = ConceptLayer.of(make_pairs(8, 4), split, class_names=["a", "b", "c"])
    found = counterfactuals(concepts, pictures[:2], pictures, verbose=0)
    np.testing.assert_array_equal(model.predict(pictures[:2], verbose=0).argmax(1), found.before)
    assert found[0].image.shape == (32, 32, 3)
    assert found.class_names == ("a", "b", "c")
    search = CounterfactualSearch(concepts, g.predict(pictures, verbose=0))
    same = search.find(g.predict(pictures[:2], verbose=0), verbose=0)
    np.testing.assert_allclose(found.shifts, same.shifts, rtol=1e-4)


# ------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"target": 3}, "class_id 3"),
        ({"max_concepts": 0}, "max_concepts"),
        ({"moves": "both"}, "moves must be"),
        ({"only": [4]}, "numbered 0 to 3"),
        ({"only": []}, "concepts must be indices"),
        ({"margin": -1.0}, "margin"),
        ({"margin": "much"}, "margin"),
        ({"stay_within": 0.0}, "stay_within"),
        ({"stay_within": 101.0}, "stay_within"),
        ({"images": np.zeros((2, 4, 4, 3))}, "2 images for 3 activations"),
    ],
)
def test_bad_settings_are_refused(search, x, wrong, message):
    with pytest.raises(ValueError, match=message):
        search.find(x[:3], **wrong)


def test_a_single_concept_may_be_given_without_a_list(search, x):
    one, same = (search.find(x[:3], only=only, verbose=0) for only in (1, [1]))
    np.testing.assert_array_equal(one.shifts, same.shifts)


def test_invalid_concepts_and_activations_are_refused(search, pairs, rows, x):
    with pytest.raises(TypeError, match="not str"):
        CounterfactualSearch("pairs", x)
    with pytest.raises(ValueError, match="does not know the network"):
        CounterfactualSearch(pairs, x)
    with pytest.raises(ValueError, match="5 channels"):
        search_of(make_pairs(5, 2), rows, x)
    with pytest.raises(ValueError, match=r"takes activations of shape \(2, 3, 6\)"):
        search.find(x[..., :5])


def test_searches_are_traced_once_and_tensorflow_does_not_warn(rows, pairs, x, caplog):
    """The head counts how often Python runs it: once for each compiled function."""
    g, h = pooling_network(rows)
    calls = []

    def head(features):
        calls.append(tf.executing_eagerly())
        return h(features)

    for _ in range(3):
        search = CounterfactualSearch(ConceptLayer.of(pairs, (g, head)), x)
        search.find(x[:2], verbose=0)
        traced = len(calls)
        for count in (3, 5):
            search.find(x[:count], verbose=0)
        assert len(calls) == traced
    assert not [record for record in caplog.records if "retracing" in record.getMessage()]
