"""Another photo set: which of its photos are read, which are strangers, how that is measured."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from signs.data import layouts
from signs.errors import UserError
from signs.evaluation import external


class Half:
    """A classifier that knows two classes and is sure of the first as far as a photo is bright."""

    about: SimpleNamespace

    def prepare(self, photos: list[Any], regions: list[Any]) -> np.ndarray:
        assert len(photos) == len(regions)
        rows = [cv2.resize(photo, (8, 8)) for photo in photos]
        return np.stack(rows) if rows else np.zeros((0, 8, 8, 3), np.uint8)

    def logits(self, prepared: np.ndarray) -> np.ndarray:
        first = prepared.mean(axis=(1, 2, 3)) / 255
        return np.stack([first, 1 - first], axis=1).astype(np.float32)


def look(
    data: Path, count: int = 100, tracks: str = "all", names: tuple[str, ...] = ("Stop", "Yield")
) -> tuple[pd.DataFrame, np.ndarray, str]:
    half = Half()
    half.metadata = SimpleNamespace(names=list(names), provenance={"outliers": ["BUS lane"]})
    return external.answers(half, "other", count, tracks, 2, data)  # type: ignore[arg-type]


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


def test_known_classes_and_strangers_are_told_apart(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, logits, part = look(data)
    assert part == "all photos"
    labels = found.groupby("name")["label"].agg(["min", "max", "size"])
    # The outliers' class is neither; the unreadable photo is left out.
    assert labels.T.to_dict("list") == {
        "No horn": [external.OOD, external.OOD, 3],
        "Village": [external.OOD, external.OOD, 2],
        "stop": [0, 0, 3],
    }
    assert "1 photos of 'other' cannot be read" in capsys.readouterr().out
    row = found.index[found["file"] == "No horn/2.png"][0]
    assert logits[row, 0] == pytest.approx(140 / 255)


def test_few_photos_still_see_all_classes(data: Path) -> None:
    (data / "other" / "Village" / "1.png").unlink()
    found, _, _ = look(data, count=2)
    strangers = found[found["label"] == external.OOD]
    assert sorted(strangers["name"]) == ["No horn", "Village"]
    assert (found["label"] == 0).sum() == 2


def test_a_set_that_the_network_met_as_outliers_is_refused(data: Path) -> None:
    for name in ("stop", "No horn", "Village"):
        shutil.rmtree(data / "other" / name)
    with pytest.raises(UserError, match="they are none of its own"):
        look(data)


def test_halves_of_the_tracks(monkeypatch: pytest.MonkeyPatch, data: Path) -> None:
    whole = layouts.read("other", data)
    whole.table["track"] = [f"0/{n:05}" for n in range(12)]
    monkeypatch.setattr(layouts, "read", lambda *_: whole)
    odd, _, part = look(data, tracks="odd")
    assert part == "odd tracks"
    even, _, part = look(data, tracks="even")
    assert part == "even tracks"
    numbers = [group[-1] for group in odd["group"]]
    assert set(numbers) <= set("13579")
    everything = set(look(data)[0]["file"])
    assert set(odd["file"]) | set(even["file"]) == everything
    assert not set(odd["file"]) & set(even["file"])


def test_a_set_without_tracks_has_no_halves(data: Path) -> None:
    with pytest.raises(UserError, match="external_tracks is even, but 'other' has no such"):
        look(data, tracks="even")


def test_a_half_without_photos_is_named(monkeypatch: pytest.MonkeyPatch, data: Path) -> None:
    whole = layouts.read("other", data)
    whole.table["track"] = "0/00002"
    monkeypatch.setattr(layouts, "read", lambda *_: whole)
    with pytest.raises(UserError, match="external_tracks is odd, but 'other' has no such"):
        look(data, tracks="odd")


def test_two_known_classes_of_one_name_are_left_out(data: Path) -> None:
    found, _, _ = look(data, names=("Stop", "STOP", "Yield"))
    assert sorted(set(found["name"])) == ["No horn", "Village"]


def test_numbers_are_no_names(data: Path) -> None:
    for number, name in enumerate(("stop", "No horn", "Village", "Bus lane")):
        (data / "other" / name).rename(data / "other" / str(number))
    with pytest.raises(UserError, match=r"numbers for names.*Put a labels\.csv into both"):
        look(data, names=("0", "1"))


def test_a_set_without_a_readable_photo_is_refused(data: Path) -> None:
    for file in (data / "other").rglob("*.png"):
        file.write_bytes(b"no photo")
    with pytest.raises(UserError, match="no photo of 'other' can be read"):
        look(data)


def test_test_photos_of_its_own_come_first(monkeypatch: pytest.MonkeyPatch, data: Path) -> None:
    whole = layouts.read("other", data)
    whole.table["fixed_split"] = np.where(whole.table["file"].str.endswith("2.png"), "test", "")
    monkeypatch.setattr(layouts, "read", lambda *_: whole)
    found, _, part = look(data, tracks="even")
    assert part == "test photos"
    assert set(found["file"].str[-5:]) == {"2.png"}


def test_auroc_is_the_share_of_pairs_in_order() -> None:
    assert external.auroc(np.array([0.9, 0.8]), np.array([0.1, 0.2])) == 1
    assert external.auroc(np.array([0.1, 0.2]), np.array([0.9, 0.8])) == 0
    assert external.auroc(np.array([0.5, 0.9]), np.array([0.5, 0.1])) == 3.5 / 4


def test_rejected_at_keeps_the_wanted_share_of_own_photos() -> None:
    own = np.arange(1, 101) / 100  # 99 of 100 are 0.02 or more
    assert external.rejected_at(0.99, own, np.array([0.01, 0.015, 0.02, 0.5])) == 0.5
