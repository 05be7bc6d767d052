"""A report on disk: a folder, or one file that holds all."""

from __future__ import annotations

import base64
import html
import shutil
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from xplique_dirpairs.report.content import Report
from xplique_dirpairs.report.payload import Payload, as_script, clean

#: Scripts, in the order in which they run.
SCRIPTS = (
    "page_parts.js",
    "stored_data.js",
    "charts.js",
    "overview.js",
    "concepts.js",
    "classes.js",
    "images.js",
    "comparison.js",
    "help.js",
    "app.js",
)
#: Beside index.html: everything else of a report.
BESIDE = "report_files"
#: A file in it that says whose it is: only such folders are replaced.
MARKER = "made_by_xplique_dirpairs.txt"

_MIME = {".jpg": "image/jpeg", ".png": "image/png"}


def check_place(path: Path, single_file: bool) -> None:
    """A report can be written there.

    Raises
    ------
    NotADirectoryError, IsADirectoryError, FileExistsError
    """
    if single_file and path.is_dir():
        raise IsADirectoryError(f"with single_file a report is a file, but {path} is a folder")
    if single_file:
        return
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"a report is written to a folder, but {path} is a file")
    beside = path / BESIDE
    if beside.exists() and not (beside / MARKER).exists():
        raise FileExistsError(f"{beside} is not of a report: choose another folder, or move it")


def write_folder(report: Report, folder: Path) -> Path:
    """index.html, and all else in a folder beside it, which replaces that of an earlier report."""
    check_place(folder, single_file=False)
    page, beside = folder / "index.html", folder / BESIDE
    page.unlink(missing_ok=True)  # an interrupted report has none
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    (beside / MARKER).write_text("This folder is replaced when the report is written again.\n")
    payload = Payload(report)
    data = payload.data()
    for key, value in [("data", data), *payload.maps()]:
        text = f"reportData({as_script(key)},{as_script(value)});\n"
        (beside / f"{key}.js").write_text(text, encoding="ascii")
    for path, content in payload.pictures.items():
        (beside / path).parent.mkdir(exist_ok=True)
        (beside / path).write_bytes(content)
    (beside / "report.css").write_text(_asset("report.css"), encoding="utf-8")
    (beside / "report.js").write_text(_scripts(), encoding="utf-8")
    _write_page(
        page,
        report,
        f'<link rel="stylesheet" href="{BESIDE}/report.css">',
        [f'<script src="{BESIDE}/{name}.js"></script>' for name in ("report", "data")],
    )
    return page


def write_file(report: Report, page: Path) -> Path:
    """One file: data and pictures stand in scripts that do not run, until they are looked at."""
    check_place(page, single_file=True)
    page.parent.mkdir(parents=True, exist_ok=True)
    payload = Payload(report)
    data = payload.data()
    _write_page(
        page,
        report,
        f"<style>\n{_asset('report.css')}</style>",
        _inline(payload, data),
    )
    return page


def _inline(payload: Payload, data: dict) -> Iterator[str]:
    for key, value in [("data", data), *payload.maps()]:
        yield f'<script type="application/json" id="stored-{key}">{as_script(value)}</script>'
    for path, content in payload.pictures.items():
        coded = base64.b64encode(content).decode("ascii")
        source = f"data:{_MIME[Path(path).suffix]};base64,{coded}"
        yield f'<script type="text/plain" id="stored-{path}">{source}</script>'
    yield f"<script>\n{_scripts()}</script>"


def _write_page(page: Path, report: Report, style: str, scripts) -> None:
    before, after = _asset("page.html").split("{{scripts}}")
    before = before.replace("{{style}}", style)
    before = before.replace("{{title}}", html.escape(clean(report.title)))
    with page.open("w", encoding="utf-8") as file:
        file.write(before)
        file.writelines(f"{script}\n" for script in scripts)
        file.write(after)


def _scripts() -> str:
    return "".join(["'use strict';\n", *(_asset(name) for name in SCRIPTS)])


def _asset(name: str) -> str:
    return (files("xplique_dirpairs.report") / "assets" / name).read_text(encoding="utf-8")
