"""Files of a report load nothing from the network, and names in them are never markup."""

import base64
import configparser
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from fake_report import HOSTILE, fake_report, hostile

from xplique_dirpairs.report.page_files import BESIDE, MARKER, save_report
from xplique_dirpairs.report.payload import as_script, clean
from xplique_dirpairs.report.pictures import crop_side, cut, encoded, scaled_down

ROOT = Path(__file__).parents[2]
ASSETS = ROOT / "xplique_dirpairs" / "report" / "assets"


class Page(HTMLParser):
    """Tags of a page with their attributes, and the text of its scripts by their id."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.texts = [], {}, []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        tag, attributes = self.tags[-1] if self.tags else ("", {})
        self.texts.append(data)
        if tag == "script" and "id" in attributes:
            self.scripts[attributes["id"]] = self.scripts.get(attributes["id"], "") + data


@pytest.fixture(scope="module")
def report():
    return fake_report(6, 7, 30, 72, hostile)


@pytest.fixture(scope="module")
def folder(report, tmp_path_factory):
    return save_report(report, tmp_path_factory.mktemp("report")).parent


@pytest.fixture(scope="module")
def page(report, tmp_path_factory):
    path = save_report(
        report, tmp_path_factory.mktemp("one") / "deep" / "one.html", single_file=True
    )
    return Page(path.read_text(encoding="utf-8"))


def data_of(folder, key="data"):
    """Return the data in one of the script files of a report."""
    text = (folder / BESIDE / f"{key}.js").read_text(encoding="ascii")
    start = f"reportData({json.dumps(key)},"
    assert text.startswith(start) and text.endswith(");\n")
    return json.loads(text[len(start) : -3])


def test_data_hold_the_names_of_concepts_classes_and_images(folder, report):
    data = data_of(folder)
    assert data["title"] == clean(report.title)
    assert [one["name"] for one in data["concepts"]] == [
        clean(name) for name in report.explanation.concept_names
    ]
    assert data["names"] == {str(k): clean(name) for k, name in report.class_names.items()}
    assert [one["name"] for one in data["images"]] == [clean(n) for n in report.images.names]


def test_data_can_neither_end_a_script_nor_begin_markup(folder, page):
    for path in (folder / BESIDE).glob("*.js"):
        if path.name != "report.js":
            assert not set("<>&") & set(path.read_text(encoding="ascii"))
    plain = save_report(fake_report(6, 7, 30, 72), folder.parent / "plain.html", single_file=True)
    same = Page(plain.read_text(encoding="utf-8"))
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in same.tags]
    assert [sorted(a) for _, a in page.tags] == [sorted(a) for _, a in same.tags]


def test_a_single_file_holds_the_same_data_and_pictures_as_a_folder(folder, page):
    for key in ("data", "maps-0000", "maps-0001"):
        stored, beside = json.loads(page.scripts[f"stored-{key}"]), data_of(folder, key)
        for one in (*stored.get("connectomes", ()), *beside.get("connectomes", ())):
            del one["page"]  # the only thing that lies elsewhere
        assert stored == beside
    pictures = [path for path in (folder / BESIDE).glob("*/*")]
    assert len(pictures) >= 30 + 6
    for path in pictures:
        stored = page.scripts[f"stored-{path.parent.name}/{path.name}"]
        head, coded = stored.split(",")
        assert (
            head
            == {"png": "data:image/png;base64", "jpg": "data:image/jpeg;base64"}[path.suffix[1:]]
        )
        assert base64.b64decode(coded) == path.read_bytes()


def test_every_picture_in_the_data_exists_and_shows_its_image(folder, report):
    data = data_of(folder)
    named = [image["picture"] for image in data["images"]]
    strips = [concept["crops"] for concept in data["concepts"] if concept["crops"]]
    strips += [
        found["crops"] for k in data["classes"] for e in k["extractors"] for found in e["concepts"]
    ]
    for strip in strips:
        height, width = cv2.imread(str(folder / BESIDE / strip["picture"])).shape[:2]
        assert width == strip["count"] * height
    for path, picture in zip(named, report.images.pictures, strict=True):
        read = cv2.imread(str(folder / BESIDE / path))[..., ::-1]
        assert np.abs(read.astype(float) - picture).mean() < 12
    assert data["concepts"][0]["crops"] is None  # one concept is detected nowhere


def test_maps_are_stored_with_one_byte_per_cell(folder, report):
    maps = report.images.maps
    for n in (0, 24, 25, 29):
        part = data_of(folder, f"maps-{n // 25:04d}")
        stored = part["images"][n % 25]
        cells = np.frombuffer(base64.b64decode(stored["cells"]), np.uint8)
        cells = cells.reshape(-1, part["height"], part["width"])
        detected = [i for i in range(maps.shape[-1]) if maps[n, ..., i].any()]
        assert stored["concepts"] == detected
        for i, cell in zip(detected, cells, strict=True):
            np.testing.assert_allclose(cell / 255, maps[n, ..., i], atol=1 / 255)
            np.testing.assert_array_equal(cell > 0, maps[n, ..., i] > 0)


def test_pages_load_nothing_from_the_network(folder, page):
    for tag, attributes in [*page.tags, *Page((folder / "index.html").read_text("utf-8")).tags]:
        for name in ("src", "href"):
            target = attributes.get(name, "#")
            assert target.startswith(("#", f"{BESIDE}/", "data:,")), (tag, target)
    for path in ASSETS.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|@import|url\(|fetch\(|XMLHttpRequest|sendBeacon", text), path


def test_scripts_never_interpret_text_as_markup_or_code():
    for path in ASSETS.glob("*.js"):
        forbidden = (
            r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function|</script"
        )
        assert not re.search(forbidden, path.read_text(encoding="utf-8")), path


def test_the_report_contains_all_scripts_and_ends_with_the_one_that_starts_it(folder):
    text = (folder / BESIDE / "report.js").read_text(encoding="utf-8")
    for path in ASSETS.glob("*.js"):
        assert path.read_text(encoding="utf-8") in text, path
    assert text.endswith((ASSETS / "app.js").read_text(encoding="utf-8"))


def test_package_data_include_all_assets():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    patterns = setup["options.package_data"]["xplique_dirpairs"].split()
    package = ROOT / "xplique_dirpairs"
    packed = {path for pattern in patterns for path in package.glob(pattern)}
    assert set(ASSETS.iterdir()) <= packed


def test_a_report_replaces_an_earlier_report_but_no_other_files(tmp_path):
    save_report(fake_report(2, 3, 8), tmp_path)
    (tmp_path / "mine.txt").write_text("kept")
    save_report(fake_report(2, 3, 3), tmp_path)
    assert len(list((tmp_path / BESIDE / "images").iterdir())) == 3
    assert (tmp_path / "mine.txt").read_text() == "kept"
    (tmp_path / BESIDE / MARKER).unlink()
    with pytest.raises(FileExistsError, match="was not written by a report: choose another folder"):
        save_report(fake_report(2, 3, 3), tmp_path)


def test_a_file_instead_of_a_folder_or_a_folder_instead_of_a_file_is_refused(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(NotADirectoryError, match="is a file"):
        save_report(fake_report(), file)
    with pytest.raises(IsADirectoryError, match="is a folder"):
        save_report(fake_report(), tmp_path, single_file=True)


@pytest.mark.parametrize("name", HOSTILE)
def test_any_name_can_be_written_to_a_script_and_read_back(name):
    text = as_script({"a": clean(name)})
    assert text.isascii() and not set("<>&") & set(text)
    assert json.loads(text) == {"a": name.encode("utf-8", "replace").decode("utf-8")}


def test_pictures_are_scaled_down_but_never_enlarged(rng):
    wide = rng.integers(0, 255, (50, 400, 3), np.uint8)
    assert scaled_down(wide, 100).shape == (12, 100, 3)
    assert scaled_down(wide, 500) is wide
    small = rng.integers(0, 255, (9, 12, 3), np.uint8)
    content, ending = encoded(small)
    assert ending == ".png"  # without loss
    read = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(read, small)
    assert encoded(wide.repeat(3, axis=0))[1] == ".jpg"


def test_a_cut_shows_the_given_box_of_the_picture(rng):
    picture = rng.integers(0, 255, (20, 40, 3), np.uint8)
    np.testing.assert_array_equal(
        cut(picture, (0.25, 0.5, 0.75, 0.75), 10), picture[5:15, 20:30]
    )  # fmt: skip
    assert cut(picture, (0, 0, 1, 1), 16).shape == (16, 16, 3)
    assert (crop_side(10.4), crop_side(64), crop_side(70), crop_side(500)) == (10, 64, 80, 128)
