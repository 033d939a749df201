"""The page in a real browser."""

import contextlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, Route, expect, sync_playwright

from tests.conftest import copy_service, photo, start

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
    """The page of the service."""
    with opened(browser, server) as page:
        yield page


@contextlib.contextmanager
def opened(browser: Browser, server: str) -> Iterator[Page]:
    """The page; it must log no error and ask no other host."""
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


def street(side: int = 400) -> bytes:
    """A blue photo with a small green sign from (300, 100) to (340, 140)."""
    image = np.full((side, side, 3), (160, 20, 20), np.uint8)  # BGR
    sign = cv2.imdecode(np.frombuffer(photo("Green"), np.uint8), cv2.IMREAD_COLOR)
    image[100:140, 300:340] = sign
    return cv2.imencode(".png", image)[1].tobytes()


def test_a_frame_drawn_with_the_mouse_shows_where_the_sign_is(page: Page) -> None:
    page.set_input_files("#files", file(street()))
    expect(page.locator("#cards h2")).to_have_text("Blue")
    page.get_by_role("button", name="Mark the sign").click()
    expect(page.locator("#canvas")).to_be_focused()
    box = page.locator("#street").bounding_box()
    assert box is not None
    scale = box["width"] / 400
    page.mouse.move(box["x"] + 300 * scale, box["y"] + 100 * scale)
    page.mouse.down()
    page.mouse.move(box["x"] + 340 * scale, box["y"] + 140 * scale, steps=4)
    page.mouse.up()
    expect(page.locator("#where")).to_have_text("From 300, 100 to 340, 140 of 400 × 400 pixels")
    page.get_by_role("button", name="Read this part").click()
    expect(page.locator("#cards h2")).to_have_text(["Green", "Blue"])
    expect(page.locator("figcaption").first).to_have_text("sign.png, marked part")


def test_a_frame_can_be_moved_by_keyboard(page: Page) -> None:
    page.set_input_files("#files", file(street()))
    page.get_by_role("button", name="Mark the sign").press("Enter")
    expect(page.locator("#canvas")).to_be_focused()
    for key, times in (
        ("Shift+ArrowLeft", 16),  # of 200 x 200 pixels it becomes 40 x 40
        ("Shift+ArrowUp", 16),
        ("ArrowRight", 20),
        ("ArrowLeft", 1),
        ("ArrowRight", 1),
    ):
        for _ in range(times):
            page.keyboard.press(key)
    expect(page.locator("#where")).to_contain_text("From 300, 100 to 340, 140")
    page.keyboard.press("Enter")
    expect(page.locator("#cards h2")).to_have_text(["Green", "Blue"])
    page.get_by_role("button", name="Mark the sign").first.press("Enter")
    expect(page.locator("#canvas")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#marker")).to_be_hidden()


def test_a_frame_can_be_drawn_with_a_finger(browser: Browser, server: str) -> None:
    context = browser.new_context(has_touch=True, viewport={"width": 390, "height": 844})
    page = context.new_page()
    page.goto(server)
    page.set_input_files("#files", file(street()))
    page.get_by_role("button", name="Mark the sign").tap()
    expect(page.locator("#canvas")).to_be_focused()
    box = page.locator("#street").bounding_box()
    assert box is not None
    scale = box["width"] / 400
    touch = context.new_cdp_session(page)
    for kind, x, y in (
        ("touchStart", 302, 102),
        ("touchMove", 330, 130),
        ("touchMove", 338, 138),
        ("touchEnd", 0, 0),
    ):
        at = {"x": box["x"] + x * scale, "y": box["y"] + y * scale}
        points = [] if kind == "touchEnd" else [at]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    page.get_by_role("button", name="Read this part").tap()
    expect(page.locator("#cards h2")).to_have_text(["Green", "Blue"])
    context.close()


def test_reads_the_camera_live(page: Page) -> None:
    page.context.grant_permissions(["camera"])
    page.get_by_role("button", name="Use the camera").click()
    expect(page.locator("#video")).to_have_js_property("readyState", 4)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.get_by_role("button", name="Read live").click()
    expect(page.locator("#seen")).to_have_text(re.compile("%$|No sign that is known"))
    page.wait_for_timeout(1000)
    assert len([url for url in asked if url.endswith("/predict")]) > 1
    page.get_by_role("button", name="Stop reading").click()
    page.wait_for_timeout(300)
    asked.clear()
    page.wait_for_timeout(700)
    assert asked == []
    page.get_by_role("button", name="Close the camera").click()


def test_remembers_the_session(page: Page, tmp_path: Path) -> None:
    choose(page, "Green", "Grey")
    rows = page.locator("#entries tr")
    expect(rows).to_have_count(2)
    page.reload()
    expect(rows).to_have_count(2)
    expect(page.locator("#entries")).to_contain_text("unknown")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as CSV").click()
    lines = Path(download.value.path()).read_text().splitlines()
    assert lines[0] == '"time","photo","prediction","confidence"'
    assert sorted(line.split(",")[2] for line in lines[1:]) == ['"Green"', '"unknown"']
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#history")).to_be_hidden()


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_copies_a_request_as_curl(page: Page, tmp_path: Path) -> None:
    name = "it's a sign.png"
    (tmp_path / name).write_bytes(photo("Red"))
    page.set_input_files("#files", tmp_path / name)
    page.get_by_role("button", name="Copy as curl").click()
    command = page.locator("#cards code").inner_text()
    assert command.startswith("curl --data-binary '@it'")
    command = command.replace("curl ", "curl --silent --noproxy 127.0.0.1 ", 1)
    reply = subprocess.check_output(["sh", "-c", command], cwd=tmp_path)
    assert json.loads(reply)["name"] == "Red"


def test_asks_for_an_api_key(browser: Browser, tmp_path: Path) -> None:
    key = "k" * 16
    server = start(copy_service(tmp_path / "app"), SIGNS_API_KEYS=key)
    try:
        with opened(browser, server.address) as page:
            expect(page.locator("#key")).to_be_visible()
            choose(page, "Green")
            expect(page.locator("#cards h2")).to_have_text("No prediction")
            page.fill("#secret", "wrong")
            page.keyboard.press("Enter")
            expect(page.locator("#wrong")).to_have_text("This key is not valid.")
            page.fill("#secret", key)
            page.keyboard.press("Enter")
            expect(page.locator("#cards h2")).to_have_text("Green")
            expect(page.locator("#key")).to_be_hidden()
            expect(page.locator("#model")).to_contain_text("3 classes")
    finally:
        server.stop()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1000])
def test_has_no_accessibility_violation(page: Page, scheme: str, width: int) -> None:
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    page.set_viewport_size({"width": width, "height": 844})
    page.context.grant_permissions(["camera"])
    page.get_by_role("button", name="Use the camera").click()
    choose(page, "Green", "Grey")
    expect(page.locator("#entries tr")).to_have_count(2)

    def check() -> None:
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()

    check()
    page.get_by_role("button", name="Mark the sign").first.click()
    expect(page.locator("#where")).to_contain_text("40 × 40 pixels")
    check()
