"""YOLO11n-cls from scratch, as Ultralytics trains it, on images of 64 pixels.

    python benchmarks/peers/yolo.py TRAINING TARGET.onnx IMAGES

Runs in the environment of requirements/peers.txt. All settings are Ultralytics' own, but one: no
photo is mirrored, as that makes some classes of signs others.
"""

import json
import os
import shutil
import sys
import time
from pathlib import Path

# No download, no report to anybody, no change of the environment.
os.environ |= {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "WANDB_MODE": "disabled"}

SIZE = 64


def train(training: Path, target: Path, budget: int) -> None:
    """Train on about `budget` images, write the ONNX file, and beside it what it took."""
    os.environ["YOLO_CONFIG_DIR"] = str(target.parent)
    from ultralytics import YOLO

    count = sum(1 for _ in training.glob("train/*/*"))
    epochs, used = max(1, round(budget / count)), min(count, budget)
    model = YOLO("yolo11n-cls.yaml")
    started = time.monotonic()
    model.train(
        data=str(training.resolve()),
        imgsz=SIZE,
        epochs=epochs,
        fraction=1.0 if used == count else used,
        pretrained=False,
        fliplr=0.0,
        seed=1,
        device="cpu",
        plots=False,
        project=str(target.parent.resolve()),
        name=target.stem,
        exist_ok=True,
    )
    seconds = time.monotonic() - started
    shutil.move(model.export(format="onnx", imgsz=SIZE, dynamic=True), target)
    took = {"images": epochs * used, "minutes": seconds / 60, "scale": None}
    target.with_suffix(".json").write_text(json.dumps(took), encoding="utf-8")


if __name__ == "__main__":
    train(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
