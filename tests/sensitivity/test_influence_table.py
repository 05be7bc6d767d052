"""Tables of influence: the counts they are of, and what could not be reached."""

import csv
import io

import numpy as np
import pytest

from xplique_dirpairs.sensitivity.influence import Influence
from xplique_dirpairs.sensitivity.influence_table import influence_table, strongest_table


def result(permutations=999, untested=()):
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
    return list(csv.DictReader(io.StringIO(table.formatted("csv"))))


def test_a_row_holds_the_summary_of_an_extractor_under_a_correction():
    found = result()
    (row,) = read(influence_table({"pairs": found}, ["paper"]))
    summary = found.summary("paper")
    assert row["extractor"] == "pairs" and row["significant"] == "paper"
    numbers = {name: float(text) for name, text in row.items() if name[0] not in "es"}
    assert numbers.pop("directions") == 6 and numbers.pop("tests") == 18
    assert list(numbers.values()) == [float(value) for value in summary]
    assert 0 < summary.sdc <= summary.scdp < 18


def test_a_correction_that_no_permutation_can_reach_says_so_and_has_no_number():
    table = influence_table({"few": result(99), "many": result(999)}, ["bonferroni", "none"])
    text = table.formatted("plain").splitlines()
    assert text[2].count("unreachable") == 10 and "unreachable" not in "".join(text[3:6])
    assert "unreachable (bonferroni: few)" in str(table)
    rows = read(table)
    assert rows[0]["SDC"] == "" and rows[2]["SDC"] != ""


def test_notes_say_what_was_compared_with_what_and_what_was_not_tested():
    text = str(influence_table({"a": result(99, untested=[2])}))
    assert "99" in text and "|mean Δ|" in text and "directions [2] of a" in text
    assert "at least 3 pairs at once" in text  # 15 tests, p of at least 1/100, level 1/20


def test_the_strongest_pairs_are_the_significant_ones_in_order():
    found = result()
    names, classes = [f"c{i}" for i in range(6)], list("abcd")
    rows = read(strongest_table(found, names, classes, "paper", at_most=100))
    pairs = {(names.index(row["direction"]), classes.index(row["class"])) for row in rows}
    assert pairs == {tuple(pair) for pair in np.argwhere(found.significant("paper"))}
    sizes = [abs(float(row["mean Δ (nats)"])) for row in rows]
    assert sizes == sorted(sizes, reverse=True)
    for row in rows:
        i, k = names.index(row["direction"]), classes.index(row["class"])
        assert float(row["SC"]) == found.scores[i, k] and float(row["p"]) == found.p_values[i, k]
    short = strongest_table(found, correction="paper", at_most=2)
    assert len(short.rows) == 2 and f"of {len(rows)} significant" in str(short)


def test_nothing_to_show_and_too_few_names_are_refused():
    with pytest.raises(ValueError, match="nothing to show"):
        influence_table({})
    with pytest.raises(ValueError, match="class_names must be 4 names, not 1"):
        strongest_table(result(), class_names=["a"])
