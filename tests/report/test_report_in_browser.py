"""Reports opened from disk in headless Chromium by Playwright; skipped if these are missing."""

import itertools
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from fake_report import HOSTILE, fake_report, hostile
from in_browser import CHROMIUM, PHONE, WIDE, Visit, opened_browser

from xplique_dirpairs.report.page_files import save_report
from xplique_dirpairs.report.payload import clean

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium"
)

CLASSES, CONCEPTS, IMAGES = 12, 11, 70
ROUTES = (
    "/overview", "/concepts", "/concept/0", "/concept/3", "/classes", "/class/4", "/images",
    "/image/5", "/image/69?concept=2", "/comparison", "/help", "/nothing", "/concept/99",
)  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    yield from opened_browser()


@pytest.fixture(scope="module")
def hostile_pages(tmp_path_factory):
    report = fake_report(CLASSES, CONCEPTS, IMAGES, 48, hostile, cells=4)
    folder = tmp_path_factory.mktemp("a folder with spaces & signs #1")
    return {
        "folder": save_report(report, folder),
        "file": save_report(report, folder / "one file.html", single_file=True),
    }


@pytest.fixture(scope="module")
def plain_page(tmp_path_factory):
    return save_report(
        fake_report(CLASSES, CONCEPTS, IMAGES, 48, cells=4), tmp_path_factory.mktemp("plain")
    )


@pytest.mark.parametrize("form", ["folder", "file"])
def test_every_page_is_valid_with_hostile_names(browser, hostile_pages, form):
    with Visit(browser, hostile_pages[form], PHONE) as visit:
        for route in ROUTES:
            visit.go(route)
            visit.load_all_pictures()
            state = visit.page.evaluate(
                """() => ({
                    broken: window.broken,
                    over: document.documentElement.scrollWidth - innerWidth,
                    scripts: [...document.querySelectorAll('main script, header script')].length,
                    noAlt: [...document.images].filter((img) => !img.alt).length,
                    title: document.querySelector('main h1').textContent,
                    strange: [...document.querySelectorAll('main *')].filter((node) =>
                        node.getAttributeNames().some((name) => name.startsWith('on'))).length,
                })"""
            )
            assert state["broken"] is None and state["scripts"] == state["strange"] == 0, route
            assert state["over"] <= 0, f"{route} is wider than a phone"
            assert state["noAlt"] == 0, f"{route} has pictures without alternative text"
            assert state["title"]
        assert visit.wrong == []
        assert all(url.startswith(("file:", "blob:", "data:")) for url in visit.requests)


@pytest.mark.parametrize("form", ["folder", "file"])
def test_connectomes_can_be_walked_and_lead_back(browser, hostile_pages, form):
    with Visit(browser, hostile_pages[form]) as visit:
        visit.go("/overview")
        links = visit.page.locator("main a[href*=connectome_]")
        assert links.all_inner_texts() == [clean(hostile("connectome", n)).strip() for n in (0, 1)]
        visit.go("/concept/3")
        visit.load_all_pictures()  # leaving the page while one is loading counts as a failure
        visit.page.locator("main a[href*=connectome_]").click()
        visit.page.wait_for_selector("#details a")
        assert visit.page.evaluate("location.hash") == "#1/3"
        visit.page.locator("#details a").click()
        visit.page.wait_for_selector("main h1 bdi")
        assert visit.page.evaluate("location.hash") == "#/concept/3"
        visit.load_all_pictures()
        assert visit.wrong == []


def test_the_page_of_an_image_has_its_diagnosis(browser, plain_page):
    with Visit(browser, plain_page) as visit:
        visit.go("/image/5")
        figure = visit.page.locator("figure", has=visit.page.locator("img[src*=diagnoses]"))
        assert "diagnosis 5" in figure.inner_text()
        visit.load_all_pictures()
        visit.go("/image/4")
        assert visit.page.locator("img[src*=diagnoses]").count() == 0


def test_names_are_shown_unchanged(browser, hostile_pages):
    with Visit(browser, hostile_pages["folder"]) as visit:
        visit.go("/concepts")
        shown = visit.page.evaluate(
            "() => [...document.querySelectorAll('.card h3 bdi')].map((node) => node.textContent)"
        )
        assert shown == [clean(hostile("concept", i)) for i in range(CONCEPTS)]
        visit.go("/class/4")
        heading = visit.page.evaluate("() => document.querySelector('h1 bdi').textContent")
        assert heading == clean(hostile("class", 4))


