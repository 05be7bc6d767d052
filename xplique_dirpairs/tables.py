"""A small table of results, in the formats people paste them into."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass

FORMATS = ("plain", "markdown", "csv", "latex", "html")

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "↑": r"$\uparrow$", "↓": r"$\downarrow$", "μ": r"$\mu$", "²": r"$^2$", "±": r"$\pm$",
    "–": "--", "|": r"\textbar{}", "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One figure: as it is printed, and whether it is the best of its column."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of cells under headers; the first column names the row.

    Attributes
    ----------
    headers
        One for each column.
    rows
        As many cells each as there are headers.
    caption
        Notes below the table, a line each.
    """

    headers: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: Sequence[str] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.headers):
                raise ValueError(f"a row has {len(row)} cells under {len(self.headers)} headers")

    def __str__(self) -> str:
        return self.formatted("plain")

    def _repr_html_(self) -> str:
        return self.formatted("html")

    def formatted(self, format: str = "plain") -> str:
        """The table as text.

        Parameters
        ----------
        format
            "plain" for a terminal (the best of a column between asterisks), "markdown", "csv"
            (figures alone), "latex" (for booktabs) or "html".

        Raises
        ------
        ValueError
            If the format is none of these.
        """
        if format not in FORMATS:
            raise ValueError(f"format must be one of {FORMATS}, not {format!r}")
        return getattr(self, f"_as_{format}")()

    def _as_plain(self) -> str:
        texts = [[f"*{c.text}*" if c.best else c.text for c in row] for row in self.rows]
        lines = [list(self.headers), *texts]
        widths = [max(len(line[k]) for line in lines) for k in range(len(self.headers))]
        padded = [
            "  ".join(
                text.ljust(width) if k == 0 else text.rjust(width)
                for k, (text, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        rule = "  ".join("-" * width for width in widths)
        return "\n".join([padded[0], rule, *padded[1:], *self.caption])

    def _as_markdown(self) -> str:
        def line(texts: Sequence[str]) -> str:
            return "| " + " | ".join(text.replace("|", r"\|") for text in texts) + " |"

        rule = "|" + "---|" + "---:|" * (len(self.headers) - 1)
        rows = [line([f"**{c.text}**" if c.best else c.text for c in row]) for row in self.rows]
        notes = ["", *(f"{note}  " for note in self.caption)] if self.caption else []
        return "\n".join([line(self.headers), rule, *rows, *notes])

    def _as_csv(self) -> str:
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.headers)
        writer.writerows([cell.text for cell in row] for row in self.rows)
        return out.getvalue().rstrip("\n")

    def _as_latex(self) -> str:
        def escaped(text: str) -> str:
            return "".join(_LATEX.get(character, character) for character in text)

        def shown(cell: Cell) -> str:
            return rf"\textbf{{{escaped(cell.text)}}}" if cell.best else escaped(cell.text)

        lines = [
            r"\begin{tabular}{l" + "r" * (len(self.headers) - 1) + "}",
            r"\toprule",
            " & ".join(escaped(header) for header in self.headers) + r" \\",
            r"\midrule",
            *(" & ".join(shown(cell) for cell in row) + r" \\" for row in self.rows),
            r"\bottomrule",
            r"\end{tabular}",
        ]
        return "\n".join([*lines, *(f"% {note}" for note in self.caption)])

    def _as_html(self) -> str:
        def row(tag: str, cells: Sequence[str]) -> str:
            return "<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in cells) + "</tr>"

        def shown(cell: Cell) -> str:
            text = html.escape(cell.text)
            return f"<strong>{text}</strong>" if cell.best else text

        head = row("th", [html.escape(header) for header in self.headers])
        body = "\n".join(row("td", [shown(cell) for cell in cells]) for cells in self.rows)
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self.caption)
        return f"<table>\n<thead>{head}</thead>\n<tbody>\n{body}\n</tbody>\n</table>{notes}"
