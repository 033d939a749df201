"""One HTML page about a trained classifier, in the order in which a person asks.

The page holds all it shows: it can be mailed, archived, printed and opened from a disk.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from signs.files import write_text
from signs.reporting import pages, results
from signs.reporting.pages import count, percent
from signs.reporting.results import Json

SHOWN_PAIRS, SHOWN_PROBLEMS = 15, 20
CLASS_COLUMNS: dict[str, Callable[[Any], str]] = {
    **dict.fromkeys(["files", "distinct", "groups", "train", "validation", "test"], count),
    "correct": count,
    "recall": percent,
    "precision": percent,
    "f1": percent,
}


def write_page(metrics: Path, settings: Json, labels: pd.DataFrame, target: Path) -> None:
    """Write the report; what no stage has written is left out.

    Args:
        metrics: the folder with each stage's metrics, tables and pictures.
        settings: what the run used, from `results.settings`.
        labels: ClassId and Name of the classes that the network knows.
        target: the HTML file.
    """
    audit = results.read_json(metrics / "preprocess/audit.json")
    trained = results.read_json(metrics / "train/metrics.json")
    problems = results.read_table(metrics / "preprocess/problems.csv")
    used = {key: value for key, value in settings.items() if key != "provenance"}
    page = pages.render(
        "report.html",
        evaluated=results.read_json(metrics / "evaluate/details.json"),
        trained=trained,
        audit=audit,
        leaks=results.leaks(audit),
        settings=settings,
        pictures=metrics / "report",
        pairs=_pairs(metrics / "evaluate/confusions.csv"),
        corruptions=_corruptions(metrics / "evaluate/corruptions.csv"),
        ood=_ood(metrics / "evaluate/ood.csv"),
        run=_facts(trained),
        audit_facts=_facts(audit),
        problems=problems.head(SHOWN_PROBLEMS).to_numpy().tolist(),
        problem_count=len(problems),
        provenance=_facts(settings["provenance"]),
        settings_yaml=yaml.safe_dump(used, sort_keys=False, allow_unicode=True),
        **_classes(metrics, labels),
    )
    write_text(target, page)


def _pairs(path: Path) -> list[list[str]]:
    return [
        [
            f"{pair['true_id']} {pair['true_name']}",
            f"{pair['predicted_id']} {pair['predicted_name']}",
            count(pair["count"]),
            percent(pair["share"]),
        ]
        for pair in sorted(results.records(path), key=lambda pair: -pair["count"])[:SHOWN_PAIRS]
    ]


def _corruptions(path: Path) -> Json:
    """One row a kind, a column a level, the kind that does most harm first."""
    table = results.read_table(path)
    if not len(table):
        return {"rows": []}
    shares = table.pivot(index="corruption", columns="level", values="accuracy")
    shares = shares.assign(mean=shares.mean(axis=1)).sort_values("mean", kind="stable")
    return {
        "photos": table["photos"].iloc[0],
        "head": ["", *(f"level {level}" for level in shares.columns[:-1]), "mean"],
        "rows": [[kind, *map(percent, row)] for kind, *row in shares.itertuples()],
    }


def _ood(path: Path) -> list[list[str]]:
    return [
        [
            sign["name"],
            count(sign["photos"]),
            percent(sign["rejected"]),
            pages.number(sign["mean_confidence"], 3),
            sign["most_frequent_prediction"],
        ]
        for sign in results.records(path)
    ]


def _classes(metrics: Path, labels: pd.DataFrame) -> Json:
    """One row a class: what preprocess counted and what evaluate measured."""
    table = labels.rename(columns={"ClassId": "class_id", "Name": "name"})
    for stage in ("evaluate", "preprocess"):
        more = results.read_table(metrics / stage / "classes.csv")
        if len(more):
            new = ["class_id", *more.columns.difference(table.columns)]
            table = table.merge(more[new], on="class_id", how="left")
    columns = [column for column in CLASS_COLUMNS if column in table]
    rows = table.to_dict("records")
    return {
        "class_head": ["class", "name", *columns],
        "classes": [
            [row["class_id"], row["name"], *(CLASS_COLUMNS[name](row[name]) for name in columns)]
            for row in rows
        ],
        "not_tested": [
            f"{row['class_id']} {row['name']}" for row in rows if not row.get("test", 1)
        ],
    }


def _facts(facts: Json, outer: str = "") -> list[tuple[str, str]]:
    """Rows of names and values; nested ones get the outer name in front."""
    rows: list[tuple[str, str]] = []
    for key, value in facts.items():
        name = outer + str(key).replace("_", " ")
        if isinstance(value, dict):
            rows += _facts(value, f"{name}: ")
        elif isinstance(value, float):
            rows.append((name, f"{value:.6g}"))
        else:
            rows.append((name, f"{value:,}" if type(value) is int else str(value)))
    return rows
