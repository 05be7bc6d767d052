"""The notebooks run from top to bottom without warnings, and are stored without outputs."""

import ast
import json
import os
import re
from pathlib import Path

import pytest

import xplique_dirpairs

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path, kind="code"):
    """Return the cells of a notebook that are of one kind."""
    all_cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in all_cells if cell["cell_type"] == kind]


def test_there_are_notebooks():
    assert NOTEBOOKS


@every_notebook
def test_a_notebook_is_stored_without_outputs(path):
    for cell in cells(path):
        assert not cell["outputs"] and cell["execution_count"] is None


@every_notebook
def test_a_notebook_imports_public_names_from_the_package(path):
    for cell in cells(path):
        for node in ast.walk(ast.parse("".join(cell["source"]))):
            if isinstance(node, ast.ImportFrom) and node.module == "xplique_dirpairs":
                assert {name.name for name in node.names} <= set(xplique_dirpairs.__all__)


@every_notebook
def test_links_lead_to_existing_files(path):
    for cell in cells(path, "markdown"):
        for target in re.findall(r"\]\(([^)#]+)\)", "".join(cell["source"])):
            assert "://" in target or (path.parent / target).exists(), target


@pytest.mark.slow
@every_notebook
def test_a_notebook_runs_without_warnings(path, tmp_path, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(path.parents[1])]))
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()  # raises if a cell raises
    pictures = 0
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            stderr = output.get("text", "") if output.get("name") == "stderr" else ""
            assert "warning" not in stderr.lower(), stderr
            pictures += "image/png" in output.get("data", {})
    assert pictures >= 1, "the notebook shows no picture"
    assert not list(tmp_path.iterdir()), "the notebook leaves files behind"
