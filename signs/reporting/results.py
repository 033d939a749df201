"""What the other stages wrote, read for pages and pictures."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from signs.inference.classifier import Metadata
from signs.params import Evaluate

Json = dict[str, Any]


def read_json(path: Path) -> Json:
    """The content of a JSON file; empty if it is missing."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def read_table(path: Path) -> pd.DataFrame:
    """A CSV file, empty if it is missing; names stay texts, a class may be called "None"."""
    if not path.exists():
        return pd.DataFrame()
    return pd.read_csv(path, keep_default_na=False, na_values=[""], dtype={"name": str})


def settings(evaluate: Evaluate, metadata: Metadata) -> Json:
    """What the run used, and no more: other settings may change without a new report."""
    provenance = dict(metadata.provenance)
    used = dict(provenance.pop("params"))
    provenance["auxiliary_outliers"] = ", ".join(provenance["auxiliary_outliers"])
    return {
        "dataset": provenance.pop("dataset"),
        "preprocess": {"images": metadata.images.model_dump(), "split": used.pop("split")},
        "train": used,
        "evaluate": evaluate.model_dump(),
        "provenance": {"version": metadata.version, **provenance},
    }
