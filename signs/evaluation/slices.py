"""Accuracy on parts of the photos: dark against bright, small against large, far against near."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from signs.data import images, layouts

# What a photo is ordered by: the unit of `low` and `high` in the table.
CRITERIA = {
    "brightness": "mean grey level of the sign, 0 to 255",
    "contrast": "standard deviation of its grey levels",
    "side": "of the sign, pixels",
    "place in track": "0: first frame, mostly the farthest .. 1: last",
}
MIN_FRAMES = 5  # of a group that counts as a track


def measure(folder: Path, table: pd.DataFrame, correct: pd.Series) -> pd.DataFrame:
    """Accuracy on the lowest, middle and highest third of the photos by each criterion.

    Args:
        folder: of the data set.
        table: one row a readable photo: file, group, left/top/right/bottom.
        correct: whether each was predicted rightly, by the table's index.

    Returns:
        criterion, low, high (of the third), photos, accuracy (0 to 1). A criterion by which most
        photos are alike is left out.
    """
    values = _look(folder, table)
    values["place in track"] = _places(table)
    rows = []
    for criterion in CRITERIA:
        known = values[criterion].dropna()
        limits = known.quantile([0, 1 / 3, 2 / 3, 1]).to_numpy()
        # A few groups of near-duplicates are no tracks.
        if 2 * len(known) < len(table) or len(np.unique(limits)) < 4:
            continue
        third = np.searchsorted(limits[1:3], known.to_numpy(), side="left")
        for number in range(3):
            chosen = known[third == number]
            share = correct[chosen.index].mean()
            rows.append([criterion, chosen.min(), chosen.max(), len(chosen), share])
    return pd.DataFrame(rows, columns=["criterion", "low", "high", "photos", "accuracy"])


def _look(folder: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Brightness, contrast and side of each photo's sign."""
    reader, rows = layouts.Reader(folder), []
    for file, region in zip(table["file"], layouts.regions(table), strict=True):
        sign = images.crop(images.decode(reader.read(file)), region)
        grey = cv2.cvtColor(sign, cv2.COLOR_RGB2GRAY)
        rows.append([grey.mean(), grey.std(), min(grey.shape)])
    return pd.DataFrame(rows, index=table.index, columns=["brightness", "contrast", "side"])


def _places(table: pd.DataFrame) -> pd.Series:
    """Where in its track each photo is, 0 to 1, by its file name; NaN for what is in no track."""
    group = table.groupby("group")["file"]
    frames = group.transform("size")
    place = (group.rank(method="first") - 1) / (frames - 1).clip(lower=1)
    return place.where((frames >= MIN_FRAMES) & (table["group"] != ""))