def test_search_finds_names_and_opens_pages_by_keyboard(browser, plain_page):
    with Visit(browser, plain_page) as visit:
        page = visit.page
        page.keyboard.press("/")
        page.keyboard.type("CLASS 1")
        options = visit.texts("#found [role=option]")
        assert [re.sub(r"\s+", " ", text) for text in options] == [
            "class class 1", "class class 10", "class class 11",
        ]  # fmt: skip
        first, second = (page.locator(f"#found-{k}").bounding_box() for k in range(2))
        assert second["y"] >= first["y"] + first["height"] and first["width"] > 150
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowDown")
        assert page.locator("#search").get_attribute("aria-activedescendant") == "found-1"
        page.keyboard.press("Enter")
        page.wait_for_function("() => location.hash === '#/class/10'")
        visit.wait_for_heading("class 10")
        assert page.evaluate("document.activeElement.tagName") == "H1"
        assert page.title().startswith("class 10")
        page.locator("#search").fill("no such thing")
        assert visit.texts("#found") == ["Nothing found"]
        page.keyboard.press("Escape")
        assert page.locator("#found").is_hidden()
        assert visit.wrong == []


def test_without_labels_no_page_calls_predictions_correct(browser, tmp_path):
    report = fake_report(2, 3, 4, 48, cells=4)
    unlabelled = replace(report.explanation, accuracy=np.full(2, np.nan))
    page = save_report(replace(report, explanation=unlabelled), tmp_path)
    with Visit(browser, page) as visit:
        for route in ("/overview", "/classes", "/class/0", "/image/0"):
            visit.go(route)
            text = visit.page.locator("main").inner_text()
            assert "correctly" not in text and "NaN" not in text, route
            alternatives = visit.page.locator("main img").evaluate_all(
                "all => all.map((a) => a.alt)"
            )
            assert not any("correctly" in alternative for alternative in alternatives), route
        assert "Predicted as" in text
        assert visit.wrong == []


def test_search_takes_special_characters_literally(browser, hostile_pages):
    with Visit(browser, hostile_pages["file"]) as visit:
        for word in ("<script>", ".*", "(", '"'):
            visit.page.locator("#search").fill(word)
            found = visit.texts("#found [role=option]")
            assert bool(found) == any(word in name for name in HOSTILE), word
        assert visit.wrong == []


def test_tables_sort_in_both_orders_and_announce_it_to_screen_readers(browser, plain_page):
    with Visit(browser, plain_page) as visit:
        visit.go("/comparison")
        column = visit.page.locator("th", has_text="deletion")

        def figures():
            texts = visit.texts("tbody td:nth-child(2)")
            return [text.replace("(best)", "").strip() for text in texts]

        assert figures() == ["0.310", "0.120", "0.205"]
        column.locator("button").click()
        assert figures() == ["0.120", "0.205", "0.310"]  # lower is better: it comes first
        assert column.get_attribute("aria-sort") == "ascending"
        column.locator("button").press("Enter")
        assert figures() == ["0.310", "0.205", "0.120"]
        assert column.get_attribute("aria-sort") == "descending"
        other = visit.page.locator("th", has_text="insertion")
        other.locator("button").click()
        assert [t[:5] for t in visit.texts("tbody td:nth-child(3)")] == ["0.900", "0.880", "–"]
        other.locator("button").click()
        # Missing values come last in both orders.
        assert [t[:5] for t in visit.texts("tbody td:nth-child(3)")] == ["0.880", "0.900", "–"]
        assert column.get_attribute("aria-sort") is None


def test_filters_select_images_and_concepts_and_are_restored_by_going_back(browser, plain_page):
    report = fake_report(CLASSES, CONCEPTS, IMAGES, 48, cells=4)
    with Visit(browser, plain_page) as visit:
        page = visit.page
        visit.go("/images")
        assert page.locator(".gallery li").count() == 60
        page.get_by_role("button", name="Show more").click()
        assert page.locator(".gallery li").count() == IMAGES
        page.get_by_label("Class", exact=True).select_option("class 3")
        expected = [n for n in range(IMAGES) if report.images.labels[n] == 3]
        assert page.locator(".gallery li").count() == len(expected)
        assert f"{len(expected)} of {IMAGES}" in page.locator("#said").inner_text()
        page.get_by_label("predicted wrongly").check()
        wrong = [n for n in expected if report.images.likeliest[n, 0] != 3]
        assert page.locator(".gallery li").count() == len(wrong)
        page.set_viewport_size(PHONE)
        page.mouse.wheel(0, 200)
        page.wait_for_function("() => scrollY === 200")
        page.locator(".gallery a").first.press("Enter")
        visit.wait_for_heading(f"image {wrong[0]}")
        page.wait_for_function("() => scrollY === 0")
        page.go_back()
        page.wait_for_selector(".gallery")
        page.wait_for_function("() => scrollY === 200")
        assert page.locator(".gallery li").count() == len(wrong)
        assert page.get_by_label("predicted wrongly").is_checked()

        visit.go("/concepts")
        page.get_by_label("Name or label").fill("label 3")
        assert visit.texts(".card h3") == ["concept 3"]
        page.get_by_label("Name or label").fill("")
        page.get_by_label("Significant for class").select_option("class 2")
        moved = [i for i in range(CONCEPTS) if report.explanation.significance[i, 2] == 2]
        assert visit.texts(".card h3") == [f"concept {i}" for i in moved]
        page.get_by_label("Significant for class").select_option("")
        page.get_by_label("Order by").select_option("presence")
        order = sorted(range(CONCEPTS), key=lambda i: -report.concepts.presence[i])
        assert visit.texts(".card h3") == [f"concept {i}" for i in order]
        assert visit.wrong == []


