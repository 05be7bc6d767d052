import configparser
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np

import xplique_dirpairs.report.connectome_page as connectome_page_module
from xplique_dirpairs.connectome.result import Connectome, Edges, LayerConcepts
from xplique_dirpairs.report.connectome_page import connectome_page


def small(name="wheel"):
    pictures = np.full((2, 8, 8, 3), 200, np.uint8)
    layers = tuple(
        LayerConcepts(
            layer,
            (name, "body"),
            np.eye(2, 4),
            np.zeros((2, 4)),
            np.ones(2),
            (pictures, pictures[:0]),
        )
        for layer in ("early", "late")
    )
    kept = np.array([[True, False], [True, True]])
    values = np.array([[0.5, 0.1], [-0.2, 0.9]])
    edges = Edges(values, values, values, 1 - np.abs(values), kept)
    settings = {"level": 0.05, "correction": "none", "images": 3, "direction": "signals"}
    return Connectome(layers, (edges, edges), (0, 1), ("street", "village"), settings)


def data_of(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page)[1])


def test_page_has_concepts_kept_edges_and_chains():
    found = small()
    data = data_of(connectome_page(found))
    assert [layer["name"] for layer in data["layers"]] == ["early", "late", "class"]
    assert data["layers"][0]["concepts"][0]["crops"][0].startswith("data:image/png;base64,")
    assert data["layers"][0]["concepts"][1]["crops"] == []
    assert [edge[:2] for edge in data["edges"][0]] == [[1, 1], [0, 0], [1, 0]]
    strongest = found.paths("village")[0]
    assert data["chains"][1][0] == [*strongest.concepts, round(strongest.effect, 6)]


def test_classes_of_the_same_name_have_their_own_chains():
    found = small()
    chains = data_of(connectome_page(found))["chains"]
    data = data_of(connectome_page(replace(found, class_names=("crane", "crane"))))
    assert data["chains"] == chains and chains[0] != chains[1]
    assert [one["name"] for one in data["layers"][-1]["concepts"]] == ["crane (0)", "crane (1)"]


def test_names_cannot_become_markup():
    page = connectome_page(small("<script>alert(1)</script>"), title="<b>x</b>")
    assert "<script>alert" not in page and "<b>x" not in page
    assert data_of(page)["layers"][0]["concepts"][0]["name"] == "<script>alert(1)</script>"


def test_the_page_loads_nothing_and_its_files_are_packed():
    walk = Path(connectome_page_module.__file__).parent / "walk"
    for path in walk.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|@import|url\(|fetch\(|innerHTML|eval\(", text), path
    setup = configparser.ConfigParser()
    setup.read(Path(__file__).parents[2] / "setup.cfg")
    assert "report/walk/*" in setup["options.package_data"]["xplique_dirpairs"]
