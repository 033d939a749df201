"""Starting, and refusing to start."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto, helper

from signs.inference import classifier
from signs.paths import CLASSIFIER


def edit(folder: Path, **changes: Any) -> None:
    path = folder / classifier.METADATA
    path.write_text(json.dumps(json.loads(path.read_bytes()) | changes))


def truncate(folder: Path) -> None:
    model = folder / classifier.MODEL
    model.write_bytes(model.read_bytes()[:-20])


def other_size(folder: Path) -> None:
    metadata = json.loads((folder / classifier.METADATA).read_bytes())
    edit(folder, images=metadata["images"] | {"size": 17})


def empty_graph(folder: Path) -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    model = helper.make_model(helper.make_graph([], "g", [value], [value])).SerializeToString()
    (folder / classifier.MODEL).write_bytes(model)
    edit(folder, sha256=hashlib.sha256(model).hexdigest())


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda folder: (folder / classifier.MODEL).unlink(), "There is no classifier in"),
        (truncate, "is truncated or belongs to another classifier.json"),
        (lambda folder: edit(folder, names=["Red", "Green"]), "classes"),
        (lambda folder: edit(folder, names=["Red", "Green"], class_ids=[3, 14]), "classes"),
        (
            lambda folder: (folder / classifier.METADATA).write_text("{"),
            "classifier.json cannot be used",
        ),
        (other_size, "cannot be used with the image settings"),
        (empty_graph, "cannot be used with the image settings"),
    ],
    ids=["missing", "truncated", "a name less", "a class less", "no JSON", "size", "no model"],
)
def test_refuses_without_a_usable_classifier(
    tmp_path: Path,
    service_copy: Callable[[Path], Path],
    begin_server: Callable[..., Any],
    damage: Callable[[Path], None],
    sentence: str,
) -> None:
    folder = service_copy(tmp_path / "app")
    damage(folder / CLASSIFIER)
    server = begin_server(folder, wait=False)
    try:
        assert server.process.wait(60) not in (0, -9)
    finally:
        server.process.kill()
    log = server.log.read_text()
    (error,) = (line for line in log.splitlines() if line.startswith("ERROR: "))
    assert sentence in error
    assert "Traceback" not in log


def test_workers_load_no_training_framework(running: Any) -> None:
    workers = running.workers()
    assert len(workers) == 2
    for worker in workers:
        loaded = {Path(file.path).name for file in worker.memory_maps()}
        assert any("onnxruntime" in name for name in loaded)
        assert not any("tensorflow" in name for name in loaded)
