"""What the pages of concepts and classes offer in headless Chromium; skipped without it."""

import csv
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from fake_report import fake_report, hostile
from in_browser import CHROMIUM, PHONE, WIDE, Visit, opened_browser

from xplique_dirpairs.report.page_files import save_report
from xplique_dirpairs.report.payload import clean

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium"
)

CLASSES, CONCEPTS, IMAGES = 6, 11, 70


@pytest.fixture(scope="module")
def browser():
    yield from opened_browser()


@pytest.fixture(scope="module")
def report():
    return fake_report(CLASSES, CONCEPTS, IMAGES, 48, cells=4)


@pytest.fixture(scope="module")
def page(report, tmp_path_factory):
    return save_report(report, tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def hostile_file(tmp_path_factory):
    report = fake_report(CLASSES, CONCEPTS, IMAGES, 48, hostile, cells=4)
    return save_report(report, tmp_path_factory.mktemp("hostile") / "one.html", single_file=True)


@pytest.mark.parametrize("viewport", [WIDE, PHONE])
def test_crops_fan_out_by_keyboard_and_close_by_escape(browser, page, report, viewport):
    with Visit(browser, page, viewport) as visit:
        visit.go("/class/1")
        button = visit.page.locator("button.crops").first
        name = button.get_attribute("aria-label")
        i = int(name.removeprefix("All crops of concept "))
        button.focus()
        visit.page.keyboard.press("Enter")
        fan = visit.page.locator("dialog.fan")
        assert fan.locator("img").count() == 10
        assert fan.get_attribute("aria-label") == f"Crops of concept {i}"
        assert visit.page.evaluate("document.activeElement.closest('dialog') !== null")
        visit.page.keyboard.press("ArrowRight")  # no page is turned behind the fan
        assert visit.page.evaluate("location.hash") == "#/class/1"
        visit.page.keyboard.press("Escape")
        fan.wait_for(state="detached")
        assert visit.page.evaluate("document.activeElement.ariaLabel") == name
        button.click()
        shown = [n for n in report.concepts.crop_images[i] if n >= 0]
        assert fan.locator("li a").count() == len(shown)
        fan.locator("li a").first.click()
        visit.wait_for_heading(f"image {shown[0]}")
        fan.wait_for(state="detached")
        assert visit.wrong == []


def test_images_of_a_class_are_dots_coloured_by_their_strongest_concept(browser, page, report):
    images = report.images
    with Visit(browser, page) as visit:
        for k in range(CLASSES):
            visit.go(f"/class/{k}")
            own = np.flatnonzero((images.likeliest[:, 0] == k) & ~np.isnan(images.places[:, 0]))
            dots = visit.page.locator(".dot")
            assert dots.count() == len(own) > 0
            strongest = visit.page.evaluate(
                "() => [...document.querySelectorAll('.dot')].map((dot) => dot.dataset.concept)"
            )
            assert strongest == [str(i) for i in images.contributions[own].argmax(axis=1)]
        assert "distances between groups and sizes of groups mean nothing" in visit.page.inner_text(
            "main"
        )
        visit.page.locator(".dot").last.focus()
        assert f"image {own[-1]}" in visit.page.locator(".preview").inner_text()
        visit.page.keyboard.press("Enter")
        visit.wait_for_heading(f"image {own[-1]}")
        assert visit.wrong == []


def test_too_few_images_to_arrange_are_said_to_be_too_few(browser, report, tmp_path):
    few = replace(report, images=replace(report.images, places=np.full((IMAGES, 2), np.nan)))
    with Visit(browser, save_report(few, tmp_path)) as visit:
        visit.go("/class/1")
        assert visit.page.locator(".dot").count() == 0
        assert "too few to arrange" in visit.page.inner_text("main")


def test_similar_concepts_are_linked_both_ways_and_classes_pointed_to_are_ranked(
    browser, report, tmp_path
):
    cosines = np.eye(CONCEPTS)
    cosines[2, 7] = cosines[7, 2] = 0.61
    cosines[2, 4] = cosines[4, 2] = 0.59
    cosines[2, 5] = cosines[5, 2] = -0.9
    similar = replace(report, concepts=replace(report.concepts, signal_cosines=cosines))
    with Visit(browser, save_report(similar, tmp_path)) as visit:
        for i, other in ((2, 7), (7, 2)):
            visit.go(f"/concept/{i}")
            assert visit.texts("a.similar") == [f"concept {other}"]
            visit.page.locator("a.similar").click()
            visit.wait_for_heading(f"concept {other}")
        visit.go("/concept/4")
        assert "No other signal vector has a cosine above 0.6" in visit.page.inner_text("main")
        for i in range(CONCEPTS):
            visit.go(f"/concept/{i}")
            values = report.concepts.pointed_values[i]
            classes = report.concepts.pointed_classes[i][values > 0]
            assert visit.texts(".pointed a") == [f"class {k}" for k in classes]
        assert visit.wrong == []


def saved(visit, name):
    """Return the text of the file that a link saves."""
    with visit.page.expect_download() as started:
        visit.page.get_by_role("link", name=name).click()
    return started.value.suggested_filename, started.value.path().read_text(encoding="utf-8")


def test_the_data_of_a_concept_are_saved_as_csv_with_any_names(browser, hostile_file):
    report = fake_report(CLASSES, CONCEPTS, IMAGES, 48, hostile, cells=4)
    influence = report.explanation.influence
    with Visit(browser, hostile_file) as visit:
        visit.go("/concept/3")
        name, text = saved(visit, "Save as CSV")
        assert visit.page.evaluate("location.hash") == "#/concept/3"
        assert visit.wrong == []
    assert name == "concept-3.csv"
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["class name"].strip() for row in rows] == [
        clean(hostile("class", k)).strip() for k in range(CLASSES)
    ]
    for column, values in (
        ("effect (logits)", influence.effects[3]),
        ("interval (+-)", influence.intervals[3]),
        ("contribution (logits)", report.explanation.contributions[:, 3]),
    ):
        np.testing.assert_allclose([float(row[column]) for row in rows], values, rtol=1e-5)
    assert rows[0]["p"] == "" and rows[0]["test"].startswith("not tested: fewer than 10 images")


