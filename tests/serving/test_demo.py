"""The demo page in a real browser."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Route, expect, sync_playwright

from tests.conftest import photo

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs chromium (apt install chromium)")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=BROWSER,
            # As root there is no sandbox; the camera is a moving test picture.
            args=["--no-sandbox", "--use-fake-device-for-media-stream"],
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, server: str) -> Iterator[Page]:
    """The demo page; it must log no error and ask no other host."""
    complaints: list[str] = []

    def listen(message: ConsoleMessage) -> None:
        # The browser itself logs each response that is not 200.
        if message.type == "error" and "Failed to load resource" not in message.text:
            complaints.append(message.text)

    def watch(route: Route) -> None:
        if not route.request.url.startswith(server):
            complaints.append(route.request.url)
        route.continue_()

    page = browser.new_page(viewport={"width": 1000, "height": 900})
    page.on("console", listen)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.route("http*://**", watch)
    page.goto(f"{server}/demo")
    yield page
    page.close()
    assert complaints == []


def file(content: bytes, name: str = "sign.png") -> dict[str, object]:
    return {"name": name, "mimeType": "image/png", "buffer": content}


def choose(page: Page, *colors: str) -> None:
    page.set_input_files("#files", [file(photo(color)) for color in colors])


def drop(page: Page, name: str, text: str) -> None:
    transfer = page.evaluate_handle(
        "([name, text]) => { const data = new DataTransfer();"
        " data.items.add(new File([text], name)); return data; }",
        [name, text],
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})


def test_describes_the_classifier_reads_a_photo_and_explains(page: Page) -> None:
    described = "the 3 classes of “colors”, with 100.0 % accuracy"
    expect(page.locator("#model")).to_contain_text(described)
    choose(page, "Green")
    card = page.locator("#cards li")
    expect(card.locator("h2")).to_have_text("Green")
    expect(card.locator("tr")).to_have_count(3)
    assert card.locator(".rail div").first.evaluate("e => parseFloat(e.style.width)") > 99
    expect(page.locator("#progress")).to_have_text("1 of 1 photo done")
    card.get_by_role("button", name="Explain").click()
    explanation = card.get_by_alt_text("Map of what led to the prediction")
    expect(explanation).to_be_visible()
    assert explanation.evaluate("image => image.decode().then(() => image.naturalWidth)") == 16
    if folder := os.environ.get("SIGNS_ARTIFACTS"):  # continuous integration keeps the picture
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(folder) / "demo.png")


def test_reads_several_the_newest_first(page: Page) -> None:
    choose(page, "Red", "Blue", "Green")
    expect(page.locator("#cards h2")).to_have_text(["Red", "Blue", "Green"])
    choose(page, "Blue")
    expect(page.locator("#cards h2")).to_have_text(["Blue", "Red", "Blue", "Green"])
    expect(page.locator("#progress")).to_have_text("1 of 1 photo done")


def test_says_unknown(page: Page) -> None:
    choose(page, "Grey")
    expect(page.locator("#cards h2")).to_have_text("Unknown")
    expect(page.locator("#cards li")).to_contain_text("The classifier is not sure enough.")


def test_says_what_is_wrong_with_a_dropped_text_file(page: Page) -> None:
    drop(page, "notes.txt", "hello")
    expect(page.locator("#cards h2")).to_have_text("No prediction")
    expect(page.locator("#cards li")).to_contain_text("cannot be read as a photo: not an image")
    drop(page, "empty.txt", "")
    expect(page.locator("#cards li").first).to_contain_text("This file is empty.")


def test_a_file_name_is_text(page: Page) -> None:
    name = "<img src=x onerror=alert(1)>.png"
    page.set_input_files("#files", file(photo("Red"), name))
    expect(page.locator("#cards h2")).to_have_text("Red")
    expect(page.locator("figcaption")).to_have_text(name)


def test_works_by_keyboard(page: Page) -> None:
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Tab")
        expect(page.get_by_role("button", name="Choose photos")).to_be_focused()
        page.keyboard.press("Enter")
    chooser.value.set_files([file(photo("Blue"))])  # type: ignore[list-item]
    expect(page.locator("#cards h2")).to_have_text("Blue")
    button = page.get_by_role("button", name="Explain")
    for _ in range(5):
        page.keyboard.press("Tab")
        if button.evaluate("e => e === document.activeElement"):
            break
    page.keyboard.press("Enter")
    expect(page.get_by_alt_text("Map of what led to the prediction")).to_be_visible()


def test_takes_a_photo_with_the_camera(page: Page) -> None:
    page.context.grant_permissions(["camera"])
    page.get_by_role("button", name="Use the camera").click()
    expect(page.locator("#video")).to_have_js_property("readyState", 4)
    page.get_by_role("button", name="Take the photo").click()
    expect(page.locator("figcaption").first).to_have_text("camera.jpg")
    expect(page.locator("#progress")).to_have_text("1 of 1 photo done")
    page.get_by_role("button", name="Close the camera").click()
    expect(page.locator("#video")).to_be_hidden()


def test_fits_a_narrow_screen(page: Page) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    page.set_input_files("#files", file(photo("Green"), "a" * 120 + ".png"))
    expect(page.locator("#cards h2")).to_have_text("Green")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_tries_again_when_the_service_is_busy(page: Page) -> None:
    tries = []

    def busy_once(route: Route) -> None:
        tries.append(route.request.url)
        if len(tries) == 1:
            route.fulfill(status=503, headers={"Retry-After": "1"}, body='{"error": "busy"}')
        else:
            route.continue_()

    page.route("**/predict", busy_once)
    choose(page, "Green")
    expect(page.locator("#cards h2")).to_have_text("Green")
    assert len(tries) == 2


def test_says_that_the_service_is_gone(page: Page) -> None:
    page.route("**/predict", lambda route: route.abort())
    choose(page, "Green")
    expect(page.locator("#cards li")).to_contain_text("cannot be reached")
