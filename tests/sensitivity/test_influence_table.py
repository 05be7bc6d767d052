"""Tables of influence hold the counts, and mark corrections that permutations cannot reach."""

import csv
import io

import numpy as np
import pytest

from xplique_dirpairs.sensitivity.influence_result import Influence, influence_table


def random_influence(permutations=999, untested=()):
    """Return the influence of 6 directions on 4 classes, of which the last has no images."""
    rng = np.random.default_rng(0)
    scores = rng.choice([-1.0, -0.5, 0.5, 1.0], (6, 4))
    scores[:, 3] = np.nan
    exceeded = np.where(rng.random((6, 4)) < 0.5, 0, permutations // 2)
    compared = np.where(np.isnan(scores), 0, permutations)
    compared[list(untested)] = 0
    return Influence(
        scores, 2 * scores, np.array([5, 5, 5, 0]), exceeded, compared, permutations, "change", 0.05
    )


def read(table):
    """Return the rows of a table as dictionaries, by way of CSV."""
    return list(csv.DictReader(io.StringIO(table.formatted("csv"))))


def test_a_row_holds_the_counts_of_an_extractor_under_a_correction():
    influence = random_influence()
    (row,) = read(influence_table({"pairs": influence}, ["paper"]))
    summary = influence.summary("paper")
    assert row["extractor"] == "pairs" and row["significant"] == "paper"
    numbers = {name: float(text) for name, text in row.items() if name[0] not in "es"}
    assert numbers.pop("directions") == 6 and numbers.pop("tests") == 18
    assert list(numbers.values()) == [float(value) for value in summary]
    assert 0 < summary.sdc <= summary.scdp < 18


def test_a_correction_that_the_permutations_cannot_reach_is_marked_as_unreachable():
    few, many = random_influence(99), random_influence(999)
    table = influence_table({"few": few, "many": many}, ["bonferroni", "none"])
    text = table.formatted("plain").splitlines()
    assert text[2].count("unreachable") == 10 and "unreachable" not in "".join(text[3:6])
    assert "unreachable: with so few permutations" in str(table)
    assert "unreachable" not in str(influence_table({"many": many}, ["bonferroni"]))
    rows = read(table)
    assert rows[0]["SDC"] == "" and rows[2]["SDC"] != ""


def test_notes_name_the_noise_the_statistic_and_untested_directions():
    text = str(influence_table({"a": random_influence(99, untested=[2])}))
    assert "99" in text and "|mean Δ|" in text and "directions [2] of a" in text
    assert "or at least 3 of them at once" in text  # 15 tests, p of at least 1/100, level 1/20


def test_the_table_method_equals_the_table_of_a_single_influence():
    influence = random_influence()
    assert str(influence.table(["none"])) == str(influence_table({"concepts": influence}, ["none"]))


def test_a_table_without_influences_is_refused():
    with pytest.raises(ValueError, match="nothing to show"):
        influence_table({})


def counted_influence(exceeded, permutations):
    """Return an influence with given numbers of stronger noise vectors, (I, K)."""
    exceeded = np.asarray(exceeded)
    compared = np.full(exceeded.shape, permutations)
    scores = np.where(exceeded % 2 == 0, 1.0, -1.0)
    images = np.ones(exceeded.shape[1], int)
    return Influence(scores, scores, images, exceeded, compared, permutations, "change", 0.05)


def test_nothing_is_significant_with_too_few_permutations():
    influence = counted_influence(np.zeros((10, 5), int), 99)
    assert influence.significant("paper").all() and influence.significant("none").all()
    assert not influence.reachable("bonferroni") and not influence.significant("bonferroni").any()
    assert influence.reachable() and influence.significant().all()
    assert influence.least_rejections() == 10 and influence.least_rejections("bonferroni") == 51
    assert counted_influence(np.zeros((10, 5), int), 999).reachable("bonferroni")
    for correction in ("none", "benjamini-hochberg"):
        assert not counted_influence(np.zeros((10, 5), int), 18).reachable(correction)
        assert counted_influence(np.zeros((10, 5), int), 19).reachable(correction)
    exceeded = np.ones((10, 5), int) * 50
    exceeded.flat[:9] = 0
    assert not counted_influence(exceeded, 99).significant().any()  # ten strong pairs are needed
    exceeded.flat[9] = 0
    assert counted_influence(exceeded, 99).significant().sum() == 10
