"""What the other stages wrote, read for pages and pictures."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from signs.inference.classifier import Metadata
from signs.params import Evaluate

Json = dict[str, Any]

# Columns in which an empty cell means "not measured".
MEASURED = ("recall", "recall_low", "recall_high", "precision", "f1")


def read_json(path: Path) -> Json:
    """The content of a JSON file; empty if it is missing."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def read_table(path: Path) -> pd.DataFrame:
    """A CSV file, empty if it is missing; names stay texts, a class may be called "None"."""
    if not path.exists():
        return pd.DataFrame()
    empty = {column: [""] for column in MEASURED}
    return pd.read_csv(path, keep_default_na=False, na_values=empty, dtype={"name": str})


def records(path: Path) -> list[dict[Any, Any]]:
    """The rows of a CSV file as dictionaries; none if it is missing."""
    return read_table(path).to_dict("records")


def leaks(audit: Json) -> bool:
    """Whether photos of training come up in another split, by the audit of the data."""
    kinds = ("exact", "group", "near", "test_percent")
    return any(audit.get("leaks", {}).get(kind) for kind in kinds)


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
