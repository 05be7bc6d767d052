"""Tables of a comparison: the best of each column, ties, undefined figures, and notes."""

import csv
import io
from dataclasses import replace

import numpy as np
import pytest
from small_comparison import (
    three_extractors,
)

from xplique_dirpairs import (
    Comparison,
)
from xplique_dirpairs.comparison.extractor_result import (
    RANDOM,
    ExtractorResult,
    paired_difference,
)
from xplique_dirpairs.metrics.registry import METRICS

pytestmark = pytest.mark.usefixtures("quick_learning")


@pytest.fixture
def shared(halves):
    return three_extractors(halves)


def fake(name, **values):
    values = {key: np.asarray(value, float) for key, value in values.items()}
    return ExtractorResult(name, None, None, None, values, None, None, {})


def comparison_of(results):
    return Comparison({r.name: r for r in results}, {}, np.zeros((1, 1, 1, 1)), np.zeros(1, int))


def column(results, key):
    table = comparison_of(results).table(METRICS[key].kind)
    name = f"{METRICS[key].name} {METRICS[key].arrow}".rstrip()
    return {row[0].text: row[list(table.headers).index(name)] for row in table.rows}


def test_the_best_value_depends_on_the_direction_of_the_metric(rng):
    a, b = rng.uniform(0.0, 0.1, 20), rng.uniform(0.8, 0.9, 20)
    one, other = fake("a", deletion=a, insertion=a), fake("b", deletion=b, insertion=b)
    assert [cell.best for cell in column([one, other], "deletion").values()] == [True, False]
    assert [cell.best for cell in column([one, other], "insertion").values()] == [False, True]
    off = fake("a", all_off_norm=a), fake("b", all_off_norm=b)
    assert not any(cell.best for cell in column(off, "all_off_norm").values())


def test_figures_that_print_the_same_are_all_best():
    cells = column([fake("a", dead=0), fake("b", dead=0.0), fake("c", dead=1)], "dead")
    assert [cell.best for cell in cells.values()] == [True, True, False]
    assert [cell.text for cell in cells.values()] == ["0.0", "0.0", "1.0"]


def test_ties_are_decided_by_the_paired_difference_not_by_the_intervals(rng):
    level = rng.uniform(0.0, 1.0, 40)  # Images differ much more than extractors on each of them.
    noise = rng.normal(0.0, 1e-3, 40)
    rows = [
        fake("best", deletion=level),
        fake("worse on each", deletion=level + 0.02 + noise),
        fake("the same on average", deletion=level + 0.002 + 0.05 * rng.normal(size=40)),
    ]
    cells = column(rows, "deletion")
    assert "=" not in cells["worse on each"].text
    low, high = cells["best"].numbers[1:]
    assert low < rows[1].summaries["deletion"].value < high  # The separate intervals overlap.
    tied = cells["the same on average"]
    assert tied.text.endswith(" =") or tied.best


def test_ratios_are_compared_by_their_paired_difference(rng):
    size = rng.uniform(1.0, 9.0, 30)
    a, b = (np.stack([share * size, size], axis=1) for share in (0.5, 0.6))
    difference = paired_difference(METRICS["logit_r2"], a, b)
    np.testing.assert_allclose(difference[:3], -0.1, atol=1e-9)


def test_undefined_figures_are_shown_as_dashes_and_never_best():
    cells = column(
        [fake("a", plausibility=np.nan), fake("b", plausibility=0.1), fake("c", dead=1)],
        "plausibility",
    )
    assert [cell.text for cell in cells.values()] == ["–", "0.100", "–"]
    assert [cell.best for cell in cells.values()] == [False, True, False]


def test_the_table_of_a_kind_shows_the_metrics_of_this_kind(shared):
    for kind in ("curves", "all off", "reconstruction", "dictionary"):
        headers = shared.table(kind).headers[1:]
        names = [f"{m.name} {m.arrow}".rstrip() for m in METRICS.values() if m.kind == kind]
        assert list(headers) == [name for name in names if "stability" not in name]
        assert len(shared.table(kind).rows) == 5
    with pytest.raises(ValueError, match="kind must be one of"):
        shared.table("weather")


def test_the_csv_of_a_comparison_holds_its_figures(shared):
    rows = list(csv.DictReader(io.StringIO(shared.table().formatted("csv"))))
    assert [row["extractor"] for row in rows] == list(shared.results)
    for row, result in zip(rows, shared.results.values(), strict=True):
        figure = result.summaries["deletion"]
        got = [float(row[f"deletion ↓{part}"]) for part in ("", " (low)", " (high)")]
        assert got == list(figure[:3])
        assert float(row["L0"]) == result.summaries["l0"].value


def test_controls_are_never_marked():
    own, control = fake("a", insertion=0.5), fake(RANDOM, insertion=1.0)
    table = comparison_of([own, control]).table()
    assert [row[1].best for row in table.rows] == [True, False]
    assert "=" not in table.rows[1][1].text
    assert any("Controls are never marked" in line for line in table.caption)
    assert any("high on insertion without explaining" in line for line in table.caption)
    without = comparison_of([own]).table()
    assert not any("Controls are never marked" in line for line in without.caption)


def test_notes_count_undefined_images_and_images_that_deletion_changed_too_little(shared):
    one = shared.results["PCA"]
    gaps = np.where(np.arange(6) < 2, np.nan, 0.5)
    crossed = np.zeros((6, 3), bool)
    crossed[:, 0] = True
    crossed[:3, 1] = True
    at_chance = np.tile([[0.5, 0.5], [-0.5, -0.5]], (3, 1))
    changed = replace(
        one,
        values=one.values | {"mu_fidelity": gaps, "completeness": at_chance},
        fidelity=replace(one.fidelity, crossed=crossed),
    )
    comparison = replace(shared, results={"PCA": changed})
    for text in ("\n".join(comparison.table().caption), str(comparison)):
        assert "μ-fidelity: images left out as undefined: 2 of 6 of PCA" in text
        assert "Share of such images: PCA 50 % at 0.2 and 100 % at 0.3" in text
        assert "completeness is undefined" in text and "clearly above 0) for: PCA" in text
    assert "P@" not in "\n".join(comparison.table("dictionary").caption)
