"""The released classifiers: whole, small, and read signs as they are, before any training."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from signs.inference.classifier import METADATA, MODEL, Classifier, released
from signs.inference.predictions import predict_photos
from signs.synthesis import svg
from tests.harness import copy_checkout

ROOT = Path(__file__).parents[2]
SIGNS = {14: "Stop", 17: "No entry", 12: "Priority road", 13: "Yield", 38: "Keep right"}


def rendered(class_id: int) -> bytes:
    """A clean sign before a grey wall."""
    sign = svg.rasterize(svg.templates_of("gtsrb")[class_id][0], 64)
    alpha = sign[:, :, 3:] / 255
    return cv2.imencode(".png", (sign[:, :, :3] * alpha + 110 * (1 - alpha)).astype(np.uint8))[
        1
    ].tobytes()


@pytest.mark.parametrize("name", released())
def test_a_released_classifier_is_whole_and_small(name: str) -> None:
    folder = ROOT / "pretrained" / name
    assert {file.name for file in folder.iterdir()} == {
        *["README.md", METADATA, MODEL, "weights.npz"]
    }
    assert all(file.stat().st_size <= 1_500_000 for file in folder.iterdir())
    metadata = Classifier(folder).metadata
    assert metadata.provenance["format"] == "onnx-int8"
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert f"signs predict --classifier {name}" in card
    assert f"Knows {len(metadata.names)} classes" in card


@pytest.mark.parametrize("name", ["gtsrb", "synthetic"])
def test_it_reads_clean_signs(name: str) -> None:
    classifier = Classifier(ROOT / "pretrained" / name)
    predictions = predict_photos(classifier, [rendered(class_id) for class_id in SIGNS])
    assert [prediction["name"] for prediction in predictions] == list(SIGNS.values())


@pytest.mark.slow
def test_a_fresh_clone_reads_at_once(tmp_path: Path) -> None:
    copy_checkout(tmp_path / "clone")
    (tmp_path / "photo.png").write_bytes(rendered(14))

    def signs(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "signs", *arguments]
        environment = {"PYTHONPATH": str(tmp_path / "clone"), "PATH": "", "HOME": str(tmp_path)}
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    done = signs("predict", "--format", "json", "photo.png")
    assert json.loads(done.stdout)["name"] == "Stop"
    assert "Nothing is trained here, so the released gtsrb reads." in done.stderr
    done = signs("predict", "--classifier", "synthetic", "--format", "json", "photo.png")
    assert json.loads(done.stdout)["name"] == "Stop"
    done = signs("predict", "--classifier", "gtsrp", "photo.png")
    assert done.returncode == 1
    assert "gtsrp is neither a folder nor a released classifier (gtsrb, " in done.stderr
