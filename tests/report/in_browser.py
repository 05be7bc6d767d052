"""Headless Chromium for tests of reports; tests are skipped if Playwright is missing."""

import shutil

import pytest

playwright = pytest.importorskip(
    "playwright.sync_api", reason="Playwright is not installed: pip install playwright"
)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)

WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


def opened_browser():
    """Yield Chromium, for a fixture."""
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


class Visit:
    """A page that records its errors and its requests."""

    def __init__(self, browser, path, viewport=WIDE, ready="main h1", **options):
        self.context = browser.new_context(viewport=viewport, **options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(20_000)
        self.wrong, self.requests = [], []
        self.page.on("console", self._record_message)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("requestfailed", lambda request: self.wrong.append(request.url))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector(ready)

    def _record_message(self, message):
        if message.type in ("error", "warning"):
            self.wrong.append(message.text)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.close()

    def go(self, route):
        """Go to the page at an address, and wait until it is shown."""
        self.page.evaluate(
            """async (to) => {
                if (location.hash === to) return;
                const shown = new Promise((then) => {
                    addEventListener('hashchange', () => setTimeout(then, 0), { once: true });
                });
                location.hash = to;
                await shown;
            }""",
            "#" + route,
        )
        self.page.wait_for_timeout(30)

    def wait_for_heading(self, text):
        self.page.wait_for_function(
            "text => document.querySelector('h1')?.innerText === text", arg=text
        )

    def load_all_pictures(self):
        """Load all pictures, and return their number; fail if one is broken."""
        return self.page.evaluate(
            """async () => {
                for (const img of document.images) img.loading = 'eager';
                await Promise.all([...document.images].map((img) => img.decode()));
                return document.images.length;
            }"""
        )

    def texts(self, selector):
        return self.page.locator(selector).all_inner_texts()
