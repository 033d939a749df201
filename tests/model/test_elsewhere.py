"""Strangers: which photos count as such, and how refusing them is measured."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from signs import strangers
from signs.errors import UserError


class Half:
    """A classifier that knows two classes and is sure of the first as far as a photo is bright."""

    about = SimpleNamespace(names=["Stop", "Yield"], provenance={"outliers": ["BUS lane"]})

    def prepare(self, photos: list[Any], regions: list[Any]) -> np.ndarray:
        return np.stack([cv2.resize(photo, (8, 8)) for photo in photos])

    def probabilities(self, prepared: np.ndarray) -> np.ndarray:
        first = prepared.mean(axis=(1, 2, 3)) / 255
        return np.stack([first, 1 - first], axis=1)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Classes with three photos each: one known, one met as an outlier; one photo unreadable."""
    for class_id, name in enumerate(["stop", "No horn", "Village", "Bus lane"]):
        folder = tmp_path / "other" / name
        folder.mkdir(parents=True)
        for number in range(3):
            photo = np.full((20, 20, 3), 60 * number + 20 * class_id, np.uint8)
            (folder / f"{number}.png").write_bytes(cv2.imencode(".png", photo)[1].tobytes())
    (tmp_path / "other" / "Village" / "1.png").write_bytes(b"no photo")
    return tmp_path


def test_classes_that_the_network_has_met_are_no_strangers(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = strangers.answers(Half(), "other", 100, 2, data)  # type: ignore[arg-type]
    assert sorted(set(found["name"])) == ["No horn", "Village"]
    assert len(found) == 5  # the unreadable one is left out
    assert "1 photos of 'other' cannot be read" in capsys.readouterr().out
    first = found[found["file"] == "No horn/2.png"].iloc[0]
    assert first["answer"] == "Stop"
    assert first["confidence"] == pytest.approx(140 / 255)


def test_few_photos_still_see_all_classes(data: Path) -> None:
    found = strangers.answers(Half(), "other", 2, 2, data)  # type: ignore[arg-type]
    assert sorted(found["name"]) == ["No horn", "Village"]


def test_a_set_without_strangers_is_refused(data: Path) -> None:
    for name in ("No horn", "Village"):
        for file in (data / "other" / name).iterdir():
            file.unlink()
        (data / "other" / name).rmdir()
    with pytest.raises(UserError, match="has met all classes of 'other'"):
        strangers.answers(Half(), "other", 100, 2, data)  # type: ignore[arg-type]


def test_auroc_is_the_share_of_pairs_in_order() -> None:
    assert strangers.auroc(np.array([0.9, 0.8]), np.array([0.1, 0.2])) == 1
    assert strangers.auroc(np.array([0.1, 0.2]), np.array([0.9, 0.8])) == 0
    assert strangers.auroc(np.array([0.5, 0.9]), np.array([0.5, 0.1])) == 3.5 / 4


def test_refused_at_keeps_the_wanted_share_of_own_photos() -> None:
    own = np.arange(1, 101) / 100  # 99 of 100 are 0.02 or more
    assert strangers.refused_at(0.99, own, np.array([0.01, 0.015, 0.02, 0.5])) == 0.5
