"""Tables of influence hold effects and counts, and mark what could not have been significant."""

import csv
import io

import numpy as np
import pytest

from xplique_dirpairs.sensitivity.influence_result import Influence, influence_table


def influence_with(p, noise="uniform", noise_vectors=0, **changed):
    """Return an influence with given p-values (I, K); effects have the sign of 0.5 − p."""
    p = np.asarray(p, float)
    signed, classes = 0.5 - np.nan_to_num(p), np.full(p.shape[1], 12)
    values = {
        "scores": np.sign(signed), "changes": signed, "logit_changes": 5 * signed,
        "images": classes, "effects": 2 * signed, "intervals": np.full(p.shape, 0.25),
        "predicted": classes, "p_values": p, "noise": noise, "noise_vectors": noise_vectors,
        "amount": 5.0, "statistic": "logit" if noise == "uniform" else "change",
        "min_images": 10, "level": 0.05,
    }  # fmt: skip
    return Influence(**values | changed)


def random_influence(permutations=999, untested=()):
    """Return the influence of 6 directions on 4 classes, of which the last has no images."""
    rng = np.random.default_rng(0)
    p = np.where(rng.random((6, 4)) < 0.5, 1, permutations // 2) / (permutations + 1)
    p[:, 3] = np.nan
    p[list(untested)] = np.nan
    scores = rng.choice([-1.0, -0.5, 0.5, 1.0], (6, 4))
    scores[:, 3] = np.nan
    return influence_with(
        p, "permuted labels", permutations, scores=scores, images=np.array([12, 12, 12, 0])
    )


def read(table):
    """Return the rows of a table as dictionaries, by way of CSV."""
    return list(csv.DictReader(io.StringIO(table.formatted("csv"))))


def test_a_row_holds_the_counts_of_an_extractor_under_a_correction():
    influence = random_influence()
    (row,) = read(influence_table({"pairs": influence}, ["none"]))
    summary = influence.summary("none")
    assert row["extractor"] == "pairs" and row["significant"] == "none"
    numbers = {name: float(text) for name, text in row.items() if name[0] not in "es"}
    assert numbers.pop("directions") == 6 and numbers.pop("tests") == 18
    assert list(numbers.values()) == [float(value) for value in summary]
    assert 0 < summary.sdc <= summary.scdp < 18


def test_a_correction_that_the_permutations_cannot_reach_is_marked_as_unreachable():
    few, many = random_influence(99), random_influence(999)
    table = influence_table({"few": few, "many": many}, ["bonferroni", "none"])
    text = table.formatted("plain").splitlines()
    assert text[2].count("unreachable") == 10 and "unreachable" not in "".join(text[3:6])
    assert "unreachable: with so few noise vectors" in str(table)
    assert "unreachable" not in str(influence_table({"many": many}, ["bonferroni"]))
    rows = read(table)
    assert rows[0]["SDC"] == "" and rows[2]["SDC"] != ""


def test_notes_tell_the_noise_what_significance_means_and_what_is_not_tested():
    text = str(influence_table({"a": random_influence(99, untested=[2])}))
    assert "99 noise vectors" in text and "|mean Δ|" in text
    assert "more than what the features vary along anyway" in text
    assert "3 pairs (detected everywhere or nowhere)" in text
    assert "6 pairs (no images of the class)" in text
    exact = str(influence_table({"a": influence_with([[0.01]])}))
    assert "exact p" in exact and "had nothing to do with the direction" in exact


def test_the_table_method_equals_the_table_of_a_single_influence():
    influence = random_influence()
    assert str(influence.table(["none"])) == str(influence_table({"concepts": influence}, ["none"]))


def test_a_table_without_influences_is_refused():
    with pytest.raises(ValueError, match="nothing to show"):
        influence_table({})


def test_nothing_can_be_significant_with_too_few_permutations_but_any_p_is_exact_otherwise():
    p = np.full((10, 5), 1 / 100)
    permuted = influence_with(p, "permuted labels", 99)
    assert not permuted.reachable("bonferroni") and permuted.reachable()
    assert influence_with(p / 10, "permuted labels", 999).reachable("bonferroni")
    assert influence_with(p).reachable("bonferroni") and influence_with(p).is_exact
    assert influence_with(p, noise_vectors=30).reachable("bonferroni")
    assert not influence_with(np.full((2, 2), np.nan)).reachable()
    for correction in ("none", "benjamini-hochberg"):
        assert not influence_with(p, "permuted labels", 18).reachable(correction)
        assert influence_with(p, "permuted labels", 19).reachable(correction)


def test_every_effect_has_a_row_with_its_interval_and_a_verdict():
    influence = influence_with(
        [[1e-6, 0.9, np.nan]], noise_vectors=300, predicted=np.array([12, 12, 3])
    )
    rows = read(influence.effects_table(["sea"], ["lake", "street", "kitchen"]))
    assert [row["verdict"] for row in rows] == [
        "significant",
        "not significant",
        "not tested: fewer than 10 images predicted as the class",
    ]
    assert [row["class"] for row in rows] == ["lake", "street", "kitchen"]
    text = influence.effects_table().formatted("plain")
    assert "+1.00 ± 0.25" in text and "-0.80 ± 0.25" in text
    few = influence_with([[0.1]], "permuted labels", 3)
    assert few.verdicts()[0, 0] == "not tested: too few noise vectors for this number of tests"
    assert influence_with([[np.nan]], interrupted=True).reason(0, 0) == "the tests were interrupted"


def test_where_there_was_no_test_no_table_says_that_there_were_too_few_noise_vectors():
    untested = influence_with(
        [[np.nan, np.nan, np.nan]], noise_vectors=300, predicted=np.array([1, 1, 1])
    )
    table = untested.table()
    assert all(row["SDC"] == "" for row in read(table))
    assert table.formatted("plain").count("not tested") == 20
    assert "unreachable" not in str(table)
    assert "3 pairs (fewer than 10 images predicted as the class)" in str(table)


def test_the_influence_on_some_classes_is_corrected_for_the_tests_of_all(rng):
    p = rng.uniform(size=(5, 8)) ** 4
    p[2, 3] = np.nan
    whole = influence_with(p)
    some = whole.of_classes([1, 3])
    assert some.p_values.shape == (5, 2) and some.tests == whole.tests == 39
    assert len(some.unlisted_p_values) == 39 - 9
    for correction in ("none", "bonferroni", "benjamini-hochberg"):
        wanted = whole.significant(correction)[:, [1, 3]]
        np.testing.assert_array_equal(some.significant(correction), wanted)
        np.testing.assert_array_equal(some.of_classes([1]).significant(correction), wanted[:, [1]])
    assert whole.significant().any() and some.effects.shape == (5, 2)


def test_two_classes_that_are_each_others_opposite_are_one_hypothesis_of_a_direction():
    p = np.array([[0.02, 0.02], [0.03, 0.03], [0.9, 0.9]])
    changes = np.array([[1.0, -1.0], [2.0, -2.0], [0.1, -0.1]])
    both = influence_with(p, logit_changes=changes)
    assert both.tests == 3 and both.of_classes([1]).tests == 3
    assert both.significant("bonferroni").tolist() == [[False, False]] * 3
    assert influence_with(p / 2, logit_changes=changes).significant("bonferroni")[:2].all()
    independent = influence_with(p / 2, logit_changes=changes + [[0.0, 5.0]])
    assert independent.tests == 6 and not independent.significant("bonferroni")[1].any()
