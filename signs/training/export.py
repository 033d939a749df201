"""A trained Keras model as files: `.keras` and ONNX, the same bytes for the same weights."""

import io
import json
import subprocess
import tempfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import keras
import onnx

# The code that a classifier comes from; the parameters are recorded beside the commit.
CODE = ["signs", "stages", "requirements"]
DATE = (1980, 1, 1, 0, 0, 0)


def save_keras(model: keras.Model, path: Path) -> None:
    """Save a model without its optimizer, so that equal models give equal bytes.

    Keras writes the date of saving, the time of each zip member and ids of Python objects
    into the file; with them DVC would see another model after each run.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A clone would be compiled like the original: three times as large.
    inference = type(model).from_config(model.get_config())
    inference.set_weights(model.get_weights())
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "model.keras"
        inference.save(raw)
        content = io.BytesIO()
        with zipfile.ZipFile(raw) as source, zipfile.ZipFile(content, "w") as target:
            for name in sorted(source.namelist()):
                data = source.read(name)
                if name == "metadata.json":
                    data = json.dumps({**json.loads(data), "date_saved": ""}).encode()
                if name == "config.json":
                    data = json.dumps(_without_ids(json.loads(data)), sort_keys=True).encode()
                target.writestr(zipfile.ZipInfo(name, DATE), data)
    path.write_bytes(content.getvalue())


def _without_ids(config: Any) -> Any:
    if isinstance(config, dict):
        return {k: _without_ids(v) for k, v in config.items() if k != "shared_object_id"}
    if isinstance(config, list):
        return [_without_ids(item) for item in config]
    return config


def to_onnx(model: keras.Model) -> bytes:
    """Convert a model: uint8 images of any batch size → logits."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # tf2onnx's, about NumPy's old names
        path = Path(folder) / "model.onnx"
        model.export(path, format="onnx", verbose=False)
        converted = onnx.load(path)
    # Names a TensorFlow function whose number counts what was traced before.
    converted.graph.doc_string = ""
    content: bytes = converted.SerializeToString(deterministic=True)
    return content


def code_commit() -> str:
    """The commit that last changed the code a model comes from, "-dirty" if changed since.

    Not simply HEAD: a commit that only adds metrics or documents leaves the model as it is.
    """
    try:
        commit = _git("log", "-1", "--format=%H", "--", *CODE)
        return f"{commit}-dirty" if _git("status", "--porcelain", "--", *CODE) else commit
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
