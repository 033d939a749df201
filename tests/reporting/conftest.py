"""A run of three classes with photos of one colour each, as the other stages leave it."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from signs.evaluation import corruptions
from signs.inference.classifier import Metadata
from signs.params import ImageSettings, load
from signs.reporting import pictures, results

ROOT = Path(__file__).parents[2]
EVIL = "<script>alert(1)</script> & $5 $9"
NAMES = [EVIL, "Stop", "a|b"]
COLOURS = [(200, 30, 30), (30, 200, 30), (30, 30, 200)]  # of the photos of each class
TEST = {"images": 1234, "classes": 2, "groups": 99, "accuracy": 0.98765, "accuracy_low": 0.97}
TEST |= {"accuracy_high": 0.995, "balanced_accuracy": 0.98, "macro_f1": 0.975, "log_loss": 0.05}
TEST |= {"accuracy_low_by_photo": 0.981, "accuracy_high_by_photo": 0.992}
TEST |= {"top3_accuracy": 0.999, "ece": 0.0061, "ece_uncalibrated": 0.03}
TEST |= {"accepted": 0.99, "accepted_precision": 0.997}
TEST |= {"ood_images": 1203, "ood_rejection_rate": 0.42, "ood_rejection_at_99": 0.5}
TEST |= {"ood_auroc": 0.9765, "ood_fpr95": 0.07}
DETAILS: dict[str, Any] = {"test": TEST, "validation": TEST | {"images": 171}, "temperature": 1.25}
DETAILS |= {"threshold": 0.75, "energy_threshold": 4.5, "external_part": "odd tracks"}
DETAILS |= {"onnx_max_difference": 1e-6, "same_predictions": 1.0}
DETAILS["corruption_example"] = "0/0.png"
AUDIT: dict[str, Any] = {"files": 4170, "distinct": 1672, "groups": 1281, "classes": 58}
AUDIT |= {"train": 1326, "validation": 171, "test": 175, "classes_not_tested": 3}
AUDIT["synthetic"] = {"photos": 0, "classes": 0}
AUDIT["leaks"] = {"exact": 0, "group": 0, "near": 0, "test_percent": 0.0}
AUDIT["leaks"]["test_percent_if_split_at_random"] = 84.6
TRAIN = {"step": 3, "parameters": 9876}
CORRUPTED = "".join(
    f"{kind},{level},80,{1 - level / (8 if kind == 'fog' else 20)}\n"
    for kind in corruptions.KINDS
    for level in corruptions.LEVELS
)
FILES = {
    "metrics/train/metrics.json": json.dumps(TRAIN),
    "metrics/preprocess/audit.json": json.dumps(AUDIT),
    "metrics/preprocess/classes.csv": f"class_id,name,files\n0,{EVIL},7\n1,Stop,7\n2,a|b,7\n",
    "metrics/preprocess/problems.csv": "file,problem\n" + f"{EVIL}.png,{EVIL}\n" * 30,
    "metrics/preprocess/duplicates.csv": "group,class_id,name,files,distinct,file\n"
    "5,1,Stop,3,2,1/0.png\n5,1,Stop,3,2,1/1.png\n5,1,Stop,3,2,1/2.png\n"
    f"2,0,{EVIL},2,1,0/0.png\n2,0,{EVIL},2,1,0/1.png\n",
    "metrics/evaluate/details.json": json.dumps(DETAILS),
    "metrics/evaluate/classes.csv": "class_id,name,test,test_groups,correct,"
    "recall,recall_low,recall_high\n"
    f"0,{EVIL},40,20,36,.9,.8,1\n1,Stop,4,1,2,.5,.2,.9\n2,a|b,0,0,0,,,\n",
    "metrics/evaluate/confusions.csv": "true_id,true_name,predicted_id,predicted_name,count,share\n"
    f"1,Stop,0,{EVIL},3,.25\n",
    "metrics/evaluate/corruptions.csv": f"corruption,level,photos,accuracy\n{CORRUPTED}",
    "metrics/evaluate/slices.csv": "criterion,low,high,photos,accuracy\n"
    "brightness,12.5,80.25,14,.4321\n",
    # Of the two mistakes, the second is the more confident one.
    "data/evaluation/predictions.csv": "file,split,label,predicted_label,confidence,"
    "uncalibrated_confidence,energy,correct\n0/0.png,test,0,0,.99,.9,7,True\n"
    "0/1.png,test,0,1,.8,.7,6,False\n1/0.png,test,1,0,.9,.8,7,False\n1/1.png,test,1,1,.7,.6,6,True\n"
    "2/0.png,test,2,2,.6,.5,6,True\n2/1.png,test,2,2,.6,.5,6,True\n",
    **{
        f"metrics/train/plots/metrics/{name}.tsv": "step\tvalue\n0\t.5\n1\t.25\n2\t.125\n"
        for name in pictures.CURVES
    },
}
OOD_FILES = {
    "metrics/evaluate/ood.csv": "name,photos,rejected,mean_confidence,most_frequent_prediction\n"
    f"{EVIL},1200,.25,.61,Stop\n30,3,1,.2,None\n",
    "data/evaluation/ood_predictions.csv": "file,energy\nx.png,2.5\n",
}
RECIPE = {"epochs": 12, "steps_per_epoch": 200, "batch_size": 64}
PARAMS = {"split": {"group": "duplicates"}, "network": "compact", "seed": 7, "recipe": RECIPE}
PROVENANCE = {"fingerprint": "0123abc", "dataset": "synthetic", "auxiliary_outliers": []}
PROVENANCE |= {"precision": "int8"}
METADATA = Metadata(
    version="v1-abc",
    sha256="",
    class_ids=[0, 1, 2],
    names=NAMES,
    images=ImageSettings(size=32, color="rgb", contrast="equalize", margin=0.05),
    provenance=PROVENANCE | {"params": PARAMS},
    **{key: DETAILS[key] for key in ("temperature", "threshold", "energy_threshold")},
)


def settings(**changes: Any) -> dict[str, Any]:
    return results.settings(load(ROOT / "params.yaml").evaluate, METADATA) | changes


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a run that did not measure OOD photos, external set and ensemble."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    write(tmp_path, FILES | {"models/classifier/classifier.json": METADATA.model_dump_json()})
    (tmp_path / "models/classifier/model.onnx").write_bytes(bytes(1_270_000))
    importance = np.zeros((2, 32, 32), np.float32)
    importance[0] = 1
    np.save(tmp_path / "data/evaluation/saliency.npy", importance)
    samples = [(f"{label}/{i}.png", label) for label in range(3) for i in range(6)]
    for file, label in samples:
        path = tmp_path / "data/synthetic" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((20, 20, 3), COLOURS[label][::-1], np.uint8))
    table = pd.DataFrame(samples, columns=["file", "class_id"])
    table["split"] = np.where(table.index % 6 < 2, "test", "train")
    prepared = SimpleNamespace(
        dataset="synthetic",
        images=np.full((18, 32, 32, 3), 100, np.uint8),
        samples=table.assign(**dict.fromkeys(["left", "top", "right", "bottom"], np.nan)),
        labels=pd.DataFrame({"ClassId": [0, 1, 2], "Name": NAMES}),
    )
    monkeypatch.setattr(pictures.arrays, "load", lambda: prepared)
    return tmp_path
