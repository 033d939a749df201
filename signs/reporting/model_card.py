"""A model card from the metrics: what the classifier is for, what it can do and what it cannot.

Sections after M. Mitchell et al., "Model Cards for Model Reporting" (FAT* 2019).
"""

from pathlib import Path
from typing import Any

from signs.files import write_text
from signs.reporting import pages, results
from signs.reporting.results import Json

SHOWN_CLASSES = 10


def write(metrics: Path, settings: Json, onnx_bytes: int, target: Path) -> None:
    """Write the card.

    Args:
        metrics: the folder with each stage's metrics and tables.
        settings: what the run used, from `results.settings`.
        onnx_bytes: size of the exported network.
        target: the Markdown file.
    """
    classes = results.read_table(metrics / "evaluate/classes.csv")
    tested = classes[classes["recall"].notna()].sort_values("recall", kind="stable")
    audit = results.read_json(metrics / "preprocess/audit.json")
    card = pages.render(
        "model_card.md",
        settings=settings,
        onnx_bytes=onnx_bytes,
        audit=audit,
        leaks=results.leaks(audit),
        trained=results.read_json(metrics / "train/metrics.json"),
        evaluated=results.read_json(metrics / "evaluate/details.json"),
        hardest=tested.head(SHOWN_CLASSES).to_dict("records"),
        corruptions=_corruptions(metrics / "evaluate/corruptions.csv"),
        ood=results.records(metrics / "evaluate/ood.csv"),
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, card)


def _corruptions(path: Path) -> list[dict[Any, Any]]:
    """Mean and lowest accuracy of each kind, the kind that does most harm first."""
    table = results.read_table(path)
    if not len(table):
        return []
    shares = table.groupby("corruption")["accuracy"].agg(["mean", "min"]).sort_values("mean")
    return shares.reset_index().to_dict("records")
