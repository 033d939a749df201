"""The labelling page in a real browser, by keyboard."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from signs.labelling import tray
from signs.labelling.class_folders import ClassFolders
from signs.labelling.server import Server
from tests.inference.small import CLASS_IDS, NAMES, load, plain, png
from tests.labelling.browser import chromium, needs_browser, opened

pytestmark = needs_browser
Files = dict[str, bytes]
# Dull colours, which the classifier doubts; the duller, the sooner they are shown.
SHADES = {"Red": (60, 20, 20), "Green": (20, 66, 20), "Blue": (20, 20, 72)}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def more() -> Files:
    """Further photos."""
    return {}


@pytest.fixture
def kept(tmp_path: Path, more: Files) -> Path:
    folder = tmp_path / "kept"
    folder.mkdir()
    for name, color in SHADES.items():
        (folder / f"{name}-1").write_bytes(png(plain(color, size=40)[0]))
    for name, content in more.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def page(browser: Browser, kept: Path, tmp_path: Path) -> Iterator[Page]:
    classes = ClassFolders(tmp_path / "mine", dict(zip(NAMES, CLASS_IDS, strict=True)))
    photos = tray.by_doubt(tray.find(kept), load(tmp_path / "classifier"))
    with Server(tray.Tray(kept, photos, classes), 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with opened(browser, f"http://127.0.0.1:{server.server_port}/") as page:
                expect(page.locator("#status")).to_contain_text(f"0 of {len(photos)} done")
                yield page
        finally:
            server.shutdown()
            thread.join()


def shown(page: Page) -> str:
    """What the shown photo shows, as its file is called."""
    return page.locator("#file").inner_text().partition("-")[0]


def done(page: Page, count: int) -> None:
    expect(page.locator("#status")).to_contain_text(f"{count} of ")


def test_suggestions_names_undo_and_skip_by_keyboard(page: Page, tmp_path: Path) -> None:
    picture = page.get_by_role("img")
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") == 40
    first = shown(page)
    expect(page.locator("#top button").first).to_contain_text(first)
    expect(page.locator("#title")).to_be_focused()
    page.keyboard.press("1")
    done(page, 1)
    page.keyboard.press("ArrowLeft")
    done(page, 0)
    assert shown(page) == first
    page.keyboard.press("1")
    done(page, 1)
    second = shown(page)
    page.keyboard.type(second[:2].lower())
    expect(page.get_by_role("option", name=second, exact=True)).to_be_visible()
    page.keyboard.press("Enter")
    done(page, 2)
    page.keyboard.press("0")
    done(page, 3)
    expect(page.get_by_role("heading")).to_have_text("All photos are done")
    page.keyboard.press("ArrowLeft")
    done(page, 2)
    page.keyboard.press("ArrowRight")
    done(page, 3)
    expect(page.locator("#end")).to_contain_text("The skipped ones are still in")
    ids = dict(zip(NAMES, CLASS_IDS, strict=True))
    moved = {
        path.relative_to(tmp_path / "mine").as_posix()
        for path in (tmp_path / "mine").rglob("*.png")
    }
    assert moved == {f"{ids[name]}/{name}-1.png" for name in (first, second)}


def test_a_new_class_needs_one_key_more_than_a_known_one(page: Page, tmp_path: Path) -> None:
    page.keyboard.type("Tram")
    expect(page.get_by_role("option")).to_have_text(["New class: Tram"])
    page.keyboard.press("Enter")  # a slip of the finger makes no class
    done(page, 0)
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("option", selected=True)).to_have_text("New class: Tram")
    page.keyboard.press("Enter")
    done(page, 1)
    assert "42,Tram" in (tmp_path / "mine/labels.csv").read_text()
    page.keyboard.type("tr")
    expect(page.get_by_role("option").first).to_have_text("Tram")
    page.keyboard.press("Escape")
    expect(page.get_by_role("option")).to_have_count(0)
    expect(page.locator("#title")).to_be_focused()


def test_digits_are_text_in_the_field_and_keys_can_be_switched_off(page: Page) -> None:
    page.get_by_label("Another class").fill("Zone ")
    page.keyboard.press("3")
    expect(page.get_by_role("option")).to_have_text(["New class: Zone 3"])
    page.keyboard.press("Escape")
    page.get_by_label("Single keys work as shown").uncheck()
    for key in ("1", "0", "ArrowRight", "r"):
        page.keyboard.press(key)
    done(page, 0)
    expect(page.get_by_role("option")).to_have_count(0)
    page.get_by_role("button", name="Skip").click()
    done(page, 1)


@pytest.mark.parametrize("more", [{"<img src=x onerror=alert(1)>.png": b"no photo"}])
def test_an_unreadable_photo_is_said_and_its_name_is_text(page: Page, more: Files) -> None:
    for count in (1, 2, 3):
        page.keyboard.press("ArrowRight")
        done(page, count)
    expect(page.locator("#picture")).to_contain_text("cannot be read as a photo: not an image")
    expect(page.locator("#file")).to_have_text(*more)
    expect(page.locator("#top button")).to_have_count(0)
    page.keyboard.press("1")
    page.keyboard.press("ArrowRight")
    done(page, 4)


def test_a_photo_that_another_page_labelled_is_not_labelled_twice(
    page: Page, browser: Browser
) -> None:
    other = browser.new_page()
    other.goto(page.url)
    expect(other.locator("#status")).to_contain_text("0 of 3 done")
    other.keyboard.press("1")
    done(other, 1)
    second = shown(other)
    page.keyboard.press("1")
    done(page, 1)
    assert shown(page) == second
    other.close()


def test_says_that_the_server_is_gone(page: Page) -> None:
    page.route("**/label", lambda route: route.abort())
    page.keyboard.press("1")
    expect(page.get_by_role("alert")).to_contain_text("start `signs label` again")


def test_fits_a_phone_and_every_control_has_a_name(page: Page) -> None:
    if folder := os.environ.get("SIGNS_ARTIFACTS"):  # continuous integration keeps the picture
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(folder) / "label.png")
    page.set_viewport_size({"width": 360, "height": 740})
    page.get_by_label("Another class").fill("Very" * 20)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    if folder:
        page.screenshot(path=Path(folder) / "label-phone.png", full_page=True)
    controls = page.locator("button, input, progress").all()
    assert len(controls) >= 10
    for control in controls:
        name = control.evaluate("e => e.innerText || e.ariaLabel || e.labels[0].innerText")
        assert name, control
