"""The pages of docs/ refer to functions, files and headings that exist."""

import importlib
import re
import warnings
from pathlib import Path
from types import SimpleNamespace

import keras
import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import NETWORKS, make_images, make_pairs

import xplique_dirpairs

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(DOCS.glob("*.md"))
#: Pages that docs/notebook_pages.py makes from the notebooks.
MADE = ["gallery.md"] + [
    f"notebooks/{path.stem}.md" for path in (DOCS.parent / "notebooks").glob("*.ipynb")
]


def resolve(name):
    """Return the object that ``a.b.C.d`` names inside the package."""
    parts = name.split(".")
    for count in range(len(parts) - 1, 0, -1):
        try:
            resolved = importlib.import_module("xplique_dirpairs." + ".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[count:]:
            resolved = getattr(resolved, attribute)
        return resolved
    raise ModuleNotFoundError(name)


def functions_of_the_method():
    """Return the names of all functions in docs/method.md."""
    text = (DOCS / "method.md").read_text(encoding="utf-8")
    rooms = r"pairs\.DirectionPairs|models|learning|metrics|sensitivity"
    return sorted(set(re.findall(rf"`((?:{rooms})\.[\w.]+)`", text)))


def test_the_page_of_the_method_names_more_than_forty_functions():
    assert len(functions_of_the_method()) > 40


@pytest.mark.parametrize("name", functions_of_the_method())
def test_every_function_on_the_page_of_the_method_exists(name):
    assert callable(resolve(name))


def anchors(page):
    """Return the headings of a page as they are written in links."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_to_existing_pages_and_headings(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]*)(?:#[^)]*)?\)", text):
        if target and "://" not in target:
            assert target in MADE or (page.parent / target).exists(), target
            assert not target.startswith(".."), f"{target} is not part of the site"
    for target, heading in re.findall(r"\]\(([^)#\s]*)#([^)]*)\)", text):
        if "://" not in target:
            assert heading in anchors(page.parent / target if target else page), heading


def test_the_api_page_lists_every_public_name():
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    entries = re.findall(r"^::: xplique_dirpairs\.(\S+)$", text, flags=re.M)
    public = set(xplique_dirpairs.__all__) - {"__version__"}
    assert {entry.rsplit(".", 1)[1] for entry in entries} == public
    assert len(entries) == len(public)
    for entry in entries:
        assert resolve(entry) is getattr(xplique_dirpairs, entry.rsplit(".", 1)[1])


def test_the_navigation_of_the_site_lists_every_page():
    text = (DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8")
    listed = re.findall(r"- ([\w/]+\.md)", text)
    assert sorted(listed) == sorted([*(page.name for page in PAGES), *MADE])


def test_the_code_on_interpretability_and_influence_runs():
    pages = ("interpretability", "influence")
    text = "".join((DOCS / f"{name}.md").read_text(encoding="utf-8") for name in pages)
    marked = r"<!-- test: (\S+) -->\n```python\n(.*?)```\n"
    blocks = dict(re.findall(marked, text, flags=re.DOTALL))
    assert list(blocks) == ["interpretability", "groups", "influence", "maximise"]
    assert text.count("```python") == len(blocks)

    keras.utils.set_random_seed(0)
    maker, shape, layer = NETWORKS["conv_gap"]
    model, images = maker(shape), make_images(12, shape)
    g, _ = xplique_dirpairs.split_model(model, layer)
    masks = np.random.default_rng(0).integers(0, 3, images.shape[:3])
    names = {"model": model, "layer": layer, "g": g, "pairs": make_pairs(8, 3), "images": images}
    names |= {"masks": masks, "labels": np.arange(12) % 3, "training_images": images[:5]}
    names |= {"craft": SimpleNamespace(transform=g), "photographs": [0, 0, 1, 1, 2, 2]}
    for block in blocks.values():
        exec(block.replace("random_state=0)  # (I", "steps=1, verbose=0)  # (I"), names)
    assert 0 < names["scores"].s2 <= names["scores"].s1
    assert names["difference"].value == names["scores"].s1 - names["others"].s1
    assert names["found"].scores.shape == (3, 3)
    assert names["pictures"].shape == (3, *shape)


def test_the_code_on_position_runs():
    text = (DOCS / "position.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"<!-- test: position -->\n```python\n(.*?)```\n", text, flags=re.DOTALL)
    maker, shape, layer = NETWORKS["conv_gap"]
    names = {"model": maker(shape), "layer": layer, "pairs": make_pairs(8, 3)}
    names |= {"images": make_images(8, shape), "print": lambda *shown: None}
    exec(block, names)
    assert len(names["found"].verdicts) == 3 and len(names["channels"].verdicts) == 8


def test_the_code_on_the_connectome_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (DOCS / "connectome.md").read_text(encoding="utf-8")
    (block,) = re.findall(
        r"<!-- test: connectome -->\n```python\n(.*?)```\n", text, flags=re.DOTALL
    )
    maker, shape, upper = NETWORKS["conv_gap"]
    model = maker(shape)
    order = [layer.name for layer in model.layers]
    names = {"model": model, "upper": upper, "lower": order[order.index(upper) - 1]}
    names |= {"images": make_images(12, shape), "other_images": make_images(6, shape, seed=1)}
    warnings.simplefilter("ignore")  # few images, of noise
    exec(block.replace(": 8", ": 3"), names | {"print": lambda *shown: None})
    assert (tmp_path / "connectome.npz").exists()


def test_the_code_on_video_runs():
    text = (DOCS / "video.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"<!-- test: video -->\n```python\n(.*?)```\n", text, flags=re.DOTALL)
    for there, here in (
        ("moving_shapes(800)", "moving_shapes(6)"),
        ('train_video_transformer(data, "motion")', "video_transformer(5, layers=1)"),
        ("import train_video_transformer", "import video_transformer"),
        ("subsets=500", "subsets=10"),
        ("subsets=200", "subsets=10"),
    ):
        assert there in block
        block = block.replace(there, here)
    names = {}
    exec(block, names)
    assert names["concepts"].masks(0).shape == (6, 8, 4, 4)
    assert len(names["heads"].importance) == 4
    plt.close("all")
