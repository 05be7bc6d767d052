"""Writing of a report to disk, as a folder or as a single file."""

from __future__ import annotations

import base64
import html
import shutil
from collections.abc import Iterable, Iterator
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

from xplique_dirpairs.report.connectome_page import connectome_page
from xplique_dirpairs.report.content import Report
from xplique_dirpairs.report.payload import Payload, as_script, clean

#: Folder of the HTML page, its style sheet and its scripts.
ASSETS = files("xplique_dirpairs.report") / "assets"
#: Name of the folder beside index.html that holds all other files of a report.
BESIDE = "report_files"
#: Name of the file that marks a folder as part of a report: other folders are never replaced.
MARKER = "made_by_xplique_dirpairs.txt"

_MIME = {".jpg": "image/jpeg", ".png": "image/png", ".webp": "image/webp"}


def save_report(report: Report, path: str | Path, single_file: bool = False) -> Path:
    """Write a report to disk, as HTML that opens in a browser without a server.

    Parameters
    ----------
    report : Report
        Content of the report.
    path : str or Path
        A folder, which is created if needed; an earlier report in it is replaced. With
        ``single_file``, an HTML file.
    single_file : bool, default=False
        Whether to write everything to one HTML file, which is about a third larger than the files
        of a folder together. Pages of connectomes are files beside it.

    Returns
    -------
    page : Path
        The file to open in a browser: ``index.html`` in the folder, or the single file.

    Raises
    ------
    NotADirectoryError
        If the path is a file, and ``single_file`` is False.
    IsADirectoryError
        If the path is a folder, and ``single_file`` is True.
    FileExistsError
        If the folder holds a ``report_files`` that is not part of a report.
    OSError
        If a file cannot be written, as on a full disk. Half of a report is removed again.
    """
    path = Path(path)
    check_place(path, single_file)
    numbers = range(len(report.connectomes))
    if single_file:
        names = [f"{path.stem}_connectome_{n}.html" for n in numbers]
        payload = Payload(report, [quote(name) for name in names])
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_connectomes(report, [path.with_name(name) for name in names], quote(path.name))
        style = f"<style>\n{_asset('report.css')}</style>"
        return _write_page(path, report.title, style, _inline_scripts(payload))
    page = path / "index.html"
    page.unlink(missing_ok=True)  # An interrupted report must not have an index.html.
    names = [f"{BESIDE}/connectome_{n}.html" for n in numbers]
    _write_beside(Payload(report, names), path / BESIDE)
    _write_connectomes(report, [path / name for name in names], f"../{page.name}")
    style = f'<link rel="stylesheet" href="{BESIDE}/report.css">'
    scripts = [f'<script src="{BESIDE}/{name}.js"></script>' for name in ("report", "data")]
    return _write_page(page, report.title, style, scripts)


def _write_connectomes(report: Report, pages: list[Path], address: str) -> None:
    """Write the pages of connectomes, which lead back to the report's address."""
    for one, page in zip(report.connectomes, pages, strict=True):
        text = connectome_page(
            one.connectome, f"Connectome: {one.name}", report=address, report_layer=one.layer
        )
        page.write_text(text, encoding="utf-8")


def check_place(path: Path, single_file: bool) -> None:
    """Raise an error unless a report can be written to a path.

    Parameters
    ----------
    path : Path
        See `save_report`.
    single_file : bool
        See `save_report`.

    Raises
    ------
    NotADirectoryError
        If the path is a file, and a folder is needed.
    IsADirectoryError
        If the path is a folder, and a file is needed.
    FileExistsError
        If the folder has a ``report_files`` that was not written by a report.
    """
    if single_file:
        if path.is_dir():
            raise IsADirectoryError(
                f"path must be a file with single_file=True, but {path} is a folder"
            )
        return
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{path} is a file: choose a folder, or use single_file=True")
    beside = path / BESIDE
    if beside.exists() and not (beside / MARKER).exists():
        raise FileExistsError(f"{beside} was not written by a report: choose another folder")


def _write_beside(payload: Payload, folder: Path) -> None:
    """Write everything except the page to a folder, replacing that of an earlier report."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        _write_files(payload, folder)
    except OSError:  # such as that of a full disk: half of a report shows nothing
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _write_files(payload: Payload, folder: Path) -> None:
    """Write the files beside the page to an empty folder."""
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
    """Yield the script tags of a single file; data and pictures are in tags that do not run."""
    for key, value in payload.parts():
        yield f'<script type="application/json" id="stored-{key}">{as_script(value)}</script>'
    for path, content in payload.pictures.items():
        coded = base64.b64encode(content).decode("ascii")
        source = f"data:{_MIME[Path(path).suffix]};base64,{coded}"
        yield f'<script type="text/plain" id="stored-{path}">{source}</script>'
    yield f"<script>\n{_scripts()}</script>"


def _write_page(page: Path, title: str, style: str, scripts: Iterable[str]) -> Path:
    """Write the HTML page with the tags of its style and scripts, and return its path."""
    before, after = _asset("page.html").split("{{scripts}}")
    before = before.replace("{{style}}", style).replace("{{title}}", html.escape(clean(title)))
    page.parent.mkdir(parents=True, exist_ok=True)
    is_open = False
    try:
        with page.open("w", encoding="utf-8") as file:
            is_open = True
            file.write(before)
            file.writelines(f"{script}\n" for script in scripts)
            file.write(after)
    except OSError:
        if is_open:  # otherwise what is there is another file, which may not be changed
            page.unlink(missing_ok=True)
        raise
    return page


def _scripts() -> str:
    """Return the text of all scripts; the last of them, app.js, starts the page."""
    names = {asset.name for asset in ASSETS.iterdir() if asset.name.endswith(".js")}
    ordered = [*sorted(names - {"app.js"}), "app.js"]
    return "".join(["'use strict';\n", *(_asset(name) for name in ordered)])


def _asset(name: str) -> str:
    """Return the text of a file in the folder of assets."""
    return (ASSETS / name).read_text(encoding="utf-8")
