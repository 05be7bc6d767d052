"""Tables of results as plain text, Markdown, CSV, LaTeX or HTML."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from xplique_dirpairs.core.validation import check_choice

#: Largest length of a row's name in a terminal, so that its numbers stay visible.
_LONGEST_NAME = 60

FORMATS = ("plain", "markdown", "csv", "latex", "html")

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "↑": r"$\uparrow$", "↓": r"$\downarrow$", "μ": r"$\mu$", "²": r"$^2$", "±": r"$\pm$",
    "–": "--", "−": "$-$", "|": r"\textbar{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "[": "{[}", "]": "{]}",  # after \\ a bracket would be read as an argument
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, and whether it is the best of its column.

    Attributes
    ----------
    text : str
        Text as it is printed.
    best : bool, default=False
        Whether to mark the cell as the best of its column.
    numbers : tuple of float, default=()
        Values for CSV: the number; the number and the ends of its interval; or these and the
        standard deviation over seeds. If empty, the text is written.
    """

    text: str
    best: bool = False
    numbers: tuple[float, ...] = ()

    @classmethod
    def signed(cls, value: float, decimals: int = 2) -> Cell:
        """Return a cell with a signed number; a dash for NaN."""
        return cls.number(value, f"+.{decimals}f")

    @classmethod
    def figure(cls, value: float, decimals: int = 3) -> Cell:
        """Return a cell with a number of these decimals; a dash for NaN."""
        return cls.number(value, f".{decimals}f")

    @classmethod
    def share(cls, value: float) -> Cell:
        """Return a cell with a share in percent; a dash for NaN."""
        return cls.number(value + 1e-9, ".0%")  # a half is rounded up, as in a browser

    @classmethod
    def interval(cls, value: float, half: float) -> Cell:
        """Return a cell with a signed number ± half the length of its interval, if it has one."""
        if not np.isfinite([value, half]).all():
            return cls.signed(value)
        return cls(f"{value:+.2f} ± {half:.2f}", numbers=(value, value - half, value + half))

    @classmethod
    def number(cls, value: float, format_spec: str) -> Cell:
        """Return a cell with a formatted number; a dash for NaN."""
        if not np.isfinite(value):
            return cls("–", numbers=(np.nan,))
        return cls(format(value, format_spec), numbers=(float(value),))


@dataclass(frozen=True)
class Table:
    """Rows of cells under headers; the first column names the row.

    Attributes
    ----------
    headers : sequence of str
        One header for each column.
    rows : sequence of sequence of Cell
        One cell for each header.
    caption : sequence of str, default=()
        Notes below the table, one line each.

    Raises
    ------
    ValueError
        If a row does not have one cell for each header.
    """

    headers: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: Sequence[str] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.headers):
                raise ValueError(f"a row has {len(row)} cells for {len(self.headers)} headers")

    def __str__(self) -> str:
        return self.formatted("plain")

    def _repr_html_(self) -> str:
        return self.formatted("html")

    def formatted(self, format: str = "plain") -> str:
        """Return the table as text.

        Parameters
        ----------
        format : {"plain", "markdown", "csv", "latex", "html"}, default="plain"
            "plain" is for a terminal: the best of a column is between asterisks, and long names of
            rows are cut off. "csv" has all digits, and intervals in separate columns, without marks
            and notes. "latex" needs the package booktabs and has the notes as comments.

        Returns
        -------
        text : str

        Raises
        ------
        ValueError
            If the format is unknown.
        """
        check_choice("format", format, FORMATS)
        text: str = getattr(self, f"_as_{format}")()
        return text

    def _texts(self, escaped: Callable[[str], str], best: str) -> list[list[str]]:
        """Return the escaped texts of the headers and of each row.

        ``best`` is the template of the best cells, with {} in place of the text.
        """
        lines = [[escaped(_one_line(header)) for header in self.headers]]
        for row in self.rows:
            texts = [(escaped(_one_line(cell.text)), cell.best) for cell in row]
            lines.append([best.replace("{}", text, 1) if good else text for text, good in texts])
        return lines

    def _as_plain(self) -> str:
        """Return the table as text with aligned columns."""
        lines = [[_cut(line[0]), *line[1:]] for line in self._texts(str, "*{}*")]
        widths = [max(len(line[k]) for line in lines) for k in range(len(self.headers))]
        padded = [
            "  ".join(
                text.ljust(width) if k == 0 else text.rjust(width)
                for k, (text, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        rule = "  ".join("-" * width for width in widths)
        return "\n".join([padded[0], rule, *padded[1:], *map(_one_line, self.caption)])

    def _as_markdown(self) -> str:
        """Return the table in Markdown."""
        lines = ["| " + " | ".join(texts) + " |" for texts in self._texts(_markdown, "**{}**")]
        rule = "|---|" + "---:|" * (len(self.headers) - 1)
        notes = [f"{_markdown(_one_line(note))}  " for note in self.caption]
        return "\n".join([lines[0], rule, *lines[1:], *([""] if notes else []), *notes])

    def _as_csv(self) -> str:
        """Return the table as comma-separated values."""
        columns = range(len(self.headers))
        sizes = [max([1, *(len(row[k].numbers) for row in self.rows)]) for k in columns]
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(
            f"{_one_line(self.headers[k])}{part}"
            for k in columns
            for part in ("", " (low)", " (high)", " (seeds SD)")[: sizes[k]]
        )
        for row in self.rows:
            fields: list[str] = []
            for k in columns:
                numbers = ["" if np.isnan(n) else repr(float(n)) for n in row[k].numbers]
                texts = numbers or [_one_line(row[k].text)]
                fields += texts + [""] * (sizes[k] - len(texts))
            writer.writerow(fields)
        return out.getvalue().rstrip("\n")

    def _as_latex(self) -> str:
        """Return the table as a LaTeX tabular."""
        head, *rows = (" & ".join(texts) + r" \\" for texts in self._texts(_latex, r"\textbf{{}}"))
        columns = "l" + "r" * (len(self.headers) - 1)
        lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule", *rows]
        lines += [r"\bottomrule", r"\end{tabular}"]
        return "\n".join([*lines, *(f"% {_one_line(note)}" for note in self.caption)])

    def _as_html(self) -> str:
        """Return the table in HTML."""

        def row(tag: str, texts: Sequence[str]) -> str:
            return "<tr>" + "".join(f"<{tag}>{text}</{tag}>" for text in texts) + "</tr>"

        headers, *rows = self._texts(html.escape, "<strong>{}</strong>")
        head, body = row("th", headers), "\n".join(row("td", texts) for texts in rows)
        notes = "".join(f"<p>{html.escape(_one_line(note))}</p>" for note in self.caption)
        return f"<table>\n<thead>{head}</thead>\n<tbody>\n{body}\n</tbody>\n</table>{notes}"


def _cut(name: str) -> str:
    """Return a name, cut off if it is too long for a terminal."""
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"


def _one_line(text: str) -> str:
    """Return text with all white space, line breaks included, as single spaces."""
    return " ".join(text.split())


def _latex(text: str) -> str:
    """Escape characters that have a meaning in LaTeX."""
    return "".join(_LATEX.get(character, character) for character in text)


def _markdown(text: str) -> str:
    """Escape characters that have a meaning in Markdown or in HTML within it."""
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", html.escape(text, quote=False))
