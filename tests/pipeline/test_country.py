"""A new country: its drawings become a data set, a classifier is trained, and reads its signs."""

import csv

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SHORT = {
    "dataset": "sweden",
    "preprocess.images.compact.size": 24,
    "preprocess.split.folds": 5,
    "train.compact.width": 12,
    "train.compact.epochs": 6,
    "train.compact.steps_per_epoch": 40,
    "train.compact.batch_size": 64,
    "evaluate.corruption_photos": 0,
}


def test_a_country_from_drawings_to_predictions(fresh, tmp_path):
    drawings = tmp_path / "drawings"  # anywhere
    fresh.path("docs/sweden").rename(drawings)

    def synthesize(output, count):
        options = ("--output", output, "--images-per-class", str(count))
        fresh.run("python", "-m", "signs", "synthesize", str(drawings), *options).succeeds()

    synthesize("data/sweden", 100)
    fresh.set(**SHORT)
    fresh.dvc("repro").succeeds()
    metrics = fresh.json("metrics/evaluate/metrics.json")
    assert metrics["accuracy"] > 0.7
    assert "Dangerous curve to the right" in fresh.path("docs/model_card.md").read_text()
    # Photos that it has never seen.
    fresh.set(**{"synthesize.seed": 7})
    synthesize("build/new", 10)
    text = fresh.run("python", "-m", "signs", "predict", "build/new/images.zip").succeeds()
    lines = [line for line in text.splitlines() if ".jpg" in line or line.startswith("file,")]
    rows = list(csv.DictReader(lines))
    assert len(rows) == 80
    right = sum(row["prediction"] == row["file"].split("/")[-2] for row in rows)
    assert right > 56
