"""The comparison with other people's classifiers: its photos, its baseline, its page."""

import contextlib
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest

from benchmarks.peers import __main__ as peers
from benchmarks.peers import photos
from signs.data import arrays, images, layouts
from signs.data.images import REGION
from signs.errors import UserError
from signs.params import ImageSettings, load
from signs.paths import PARAMS
from tests.conftest import ROOT

SETTINGS = ImageSettings(size=32, color="rgb", contrast="none", margin=0.05)
TOOK = {"images": 3_000, "minutes": 0.5, "scale": None}
FOUND = {
    **dict.fromkeys(("accuracy", "accuracy_low", "accuracy_high", "accepted"), 0.5),
    **dict.fromkeys(("accepted_precision", "ood_rejection_at_99", "ece"), 0.25),
    "corrupted_accuracy": 0.125,
    "milliseconds": 1.0,
    "megabytes": 2.0,
}


def test_each_sign_of_the_split_becomes_a_photo(tmp_path, monkeypatch):
    monkeypatch.setattr(photos, "DATA", tmp_path)
    rng = np.random.default_rng(3)
    rows = []
    (tmp_path / "own").mkdir()
    for number, split in enumerate(["train", "train", "validation", "test", "test", "unused"]):
        pixels = rng.integers(0, 256, (50, 50, 3), np.uint8)
        (tmp_path / f"own/{number}.png").write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
        region = (0.1, 0.2, 0.9, 0.8)
        rows.append((f"{number}.png", 7 * (number % 2), 0, number // 2, split, 50, 50, *region))
    prepared = arrays.Prepared(
        *[np.zeros(0)] * 6,
        [],
        settings=SETTINGS,
        split=load(ROOT / PARAMS).preprocess.split,
        dataset="own",
        digest="",
    )
    prepared.samples = pd.DataFrame(rows, columns=arrays.COLUMNS)
    prepared.labels = pd.DataFrame({"ClassId": [0, 7], "Name": ["Stop", "Yield"]})
    photos.write(prepared, tmp_path / "made")
    training = sorted((tmp_path / "made/training").rglob("*.png"))
    names = [str(path.relative_to(tmp_path / "made/training")) for path in training]
    expected = ["train/00000/000000.png", "train/00007/000001.png", "val/00000/000002.png"]
    assert names == expected
    sign = images.decode(training[0].read_bytes())
    photo = images.decode((tmp_path / "own/0.png").read_bytes())
    assert np.array_equal(sign, images.crop(photo, (0.1, 0.2, 0.9, 0.8), 0.05))
    judged = layouts.identify(tmp_path / "made/judged")
    assert judged.names == {0: "Stop", 7: "Yield"}
    assert sorted(judged.table["fixed_split"]) == ["test", "test", "validation"]
    assert sorted(judged.table["track"]) == ["1", "1", "2"]
    assert judged.table[REGION].isna().all(axis=None)
    assert (tmp_path / "made" / photos.NAMES).read_text() == "Stop\nYield\n"


@pytest.mark.slow
def test_the_baseline_counts_orientations():
    from benchmarks.peers import hog

    ramp = np.tile(np.linspace(0, 255, hog.SIZE, dtype=np.float32), (hog.SIZE, 1))
    across = np.repeat(ramp[..., None], 3, axis=2)
    turned = np.ascontiguousarray(across.transpose(1, 0, 2))
    stack = np.stack([across, 255 - across, turned, across * 0.5 + 9])
    values = np.asarray(hog.histograms(stack)).reshape(4, -1, hog.BINS)
    assert values.shape[1] * hog.BINS == 1568
    # Grey grows to the right, so the gradients' angle is 0: between the two orientations around it.
    middle = {hog.BINS // 2 - 1, hog.BINS // 2}
    for row in (0, 1, 3):
        assert set(np.argsort(values[row].sum(axis=0))[-2:]) == middle
    assert not set(np.argsort(values[2].sum(axis=0))[-2:]) & middle
    # Neither the sign nor, nearly, the strength of the light counts.
    assert np.allclose(values[0], values[1], atol=1e-3)
    assert np.allclose(values[0], values[3], atol=0.1)


def test_the_page_has_the_rows_and_names_what_could_not_be_made():
    cells = peers._cells(TOOK, FOUND)
    rows = pd.DataFrame({"ours": cells | {"digest": "a"}, "yolo": {"error": "No wheel."}}).T
    page = peers._markdown(rows, 3_000)
    assert "| `compact`, ours, 32 pixels | 50.00 (50.00 to 50.00) | 0.2500 | 50.0 |" in page
    assert "| 3,000 | 0.5 | 100 |" in page
    assert "- YOLO11n-cls of Ultralytics, 64 pixels could not be made: No wheel." in page
    assert "Each training sees about 3,000 images" in page


def test_rows_are_kept_and_failures_tried_again(tmp_path, monkeypatch):
    """Training and judging alone are replaced: they take hours."""
    trained = []

    def train(name, training, build, budget):
        trained.append(name)
        if name == "hog" and trained.count("hog") == 1:
            raise UserError("No wheel.")
        return build / f"{name}.onnx", TOOK

    @contextlib.contextmanager
    def fetched(reference):
        yield tmp_path

    monkeypatch.setattr(peers.runs, "find", lambda *arguments, run: "reference")
    monkeypatch.setattr(peers.exports, "fetched", fetched)
    monkeypatch.setattr(peers.arrays, "load", lambda folder: SimpleNamespace(digest="a"))
    monkeypatch.setattr(peers, "_photos", lambda prepared: tmp_path)
    monkeypatch.setattr(peers, "_timing", lambda reference, settings: TOOK)
    monkeypatch.setattr(peers, "_train", train)
    monkeypatch.setattr(peers, "_judge", lambda *arguments: FOUND)
    table = tmp_path / "peers.csv"
    for expected in (["mobilenet", "hog"], ["mobilenet", "hog", "hog"]):
        peers._make_rows(["ours", "mobilenet", "hog"], 3_000, tmp_path / "build", table)
        assert trained == expected
        rows = peers._rows(table)
        assert list(rows.index) == ["ours", "mobilenet", "hog"]
        assert rows["ms"][["ours", "mobilenet"]].tolist() == ["1.00", "1.00"]
        assert rows["digest"]["ours"] != rows["digest"]["mobilenet"]
        assert rows["error"]["hog"] == ("No wheel." if len(trained) == 2 else "")
    assert rows["ms"]["hog"] == "1.00"
