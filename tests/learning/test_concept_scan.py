import dataclasses
import warnings

import numpy as np
import pytest
from conftest import fake_learn_pairs

from xplique_dirpairs.data.shards import ActivationShards
from xplique_dirpairs.datasets.synthetic import pooled_dense_head
from xplique_dirpairs.learning import concept_scan
from xplique_dirpairs.learning.concept_scan import (
    ConceptScan,
    ScannedNumber,
    scan_number_of_concepts,
)
from xplique_dirpairs.learning.history import LearningWarning
from xplique_dirpairs.learning.presets import get_recipe
from xplique_dirpairs.metrics.dictionary import stability_of
from xplique_dirpairs.models.head import Head


@pytest.fixture
def features(rng):
    return rng.normal(size=(60, 6)).astype(np.float32)


def entry(number, stability=1.0, **changes):
    sound = {"fits": 2, "signal_stability": stability, "filter_stability": stability}
    sound |= {"dead": 0.0, "duplicates": 0.0, "condition_number": 2.0}
    return ScannedNumber(number, **{**sound, **changes})


@pytest.fixture
def learned(monkeypatch):
    """Replace `learn_pairs` by a fake that records its calls, with a history set by the test."""
    calls = []

    def learn(activations, number, **settings):
        calls.append((number, settings["random_state"]))
        learn.seen.append({tuple(row) for row in activations.tolist()})
        learn.before(number, settings["random_state"])
        pairs, history = fake_learn_pairs(activations, number, **settings)
        return pairs, dataclasses.replace(history, **learn.history)

    learn.before, learn.history, learn.calls, learn.seen = lambda *_: None, {}, calls, []
    monkeypatch.setattr(concept_scan, "learn_pairs", learn)
    return learn


# ------------------------------------------------------------------ the suggestion


def test_the_largest_sound_number_is_suggested():
    scan = ConceptScan((entry(6), entry(7), entry(8), entry(9, 0.8), entry(10, 0.7)))
    assert scan.suggested == 8 and "9" in scan.reason


@pytest.mark.parametrize(
    "flaw",
    [
        {"signal_stability": 0.9},
        {"filter_stability": 0.9},
        {"dead": 0.5},
        {"duplicates": 0.5},
        {"condition_number": 100.0},
        {"error": "interrupted"},
    ],
    ids=str,
)
def test_a_flaw_makes_a_number_unsound(flaw):
    scan = ConceptScan((entry(3), entry(4, **flaw)))
    assert entry(4).is_sound and not scan.numbers[1].is_sound
    assert scan.suggested == 3


def test_larger_numbers_are_recommended_if_the_largest_is_sound():
    scan = ConceptScan((entry(3), entry(4)))
    assert scan.suggested is None and "larger" in scan.reason


def test_the_reason_mentions_numbers_that_were_not_tried():
    assert "between" in ConceptScan((entry(3), entry(6, 0.5))).reason
    assert "between" not in ConceptScan((entry(3), entry(4, 0.5))).reason


def test_a_failed_larger_number_is_not_evidence_for_a_suggestion():
    scan = ConceptScan((entry(3), entry(4), ScannedNumber(5, error="ValueError")))
    assert scan.suggested is None and "larger" in scan.reason


def test_without_a_sound_number_there_is_no_suggestion():
    assert ConceptScan((entry(3, 0.5), entry(4, 0.5))).suggested is None
    assert "two seeds" in ConceptScan((ScannedNumber(3, 1),)).reason


# ------------------------------------------------------------------ the fits


def test_every_number_is_fitted_with_every_seed_once_and_in_order(features, learned):
    scan = scan_number_of_concepts(features, [4, 2, 4], seeds=3, random_state=7, verbose=0)
    assert learned.calls == [(n, s) for n in (2, 4) for s in (7, 8, 9)]
    assert [(row["number"], row["fits"]) for row in scan.rows()] == [(2, 3), (4, 3)]


def test_compared_fits_share_no_image(features, learned):
    scan_number_of_concepts(features, [2, 3], verbose=0)
    first, second, *others = learned.seen
    assert len(first) == len(second) == 30 and not first & second
    assert others == [first, second], "the halves are the same for every number"


def test_stability_ignores_order_sign_and_length_of_directions(rng):
    a = rng.normal(size=(5, 8))
    again = -3.0 * a[rng.permutation(5)]
    assert stability_of([a, again, a]) == pytest.approx(1.0)
    assert stability_of([np.eye(8)[:4], np.eye(8)[4:]]) == 0.0
    assert np.isnan(stability_of([a]))


def test_losses_are_taken_from_the_last_stage_and_sparsity_is_relative(features, learned):
    learned.history = {
        "stages": {"a": {"s": [9.0], "objective": [9.0]}, "d": {"s": [2.0, 1.0], "objective": [3]}},
        "dead": [0],
        "duplicates": [(0, 1), (2, 3)],
    }
    row = scan_number_of_concepts(features, [4], verbose=0).numbers[0]
    assert (row.sparsity, row.objective, row.dead, row.duplicates) == (0.5, 3.0, 1.0, 2.0)
    assert row.occupancy_median == pytest.approx(4 / 3, rel=0.1), (
        "fake concepts are detected on a third of the positions"
    )