def test_an_image_is_bright_where_the_chosen_concept_is(browser, plain_page):
    maps = fake_report(CLASSES, CONCEPTS, IMAGES, 48, cells=4).images.maps
    with Visit(browser, plain_page) as visit:
        visit.go("/image/69?concept=2")
        pressed = visit.page.locator(".chips [aria-pressed=true]")
        pressed.wait_for()
        assert pressed.inner_text().strip() == "concept 2"
        assert_bright(visit, maps[69, ..., 2])
        visit.page.get_by_role("button", name="concept 5", exact=True).click()
        assert_bright(visit, maps[69, ..., 5])
        visit.page.get_by_role("button", name="concept 5", exact=True).click()
        assert visit.page.locator(".stage canvas").is_hidden()


def test_the_page_of_an_image_shows_what_would_change_its_prediction(browser, plain_page):
    title = "What would change the prediction"
    changes = {
        1: ["predicted as class", "0 lowered from 1.00 to 0.00", "1 raised from 0.00412 to 0.00419",
            "smallest change found. It changes the features by 20 %", "at the 63rd percentile"],
        3: ["No change of so few concepts", "The nearest attempt", "It changes", "the 111th perc"],
        5: ["No change of so few concepts, within the coefficients of real images, changes"],
        7: ["Nothing needs to change: the image is predicted as the target already."],
    }  # fmt: skip
    with Visit(browser, plain_page) as visit:
        for n, words in changes.items():
            visit.go(f"/image/{n}")
            text = visit.page.locator("section", has_text=title).last.inner_text()
            text = re.sub(r"\s+", " ", text)
            assert all(word in text for word in words), text
            assert ("smallest" in text) == (n == 1)
            assert ("nearest" in text) == ("percentile" in text and n == 3)
        visit.go("/image/2")
        assert visit.page.locator("section", has_text=title).count() == 0
        assert visit.wrong == []


def test_effects_that_are_not_tested_and_not_significant_are_told_apart(browser, plain_page):
    with Visit(browser, plain_page) as visit:
        rows = visit.page.locator(".matrix tbody tr")
        marks = [
            set(rows.nth(k).locator("td [aria-hidden]").all_inner_texts())
            for k in range(rows.count())
        ]
        assert marks[0] == {"–"}  # the first class has too few images
        others = set().union(*marks[1:])
        assert "" in others and "–" not in others
        visit.go("/class/0")
        assert "not tested: fewer than 10 images" in " ".join(visit.texts(".ranking li"))
        visit.go("/class/1")
        assert "not significant" in " ".join(visit.texts("td .reason"))


@pytest.mark.parametrize("viewport", [WIDE, PHONE])
def test_numbers_fit_beside_their_bars(browser, tmp_path, viewport):
    report = fake_report(3, 4, 4, 48, cells=4)
    large = np.outer([-120.0, -2345.6, 21.78], np.ones(4))
    report = replace(report, explanation=replace(report.explanation, contributions=large))
    report.images.contributions[0] = -123.4
    report.images.probabilities[:, 1:] = 1e-4
    with Visit(browser, save_report(report, tmp_path / "wide"), viewport) as visit:
        for route in ("/overview", "/class/1", "/concept/1", "/image/0"):
            visit.go(route)
            over = visit.page.evaluate(
                """() => [...document.querySelectorAll('.number')].filter((node) =>
                    node.scrollWidth > node.clientWidth).map((node) => node.textContent)"""
            )
            assert over == [], route


def assert_bright(visit, cells):
    """Fail unless the map over the image is coloured exactly at the positive cells."""
    visit.page.wait_for_timeout(50)
    alpha = visit.page.evaluate(
        """() => {
            const canvas = document.querySelector('.stage canvas');
            const pen = canvas.getContext('2d');
            const { data } = pen.getImageData(0, 0, canvas.width, canvas.height);
            return Array.from({ length: data.length / 4 }, (_, k) =>
                data[4 * k] + data[4 * k + 1] + data[4 * k + 2] > 0);
        }"""
    )
    assert alpha == (cells > 0).ravel().tolist()


