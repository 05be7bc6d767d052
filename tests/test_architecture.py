"""docs/architecture.md is true to the code, as far as a test can tell."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
ROOMS = PAGE.split("## Rooms")[1].split("## How learning works")[0]
PACKAGE = ROOT / "xplique_dirpairs"


def test_every_module_has_a_room_and_every_room_a_module():
    modules = {path.name for path in PACKAGE.rglob("*.py")} - {"__main__.py", "version.py"}
    modules |= {path.name for path in (ROOT / "benchmarks").glob("*.py")}
    assert set(re.findall(r"\w+\.py", ROOMS)) - {"conftest.py"} == modules


def test_links_lead_somewhere():
    for path in re.findall(r"\]\((?!https?:)([^)#]+)", PAGE):
        assert (ROOT / "docs" / path).exists(), path


def test_the_places_that_average_over_replicas_are_counted():
    number, named = re.search(r"\((\w+) places in ([^)]+)\)", PAGE).groups()
    files = re.findall(r"\w+\.py", named)
    sources = {path.name: path.read_text() for path in (PACKAGE / "learning").glob("*.py")}
    calls = {name: len(re.findall(r"(?<!\w)average\(", text)) for name, text in sources.items()}
    assert {name for name, count in calls.items() if count} == set(files)
    assert {"nine": 9}[number] == sum(calls.values())
