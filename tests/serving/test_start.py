"""Starting, and refusing to start."""

from collections.abc import Callable
from pathlib import Path

import pytest

from signs.inference import classifier
from signs.paths import CLASSIFIER
from signs.serving.settings import number
from tests.conftest import Server, copy_service, start


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda model: model.unlink(), "There is no classifier in"),
        (lambda model: model.write_bytes(model.read_bytes()[:-20]), "is truncated or belongs to"),
    ],
    ids=["missing", "truncated"],
)
def test_refuses_without_a_usable_classifier(
    tmp_path: Path, damage: Callable[[Path], None], sentence: str
) -> None:
    folder = copy_service(tmp_path / "app")
    damage(folder / CLASSIFIER / classifier.MODEL)
    server = start(folder, wait=False)
    try:
        assert server.process.wait(60) not in (0, -9)
    finally:
        server.process.kill()
    log = server.log.read_text()
    (error,) = (line for line in log.splitlines() if line.startswith("ERROR: "))
    assert sentence in error
    assert "Traceback" not in log


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("SIGNS_WORKERS", "abc", "a whole number, at least 0"),
        ("SIGNS_WORKERS", "-1", "a whole number, at least 0"),
        ("SIGNS_LOGGED_PER_SECOND", "0.5", "a whole number, at least 0"),
        ("SIGNS_KEEP_BELOW", "nan", "a number, at least 0"),
    ],
)
def test_refuses_a_setting_that_is_no_number(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, allowed: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=f"^ERROR: {name} is '{value}', but must be {allowed}.$"):
        number(name, 1.0 if name == "SIGNS_KEEP_BELOW" else 1)
    monkeypatch.setenv(name, " ")
    assert number(name, 7) == 7


def test_says_so_at_the_start(tmp_path: Path) -> None:
    folder = copy_service(tmp_path / "app")
    for name in ("SIGNS_WORKERS", "SIGNS_KEEP_BELOW"):
        server = start(folder, wait=False, **{name: "x"})
        assert server.process.wait(60) == 1
        log = server.log.read_text()
        assert f"ERROR: {name} is 'x'" in log
        assert "Traceback" not in log


def test_workers_load_no_training_framework(running: Server) -> None:
    workers = running.workers()
    assert len(workers) == 2
    for worker in workers:
        loaded = {Path(file.path).name for file in worker.memory_maps()}
        assert any("onnxruntime" in name for name in loaded)
        assert not any("tensorflow" in name for name in loaded)
