"""What preprocess hands to training: whole, or refused with the name of the damaged file."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from signs.data import arrays
from signs.data.arrays import PreparedError
from signs.params import ImageSettings, Split

SPLIT = Split(group="duplicates", similarity=0.9, validation=0.1, folds=10, fold=0, seed=1)
SETTINGS = ImageSettings(size=8, color="rgb", contrast="none", margin=0.05)
IMAGES = np.random.default_rng(1).integers(0, 256, (4, 8, 8, 3), np.uint8)
SYNTHETIC = IMAGES[:2] // 2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    nan = float("nan")
    samples = pd.DataFrame(
        [
            ("0/a.png", 0, 0, 0, "train", 10, 11, *[nan] * 4, "not written"),
            ("0/NA", 0, 0, 1, "test", 20, 21, 0.1, 0.2, 0.8, 1 / 3, "not written"),
            ("7/null.png", 7, 1, 2, "validation", 30, 31, *[nan] * 4, "not written"),
            ("7/b.png", 7, 1, 2, "unused", 40, 41, 0.25, 0.25, 0.75, 0.75, "not written"),
        ],
        columns=[*arrays.COLUMNS, "digest"],
    )
    labels = pd.DataFrame({"ClassId": [0, 7], "Name": ["NA", "30"]})
    arrays.write_tables(tmp_path, samples, labels)
    np.save(tmp_path / arrays.IMAGES, IMAGES)
    np.save(tmp_path / arrays.SYNTHETIC_IMAGES, SYNTHETIC)
    np.save(tmp_path / arrays.SYNTHETIC_LABELS, np.array([1, 0]))
    np.save(tmp_path / arrays.AUXILIARY_OUTLIERS, SYNTHETIC[:1])
    describe(tmp_path)
    return tmp_path


def describe(folder: Path, settings: ImageSettings = SETTINGS) -> None:
    arrays.describe(folder, "own", settings, SPLIT, ["No sign"])


def test_what_was_written_is_read(folder):
    loaded = arrays.load(folder)
    assert isinstance(loaded.images, np.memmap)
    assert (loaded.images == IMAGES).all()
    assert (loaded.synthetic_images == SYNTHETIC).all()
    assert loaded.synthetic_labels.tolist() == [1, 0]
    assert (loaded.auxiliary_outliers == SYNTHETIC[:1]).all()
    assert loaded.outlier_names == ["No sign"]
    assert (loaded.settings, loaded.split, loaded.dataset) == (SETTINGS, SPLIT, "own")
    # Texts stay texts, however much they look like something else; only regions may be missing.
    assert loaded.samples.columns.tolist() == arrays.COLUMNS
    assert loaded.samples["file"].tolist() == ["0/a.png", "0/NA", "7/null.png", "7/b.png"]
    assert loaded.labels["Name"].tolist() == ["NA", "30"]
    assert loaded.labels["ClassId"].tolist() == [0, 7]
    assert loaded.samples["left"].isna().tolist() == [True, False, True, False]
    assert loaded.samples["bottom"][1] == 1 / 3
    assert [loaded.rows(name).tolist() for name in ("train", "test", "nowhere")] == [[0], [1], []]


def test_the_digest_changes_with_the_content_alone(folder):
    digests = [arrays.load(folder).digest]
    describe(folder)
    assert [arrays.load(folder).digest] == digests
    np.save(folder / arrays.IMAGES, 255 - IMAGES)
    for settings in (SETTINGS, SETTINGS.model_copy(update={"margin": 0.1})):
        describe(folder, settings)
        digests.append(arrays.load(folder).digest)
    assert len(set(digests)) == 3


@pytest.mark.parametrize("name", arrays.FILES)
@pytest.mark.parametrize("damage", ["flipped", "cut", "emptied"])
def test_a_damaged_file_is_named_with_its_copy_in_the_cache(name, damage, folder):
    content = (folder / name).read_bytes()
    flipped = content[:-1] + bytes([content[-1] ^ 1])
    bad = {"flipped": flipped, "cut": content[:-5], "emptied": b""}[damage]
    (folder / name).write_bytes(bad)
    digest = hashlib.md5(content).hexdigest()
    with pytest.raises(PreparedError, match="dvc repro -f preprocess") as caught:
        arrays.load(folder)
    assert f"{folder / name} is damaged" in str(caught.value)
    assert f".dvc/cache/files/md5/{digest[:2]}/{digest[2:]}" in str(caught.value)


@pytest.mark.parametrize("name", [*arrays.FILES, arrays.METADATA])
def test_a_missing_file_is_named(name, folder):
    (folder / name).unlink()
    with pytest.raises(PreparedError, match=rf"is incomplete .*{name}.*dvc repro -f preprocess"):
        arrays.load(folder)


@pytest.mark.parametrize(
    "content",
    [
        *[b"", b"{", b"[]", b"{}", b"5", b"null", b"\xff\xfe"],
        b'{"md5": {}, "dataset": "own"}',
        b'{"md5": [], "dataset": "own", "images": {}}',
    ],
)
def test_a_damaged_description_is_refused(content, folder):
    (folder / arrays.METADATA).write_bytes(content)
    with pytest.raises(PreparedError, match="dvc repro -f preprocess"):
        arrays.load(folder)
