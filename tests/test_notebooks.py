"""The notebooks run from top to bottom without warnings, and are stored without outputs."""

import ast
import json
import os
import re
import subprocess
import sys
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


@pytest.fixture(scope="module")
def folder_of_results(tmp_path_factory):
    """Folder of the notebooks that have been run: RUN_NOTEBOOKS, or else they are run here."""
    if "RUN_NOTEBOOKS" in os.environ:
        return Path(os.environ["RUN_NOTEBOOKS"])
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    folder = tmp_path_factory.mktemp("notebooks")
    root = Path(__file__).parents[1]
    settings = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), *sys.path])}
    words = [sys.executable, root / "notebooks" / "run_all.py", "--output", folder]
    ran = subprocess.run(words, capture_output=True, text=True, env=settings)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return folder


@pytest.mark.slow
@every_notebook
def test_a_notebook_runs_without_warnings_and_shows_pictures(path, folder_of_results):
    notebook = json.loads((folder_of_results / path.name).read_text(encoding="utf-8"))
    pictures = 0
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            stderr = "".join(output["text"]) if output.get("name") == "stderr" else ""
            # (XLA says once in a process that it compiled something)
            stderr = re.sub(
                r"^(WARNING: All log messages before absl|I0000).*$", "", stderr, flags=re.M
            )
            assert "warning" not in stderr.lower(), stderr
            pictures += "image/png" in output.get("data", {})
    assert pictures >= 1, "the notebook shows no picture"
    assert not notebook["metadata"]["run"]["files_left"]
