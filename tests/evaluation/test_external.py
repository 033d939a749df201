"""The external test set: which of its photos are used, which are out of distribution (OOD)."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from signs import params
from signs.data import layouts
from signs.errors import UserError
from signs.evaluation import external, ood
from signs.inference.classifier import Classifier
from tests.inference.small import SIZE, load, model, plain, png
from tests.training.small import PARAMS

Change = Callable[..., None]


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Classes with three photos each: one known, one met as outlier; one photo is unreadable."""
    monkeypatch.chdir(tmp_path)
    folder = Path("data/other")
    for class_id, name in enumerate(["stop", "No horn", "Village", "Bus lane"]):
        (folder / name).mkdir(parents=True)
        for number in range(3):
            grey = 60 * number + 20 * class_id
            content = png(plain((grey, grey, grey), size=20)[0])
            (folder / name / f"{number}.png").write_bytes(content)
    (folder / "Village" / "1.png").write_bytes(b"no photo")
    return folder


@pytest.fixture
def change_table(monkeypatch: pytest.MonkeyPatch) -> Change:
    """Gives the table of the set other columns."""

    def change(**columns: object) -> None:
        dataset = layouts.read("other")
        dataset.table = dataset.table.assign(**columns)
        monkeypatch.setattr(layouts, "read", lambda *_: dataset)

    return change


def brightness(*names: str) -> Classifier:
    """Its first logit is the mean brightness of a photo (0 to 1), its second is the rest."""
    weights = np.zeros((SIZE, SIZE, 3, len(names)))
    weights[..., 0], weights[..., 1] = 1 / (255 * 3 * SIZE**2), -1 / (255 * 3 * SIZE**2)
    content = model(weights, (0, 1, *[-9] * (len(names) - 2)))
    metadata = {"class_ids": list(range(len(names))), "names": list(names)}
    thresholds = {"temperature": 1.0, "threshold": 0.5, "energy_threshold": 0.0}
    return load(Path("classifier"), content, **metadata, **thresholds)


def predict(
    count: int = 100, tracks: str = "all", names: tuple[str, ...] = ("Stop", "Yield")
) -> tuple[pd.DataFrame, np.ndarray, str]:
    settings = settings_of(count, tracks)
    return external.predict(brightness(*names), settings)


def settings_of(count: int, tracks: str) -> params.Evaluate:
    changes = {"external_set": "other", "external_photos": count, "external_tracks": tracks}
    return PARAMS.evaluate.model_copy(update=changes | {"batch_size": 2})


def test_known_classes_and_ood_classes_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    rows, logits, part = predict()
    assert part == "all photos"
    labels = rows.groupby("name")["label"].agg(["min", "max", "size"])
    # The class of the outliers is neither; the unreadable photo is left out.
    assert labels.T.to_dict("list") == {
        "No horn": [external.OOD, external.OOD, 3],
        "Village": [external.OOD, external.OOD, 2],
        "stop": [0, 0, 3],
    }
    assert f"1 photos of {Path('data/other')} cannot be read" in capsys.readouterr().out
    row = rows.index[rows["file"] == "No horn/2.png"][0]
    assert logits[row, 0] == pytest.approx(140 / 255)


def test_metrics_of_known_and_of_ood_photos() -> None:
    model = brightness("Stop", "Yield")
    known = np.array([[5, 0], [4, 0]], np.float32)
    result = external.measure(model, known, settings_of(100, "all"))
    # The stop signs are darker than half, so all are taken for the second class.
    assert (result.metrics["images"], result.metrics["accuracy"]) == (3, 0)
    assert sorted(result.ood_predictions["name"]) == ["No horn"] * 3 + ["Village"] * 2
    columns = ["file", "name", "prediction", "confidence", "energy", "accepted"]
    assert result.ood_predictions.columns.tolist() == columns
    rows, logits, _ = external.predict(model, settings_of(100, "all"))
    outside = logits[(rows["label"] == external.OOD).to_numpy()]
    assert result.ood_predictions["energy"].tolist() == pytest.approx(ood.energy_scores(outside))
    assert result.ood_metrics["ood_images"] == 5
    assert result.ood_metrics["ood_auroc"] == 1


@pytest.mark.parametrize(
    ("kept", "known", "outside"), [("stop", 3, 0), ("No horn", 0, 3)], ids=["no OOD", "only OOD"]
)
def test_no_metrics_of_photos_that_are_not_there(
    kept: str, known: int, outside: int, data: Path
) -> None:
    for folder in data.iterdir():
        if folder.name != kept:
            shutil.rmtree(folder)
    logits = np.array([[5, 0], [4, 0]], np.float32)
    result = external.measure(brightness("Stop", "Yield"), logits, settings_of(100, "all"))
    assert result.metrics.get("images", 0) == known
    assert result.ood_metrics.get("ood_images", 0) == len(result.ood_predictions) == outside


def test_a_small_number_of_photos_still_shows_all_classes(data: Path) -> None:
    shutil.copy(data / "Village/0.png", data / "Village/1.png")
    rows, _, _ = predict(count=2)
    assert sorted(rows["name"]) == ["No horn", "Village", "stop", "stop"]


def test_halves_of_the_tracks(change_table: Change) -> None:
    change_table(track=[f"0/{n:05}" for n in range(12)])
    odd, _, odd_part = predict(tracks="odd")
    even, _, even_part = predict(tracks="even")
    assert (odd_part, even_part) == ("odd tracks", "even tracks")
    assert {group[-1] for group in odd["group"]} <= set("13579")
    assert sorted([*odd["file"], *even["file"]]) == sorted(predict()[0]["file"])


def test_test_photos_of_its_own_are_preferred(change_table: Change) -> None:
    files = layouts.read("other").table["file"]
    change_table(fixed_split=np.where(files.str.endswith("2.png"), "test", ""))
    rows, _, part = predict(tracks="even")
    assert part == "test photos"
    assert set(rows["file"].str[-5:]) == {"2.png"}


@pytest.mark.parametrize(("track", "tracks"), [("", "even"), ("0/00002", "odd")])
def test_a_half_without_photos_is_refused(track: str, tracks: str, change_table: Change) -> None:
    change_table(track=track)
    with pytest.raises(UserError, match=f"external_tracks is {tracks}, but 'other' has no such"):
        predict(tracks=tracks)


def test_two_known_classes_of_one_name_are_left_out() -> None:
    rows, _, _ = predict(names=("Stop", "STOP", "Yield"))
    assert set(rows["name"]) == {"No horn", "Village"}


def test_a_set_of_auxiliary_outliers_only_is_refused(data: Path) -> None:
    for name in ("stop", "No horn", "Village"):
        shutil.rmtree(data / name)
    with pytest.raises(UserError, match="all classes of 'other' were auxiliary outliers"):
        predict()


def test_numbers_as_names_are_refused(data: Path) -> None:
    for number, folder in enumerate(sorted(data.iterdir())):
        folder.rename(data / str(number))
    with pytest.raises(UserError, match=r"numbers as names.*Put a labels\.csv into both"):
        predict(names=("0", "1"))
