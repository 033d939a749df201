"""The report, one HTML page that holds all it shows, and the model card, from the metrics.

Sections of the card after M. Mitchell et al., "Model Cards for Model Reporting" (FAT* 2019).
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from signs.evaluation import slices
from signs.files import write_text
from signs.reporting import pages
from signs.reporting.pages import number, percent
from signs.reporting.results import Json, read_json, read_table

SHOWN_PAIRS, SHOWN_PROBLEMS, SHOWN_CLASSES = 15, 20, 10
Formats = dict[str, Callable[[Any], str]]
COUNTS = ["files", "distinct", "groups", "train", "validation", "test", "correct"]
CLASS_COLUMNS: Formats = {
    **dict.fromkeys(["class_id", "name"], str),
    **dict.fromkeys(COUNTS, number),
    **dict.fromkeys(["recall", "precision", "f1"], percent),
}
SLICE_COLUMNS: Formats = {"criterion": lambda name: f"{name} ({slices.CRITERIA[name]})"}
SLICE_COLUMNS |= {"low": partial(number, digits=1)}
SLICE_COLUMNS |= {"high": partial(number, digits=1), "photos": number, "accuracy": percent}
OOD_COLUMNS: Formats = {"name": str, "photos": number, "rejected": percent}
OOD_COLUMNS |= {"mean_confidence": partial(number, digits=3), "most_frequent_prediction": str}


def write_page(metrics: Path, settings: Json, labels: pd.DataFrame, target: Path) -> None:
    """Write the report as HTML from a folder of metrics; what no stage has written is left out.

    Settings as `results.settings` gives them; ClassId and Name of the classes that the network
    knows.
    """
    results = _results(metrics, settings)
    problems = read_table(metrics / "preprocess/problems.csv")
    used = {key: value for key, value in settings.items() if key != "provenance"}
    pairs = read_table(metrics / "evaluate/confusions.csv").head(SHOWN_PAIRS)
    page = pages.render(
        "report.html",
        **results,
        **_classes(metrics, labels),
        pictures=metrics / "report",
        pairs=[
            [f"{true} {true_name}", f"{read} {read_name}", number(count), percent(share)]
            for true, true_name, read, read_name, count, share in pairs.itertuples(index=False)
        ],
        corruption_rows=[
            [kind, *map(percent, shares)] for kind, *shares in results["corruptions"]["rows"]
        ],
        slice_rows=_cells(
            read_table(metrics / "evaluate/slices.csv").to_dict("records"), SLICE_COLUMNS
        ),
        ood_rows=_cells(results["ood"], OOD_COLUMNS),
        run=_facts(results["trained"]),
        audit_facts=_facts(results["audit"]),
        problems=problems.head(SHOWN_PROBLEMS).to_numpy().tolist(),
        problem_count=len(problems),
        provenance=_facts(settings["provenance"]),
        settings_yaml=yaml.safe_dump(used, sort_keys=False, allow_unicode=True),
    )
    write_text(target, page)


def write_card(metrics: Path, settings: Json, onnx_bytes: int, target: Path) -> None:
    """Write the model card, in Markdown, of a network of so many bytes; as `write_page`."""
    classes = read_table(metrics / "evaluate/classes.csv")
    tested = classes[classes["recall"].notna()].sort_values("recall", kind="stable")
    hardest = tested.head(SHOWN_CLASSES).to_dict("records")
    results = _results(metrics, settings)
    card = pages.render("model_card.md", **results, onnx_bytes=onnx_bytes, hardest=hardest)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, card)


def _results(metrics: Path, settings: Json) -> Json:
    """What both pages show; empty what no stage has written."""
    audit = read_json(metrics / "preprocess/audit.json")
    kinds = ("exact", "group", "near", "test_percent")
    return {
        "settings": settings,
        "audit": audit,
        "leaks": any(audit.get("leaks", {}).get(kind) for kind in kinds),
        "trained": read_json(metrics / "train/metrics.json"),
        "evaluated": read_json(metrics / "evaluate/details.json"),
        "corruptions": _corruptions(metrics),
        "ood": read_table(metrics / "evaluate/ood.csv").to_dict("records"),
    }


def _corruptions(metrics: Path) -> Json:
    """Accuracy: one row a kind, a column a level, the kind that does most harm first."""
    table = read_table(metrics / "evaluate/corruptions.csv")
    if table.empty:
        return {"rows": []}
    shares = table.pivot(index="corruption", columns="level", values="accuracy")
    shares = shares.assign(mean=shares.mean(axis=1)).sort_values("mean", kind="stable")
    return {
        "photos": table["photos"].iloc[0],
        "head": ["", *(f"level {level}" for level in shares.columns[:-1]), "mean"],
        "rows": list(shares.itertuples(name=None)),
    }


def _classes(metrics: Path, labels: pd.DataFrame) -> Json:
    """One row a class: what preprocess counted and what evaluate measured."""
    table = labels.rename(columns={"ClassId": "class_id", "Name": "name"})
    for stage in ("evaluate", "preprocess"):
        more = read_table(metrics / stage / "classes.csv")
        if len(more):
            new = ["class_id", *more.columns.difference(table.columns)]
            table = table.merge(more[new], on="class_id", how="left")
    formats = {column: form for column, form in CLASS_COLUMNS.items() if column in table}
    rows = table.to_dict("records")
    return {
        "class_head": ["class", *list(formats)[1:]],
        "classes": _cells(rows, formats),
        "not_tested": [f"{r['class_id']} {r['name']}" for r in rows if not r.get("test", 1)],
    }


def _cells(rows: Iterable[Mapping[Any, Any]], formats: Formats) -> list[list[str]]:
    return [[form(row[column]) for column, form in formats.items()] for row in rows]


def _facts(facts: Json, outer: str = "") -> list[tuple[str, str]]:
    """Rows of names and values; nested ones get the outer name in front."""
    rows: list[tuple[str, str]] = []
    for key, value in facts.items():
        name = outer + str(key).replace("_", " ")
        if isinstance(value, dict):
            rows += _facts(value, f"{name}: ")
        else:
            text = f"{value:.6g}" if isinstance(value, float) else str(value)
            rows.append((name, f"{value:,}" if type(value) is int else text))
    return rows
