"""The two real photo sets: whole, known in number, and split without a leak."""

import hashlib
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from signs.data import audit
from signs.data import layouts
from signs.data import images
from signs.data import splits
from signs.data.layouts import Dataset
from signs.params import ImageSettings, Split, load

ROOT = Path(__file__).parents[2]
DATA = ROOT / "data"
SPLIT = load(ROOT / "params.yaml").preprocess.split

pytestmark = pytest.mark.real_data


def present(name: str) -> None:
    # A checkout that DVC has not filled has an empty folder or none.
    if not (DATA / name).is_dir() or not any((DATA / name).iterdir()):
        pytest.skip(f"data/{name} is absent")


# signs: 58 classes


@dataclass
class Signs:
    dataset: Dataset
    samples: pd.DataFrame  # as the preprocess stage has them before it divides
    thumbnails: np.ndarray


@pytest.fixture(scope="module")
def signs() -> Signs:
    """The set, each photo decoded once."""
    present("signs")
    dataset = layouts.read("signs", DATA)
    reader = layouts.Reader(dataset.folder)
    samples = dataset.table.copy()
    photos = [images.decode(reader.read(file)) for file in samples["file"]]
    samples["digest"] = [
        hashlib.sha256(repr(photo.shape).encode() + photo.tobytes()).hexdigest() for photo in photos
    ]
    samples["label"] = samples["class_id"]
    samples[["height", "width"]] = [photo.shape[:2] for photo in photos]
    return Signs(dataset, samples, np.stack([images.thumbnail(photo) for photo in photos]))


def divided(signs: Signs, settings: Split) -> pd.DataFrame:
    samples = signs.samples.copy()
    assert audit.find_label_conflicts(samples) == []
    audit.assign_splits(samples, signs.thumbnails, settings)
    return samples


@pytest.fixture(scope="module")
def leak_free(signs: Signs) -> pd.DataFrame:
    return divided(signs, SPLIT.model_copy(update={"group": "duplicates"}))


def test_signs_is_whole(signs: Signs) -> None:
    assert len(signs.samples) == 4_170
    assert sorted(signs.samples["class_id"].unique()) == list(range(58))
    assert signs.dataset.problems == []
    assert signs.dataset.names[52] == "Stop"


def test_signs_has_each_photo_several_times(signs: Signs) -> None:
    copies = Counter(signs.samples["digest"])
    assert len(copies) == 1_672
    assert {count % 2 for count in copies.values()} == {0}
    # All copies of a photo stand in one class.
    assert (signs.samples.groupby("digest")["class_id"].nunique() == 1).all()


def test_random_split_of_signs_leaks(signs: Signs) -> None:
    samples = divided(signs, SPLIT.model_copy(update={"group": "none"}))
    split, digests = samples["split"].to_numpy(str), samples["digest"].to_numpy(str)
    leaked = splits.count_shared(split, digests)
    for name in (splits.VALIDATION, splits.TEST):
        assert leaked[name] / (split == name).sum() > 0.8
    assert (split != splits.UNUSED).all()


def test_leak_free_split_of_signs(signs: Signs, leak_free: pd.DataFrame) -> None:
    split = leak_free["split"].to_numpy(str)
    nothing = {splits.VALIDATION: 0, splits.TEST: 0}
    for column in ("digest", "group"):
        assert splits.count_shared(split, leak_free[column].to_numpy().astype(str)) == nothing
    labels = leak_free["label"].to_numpy()
    near = splits.count_near_duplicates(split, signs.thumbnails, labels, SPLIT.similarity)
    assert near == nothing
    # Each distinct photo is used once.
    used = leak_free[split != splits.UNUSED]
    assert len(used) == 1_672
    assert used["digest"].is_unique


def test_classes_of_signs_are_where_their_groups_allow(leak_free: pd.DataFrame) -> None:
    used = leak_free[leak_free["split"] != splits.UNUSED]
    for label, rows in used.groupby("label"):
        expected = {1: {splits.TRAIN}, 2: {splits.TRAIN, splits.TEST}}
        count = rows["group"].nunique()
        assert set(rows["split"]) == expected.get(count, set(splits.SPLITS)), label


def test_shares_of_signs(leak_free: pd.DataFrame) -> None:
    used = leak_free[leak_free["split"] != splits.UNUSED]
    shares = used["split"].value_counts(normalize=True)
    assert shares[splits.TRAIN] > 0.7
    assert 0.07 < shares[splits.TEST] < 0.2
    assert 0.05 < shares[splits.VALIDATION] < 0.2


# GTSRB


@pytest.fixture(scope="module")
def gtsrb() -> Dataset:
    present("gtsrb")
    return layouts.read("gtsrb", DATA)


@pytest.fixture(scope="module")
def training(gtsrb: Dataset) -> pd.DataFrame:
    return gtsrb.table[gtsrb.table["fixed_split"] == ""]


def test_gtsrb_is_whole(gtsrb: Dataset, training: pd.DataFrame) -> None:
    assert len(training) == 39_209
    assert sorted(training["class_id"].unique()) == list(range(43))
    assert (training["class_id"] == 0).sum() == 210
    assert gtsrb.problems == []
    assert gtsrb.names[14] == "Stop"
    assert training["file"].is_unique