def test_a_failed_fit_does_not_end_the_scan(features, learned):
    def fail(number, seed):
        if number == 3 and seed == 1:
            raise RuntimeError("no luck")

    learned.before = fail
    rows = scan_number_of_concepts(features, [2, 3, 4], verbose=0).numbers
    assert [row.fits for row in rows] == [2, 1, 2]
    assert rows[1].error == "RuntimeError: no luck" and rows[0].error is rows[2].error is None
    assert np.isfinite(rows[1].occupancy_median), "the successful fit is used"


@pytest.mark.parametrize("inside", [True, False], ids=["inside a fit", "between fits"])
def test_an_interrupted_scan_keeps_complete_fits(inside, features, learned):
    def interrupt(number, seed):
        if number == 3:
            if not inside:
                raise KeyboardInterrupt
            learned.history = {"interrupted": True}

    learned.before = interrupt
    scan = scan_number_of_concepts(features, [2, 3, 4], verbose=0)
    assert scan.interrupted
    assert [(row.number, row.fits) for row in scan.numbers] == [(2, 2), (3, 0)]


def test_warnings_of_the_fits_are_kept_and_not_emitted(features, learned):
    learned.before = lambda *_: warnings.warn("dead", LearningWarning, stacklevel=2)
    learned.history = {"dead": [1]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scan = scan_number_of_concepts(features, [3], verbose=0)
    assert len(scan.numbers[0].problems) == 1, "a problem of both fits is listed once"
    assert "hardly ever" in scan.numbers[0].problems[0]


@pytest.mark.parametrize(
    "numbers, settings, message",
    [
        ([], {}, "numbers is empty"),
        ([0, 2], {}, "each of numbers must be an integer of at least 1, not 0"),
        ([2.0], {}, "each of numbers must be an integer"),
        (3, {}, "numbers must be a list of numbers of concepts"),
        ([2], {"seeds": 0}, "seeds must be an integer of at least 1, not 0"),
        ([2], {"recipe": "none such"}, "none such"),
        ([2], {"head": "x"}, "head must be a Head, not str"),
        ([2], {"random_state": -1}, "random_state must be"),
        ([2], {"random_state": "a"}, "random_state must be"),
    ],
)
def test_invalid_arguments_of_a_scan_are_refused_before_learning(
    numbers, settings, message, features, learned
):
    with pytest.raises((TypeError, ValueError), match=message):
        scan_number_of_concepts(features, numbers, verbose=0, **settings)
    assert not learned.calls


def test_invalid_activations_are_refused_before_learning(features, learned):
    for activations, message in ((np.ones_like(features), "constant"), ("x", "numeric array")):
        with pytest.raises(ValueError, match=message):
            scan_number_of_concepts(activations, [2], verbose=0)
    head = Head(pooled_dense_head(features[:, None, None], np.arange(60) % 2))
    with pytest.raises(ValueError, match="latent_to_logit_model takes"):
        scan_number_of_concepts(features[:, :5], [2], head=head, verbose=0)
    assert not learned.calls


def test_scans_without_a_seed_use_different_seeds(features, learned):
    for _ in range(2):
        scan_number_of_concepts(features, [2], random_state=None, verbose=0)
    first, second, third, _ = (seed for _, seed in learned.calls)
    assert second == first + 1 and third != first


def test_a_scan_of_shards_uses_the_same_images_as_a_scan_in_memory(tmp_path, features, monkeypatch):
    seen = []

    def learn(activations, number, **settings):
        held = not isinstance(activations, ActivationShards)
        seen.append(activations if held else np.concatenate(list(activations)))
        return fake_learn_pairs(seen[-1], number, **settings)

    monkeypatch.setattr(concept_scan, "learn_pairs", learn)
    shards = ActivationShards.write(tmp_path, features, megabytes=1e-4)
    scans = [scan_number_of_concepts(x, [2, 3], verbose=0) for x in (features, shards)]
    np.testing.assert_array_equal(seen[:4], seen[4:])
    assert len(shards.counts) > 3 and scans[0].suggested == scans[1].suggested


def test_a_scan_of_a_single_image_is_refused(features, learned):
    with pytest.raises(ValueError, match="one image"):
        scan_number_of_concepts(features[None], [2], verbose=0)


@pytest.mark.parametrize("sharded", [False, True], ids=["held", "shards"])
def test_a_scan_finds_the_right_number_stable(sharded, rng, tmp_path):
    """Few steps on rare concepts: only the true number is stable, and wrong numbers run."""
    x = rng.gamma(0.2, size=(600, 3)) @ rng.normal(size=(3, 10)) + 1.0
    recipe = get_recipe("default")
    stage = dataclasses.replace(recipe.stages[1], epochs=2, steps_per_epoch=20)
    recipe = dataclasses.replace(recipe, stages=(stage,), restarts=1, otherwise=None)
    if sharded:
        x = ActivationShards.write(tmp_path, x, megabytes=0.01)
    scan = scan_number_of_concepts(x, [3, 5], recipe=recipe, verbose=0)
    right, wrong = scan.numbers
    assert not right.error and not wrong.error
    assert right.signal_stability > 0.98 > wrong.signal_stability
