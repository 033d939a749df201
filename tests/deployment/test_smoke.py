"""`make smoke` asks a running service for photos whose predictions were recorded."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deployment import smoke
from signs.errors import UserError
from tests.conftest import Server


@pytest.fixture(autouse=True)
def _proxy_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens there: services are asked directly."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")


def test_right_predictions_pass(
    running: Server,
    smoke_photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(smoke, "PHOTOS", smoke_photos)
    monkeypatch.setattr("sys.argv", ["smoke", "--url", f"{running.address}/"])
    smoke.smoke()
    assert "names all 3 photos as expected" in capsys.readouterr().out
    assert smoke.wait(running.address, 5, lambda: True) < 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "other"}, "serves the model .*, not other"),
        ({"prediction": 99}, "names 3 of 3 photos wrong: 0.png is Red"),
        ({"known": False}, "names 3 of 3 photos wrong"),
        ({"confidence": 0.5}, r"is Red \(0.500\), but the service says Red \("),
    ],
)
def test_what_differs_is_named(
    running: Server, smoke_photos: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    folder = shutil.copytree(smoke_photos, tmp_path / "photos")
    recorded = json.loads((folder / "predictions.json").read_text())
    if "model" in change:
        recorded |= change
    else:
        recorded["photos"] = [photo | change for photo in recorded["photos"]]
    (folder / "predictions.json").write_text(json.dumps(recorded))
    with pytest.raises(UserError, match=message):
        smoke.check(running.address, folder)


def test_says_what_is_missing(running: Server, smoke_photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="`make bento` puts test photos there"):
        smoke.check(running.address, tmp_path)
    with pytest.raises(UserError, match="does not answer: HTTP Error 404"):
        smoke.check(f"{running.address}/nothing", smoke_photos)
    nobody = "http://127.0.0.1:1"
    alive: Callable[[], bool]
    for alive, message in (
        (lambda: True, "is not ready after 0.1 s"),
        (lambda: False, "ended while it started"),
    ):
        with pytest.raises(UserError, match=message):
            smoke.wait(nobody, 0.1, alive)
