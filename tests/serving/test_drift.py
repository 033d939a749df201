"""The drift report on the log of a real service."""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from playwright.sync_api import expect, sync_playwright

from signs.errors import UserError
from signs.paths import PREDICTIONS
from signs.serving import drift
from tests.conftest import copy_service, photo, start
from tests.harness import BIN

ROOT = Path(__file__).parents[2]
BROWSER = shutil.which("chromium")
HEADER = "file,split,prediction,confidence,accepted"
SAME, OTHER = [3, 14, 20] * 40, [3] * 100 + [14] * 10 + [20] * 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose service got 90 photos, as many of each colour, on one day."""
    folder = copy_service(tmp_path_factory.mktemp("drift") / "project")
    server = start(folder, SIGNS_LOGGED_PER_SECOND="1000")
    for color in ["Red", "Green", "Blue"] * 30:
        assert server.send(photo(color)).status == 200
    assert server.stop() == 0
    shutil.copy(ROOT / "Makefile", folder)
    (folder / ".venv").symlink_to(Path(sys.prefix))
    (folder / PREDICTIONS).parent.mkdir(parents=True)
    with log(folder).open("a") as file:
        file.write('{"request": "cut o\n')
        other = {"timestamp": "2030-01-31T08:00:00", "prediction": 3, "confidence": 1.0}
        file.write(json.dumps(other | {"known": True, "model": "another"}) + "\n")
    return folder


def log(folder: Path) -> Path:
    return sorted((folder / "monitoring/predictions/data").glob("data.*.log*"))[0]


def today(folder: Path) -> str:
    return str(json.loads(log(folder).read_text().splitlines()[0])["timestamp"][:10])


def write_predictions(folder: Path, class_ids: list[int]) -> None:
    rows = [f"{i}.png,validation,{c},1.0,True" for i, c in enumerate(class_ids)]
    rows += [f"t{i}.png,test,3,0.2,False" for i in range(500)]  # must be ignored
    (folder / PREDICTIONS).write_text("\n".join([HEADER, *rows]))


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    monkeypatch.chdir(folder)
    write_predictions(folder, SAME)

    def run(*arguments: str) -> int:
        parser = argparse.ArgumentParser()
        drift.add_arguments(parser)
        return drift.run(parser.parse_args([str(argument) for argument in arguments]))

    return run


def test_compares_the_day_with_the_validation_photos(
    run: Callable[..., int],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    compared: list[pd.DataFrame] = []

    def compare(*sides: Any) -> dict[str, tuple[bool, str]]:
        compared[:] = sides[:2]
        return {"sign": (True, "chi-square p_value: 0.001, threshold 0.05")}

    monkeypatch.setattr(drift, "_compare", compare)
    assert run("--day", today(folder)) == 0
    assert run("--day", today(folder), "--fail") == 1
    for side, count in zip(compared, (30, 40), strict=True):
        assert dict(side["sign"].value_counts()) == dict.fromkeys(("Red", "Green", "Blue"), count)
        assert set(side["known"]) == {"known"}
        assert side["confidence"].min() > 0.9
    output = capsys.readouterr()
    for words in ("90 predictions of ", "compared with 120 validation", "sign         DRIFTED"):
        assert words in output.out
    assert "1 damaged lines of the log were left out" in output.err


def write_pods(folder: Path, to: Path, day: str) -> None:
    """The log of that day, as two pods with a folder each would have written it."""
    for pod in ("signs-a", "signs-b"):
        shutil.copytree(folder / "monitoring", to / pod)
    for path in to.rglob("data.*.log*"):
        path.write_text(path.read_text().replace(today(folder), day))


def test_reads_the_logs_of_all_pods(
    run: Callable[..., int],
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_pods(folder, tmp_path, "2031-01-31")
    monkeypatch.setattr(drift, "_compare", lambda *_: {})
    assert run("--log", tmp_path) == 0  # the latest day
    assert "180 predictions of 2031-01-31 by " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--day", "2001-01-01"], "The log has no predictions of 2001-01-01. It has .*of: 20"),
        (["--log", "nowhere"], "There is no log of predictions in nowhere"),
        ([], "2030-01-31 has 0 predictions of the present classifier, .*1 of other classifiers"),
    ],
)
def test_says_what_is_missing(run: Callable[..., int], arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(*arguments)


@pytest.mark.parametrize("missing", [PREDICTIONS, drift.METADATA])
def test_names_a_missing_file(run: Callable[..., int], missing: Path) -> None:
    kept = missing.rename(missing.with_name("kept"))
    with pytest.raises(UserError, match=f"{missing} cannot be read.*dvc repro"):
        run()
    kept.rename(missing)


@pytest.mark.network
@pytest.mark.timeout(600)  # its first run takes 720 MB
@pytest.mark.parametrize("class_ids", [SAME, OTHER])
def test_make_drift(folder: Path, class_ids: list[int]) -> None:
    write_predictions(folder, class_ids)
    # The environment is ready: `-o setup` leaves it as it is.
    command = ["make", "-o", "setup", "drift", f"ARGS=--fail --day {today(folder)}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    drifted = [line.split()[0] for line in done.stdout.splitlines() if "DRIFTED" in line]
    assert done.stdout.count("as expected") == 3 - len(drifted), done.stdout + done.stderr
    assert ("sign" in drifted) == (class_ids == OTHER)
    assert done.returncode == (2 if drifted else 0)  # make's own status for a failed command
    assert "Red" in (folder / "drift.html").read_text()
    if BROWSER:
        assert requests_of(folder / "drift.html") == []


@pytest.mark.network
@pytest.mark.timeout(600)
@pytest.mark.parametrize("class_ids", [SAME, OTHER])
def test_nightly_job(folder: Path, tmp_path: Path, class_ids: list[int]) -> None:
    write_predictions(folder, class_ids)
    yesterday = str((datetime.now(UTC) - timedelta(days=1)).date())
    write_pods(folder, tmp_path / "monitoring", yesterday)
    old = tmp_path / "monitoring/signs-0/predictions/data/data.1.log"
    old.parent.mkdir(parents=True)
    old.write_text("no longer of use")
    os.utime(old, (0, 0))
    job = yaml.safe_load((ROOT / "deployment/drift/job.yaml").read_text())
    (container,) = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    script = container["args"][0].replace("/monitoring", str(tmp_path / "monitoring"))
    uv = f"{BIN}/uv run --isolated --no-project --python {sys.executable}"
    python = tmp_path / "python"  # with the packages of the job's image
    python.write_text(
        f'#!/bin/sh\nexec {uv} --with-requirements {ROOT}/requirements/drift.txt python "$@"\n'
    )
    python.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = [*container["command"], script]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert f"180 predictions of {yesterday}" in done.stdout, done.stdout + done.stderr
    assert done.returncode == (1 if class_ids == OTHER else 0)
    assert (tmp_path / f"monitoring/reports/{yesterday}.html").stat().st_size > 0
    assert not old.exists()


def requests_of(report: Path) -> list[str]:
    """What the report loads from elsewhere."""
    asked: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.goto(report.as_uri())
        expect(page.get_by_text("chi-square p_value").first).to_be_visible()
        browser.close()
    return [url for url in asked if not url.startswith(("file:", "blob:", "data:"))]