def test_tracks_of_gtsrb(training: pd.DataFrame) -> None:
    frames = training.groupby("track").size()
    assert len(frames) == 1_307
    assert frames.max() == 30
    assert (frames == 30).mean() > 0.99
    assert (training.groupby("track")["class_id"].nunique() == 1).all()


def test_tracks_never_cross_a_split(training: pd.DataFrame) -> None:
    tracks = training["track"].to_numpy(str)
    group = splits.groups(len(tracks), splits.same_value_pairs(tracks))
    split = splits.assign(training["class_id"].to_numpy(), group, SPLIT)
    assert splits.count_shared(split, tracks) == {splits.VALIDATION: 0, splits.TEST: 0}
    at_random = splits.assign(training["class_id"].to_numpy(), np.arange(len(tracks)), SPLIT)
    assert splits.count_shared(at_random, tracks)[splits.TEST] > 3_000
    for name in splits.SPLITS:
        assert set(training["class_id"][split == name]) == set(range(43)), name
    assert (split == splits.TEST).mean() == pytest.approx(0.1, abs=0.03)


def test_regions_of_gtsrb_hold_the_sign(gtsrb: Dataset, training: pd.DataFrame) -> None:
    regions = training[["left", "top", "right", "bottom"]].to_numpy()
    assert (regions >= 0).all()
    assert (regions <= 1).all()
    sides = regions[:, 2:] - regions[:, :2]
    # The frames leave about 10 % around the sign, at least 5 pixels.
    assert np.median(sides) == pytest.approx(0.8, abs=0.08)
    assert sides.min() > 0.4
    assert np.abs(regions[:, :2].mean(axis=0) + regions[:, 2:].mean(axis=0) - 1).max() < 0.05


@pytest.mark.parametrize("class_id", [14, 17])
def test_red_signs_of_gtsrb_lie_within_their_regions(
    class_id: int, gtsrb: Dataset, training: pd.DataFrame
) -> None:
    """Stop and no entry are red: the region holds more of it than what lies around."""
    settings = ImageSettings(size=32, color="rgb", contrast="none", margin=0.0)
    reader = layouts.Reader(gtsrb.folder)
    inside, outside = [], []
    rows = training[training["class_id"] == class_id].iloc[7::30]
    for row in rows.itertuples():
        photo = images.decode(reader.read(row.file))
        region = (row.left, row.top, row.right, row.bottom)
        crop = images.prepare(photo, settings, region)
        inside.append(redness(crop).mean())
        height, width = photo.shape[:2]
        around = np.ones((height, width), bool)
        left, right = int(row.left * width), int(np.ceil(row.right * width))
        around[int(row.top * height) : int(np.ceil(row.bottom * height)), left:right] = False
        outside.append(redness(photo)[around].mean())
    assert len(inside) > 20
    assert np.mean(np.array(inside) > np.array(outside)) > 0.95
    assert np.mean(inside) > np.mean(outside) + 0.04


def redness(image: np.ndarray) -> np.ndarray:
    """Share of red in each RGB pixel above the third that grey has."""
    values = image.astype(float)
    return values[..., 0] / np.maximum(values.sum(axis=-1), 1) - 1 / 3


def test_prepared_signs_of_gtsrb_fill_the_picture(gtsrb: Dataset, training: pd.DataFrame) -> None:
    """The yellow diamond of a priority road touches the middle of each side, not the corners."""
    settings = ImageSettings(size=32, color="rgb", contrast="none", margin=0.0)
    reader = layouts.Reader(gtsrb.folder)
    rows = training[training["class_id"] == 12].iloc[29::30]
    mean = np.mean(
        [
            images.prepare(
                images.decode(reader.read(row.file)),
                settings,
                (row.left, row.top, row.right, row.bottom),
            )
            for row in rows.itertuples()
        ],
        axis=0,
    )
    yellow = np.minimum(mean[..., 0], mean[..., 1]) - mean[..., 2]
    corners = np.mean([yellow[y, x] for y in (1, -2) for x in (1, -2)])
    assert yellow[12:20, 12:20].mean() > corners + 40
    # As much of the sign at the left as at the right, at the top as at the bottom.
    ring = np.clip(yellow - corners, 0, None)
    across, down = ring.sum(axis=0) / ring.sum(), ring.sum(axis=1) / ring.sum()
    assert across @ np.arange(32) == pytest.approx(15.5, abs=1)
    assert down @ np.arange(32) == pytest.approx(15.5, abs=1)


def test_archive_of_gtsrb_is_read_as_zipfile_reads_it(
    gtsrb: Dataset, training: pd.DataFrame
) -> None:
    reader = layouts.Reader(gtsrb.folder)
    with zipfile.ZipFile(gtsrb.folder / layouts.GTSRB_TRAINING) as archive:
        for file in training["file"].iloc[::1001]:
            member = file.removeprefix(f"{layouts.GTSRB_TRAINING}/")
            assert reader.read(file) == archive.read(member)
