"""What an ensemble gains: test-time augmentation of one classifier, on photos of colours."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from signs.evaluation import ensemble
from tests.inference.small import CLASS_IDS, NAMES, load, plain, png, write_photos
from tests.training.small import PARAMS, prepared


def test_metrics_of_test_time_augmentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = load(Path("classifier"))
    samples = write_photos(Path("data/colors"), 4)
    samples["split"] = np.where(samples.index % 2, "test", "validation")
    # One photo of the test set shows another colour than its label says.
    red = samples.index[(samples["split"] == "test") & (samples["label"] == 0)][0]
    Path("data/colors", samples["file"][red]).write_bytes(png(plain((0, 255, 0), size=20)[0]))
    colors = np.eye(3, dtype=int)[np.r_[[0, 1, 0, 0], [1] * 4, [2] * 4]] * 255
    labels = pd.DataFrame({"ClassId": CLASS_IDS, "Name": NAMES})
    data = dataclasses.replace(
        prepared(), images=plain(*colors), samples=samples, labels=labels, dataset="colors"
    )
    # The external test set: one known class and one that is out of distribution.
    for name, color in (("red", (255, 0, 0)), ("Horn", (90, 90, 90))):
        Path("data/other", name).mkdir(parents=True)
        Path("data/other", name, "0.png").write_bytes(png(plain(color, size=20)[0]))
    changes = {"tta_shift": 1, "ensemble": [], "external_set": "other", "external_photos": 9}
    settings = PARAMS.evaluate.model_copy(update=changes | {"batch_size": 5})
    found = ensemble.measure(model, samples, data, settings)
    assert (found["classifiers"], found["passes"], found["images"]) == (1, 9, 6)
    assert found["accuracy"] == round(5 / 6, 5)
    assert found["external_accuracy"] == found["ood_auroc"] == 1
    assert (found["ood_fpr95"], found["ood_rejection_at_99"]) == (0, 1)
