"""docs/architecture.md agrees with the code."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
ROOMS = PAGE.split("## Rooms")[1].split("## How learning works")[0]
PACKAGE = ROOT / "xplique_dirpairs"


def test_the_table_of_rooms_lists_every_folder_of_the_package():
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert set(re.findall(r"^\| `(\w+)`", ROOMS, re.MULTILINE)) == folders | {"pairs"}


def test_pairs_is_the_only_module_with_content_at_the_root():
    modules = {path.stem for path in PACKAGE.glob("*.py")}
    assert modules == {"__init__", "__main__", "version", "pairs"}


def test_links_lead_to_existing_files():
    for path in re.findall(r"\]\((?!https?:)([^)#]+)", PAGE):
        assert (ROOT / "docs" / path).exists(), path


def test_the_page_counts_the_places_that_average_over_replicas():
    number, named = re.search(r"\((\w+) places in ([^)]+)\)", PAGE).groups()
    files = re.findall(r"\w+\.py", named)
    sources = {path.name: path.read_text() for path in (PACKAGE / "learning").glob("*.py")}
    calls = {name: len(re.findall(r"(?<!\w)average\(", text)) for name, text in sources.items()}
    assert {name for name, count in calls.items() if count} == set(files)
    assert {"nine": 9}[number] == sum(calls.values())
