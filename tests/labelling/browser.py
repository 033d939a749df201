"""Chromium, and a page that must log no error and ask no other host."""

import contextlib
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, Route, sync_playwright

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="needs chromium (apt install chromium)")


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # As root there is no sandbox.
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextlib.contextmanager
def opened(browser: Browser, address: str) -> Iterator[Page]:
    complaints: list[str] = []

    def watch(route: Route) -> None:
        if not route.request.url.startswith(address):
            complaints.append(route.request.url)
        route.continue_()

    page = browser.new_page(viewport={"width": 1000, "height": 900})
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text))
    page.route("http*://**", watch)
    page.goto(address)
    yield page
    page.close()
    # The browser itself logs each response that is not 200.
    assert [text for text in complaints if "Failed to load resource" not in text] == []
