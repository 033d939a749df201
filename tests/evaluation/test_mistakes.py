"""The saliency maps of the evaluate stage stand in the order in which the report reads them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

from signs import paths
from stages import evaluate
from tests.inference.small import CLASS_IDS, NAMES, load


def test_maps_of_equal_rounded_confidences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second mistake is more confident by less than predictions.csv tells."""
    monkeypatch.chdir(tmp_path)
    for folder in (paths.EVALUATION, paths.EVALUATE_METRICS):
        folder.mkdir(parents=True)
    monkeypatch.setattr(evaluate, "occlusion_map", lambda _model, _image, label: label)
    logits = np.zeros((2, 4))
    logits[0, 1], logits[1, 2] = 5, 5 + 1e-7
    table = {"file": ["a", "b"], "split": "test", "group": "", "class_id": 3, "label": 0}
    labels = pd.DataFrame({"ClassId": CLASS_IDS, "Name": NAMES})
    data = cast(Any, SimpleNamespace(labels=labels, images=np.zeros(2)))
    model = load(tmp_path / "classifier")
    evaluate._write_predictions(model, pd.DataFrame(table), logits, data, 2)
    predictions = pd.read_csv(paths.PREDICTIONS)
    assert predictions["confidence"].nunique() == 1
    order = predictions.sort_values("confidence", ascending=False, kind="stable")
    assert np.load(paths.SALIENCY).tolist() == order["predicted_label"].tolist() == [1, 2]
