"""`make drift` on what the real service logged."""

import json
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect, sync_playwright

ROOT = Path(__file__).parents[2]
BROWSER = shutil.which("chromium")
NAMES = {3: "Red", 14: "Green", 20: "Blue"}
# The first run fetches Evidently: 720 MB on disk.
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def folder(
    service_copy: Callable[[Path], Path],
    begin_server: Callable[..., Any],
    make_photo: Callable[..., bytes],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A project whose service was asked for 90 photos, as many of each colour."""
    folder = service_copy(tmp_path_factory.mktemp("drift") / "project")
    server = begin_server(folder, SIGNS_LOGGED_PER_SECOND="1000")
    for number in range(90):
        photo = make_photo(list(NAMES.values())[number % 3])
        request = urllib.request.Request(
            f"{server.address}/predict", photo, {"Content-Type": "image/png"}
        )
        urllib.request.urlopen(request, timeout=30).close()
    assert server.stop() == 0
    shutil.copy(ROOT / "Makefile", folder)
    (folder / ".venv").symlink_to(Path(sys.prefix))
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    return folder


def write_predictions(folder: Path, class_ids: list[int]) -> None:
    rows = [f"{i}.png,validation,{c},1.0,True" for i, c in enumerate(class_ids)]
    rows += [f"t{i}.png,test,3,0.2,False" for i in range(500)]  # not to be looked at
    (folder / "data").mkdir(exist_ok=True)
    (folder / "data/predictions.csv").write_text(
        "\n".join(["file,split,prediction,confidence,known", *rows]) + "\n"
    )


def drift(folder: Path, arguments: str = "") -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["make", "drift", f"ARGS={arguments}"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_same_mix_has_not_drifted(folder: Path) -> None:
    write_predictions(folder, [3, 14, 20] * 40)
    done = drift(folder, "--fail")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "90 answers of " in done.stdout
    assert "against 120 validation photos" in done.stdout
    assert "DRIFTED" not in done.stdout
    assert done.stdout.count("as expected") == 3


def test_another_mix_has_drifted(folder: Path) -> None:
    write_predictions(folder, [3] * 100 + [14] * 10 + [20] * 10)
    log = sorted((folder / "monitoring/predictions/data").glob("data.*.log*"))[0]
    with log.open("a") as file:
        file.write('{"request": "cut o\n')
        other = {"timestamp": "2030-01-31T08:00:00", "prediction": 3, "confidence": 1.0}
        file.write(json.dumps(other | {"known": True, "model": "another"}) + "\n")
    day = json.loads(log.read_text().splitlines()[0])["timestamp"][:10]
    done = drift(folder, f"--fail --day {day} --output report.html")
    assert done.returncode == 2, done.stdout + done.stderr  # make's own for a failed command
    (line,) = (line for line in done.stdout.splitlines() if "DRIFTED" in line)
    assert "sign" in line
    assert "1 damaged lines of the log were left out" in done.stderr
    assert "Red" in (folder / "report.html").read_text()

    done = drift(folder)  # the latest day has a single answer, of another classifier
    assert done.returncode == 2
    assert "ERROR: Of 2030-01-31 there are 0 answers of the present classifier" in done.stderr
    assert "(1 of others)" in done.stderr


@pytest.mark.skipif(BROWSER is None, reason="needs chromium (apt install chromium)")
def test_the_report_fetches_nothing(folder: Path) -> None:
    asked: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.goto((folder / "drift.html").as_uri())
        expect(page.get_by_text("chi-square p_value").first).to_be_visible()
        browser.close()
    assert not [url for url in asked if not url.startswith(("file:", "blob:", "data:"))]


def test_says_what_is_missing(folder: Path, tmp_path: Path) -> None:
    done = drift(folder, "--day 2001-01-01")
    assert "ERROR: No answers were logged on 2001-01-01; there are some of 20" in done.stderr
    done = drift(folder, f"--log {tmp_path}")
    assert f"ERROR: There is no log of answers in {tmp_path}" in done.stderr
    (folder / "data/predictions.csv").rename(folder / "moved.csv")
    log = sorted((folder / "monitoring/predictions/data").glob("data.*.log*"))[0]
    day = json.loads(log.read_text().splitlines()[0])["timestamp"][:10]
    done = drift(folder, f"--day {day}")
    assert "ERROR: data/predictions.csv cannot be read; `dvc repro` makes it." in done.stderr
