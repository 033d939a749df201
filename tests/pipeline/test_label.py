"""From photos that the service kept to the next training: `signs label`, then `dvc repro`."""

import re
import signal

import pandas as pd
from playwright.sync_api import expect

from tests.inference.small import png
from tests.labelling.browser import chromium, needs_browser, opened
from tests.pipeline.conftest import CLASSES, Project
from tests.pipeline.conftest import photo as pattern

pytestmark = needs_browser
PHOTOS = 10


def test_ten_photos_that_are_labelled_by_keyboard_train(done: Project) -> None:
    kept = done.path("kept")
    kept.mkdir()
    for number in range(PHOTOS):
        # As the service keeps them: the request's id, without a suffix.
        (kept / f"{number % CLASSES}f{number}-1").write_bytes(
            png(pattern(number % CLASSES, 50 + number))
        )
    (kept / "9e-1.png").write_bytes(b"no photo")
    label = done.start("python", "-m", "signs", "label", "kept", "--to", "data/tiny", "--port", "0")
    label.wait_until(lambda: "Ctrl-C ends" in label.text)
    (address,) = re.findall(r"http://\S+", label.text)
    with chromium() as browser, opened(browser, address) as page:
        for count in range(PHOTOS):
            expect(page.locator("#status")).to_contain_text(f"{count} of {PHOTOS + 1} done")
            shown = page.locator("#file").inner_text()[0]
            places = page.locator("#top span").all_inner_texts()
            page.keyboard.press(str(places.index(shown) + 1))
        expect(page.locator("#picture")).to_contain_text("cannot be read as a photo")
        page.keyboard.press("ArrowRight")
        expect(page.get_by_role("heading")).to_have_text("All photos are done")
    label.signal(signal.SIGINT)
    assert "10 photos labelled, 1 still in kept." in label.wait().succeeds()
    assert [path.name for path in kept.iterdir()] == ["9e-1.png"]
    assert (done.start("python", "-m", "signs", "label", "data", "--port", "0")).wait().rc == 1

    done.dvc("repro", "train").succeeds()
    samples = pd.read_csv(done.path("data/prepared/samples.csv"))
    added = samples[samples["file"].str.contains("f")]
    assert len(added) == PHOTOS
    expected = [f"{name}/{name}f" for name in added["class_id"].astype(str)]
    assert [file[:4] for file in added["file"]] == expected
    assert done.json("models/classifier/classifier.json")["class_ids"] == list(range(CLASSES))
