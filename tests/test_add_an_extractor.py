"""Tests that docs/add_an_extractor.md works as written."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import NETWORKS

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "add_an_extractor.md").read_text(encoding="utf-8")
#: What a block of code is for → its code. Blocks without a mark are not tested: there are none.
BLOCKS = dict(re.findall(r"<!-- test: (\S+) -->\n```\w+\n(.*?)```\n", PAGE, flags=re.DOTALL))


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Return a folder with the page's module, from which it can be imported."""
    (tmp_path / "truncated_svd.py").write_text(BLOCKS["truncated_svd.py"], encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("truncated_svd", None)


def test_every_block_of_code_of_the_page_is_tested():
    assert list(BLOCKS) == ["truncated_svd.py", "import", "line", "command", "use"]
    assert PAGE.count("```") == 2 * len(BLOCKS)


def test_the_files_and_names_on_the_page_exist():
    for path in re.findall(r"`((?:tests|factorizers)/[\w/.]+)`", PAGE):
        assert (ROOT / path).exists() or (ROOT / "xplique_dirpairs" / path).exists(), path
    source = (ROOT / "xplique_dirpairs" / "factorizers" / "base.py").read_text(encoding="utf-8")
    assert "class AffineFactorizer" in source and "class LinearFactorizer" in source


@pytest.mark.slow
def test_with_its_line_in_the_table_the_example_passes_the_contract(written):
    tests = written / "tests"
    (tests / "factorizers").mkdir(parents=True)
    for name in ("conftest.py", "factorizers/test_contract.py"):
        shutil.copy(ROOT / "tests" / name, tests / name)
    shutil.copy(ROOT / "setup.cfg", written)
    contract = tests / "factorizers" / "test_contract.py"
    source = contract.read_text(encoding="utf-8")
    table = "FACTORIZERS = {\n"
    assert source.count(table) == 1
    source = source.replace(table, BLOCKS["import"] + table + BLOCKS["line"])
    contract.write_text(source, encoding="utf-8")
    python, *arguments = shlex.split(BLOCKS["command"])
    assert python == "python"
    done = subprocess.run(
        [sys.executable, *arguments, "-q", "-p", "no:cacheprovider"],
        cwd=written,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(written), str(ROOT)])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    passed = int(re.search(r"(\d+) passed", done.stdout).group(1))
    assert passed > 40 and "skipped" not in done.stdout and "failed" not in done.stdout


def test_the_example_works_in_craft(written, images):
    keras.utils.set_random_seed(0)
    maker, shape, layer = NETWORKS["conv_gap"]
    assert layer == "features"
    names = {"model": maker(shape), "images": images("conv_gap")}
    exec(BLOCKS["use"], names)
    craft, importances = names["craft"], names["importances"]
    assert importances.shape == (4,) and importances.max() > 0
    bank = names["concept_bank_w"]
    np.testing.assert_allclose(bank @ bank.T, np.eye(4), atol=1e-5)
    x = names["g"].predict_on_batch(names["images"]).reshape(-1, bank.shape[1])
    energies = np.linalg.svd(x, compute_uv=False)
    lost = np.square(craft.factorizer.residual(x), dtype=np.float64).sum()
    assert lost == pytest.approx(np.square(energies[4:]).sum(), rel=1e-3)
