"""Pages of connectomes, opened from disk in headless Chromium; skipped if it is missing."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from in_browser import CHROMIUM, PHONE, WIDE, Visit, opened_browser

from xplique_dirpairs.connectome.result import Connectome, Edges, LayerConcepts
from xplique_dirpairs.report.connectome_page import connectome_page

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium"
)

SIZES = (5, 4, 60, 3)
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def browser():
    yield from opened_browser()


@pytest.fixture(scope="module")
def graph():
    """A connectome of three layers; concept 3 of the second one leads nowhere."""
    rng = np.random.default_rng(0)
    layers = tuple(
        LayerConcepts(
            f"a_layer_with_a_long_name_{n}",
            tuple(HOSTILE if i == 1 else str(i) for i in range(size)),
            rng.random((size, 6)),
            rng.random((size, 6)),
            rng.random(size),
            tuple(rng.integers(0, 255, (i % 4, 8, 8, 3), np.uint8) for i in range(size)),
        )
        for n, size in enumerate(SIZES[:-1])
    )
    edges = []
    for n, shape in enumerate(itertools.pairwise(SIZES)):
        scores, effects, contributions = rng.uniform(-1, 1, (3, *shape))
        kept = rng.random(shape) < 0.5
        if n == 1:
            kept[3] = False
        edges.append(Edges(scores, effects, contributions, rng.random(shape), kept))
    settings = {
        "level": 0.05,
        "correction": "benjamini-hochberg",
        "images": 9,
        "direction": "signals",
    }
    return Connectome(layers, tuple(edges), (0, 1, 2), ("cat", HOSTILE, "x" * 60), settings)


@pytest.fixture(scope="module")
def page(graph, tmp_path_factory):
    path = tmp_path_factory.mktemp("a folder with spaces & signs #1") / "connectome.html"
    path.write_text(connectome_page(graph, HOSTILE, report="index.html", report_layer=2), "utf-8")
    return path


def visit_of(browser, page, viewport=WIDE):
    return Visit(browser, page, viewport, ready="#details h2")


def node(visit, layer, index):
    return visit.page.locator(".column").nth(layer).locator("button").nth(index)


def choose(visit, layer, index):
    """Click a concept, and wait until it is shown."""
    node(visit, layer, index).click()
    wait_for(visit, layer, index)


def wait_for(visit, layer, index):
    visit.page.wait_for_function(
        """([layer, index]) => document.querySelectorAll('.column')[layer]
            .querySelectorAll('button')[index].getAttribute('aria-pressed') === 'true'""",
        arg=[layer, index],
    )


def lines(visit):
    return visit.page.locator("#columns line").count()


@pytest.mark.parametrize("viewport", [WIDE, PHONE])
def test_every_concept_and_class_can_be_walked_to(browser, page, graph, viewport):
    with visit_of(browser, page, viewport) as visit:
        for layer, index in [(0, 0), (0, 1), (1, 3), (2, 59), (3, 0), (3, 1), (3, 2)]:
            choose(visit, layer, index)
            assert visit.page.locator("[aria-pressed=true]").count() == 1
            over = visit.page.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert over <= 0
            into = graph.edges[layer - 1].kept[:, index].sum() if layer else 0
            out = graph.edges[layer].kept[index].sum() if layer < 3 else 0
            assert visit.page.locator("#details ul > li").count() == into + out
            visit.load_all_pictures()
        assert visit.wrong == []
        assert all(url.startswith(("file:", "data:")) for url in visit.requests)


def test_edges_of_the_chosen_concept_are_drawn_and_the_strongest_ones_at_first(
    browser, page, graph
):
    with visit_of(browser, page) as visit:
        assert lines(visit) == sum(min(40, each.kept.sum()) for each in graph.edges)
        assert f"{graph.edges[1].kept.sum()} of 240 edges" in visit.texts("#details")[0]
        choose(visit, 1, 0)
        assert visit.page.locator(".faded").count() > 0
        assert lines(visit) == graph.edges[0].kept[:, 0].sum() + graph.edges[1].kept[0].sum()
        node(visit, 1, 0).click()  # shows everything again
        visit.page.wait_for_function("document.querySelectorAll('.faded').length === 0")
        assert visit.texts("#details h2") == ["Everything"]


def test_a_class_has_its_chains_and_their_edges(browser, page, graph):
    with visit_of(browser, page) as visit:
        choose(visit, 3, 0)
        chains = graph.paths("cat", 10)
        assert visit.page.locator("#details ol > li").count() == len(chains)
        effect = visit.texts("#details ol > li:first-child > span")[0]
        assert float(effect.replace("\u2212", "-")) == pytest.approx(chains[0].effect, abs=0.006)
        edges = {("class", i) for i in np.flatnonzero(graph.edges[2].kept[:, 0])}
        edges |= {(0, one.concepts[:2]) for one in chains}
        edges |= {(1, one.concepts[1:]) for one in chains}
        assert lines(visit) == len(edges)


def test_strongest_ways_from_a_concept_are_those_of_all_chains(browser, page, graph):
    with visit_of(browser, page) as visit:
        choose(visit, 1, 0)
        second, third = (np.where(each.kept, each.effects, 0.0) for each in graph.edges[1:])
        ways = second[0][:, None] * third
        best = ways[np.abs(ways).argmax(axis=0), np.arange(3)]
        shown = [
            float(one.replace("\u2212", "-")) for one in visit.texts("#details ol > li > span")
        ]
        expected = best[np.argsort(-np.abs(best))]
        np.testing.assert_allclose(shown, expected[expected != 0], atol=0.006)
        choose(visit, 1, 3)
        assert "No chain of significant edges" in visit.texts("#details")[0]


def test_keyboard_stays_in_the_details_and_going_back_works(browser, page):
    with visit_of(browser, page) as visit:
        node(visit, 3, 0).focus()
        visit.page.keyboard.press("Enter")
        wait_for(visit, 3, 0)
        visit.page.locator("#details ul button").first.focus()
        visit.page.keyboard.press("Enter")
        visit.page.wait_for_function("!location.hash.startsWith('#3/')")
        visit.page.wait_for_timeout(30)
        assert visit.page.evaluate("document.activeElement.tagName") == "H2"
        visit.page.go_back()
        wait_for(visit, 3, 0)
        visit.go("99/99")
        assert visit.texts("#details h2") == ["Everything"]
        assert visit.wrong == []


def test_concepts_of_the_report_have_a_link_to_it(browser, page):
    with visit_of(browser, page) as visit:
        choose(visit, 2, 7)
        link = visit.page.locator("#details a")
        assert link.get_attribute("href") == "index.html#/concept/7"
        choose(visit, 0, 0)
        assert visit.page.locator("#details a").count() == 0
        assert visit.page.locator("header a").get_attribute("href") == "index.html"


def test_names_are_text_and_the_words_are_explained(browser, page):
    with visit_of(browser, page) as visit:
        assert visit.texts("h1") == [HOSTILE]
        assert visit.page.locator("img[src=x]").count() == 0
        visit.page.locator("summary").click()
        words = visit.texts("dt")
        assert {"Concept", "Edge", "Effect", "Score", "Significant", "Chain"} == set(words)
        assert "benjamini-hochberg" in visit.texts("dl")[0]


@pytest.mark.parametrize("viewport", [WIDE, PHONE])
def test_names_break_between_words_and_long_ones_are_cut_after_three_lines(
    browser, graph, tmp_path, viewport
):
    names = ["front wheel of a parked car", "reflections on wet asphalt", "sky", "windowsill"]
    long = " ".join(["very long"] * 40)
    first = replace(graph.layers[0], concept_names=(*names, long))
    path = tmp_path / "connectome.html"
    found = replace(graph, layers=(first, *graph.layers[1:]))
    path.write_text(connectome_page(found), "utf-8")
    with visit_of(browser, path, viewport) as visit:
        broken, lines_of, title = visit.page.evaluate(
            """() => {
                const buttons = [...document.querySelector('.column').querySelectorAll('button')];
                const broken = [];
                for (const button of buttons.slice(0, 4)) {
                    const text = button.querySelector('bdi').firstChild;
                    for (const word of text.textContent.matchAll(/[^ ]+/g)) {
                        const range = document.createRange();
                        range.setStart(text, word.index);
                        range.setEnd(text, word.index + word[0].length);
                        if (range.getClientRects().length > 1) broken.push(word[0]);
                    }
                }
                const last = buttons[4].querySelector('bdi');
                const height = parseFloat(getComputedStyle(last).lineHeight);
                return [broken, last.clientHeight / height, buttons[4].title];
            }"""
        )
        assert broken == []
        assert round(lines_of) == 3
        assert title == long


def test_chains_are_numbered(browser, page):
    with visit_of(browser, page) as visit:
        choose(visit, 3, 0)
        number = visit.page.evaluate(
            "getComputedStyle(document.querySelector('#details ol > li'), '::before').content"
        )
        assert "counter(chain)" in number
