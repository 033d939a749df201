"""The model card: it says what was measured, and does not say what was not."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from signs.reporting import model_card

TEST = {
    "images": 1234,
    "accuracy": 0.98765,
    "accuracy_low": 0.97,
    "accuracy_high": 0.995,
    "balanced_accuracy": 0.98,
    "macro_f1": 0.975,
    "top3_accuracy": 0.999,
    "log_loss": 0.05,
    "ece": 0.0061,
    "known": 0.99,
    "accepted_precision": 0.997,
}
SETTINGS: dict[str, Any] = {
    "dataset": "signs",
    "preprocess": {"images": {"size": 32, "color": "rgb", "contrast": "equalize"}},
    "train": {
        "network": "compact",
        "seed": 7,
        "recipe": {"epochs": 12, "steps_per_epoch": 200, "batch_size": 64},
    },
    "evaluate": {"elsewhere": "gtsrb", "external_photos": 9},
    "provenance": {"version": "v1-abc", "commit": "0123abc", "outliers": ""},
}
CLASSES = [
    {"class_id": 0, "name": "30", "test": 40, "recall": 0.9, "recall_low": 0.8, "recall_high": 1},
    {"class_id": 1, "name": "a|b", "test": 4, "recall": 0.5, "recall_low": 0.2, "recall_high": 0.9},
    {"class_id": 2, "name": "None", "test": 0},
]


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    """What the stages write, without bad conditions and strangers."""
    for folder in ("preprocess", "train", "evaluate"):
        (tmp_path / folder).mkdir()
    write_json(tmp_path / "train/metrics.json", {"parameters": 9876})
    write_json(
        tmp_path / "evaluate/details.json",
        {
            "test": TEST,
            "validation": {"images": 171},
            "temperature": 1.25,
            "threshold": 0.75,
            "energy_threshold": 4.5,
        },
    )
    pd.DataFrame(CLASSES).to_csv(tmp_path / "evaluate/classes.csv", index=False)
    write_audit(tmp_path)
    return tmp_path


def write_audit(metrics: Path, **changes: Any) -> None:
    audit: dict[str, Any] = {"files": 4170, "distinct": 1672, "groups": 1281, "classes": 58}
    audit |= {"train": 1326, "validation": 171, "test": 175, "classes_not_tested": 3}
    audit["leaks"] = {"exact": 0, "group": 0, "near": 0, "test_percent": 0.0}
    audit["leaks"]["test_percent_if_split_at_random"] = 84.6
    audit["drawn"] = {"photos": 0, "classes": 0}
    write_json(metrics / "preprocess/audit.json", audit | changes)


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def card(metrics: Path, **changes: Any) -> str:
    target = metrics / "docs/card.md"
    model_card.write(metrics, SETTINGS | changes, 1_270_000, target)
    return target.read_text(encoding="utf-8")


def test_the_card_says_what_was_measured(metrics: Path) -> None:
    text = card(metrics)
    for part in (
        "commit `0123abc`",
        "9,876 parameters, 1.3 MB as ONNX",
        "32x32 pixels rgb",
        "temperature 1.250",
        "confidence of 0.750",
        "Trained on 153,600 images in 12 epochs, seed 7",
        "4,170 files, 1,672 distinct photos in 1,281 groups",
        "1,326 train, 171 validation, 175 test; 3 classes have too few groups",
        "twin in training: 0.0 % (split at random: 84.6 %).",
        "## Results on 1,234 test photos that share no group with training",
        "98.77% (97.00% to 99.50%)",
        "calibrated on 171 validation photos",
    ):
        assert part in text, part
    assert "drawn" not in text


def test_what_was_not_measured_is_not_claimed(metrics: Path) -> None:
    text = card(metrics)
    assert "Not measured (`evaluate.corruption_photos: 0`)" in text
    assert "`evaluate.external_set` has no photos of such" in text
    assert "AUROC" not in text


@pytest.mark.parametrize("kind", ["exact", "group", "near"])
def test_a_leak_stands_in_the_headline(kind: str, metrics: Path) -> None:
    leaks = {"exact": 0, "group": 0, "near": 0, kind: 3, "test_percent": 41.5}
    write_audit(metrics, leaks=leaks | {"test_percent_if_split_at_random": None})
    text = card(metrics)
    assert "1,234 test photos: the split leaks, so they are too good" in text
    assert "twin in training: 41.5 %." in text
    assert "share no group" not in text


def test_the_hardest_class_comes_first_whatever_its_name(metrics: Path) -> None:
    lines = card(metrics).splitlines()
    first = lines.index("| 1 a/b | 4 | 50.0% | 20.0% to 90.0% |")
    assert lines[first + 1] == "| 0 30 | 40 | 90.0% | 80.0% to 100.0% |"
    assert lines[first + 2] == ""  # the class that is not tested has no recall


def test_bad_conditions_and_strangers(metrics: Path) -> None:
    pd.DataFrame(
        {"corruption": ["noise", "noise", "fog"], "level": [1, 2, 1], "accuracy": [0.9, 0.8, 0.7]}
    ).to_csv(metrics / "evaluate/corruptions.csv", index=False)
    pd.DataFrame(
        {"name": ["50"], "photos": [3], "refused": [0.25], "most_frequent_prediction": ["None"]}
    ).to_csv(metrics / "evaluate/ood.csv", index=False)
    figures = {"strangers": 3, "ood_rejection_rate": 0.25, "ood_rejection_at_99": 0.5}
    details = json.loads((metrics / "evaluate/details.json").read_text())
    details["test"] |= figures | {"ood_auroc": 0.9}
    details["external_part"] = "odd tracks"
    write_json(metrics / "evaluate/details.json", details)
    text = card(metrics)
    assert text.index("| fog | 70.0% | 70.0% |") < text.index("| noise | 85.0% | 80.0% |")
    assert "25.0% of 3 photos of the set `gtsrb` (odd tracks)" in text
    assert "50.0% if 99 % of the test photos" in text
    assert "Least refused: 50 (25%, read as None)." in text


def test_another_set_and_a_committee_are_told_if_there_are(metrics: Path) -> None:
    text = card(metrics)
    assert "## Another photo set" not in text
    assert "## A committee" not in text
    details = json.loads((metrics / "evaluate/details.json").read_text())
    details["elsewhere"] = TEST | {"images": 1234, "classes": 43, "accuracy": 0.9712}
    details["committee"] = TEST | {"classifiers": 1, "passes": 9, "accuracy": 0.9876}
    write_json(metrics / "evaluate/details.json", details | {"external_part": "even tracks"})
    text = card(metrics)
    assert "Of 1,234 photos of the set `gtsrb` (even tracks)" in text
    assert "97.12% are read right" in text
    assert "mean answer of 1 such classifier, in 9 passes" in text
    assert "accuracy 98.76%" in text


def test_what_was_not_asked_for_is_called_so(metrics: Path) -> None:
    text = card(metrics, evaluate={"elsewhere": "gtsrb", "external_photos": 0})
    assert "Not measured (`evaluate.external_photos: 0`)" in text


def test_outliers_are_declared(metrics: Path) -> None:
    assert "unsure" not in card(metrics)
    with_outliers = SETTINGS["provenance"] | {"outliers": "No sign, Village"}
    text = card(metrics, provenance=with_outliers)
    assert "learnt from drawn photos of No sign, Village." in text


def test_drawn_photos_are_declared(metrics: Path) -> None:
    write_audit(metrics, drawn={"photos": 58000, "classes": 58})
    assert "Beside them train 58,000 drawn photos of 58 classes." in card(metrics)
    assert "no figure here speaks of real ones" in card(metrics, dataset="synthetic")
