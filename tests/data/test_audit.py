"""The audit: conflicts, duplicates and leaks of a small table of samples, made by hand."""

import numpy as np
import pandas as pd
import pytest

from signs.data import audit
from signs.data.layouts import Dataset
from signs.errors import UserError
from signs.params import Split
from tests.training.small import PARAMS

SETTINGS = Split(group="duplicates", similarity=0.9, validation=0.1, folds=10, fold=0, seed=1)
NAMES = {3: "Stop", 8: "Yield"}


@pytest.fixture
def samples() -> pd.DataFrame:
    """Two classes of twelve photos; one photo thrice, one unusable, one in both classes."""
    table = pd.DataFrame({"class_id": [3] * 12 + [8] * 12, "label": [0] * 12 + [1] * 12})
    table["file"] = [f"{row.class_id}/{row.Index:02d}.png" for row in table.itertuples()]
    table["digest"] = [f"d{row:02d}" for row in range(24)]
    table.loc[[1, 2], "digest"] = "d00"
    table.loc[5, ["digest", "label"]] = ["", -1]
    table.loc[23, "digest"] = "d11"
    return table.assign(track="", fixed_split="")


@pytest.fixture
def thumbnails() -> np.ndarray:
    """All of them different, but 1 and 2 are as 0, and 14 is a near-duplicate of 13."""
    noise = np.random.default_rng(1).integers(0, 256, (24, 16, 16), np.uint8)
    noise[[1, 2]], noise[14] = noise[0], noise[13] // 2
    return noise


def test_conflicts_duplicates_and_groups_are_counted(samples, thumbnails, tmp_path):
    problems = audit.find_label_conflicts(samples)
    assert [file for file, _ in problems] == ["3/11.png", "8/23.png"]
    audit.assign_splits(samples, thumbnails, SETTINGS)
    assert (samples["split"][[1, 2, 5, 11, 23]] == "unused").all()
    assert samples["split"][0] != "unused"
    metrics = audit.compute(samples, thumbnails, SETTINGS)
    leaks = metrics.pop("leaks")
    assert [leaks[name] for name in ("exact", "group", "near", "test_percent")] == [0, 0, 0, 0]
    used = sum(metrics.pop(name) for name in ("train", "validation", "test"))
    assert used == 24 - 2 - 1 - 2
    assert metrics == {
        "given_split": False,
        "files": 24,
        "unusable": 1,
        "label_conflicts": 2,
        "distinct": 20,
        "exact_duplicates": 3,
        "with_near_duplicate": 2,
        "groups": 19,
        "largest_group": 3,
        "classes": 2,
        "classes_not_tested": 0,
    }

    dataset = Dataset(tmp_path, samples, NAMES, problems)
    labels = pd.DataFrame({"ClassId": [3, 8], "Name": list(NAMES.values())})
    audit.write(tmp_path, metrics, samples, labels, dataset)
    assert pd.read_csv(tmp_path / "problems.csv")["file"].tolist() == ["3/11.png", "8/23.png"]
    table = pd.read_csv(tmp_path / "classes.csv")
    assert table["files"].tolist() == [11, 12]
    assert table["distinct"].tolist() == [9, 12]
    shown = pd.read_csv(tmp_path / "duplicates.csv")
    assert shown["file"].tolist()[:3] == ["3/00.png", "3/01.png", "3/02.png"]
    columns = ["name", "files", "distinct"]
    assert shown[columns].iloc[0].tolist() == ["Stop", 3, 1]
    assert sorted(shown["file"][3:]) == ["3/11.png", "8/13.png", "8/14.png", "8/23.png"]


def test_without_groups_duplicates_are_used_and_leak(samples, thumbnails):
    samples["digest"] = [f"d{row % 4}" for row in range(24)]
    samples["class_id"] = samples["label"] = 0
    audit.find_label_conflicts(samples)
    audit.assign_splits(samples, thumbnails, SETTINGS.model_copy(update={"group": "none"}))
    assert (samples["split"] != "unused").all()
    assert audit.compute(samples, thumbnails, SETTINGS)["leaks"]["test_percent"] == 100


def test_a_leak_of_a_given_split_is_counted_but_stops_nothing(samples, thumbnails, tmp_path):
    samples["fixed_split"] = ["train", "test", "validation"] * 8
    audit.find_label_conflicts(samples)
    audit.assign_splits(samples, thumbnails, SETTINGS)
    used = samples["split"] != "unused"
    assert (samples["split"] == samples["fixed_split"])[used].all()
    # d00 is there three times, once in each part; 14 and 13 are near-duplicates.
    assert samples["split"][:3].tolist() == ["train", "test", "validation"]
    metrics = audit.compute(samples, thumbnails, SETTINGS)
    assert metrics["given_split"]
    leaks = metrics["leaks"]
    assert (leaks["exact"], leaks["test_percent"]) == (2, round(100 / metrics["test"], 2))
    assert leaks["near"] > 0
    audit.refuse_bad_data(metrics, [], PARAMS.preprocess, tmp_path)
    metrics["given_split"] = False
    with pytest.raises(UserError, match="The split leaks"):
        audit.refuse_bad_data(metrics, [], PARAMS.preprocess, tmp_path)


def test_signs_on_one_photo_stay_together(samples, thumbnails):
    samples["file"] = [f"{row // 3}.png" for row in range(24)]  # three signs on each photo
    audit.find_label_conflicts(samples)
    audit.assign_splits(samples, thumbnails, SETTINGS)
    used = samples[samples["split"] != "unused"]
    assert (used.groupby("file")["split"].nunique() == 1).all()
