"""Starting, and refusing to start."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto, helper

from signs.inference import classifier


def remove(folder: Path) -> None:
    (folder / classifier.MODEL).unlink()


def truncate(folder: Path) -> None:
    model = folder / classifier.MODEL
    model.write_bytes(model.read_bytes()[:-20])


def forget_a_name(folder: Path) -> None:
    edit(folder, names=["Red", "Green"])


def forget_a_class(folder: Path) -> None:
    edit(folder, names=["Red", "Green"], class_ids=[3, 14])


def break_json(folder: Path) -> None:
    (folder / classifier.METADATA).write_text("{")


def other_size(folder: Path) -> None:
    about = json.loads((folder / classifier.METADATA).read_bytes())
    edit(folder, images=about["images"] | {"size": 17})


def no_model_at_all(folder: Path) -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    model = helper.make_model(helper.make_graph([], "g", [value], [value])).SerializeToString()
    about = json.loads((folder / classifier.METADATA).read_bytes())
    classifier.write(
        folder,
        model=model,
        settings=classifier.Metadata.model_validate(about).images,
        **{
            key: about[key]
            for key in ("class_ids", "names", "temperature", "threshold", "energy_threshold")
        },
        provenance={},
    )


def edit(folder: Path, **changes: Any) -> None:
    path = folder / classifier.METADATA
    path.write_text(json.dumps(json.loads(path.read_bytes()) | changes))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (remove, "There is no classifier in"),
        (truncate, "is truncated or belongs to another classifier.json"),
        (forget_a_name, "tells 3 classes apart, "),
        (forget_a_class, "tells 3 classes apart, "),
        (break_json, "classifier.json cannot be used"),
        (other_size, "cannot be used with the image settings"),
        (no_model_at_all, "cannot be used with the image settings"),
    ],
)
def test_refuses_without_a_usable_classifier(
    tmp_path: Path,
    service_copy: Callable[[Path], Path],
    begin_server: Callable[..., Any],
    damage: Callable[[Path], None],
    sentence: str,
) -> None:
    folder = service_copy(tmp_path / "app")
    damage(folder / classifier.FOLDER)
    server = begin_server(folder, wait=False)
    try:
        assert server.process.wait(60) not in (0, -9)
    finally:
        server.process.kill()
    lines = server.log.read_text().splitlines()
    (error,) = (line for line in lines if line.startswith("ERROR: "))
    assert sentence in error
    assert not any("Traceback" in line for line in lines)


def test_says_where_it_is_ready_and_loads_no_training_framework(running: Any) -> None:
    workers = running.workers()
    assert len(workers) == 2
    for worker in workers:
        loaded = {Path(file.path).name for file in worker.memory_maps()}
        assert any("onnxruntime" in name for name in loaded)
        assert not any("tensorflow" in name for name in loaded)
