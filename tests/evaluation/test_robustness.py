"""Accuracy on corrupted photos."""

from pathlib import Path

import numpy as np

from signs.data.images import REGION
from signs.evaluation import robustness
from signs.evaluation.corruptions import KINDS, LEVELS
from tests.inference.small import load, plain, png, write_photos


def test_accuracy_by_kind_and_level(tmp_path: Path) -> None:
    model, folder = load(tmp_path / "classifier"), tmp_path / "colors"
    test = write_photos(folder)
    # These labels are wrong; no geometric change makes a red photo blue.
    test.loc[test["class_id"] == 3, "label"] = 2
    table, _ = robustness.measure(model, folder, test, 100)
    assert list(zip(table["corruption"], table["level"], strict=True)) == [
        (kind, level) for kind in KINDS for level in LEVELS
    ]
    assert (table["photos"] == 6).all()
    accuracy = table.set_index(["corruption", "level"])["accuracy"]
    assert accuracy["rotation", 3] == accuracy["shift", 5] == 4 / 6
    chosen, _ = robustness.measure(model, folder, test, 4)
    assert (chosen["photos"] == 4).all()


def test_the_example_is_large_and_rich_in_contrast(tmp_path: Path) -> None:
    model, folder = load(tmp_path / "classifier"), tmp_path / "colors"
    test = write_photos(folder)
    for file, size in (("Green/1.png", 40), ("Blue/0.png", 80)):
        halves = np.concatenate([*plain((255, 255, 255), (0, 0, 0), size=size)], axis=1)
        (folder / file).write_bytes(png(halves))
    (folder / "Red/0.png").write_bytes(png(plain((9, 9, 9), size=200)[0]))
    assert robustness.measure(model, folder, test, 100)[1] == "Blue/0.png"


def test_the_region_of_the_sign_is_corrupted_and_predicted(tmp_path: Path) -> None:
    model, folder = load(tmp_path / "classifier"), tmp_path / "colors"
    test = write_photos(folder, 1).iloc[:1].assign(**dict(zip(REGION, [0.5, 0, 1, 1], strict=True)))
    halves = np.concatenate([*plain((0, 0, 255), (255, 0, 0), size=40)], axis=1)
    (folder / "Red/0.png").write_bytes(png(halves))
    table, _ = robustness.measure(model, folder, test, 1)
    mild = table[table["level"] == 1].set_index("corruption")["accuracy"]
    assert mild[["brightness", "JPEG", "rotation", "shift", "scale", "occlusion"]].eq(1).all()
