"""Reports of videos in headless Chromium: animations, and what stands for them without motion."""

from dataclasses import replace

import numpy as np
import pytest
from fake_report import fake_report
from in_browser import CHROMIUM, Visit, opened_browser

from xplique_dirpairs.report.page_files import save_report

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium"
)


@pytest.fixture(scope="module")
def browser():
    yield from opened_browser()


def moving(pictures, frames=4):
    """Return pictures (..., height, width, 3) as videos that get brighter."""
    return np.stack([(pictures * (t + 1) / frames).astype(np.uint8) for t in range(frames)], -4)


@pytest.fixture(scope="module", params=[False, True])
def page(request, tmp_path_factory):
    report = fake_report(3, 4, 5, 80)
    rng = np.random.default_rng(0)
    report = replace(
        report,
        concepts=replace(
            report.concepts, crops=tuple(moving(crops) for crops in report.concepts.crops)
        ),
        images=replace(
            report.images,
            pictures=tuple(moving(picture) for picture in report.images.pictures),
            over_time=tuple(rng.normal(size=(2, 4)) for _ in range(5)),
        ),
    )
    folder, single = tmp_path_factory.mktemp("videos"), request.param
    return save_report(report, folder / "one.html" if single else folder, single_file=single)


def shown(visit):
    """Return width, height and first bytes of the pictures of the page, with its number."""
    return visit.page.evaluate(
        "[...document.images].map((img) => [img.naturalWidth, img.naturalHeight, img.src])"
    )


@pytest.mark.parametrize("motion", ["no-preference", "reduce"])
def test_pages_show_animations_or_stills_of_the_same_size(browser, page, motion):
    with Visit(browser, page, reduced_motion=motion) as visit:
        for route in ("/images", "/image/1", "/concept/2", "/concepts", "/class/0"):
            visit.go(route)
            assert visit.load_all_pictures() > 0
        visit.go("/images")
        visit.load_all_pictures()
        sources = [src for *_, src in shown(visit)]
        if page.name == "index.html":
            assert all(("still" in src) == (motion == "reduce") for src in sources)
        assert {(width, height) for width, height, _ in shown(visit)} == {(80, 80)}
        assert visit.wrong == []


def test_the_page_of_a_video_has_its_frames_and_contributions_over_time(browser, page):
    with Visit(browser, page) as visit:
        visit.go("/image/1")
        visit.load_all_pictures()
        width = visit.page.evaluate("document.querySelector('img.frames').naturalWidth")
        assert width == 4 * 80
        assert visit.page.locator("table.time tbody tr").count() == 4
        assert visit.page.locator("table.time tbody tr").first.locator("td").count() == 2
        heads = visit.page.locator("table.time thead th").all_inner_texts()
        assert heads == ["concept", "frames 1–2", "frames 3–4"]
        text = visit.page.locator("main").inner_text()
        assert "Frames 1, 2, 3, 4 of 4" in text and "Mean over time" in text
        assert visit.wrong == []


@pytest.mark.parametrize("motion", ["no-preference", "reduce"])
def test_crops_have_a_strip_of_frames_where_motion_is_off(browser, page, motion):
    with Visit(browser, page, reduced_motion=motion) as visit:
        visit.go("/concept/1")
        visit.load_all_pictures()
        strips = visit.page.locator(".places img.strip")
        crops = visit.page.locator(".places img.crop").count()
        assert "Maps are means over time" in visit.page.locator("main").inner_text()
        assert strips.count() == (crops if motion == "reduce" else 0)
        for k in range(strips.count()):
            box = strips.nth(k).bounding_box()
            assert box["width"] / box["height"] == pytest.approx(4, rel=0.05)
        assert visit.wrong == []
