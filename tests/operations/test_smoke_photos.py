"""Which photos the smoke test of a service gets."""

import argparse
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from signs.errors import UserError
from signs.inference import predictions
from signs.inference.classifier import Classifier
from signs.operations import smoke_photos
from signs.paths import CLASSIFIER
from tests.conftest import COLORS, write_classifier

REGION = {"left": 0.2, "top": 0.2, "right": 0.8, "bottom": 0.8}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A green sign on red ground, a red photo that is labelled blue, and a grey one."""
    monkeypatch.chdir(tmp_path)
    write_classifier(tmp_path / CLASSIFIER)
    (tmp_path / "data/colors").mkdir(parents=True)
    for color in ("Red", "Grey"):
        Image.new("RGB", (40, 40), COLORS[color]).save(f"data/colors/{color}.png")
    sign = Image.new("RGB", (40, 40), COLORS["Red"])
    sign.paste(COLORS["Green"], (8, 8, 32, 32))
    sign.save("data/colors/sign.png")
    samples = pd.DataFrame({"file": ["sign.png", "Red.png", "Grey.png"], "class_id": [14, 20, 3]})
    regions = {edge: [share, np.nan, np.nan] for edge, share in REGION.items()}
    samples = samples.assign(split="test", **regions)
    prepared = SimpleNamespace(dataset="colors", digest="d1f", samples=samples)
    monkeypatch.setattr(smoke_photos.arrays, "load", lambda: prepared)
    return prepared


def test_only_the_region_of_a_recognized_photo_is_sent(data: SimpleNamespace) -> None:
    assert smoke_photos.run(argparse.Namespace()) == 0
    document = json.loads((smoke_photos.TARGET / "predictions.json").read_text())
    (chosen,) = document["photos"]
    assert chosen["name"] == "Green"
    content = (smoke_photos.TARGET / chosen.pop("photo")).read_bytes()
    (row,) = predictions.predict_photos(Classifier(), [content])
    assert chosen == {key: row[key] for key in chosen}
    assert row["model"] == document["model"]


@pytest.mark.parametrize(
    ("digest", "message"), [("x", "trained on other data"), ("d1f", "recognizes none")]
)
def test_says_why_it_has_no_photos(data: SimpleNamespace, digest: str, message: str) -> None:
    data.samples, data.digest = data.samples[1:], digest
    with pytest.raises(UserError, match=message):
        smoke_photos.run(argparse.Namespace())
