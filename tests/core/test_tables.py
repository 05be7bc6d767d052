"""Tables in every format, with names that contain special characters."""

import csv
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from xplique_dirpairs.core.tables import FORMATS, Cell, Table

NASTY = "a & b_c | <script>alert(1)</script> 50% #1 {x} ~^ \\ $y$ *z* [w]"


@pytest.fixture
def table():
    return Table(
        ["extractor", "deletion ↓", "dead"],
        [
            [
                Cell("CRAFT"),
                Cell("0.250 ± 0.010", True, (0.25, 0.24, 0.26)),
                Cell("2", numbers=(2.0,)),
            ],
            [
                Cell(NASTY),
                Cell("0.500 ± 0.100 =", False, (0.5, 0.4, 0.6)),
                Cell("–", numbers=(np.nan,)),
            ],
        ],
        ["a note"],
    )


class Cells(HTMLParser):
    """Parser that collects the text of every cell and every tag."""

    def __init__(self, text):
        super().__init__()
        self.cells, self.tags = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data):
        if self.cells:
            self.cells[-1] += data


def test_csv_has_intervals_in_separate_columns(table):
    rows = list(csv.reader(io.StringIO(table.formatted("csv"))))
    assert rows[0] == [
        "extractor", "deletion ↓", "deletion ↓ (low)", "deletion ↓ (high)", "dead",
    ]  # fmt: skip
    assert rows[1] == ["CRAFT", "0.25", "0.24", "0.26", "2.0"]
    assert rows[2] == [NASTY, "0.5", "0.4", "0.6", ""]


def test_csv_keeps_all_digits_and_quotes_names():
    name, third = 'a, "b"\nc', 1 / 3
    text = Table(["e", "m"], [[Cell(name), Cell("0.333", numbers=(third,))]]).formatted("csv")
    assert list(csv.reader(io.StringIO(text)))[1] == ['a, "b" c', repr(third)]


def test_html_escapes_names(table):
    page = Cells(table.formatted("html"))
    assert "script" not in page.tags
    assert page.tags.count("table") == 1 and page.tags.count("strong") == 1
    assert NASTY in page.cells and "0.500 ± 0.100 =" in page.cells
    assert table._repr_html_() == table.formatted("html")


def test_latex_escapes_special_characters(table):
    text = table.formatted("latex")
    line = next(line for line in text.splitlines() if "script" in line)
    assert line.count(" & ") == 2 and line.endswith(r"\\")
    bare = line[: -len(r" \\")].replace(" & ", " ").replace(r"$\pm$", "")
    escaped = r"\\(?:textbackslash\{\}|text[a-z]+\{\}|[&%$#_{}])|\{\[\}|\{\]\}"
    assert not re.search(r"[\\&%$#_{}~^|<>\[\]]", re.sub(escaped, "", bare))
    assert r"\textbf{0.250 $\pm$ 0.010}" in text and r"$\downarrow$" in text
    assert text.count(r"\begin{tabular}{lrr}") == text.count(r"\end{tabular}") == 1


def test_a_note_of_several_lines_stays_a_comment_in_latex():
    table = Table(["e"], [[Cell("a")]], ["ValueError: one\nand \\input{two}"])
    assert table.formatted("latex").splitlines()[-1] == r"% ValueError: one and \input{two}"


def test_markdown_rows_have_one_cell_for_each_header(table):
    head, rule, *rows = table.formatted("markdown").split("\n\n")[0].splitlines()
    for line in (head, rule, *rows):
        assert len(re.findall(r"(?<!\\)\|", line)) == 4
    assert "| **0.250 ± 0.010** |" in rows[0]
    assert "<script" not in rows[1] and r"\*z\*" in rows[1]


def test_plain_columns_are_aligned_and_the_best_is_between_asterisks(table):
    head, rule, first, second, note = str(table).splitlines()
    assert first.index("*0.250 ± 0.010*") + len("*0.250 ± 0.010*") == second.index(" =") + 2
    assert head.index("deletion ↓") + len("deletion ↓") == second.index(" =") + 2
    assert set(rule) == {"-", " "} and note == "a note"


def test_long_names_are_cut_off_in_plain_text_only():
    long_names = Table(["class", "images"], [[Cell("y" * 200), Cell("7")]])
    assert max(map(len, str(long_names).splitlines())) < 80 and "7" in str(long_names)
    assert all("y" * 200 in long_names.formatted(format) for format in FORMATS if format != "plain")


@pytest.mark.parametrize("format", ["plain", "markdown", "latex", "html"])
def test_line_breaks_in_names_become_spaces(format):
    def of(name):
        return Table(["e", "m"], [[Cell(name), Cell("1")]]).formatted(format)

    assert of("a\nb") == of("a b")


def test_unknown_formats_and_rows_of_the_wrong_length_are_refused(table):
    assert all(table.formatted(format) for format in FORMATS)
    with pytest.raises(ValueError, match="format must be one of"):
        table.formatted("word")
    with pytest.raises(ValueError, match="a row has 2 cells for 1 headers"):
        Table(["a"], [[Cell("1"), Cell("2")]])
