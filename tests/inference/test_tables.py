"""From a table of photos to logits, and from logits to a table of predictions."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax

from signs.data.images import REGION
from signs.errors import UserError
from signs.inference.classifier import Classifier
from signs.inference.tables import predict_table, predictions_of
from tests.inference.small import CLASS_IDS, load, plain, png, write_photos


@pytest.fixture
def model(tmp_path: Path) -> Classifier:
    return load(tmp_path / "classifier")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "colors"


@pytest.fixture
def table(folder: Path) -> pd.DataFrame:
    """Six photos; the index tells where they are in a larger set."""
    return write_photos(folder).set_index(pd.Index([9, 1, 4, 6, 2, 7]))


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_unreadable_photos_are_left_out_and_counted(
    batch_size: int,
    folder: Path,
    table: pd.DataFrame,
    model: Classifier,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (folder / "Red/1.png").write_bytes(b"no photo")
    (folder / "Green/0.png").unlink()
    (folder / "damaged.zip").write_bytes(b"no archive")
    table.loc[7, "file"] = "damaged.zip/Blue/1.png"
    rows, logits = predict_table(model, folder, table, batch_size)
    assert rows.equals(table.loc[[9, 6, 2]])
    assert logits == pytest.approx(model.logits(plain((255, 0, 0), (0, 255, 0), (0, 0, 255))))
    assert f"3 photos of {folder} cannot be read and do not count." in capsys.readouterr().out


def test_a_set_without_a_readable_photo_is_refused(
    folder: Path, table: pd.DataFrame, model: Classifier
) -> None:
    with pytest.raises(UserError, match=r"No photo of .*colors can be read"):
        predict_table(model, folder, table.assign(file="nowhere.png"), 4)


def test_the_region_of_a_photo_is_predicted(
    folder: Path, table: pd.DataFrame, model: Classifier
) -> None:
    halves = np.concatenate([*plain((255, 0, 0), (0, 0, 255), size=20)], axis=1)
    (folder / "Red/0.png").write_bytes(png(halves))
    table.loc[9, REGION] = [0.5, 0.0, 1.0, 1.0]
    _, logits = predict_table(model, folder, table, 4)
    assert logits.argmax(axis=1).tolist() == [2, 0, 1, 1, 2, 2]


def test_photos_must_be_prepared_as_expected(
    folder: Path, table: pd.DataFrame, model: Classifier
) -> None:
    expected = np.zeros((10, 8, 8, 3), np.uint8)
    expected[table.index] = plain(*np.eye(3, dtype=int).repeat(2, axis=0) * 255)
    rows, _ = predict_table(model, folder, table, 4, expected)
    assert rows.equals(table)
    expected[7, 0, 0, 0] += 1
    with pytest.raises(UserError, match=r"not prepared as they were for training\. Run `dvc"):
        predict_table(model, folder, table, 4, expected)


def test_columns_of_the_predictions(model: Classifier) -> None:
    logits = np.array([[0, 0, 16, 0], [1, 4, 0, 1]], np.float32)
    found = predictions_of(model, logits)
    assert found["prediction"].tolist() == [CLASS_IDS[2], CLASS_IDS[1]]
    assert found["predicted_label"].tolist() == [2, 1]
    assert found["confidence"].tolist() == pytest.approx(softmax(logits / 2, axis=1).max(axis=1))
    uncalibrated = softmax(logits, axis=1).max(axis=1)
    assert found["uncalibrated_confidence"].tolist() == pytest.approx(uncalibrated)
    assert found["energy"].tolist() == pytest.approx(np.log(np.exp(logits).sum(axis=1)))
    assert found["accepted"].tolist() == [True, False]
    assert not len(predictions_of(model, logits[:0]))