def test_names_typed_into_the_page_are_shown_found_and_saved(browser, report, tmp_path):
    numbers = tuple(str(i) for i in range(CONCEPTS))
    unnamed = replace(report, explanation=replace(report.explanation, concept_names=numbers))
    with Visit(browser, save_report(unnamed, tmp_path)) as visit:
        typed = {4: "wheel", 0: 'a "big" <b>dog</b>'}
        for i, name in typed.items():
            visit.go(f"/concept/{i}")
            visit.page.get_by_label("Name of this concept").fill(name)
            assert visit.page.inner_text("h1") == name
        visit.page.locator("#search").fill("whe")
        assert "wheel" in visit.texts("#found [role=option]")[0]
        visit.page.keyboard.press("Escape")
        name, text = saved(visit, "Save names.json")
        assert name == "names.json"
        assert json.loads(text) == {str(i): name for i, name in typed.items()}
        visit.page.get_by_label("Name of this concept").fill("")
        assert visit.page.inner_text("h1") == "Concept 0"
        assert json.loads(saved(visit, "Save names.json")[1]) == {"4": "wheel"}
        assert visit.wrong == []


def test_a_concept_that_contributes_is_never_said_to_move_nothing(browser, report, tmp_path):
    p_values = np.full((CONCEPTS, CLASSES), 0.9)
    p_values[1] = np.nan
    influence = replace(
        report.explanation.influence, p_values=p_values, predicted=np.full(CLASSES, 10)
    )
    hard = replace(report, explanation=replace(report.explanation, influence=influence))
    contributions = report.explanation.contributions
    with Visit(browser, save_report(hard, tmp_path)) as visit:
        visit.go("/concepts")
        for i, text in enumerate(visit.texts(".card")):
            assert not re.search(r"\b0 (of|classes|tested)", text.replace("\xa0", " ")), text
            most = np.abs(contributions[:, i]).max()
            assert f"{most:.2f} logits to class" in text
            assert ("not tested: detected everywhere or nowhere" in text) == (i == 1)
            assert ("not significant for any of 6" in text.replace("\xa0", " ")) == (i != 1)
        visit.go("/overview")
        words = visit.page.evaluate(
            "() => [...document.querySelectorAll('.matrix td')].map((cell) => cell.title)"
        )
        assert len(words) == CLASSES * CONCEPTS and all("\u00b1" in text for text in words)
        untested = [text for text in words if text.startswith("concept 1,")]
        assert all("not tested: detected everywhere or nowhere" in text for text in untested)


def test_facts_and_the_maximised_picture_are_on_the_page_of_a_concept(browser, page, report):
    with Visit(browser, page) as visit:
        visit.go("/concept/3")
        text = visit.page.inner_text("main")
        assert "fact 3: sentence 3" in text and "no photograph" in text
        visit.load_all_pictures()
        assert visit.page.get_by_alt_text("Picture made for concept 3").count() == 1
        visit.go("/concept/2")
        assert "fact 2" not in visit.page.inner_text("main")
        assert visit.wrong == []


def test_printed_pages_are_dark_on_white_and_fit_on_paper(browser, page):
    with Visit(browser, page, {"width": 690, "height": 980}, color_scheme="dark") as visit:
        visit.page.emulate_media(media="print", color_scheme="dark")
        for route in ("/overview", "/concepts", "/concept/3", "/class/1", "/image/5"):
            visit.go(route)
            state = visit.page.evaluate(
                """() => ({
                    over: document.documentElement.scrollWidth - innerWidth,
                    text: getComputedStyle(document.body).color,
                    header: getComputedStyle(document.querySelector('header')).display,
                    fields: [...document.querySelectorAll('main input')].filter((node) =>
                        node.offsetParent).length,
                    cut: [...document.querySelectorAll('.wide')].filter((node) =>
                        node.scrollWidth > innerWidth).length,
                })"""
            )
            assert state["over"] <= 0 and state["cut"] == 0, route
            assert state["text"] == "rgb(27, 30, 34)" and state["header"] == "none"
            assert state["fields"] == 0, route
