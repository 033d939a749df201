"""Accuracy on parts of the photos."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from signs.data.images import REGION
from signs.evaluation import slices
from tests.inference.small import plain, png


def photos(folder: Path) -> pd.DataFrame:
    """Two tracks of six frames: frames get brighter, and the photos of track 2 are larger."""
    folder.mkdir()
    rows = []
    for track, size in ((1, 16), (2, 48)):
        for frame in range(6):
            file = f"{track}_{frame}.png"
            (folder / file).write_bytes(png(plain((frame * 40 + track,) * 3, size=size)[0]))
            rows.append({"file": file, "group": f"track {track}"})
    return pd.DataFrame(rows, index=range(100, 112)).assign(**dict.fromkeys(REGION, np.nan))


def test_thirds_by_each_criterion(tmp_path: Path) -> None:
    table = photos(tmp_path / "set")
    frame = table["file"].str[2].astype(int)
    found = slices.measure(tmp_path / "set", table, frame >= 2).set_index("criterion")
    assert found.loc["place in track", "photos"].tolist() == [4, 4, 4]
    assert found.loc["place in track", "accuracy"].tolist() == [0, 1, 1]
    assert found.loc["place in track", "low"].tolist() == pytest.approx([0, 0.4, 0.8])
    assert found.loc["brightness", "accuracy"].tolist() == [0, 1, 1]
    assert found.loc["brightness", "high"].tolist() == [42, 122, 202]
    # Plain photos have no contrast, and of two sizes nobody can make thirds.
    assert set(found.index) == {"place in track", "brightness"}


def test_the_sign_counts_and_not_what_is_around_it(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    table = pd.DataFrame({"file": [f"{i}.png" for i in range(6)], "group": ""})
    for i, file in enumerate(table["file"]):
        photo = np.full((40, 40, 3), 255, np.uint8)
        photo[10:20, 10:20] = 30 * i
        (folder / file).write_bytes(png(photo))
    table[REGION] = [0.25, 0.25, 0.5, 0.5]
    found = slices.measure(folder, table, pd.Series([True] * 6)).set_index("criterion")
    assert found.loc["brightness", "high"].tolist() == [30, 90, 150]
    assert "place in track" not in found.index
