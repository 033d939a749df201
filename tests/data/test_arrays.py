"""What preprocess hands to training: whole, or refused with the name of the damaged file."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from signs.data import arrays
from signs.params import ImageSettings, Split
from signs.data.arrays import PreparedError

SPLIT = Split(group="duplicates", similarity=0.9, validation=0.1, folds=10, fold=0, seed=1)
SETTINGS = ImageSettings(size=8, color="rgb", contrast="none", margin=0.05)
IMAGES = np.random.default_rng(1).integers(0, 256, (4, 8, 8, 3), np.uint8)
DRAWN = IMAGES[:2] // 2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    np.save(tmp_path / arrays.IMAGES, IMAGES)
    nan = float("nan")
    pd.DataFrame(
        {
            "file": ["0/a.png", "0/NA", "7/null.png", "7/b.png"],
            "class_id": [0, 0, 7, 7],
            "label": [0, 0, 1, 1],
            "group": [0, 1, 2, 2],
            "split": ["train", "test", "validation", "unused"],
            "height": [10, 20, 30, 40],
            "width": [11, 21, 31, 41],
            "left": [nan, 0.1, nan, 0.25],
            "top": [nan, 0.2, nan, 0.25],
            "right": [nan, 0.8, nan, 0.75],
            "bottom": [nan, 1 / 3, nan, 0.75],
        }
    ).to_csv(tmp_path / arrays.SAMPLES, index=False)
    labels = pd.DataFrame({"ClassId": [0, 7], "Name": ["NA", "30"]})
    labels.to_csv(tmp_path / arrays.LABELS, index=False)
    np.save(tmp_path / arrays.SYNTHETIC_IMAGES, DRAWN)
    np.save(tmp_path / arrays.SYNTHETIC_LABELS, np.array([1, 0]))
    np.save(tmp_path / arrays.OUTLIERS, DRAWN[:1])
    arrays.describe(tmp_path, "own", SETTINGS, SPLIT, ["No sign"])
    return tmp_path


def test_round_trip(folder: Path) -> None:
    found = arrays.load(folder)
    assert isinstance(found.images, np.memmap)
    assert (found.images == IMAGES).all()
    assert (found.synthetic_images == DRAWN).all()
    assert found.synthetic_labels.tolist() == [1, 0]
    assert (found.outliers == DRAWN[:1]).all()
    assert found.outlier_names == ["No sign"]
    assert found.settings == SETTINGS
    assert found.split == SPLIT
    assert found.dataset == "own"
    # Texts stay texts, however much they look like something else; only regions may lack.
    assert found.samples["file"].tolist() == ["0/a.png", "0/NA", "7/null.png", "7/b.png"]
    assert found.labels["Name"].tolist() == ["NA", "30"]
    assert found.labels["ClassId"].tolist() == [0, 7]
    assert found.samples["left"].isna().tolist() == [True, False, True, False]
    assert found.samples["bottom"][1] == 1 / 3
    assert found.rows("train").tolist() == [0]
    assert found.rows("test").tolist() == [1]
    assert found.rows("nowhere").tolist() == []


def test_digest_tells_contents_apart(folder: Path) -> None:
    first = arrays.load(folder).digest
    arrays.describe(folder, "own", SETTINGS, SPLIT, ["No sign"])
    assert arrays.load(folder).digest == first
    digests = {first}
    np.save(folder / arrays.IMAGES, 255 - IMAGES)
    arrays.describe(folder, "own", SETTINGS, SPLIT, ["No sign"])
    digests.add(arrays.load(folder).digest)
    arrays.describe(
        folder, "own", SETTINGS.model_copy(update={"margin": 0.1}), SPLIT, ["No sign"]
    )
    digests.add(arrays.load(folder).digest)
    assert len(digests) == 3


@pytest.mark.parametrize("name", arrays.FILES)
@pytest.mark.parametrize("damage", ["flipped", "cut", "emptied"])
def test_damaged_file(name: str, damage: str, folder: Path) -> None:
    content = (folder / name).read_bytes()
    flipped = content[:-1] + bytes([content[-1] ^ 1])
    bad = {"flipped": flipped, "cut": content[:-5], "emptied": b""}[damage]
    (folder / name).write_bytes(bad)
    digest = hashlib.md5(content).hexdigest()
    with pytest.raises(PreparedError) as caught:
        arrays.load(folder)
    assert f"{folder / name} is damaged" in str(caught.value)
    assert f".dvc/cache/files/md5/{digest[:2]}/{digest[2:]}" in str(caught.value)
    assert "dvc repro -f preprocess" in str(caught.value)


@pytest.mark.parametrize("name", [*arrays.FILES, arrays.METADATA])
def test_missing_file(name: str, folder: Path) -> None:
    (folder / name).unlink()
    with pytest.raises(PreparedError, match="is incomplete") as caught:
        arrays.load(folder)
    assert name in str(caught.value)
    assert "dvc repro -f preprocess" in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        *[b"", b"{", b"[]", b"{}", b"5", b"null", b"\xff\xfe"],
        b'{"md5": {}, "dataset": "own"}',
        b'{"md5": [], "dataset": "own", "images": {}}',
    ],
)
def test_damaged_description(content: bytes, folder: Path) -> None:
    (folder / arrays.METADATA).write_bytes(content)
    with pytest.raises(PreparedError, match="dvc repro -f preprocess"):
        arrays.load(folder)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(PreparedError, match="is incomplete"):
        arrays.load(tmp_path / "never")
