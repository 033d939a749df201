"""Starting, and refusing to start."""

from collections.abc import Callable
from pathlib import Path

import pytest

from signs.inference import classifier
from signs.paths import CLASSIFIER
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


def test_workers_load_no_training_framework(running: Server) -> None:
    workers = running.workers()
    assert len(workers) == 2
    for worker in workers:
        loaded = {Path(file.path).name for file in worker.memory_maps()}
        assert any("onnxruntime" in name for name in loaded)
        assert not any("tensorflow" in name for name in loaded)