def test_arrow_keys_turn_pages_and_focus_moves_to_the_heading(browser, plain_page):
    with Visit(browser, plain_page) as visit:
        visit.go("/concept/3")
        visit.page.keyboard.press("ArrowRight")
        visit.page.wait_for_function("() => location.hash === '#/concept/4'")
        visit.wait_for_heading("concept 4")  # until then the keys turn the page before
        visit.page.keyboard.press("ArrowLeft")
        visit.page.wait_for_function("() => location.hash === '#/concept/3'")
        visit.wait_for_heading("concept 3")
        assert visit.page.evaluate("document.activeElement.tagName") == "H1"
        current = visit.page.locator("nav [aria-current=page]")
        assert current.all_inner_texts() == ["Concepts"]
        # All controls have a name, and no level of headings is skipped.
        nameless = visit.page.evaluate(
            """() => [...document.querySelectorAll('a, button, input, select')].filter((node) =>
                !(node.textContent.trim() || node.getAttribute('aria-label') ||
                node.labels?.length || node.querySelector('img')?.alt)
            ).length"""
        )
        assert nameless == 0
        levels = visit.page.evaluate(
            "() => [...document.querySelectorAll('h1, h2, h3')].map((node) => +node.tagName[1])"
        )
        assert levels[0] == 1 and all(b - a <= 1 for a, b in itertools.pairwise(levels))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_follow_the_system_until_they_are_chosen_and_text_has_enough_contrast(
    browser, plain_page, scheme
):
    with Visit(browser, plain_page, color_scheme=scheme) as visit:
        button = visit.page.locator("#theme")
        assert is_dark(visit) == (scheme == "dark")
        for route in ("/overview", "/concept/3", "/class/2", "/image/3", "/comparison"):
            visit.go(route)
            assert visit.page.evaluate(LEAST_CONTRAST) >= 4.5, route
        button.click()
        assert not is_dark(visit)
        button.click()
        assert is_dark(visit)
        visit.page.reload()
        visit.page.wait_for_selector("main h1")
        assert is_dark(visit)


def is_dark(visit):
    """Return whether the page has a dark background."""
    color = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(map(int, re.findall(r"\d+", color)[:3])) < 300


#: Script that returns the least contrast of a text with the opaque colour behind it, by WCAG 2.
LEAST_CONTRAST = """() => {
    const rgb = (text) => (text.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
    const light = ([r, g, b]) => [r, g, b].map((v) => v / 255).map((v) =>
        v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, k) => sum + v * [0.2126, 0.7152, 0.0722][k], 0);
    const behind = (node) => {
        for (let up = node; up; up = up.parentElement) {
            const color = rgb(getComputedStyle(up).backgroundColor);
            if (color.length === 3 || color[3] === 1) return color;
        }
        return [255, 255, 255];
    };
    let least = 99;
    for (const node of document.querySelectorAll('body *')) {
        const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
        const left = '.hidden, script, .matrix td, span.quiet';  // none, or no text to read
        if (!own || !node.offsetParent || node.closest(left)) continue;
        const [a, b] = [light(rgb(getComputedStyle(node).color)), light(behind(node))];
        least = Math.min(least, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
    }
    return least;
}"""


def test_a_page_without_its_data_tells_which_file_is_missing(browser, plain_page, tmp_path):
    page = tmp_path / "index.html"
    shutil.copytree(plain_page.parent / "report_files", tmp_path / "report_files")
    shutil.copy(plain_page, page)
    (tmp_path / "report_files" / "data.js").unlink()
    context = browser.new_context()
    opened = context.new_page()
    opened.goto(page.as_uri())
    opened.wait_for_selector("main .note")
    assert "keep the folder report_files beside index.html" in opened.inner_text("main")
    context.close()


@pytest.mark.slow
def test_a_report_of_500_images_has_less_than_60_mb_and_opens_within_2_seconds(browser, tmp_path):
    report = fake_report(50, 50, 500, 320, cells=14)
    folder, file = (
        save_report(report, tmp_path / "large"),
        save_report(report, tmp_path / "large.html", True),
    )
    folder_size = sum(path.stat().st_size for path in folder.parent.rglob("*") if path.is_file())
    assert folder_size < 60e6 and file.stat().st_size < 60e6
    for path in (folder, file):
        seconds = []
        for _ in range(5):
            with Visit(browser, path) as visit:
                visit.page.wait_for_function(
                    "() => [...document.images].filter((img) => "
                    "img.getBoundingClientRect().top < innerHeight).every((img) => img.complete)"
                )
                seconds.append(visit.page.evaluate("performance.now()") / 1000)
                assert visit.wrong == []
        assert min(seconds) < 2.0, path
