"""A report on disk: a folder, or one file that holds everything."""

from __future__ import annotations

import base64
import html
import shutil
from collections.abc import Iterable, Iterator
from importlib.resources import files
from pathlib import Path

from xplique_dirpairs.report.content import Report
from xplique_dirpairs.report.payload import Payload, as_script, clean

#: Page, styles and scripts.
ASSETS = files("xplique_dirpairs.report") / "assets"
#: Folder beside index.html, of everything else.
BESIDE = "report_files"
#: A file that marks a folder as a report's: no other folder is replaced.
MARKER = "made_by_xplique_dirpairs.txt"

_MIME = {".jpg": "image/jpeg", ".png": "image/png"}


def save_report(report: Report, path: str | Path, single_file: bool = False) -> Path:
    """Write a report.

    Parameters
    ----------
    report : Report
    path : str or Path
        A folder, which is made if needed; or a file, with ``single_file``.
    single_file : bool, default=False
        Everything in one HTML file, about a third larger.

    Returns
    -------
    page : Path
        What to open in a browser: ``index.html`` in the folder, or the file.

    Raises
    ------
    NotADirectoryError, IsADirectoryError, FileExistsError
        As from `check_place`.
    """
    path = Path(path)
    check_place(path, single_file)
    payload = Payload(report)
    if single_file:
        style = f"<style>\n{_asset('report.css')}</style>"
        return _write_page(path, report.title, style, _inline_scripts(payload))
    page = path / "index.html"
    page.unlink(missing_ok=True)  # an interrupted report has none
    _write_beside(payload, path / BESIDE)
    style = f'<link rel="stylesheet" href="{BESIDE}/report.css">'
    scripts = [f'<script src="{BESIDE}/{name}.js"></script>' for name in ("report", "data")]
    return _write_page(page, report.title, style, scripts)


def check_place(path: Path, single_file: bool) -> None:
    """Raise an error unless a report can be written to a path.

    Raises
    ------
    NotADirectoryError, IsADirectoryError, FileExistsError
        If the path is a file, or a folder, where the other is needed, or its ``report_files`` are
        not of a report.
    """
    if single_file:
        if path.is_dir():
            raise IsADirectoryError(f"with single_file a report is a file, but {path} is a folder")
        return
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"a report is written to a folder, but {path} is a file")
    beside = path / BESIDE
    if beside.exists() and not (beside / MARKER).exists():
        raise FileExistsError(f"{beside} is not of a report: choose another folder, or move it")


def _write_beside(payload: Payload, folder: Path) -> None:
    """Write everything but the page to a folder, which replaces that of an earlier report."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / MARKER).write_text("This folder is replaced when the report is written again.\n")
    for key, value in payload.parts():
        text = f"reportData({as_script(key)},{as_script(value)});\n"
        (folder / f"{key}.js").write_text(text, encoding="ascii")
    for path, content in payload.pictures.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(content)
    (folder / "report.css").write_text(_asset("report.css"), encoding="utf-8")
    (folder / "report.js").write_text(_scripts(), encoding="utf-8")


def _inline_scripts(payload: Payload) -> Iterator[str]:
    """Yield scripts for one file: data and pictures stand in some that do not run."""
    for key, value in payload.parts():
        yield f'<script type="application/json" id="stored-{key}">{as_script(value)}</script>'
    for path, content in payload.pictures.items():
        coded = base64.b64encode(content).decode("ascii")
        source = f"data:{_MIME[Path(path).suffix]};base64,{coded}"
        yield f'<script type="text/plain" id="stored-{path}">{source}</script>'
    yield f"<script>\n{_scripts()}</script>"


def _write_page(page: Path, title: str, style: str, scripts: Iterable[str]) -> Path:
    """Write the HTML page, with tags of its styles and scripts, and return its path."""
    before, after = _asset("page.html").split("{{scripts}}")
    before = before.replace("{{style}}", style).replace("{{title}}", html.escape(clean(title)))
    page.parent.mkdir(parents=True, exist_ok=True)
    with page.open("w", encoding="utf-8") as file:
        file.write(before)
        file.writelines(f"{script}\n" for script in scripts)
        file.write(after)
    return page


def _scripts() -> str:
    """Return all scripts in one; the last of them, app.js, starts the page."""
    names = {asset.name for asset in ASSETS.iterdir() if asset.name.endswith(".js")}
    ordered = [*sorted(names - {"app.js"}), "app.js"]
    return "".join(["'use strict';\n", *(_asset(name) for name in ordered)])


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")
