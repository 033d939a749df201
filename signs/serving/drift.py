"""Whether the photos that the service gets still resemble those its classifier was evaluated on.

    make drift                                 the latest day of the service's log
    make drift ARGS='--day 2030-01-31 --fail'  for a nightly job: exit status 1 on drift

It compares the predictions of one day (monitoring/, written by `bentoml serve`) with those of the
same classifier for the validation photos (data/evaluation/predictions.csv, written by the evaluate
stage): the mix of classes, the confidence, the share of unknown signs. Evidently chooses the test
and the threshold that suit the number of predictions. Evidently does not work with the pipeline's
version of pandas, so this runs in an environment of its own: requirements/drift.txt.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from signs import paths
from signs.errors import UserError

LOG = Path("monitoring/predictions/data")
METADATA = paths.CLASSIFIER / "classifier.json"
LOGGED = ["prediction", "confidence", "known", "model"]  # what is compared, as the log calls it
MIN_PREDICTIONS = 50  # fewer say too little about a day


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `run`."""
    parser.add_argument("--day", metavar="YYYY-MM-DD", help="default: the latest day in the log")
    parser.add_argument("--fail", action="store_true", help="exit with 1 if a column drifted")
    for option, default, kind in (("--log", LOG, "FOLDER"), ("--output", "drift.html", "FILE")):
        parser.add_argument(
            option, type=Path, default=default, metavar=kind, help="default: %(default)s"
        )


def run(arguments: argparse.Namespace) -> int:
    """Write Evidently's report and print one line for each column.

    Returns 1, the exit status, if a column drifted and --fail was given; otherwise 0.

    Raises:
        UserError: a file is missing, or the day has too few predictions.
    """
    version, names, reference = _read_results()
    day, of_day = _read_log(arguments.log, arguments.day)
    current = of_day[of_day["model"] == version]
    others = len(of_day) - len(current)
    if len(current) < MIN_PREDICTIONS:
        raise UserError(
            f"The log of {day} has {len(current)} predictions of the present classifier, {version} "
            f"({others} of other classifiers). A comparison needs at least {MIN_PREDICTIONS}."
        )
    tests = _compare(_columns(current, names), _columns(reference, names), arguments.output)
    left_out = f" {others:,} predictions of other classifiers were left out." if others else ""
    print(
        f"{len(current):,} predictions of {day} by {version}, compared with {len(reference):,} "
        f"validation photos.{left_out}"
    )
    for column, (drifted, test) in tests.items():
        print(f"  {column:<12} {'DRIFTED' if drifted else 'as expected':<12} {test}")
    print(f"Report: {arguments.output}")
    return int(arguments.fail and any(drifted for drifted, _ in tests.values()))


def _read_results() -> tuple[str, dict[int, str], pd.DataFrame]:
    """The classifier's version, its classes' names by id, its predictions of validation photos."""
    path = METADATA
    try:
        metadata = json.loads(path.read_bytes())
        path = paths.PREDICTIONS
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); `dvc repro` makes it.") from error
    names = dict(zip(metadata["class_ids"], metadata["names"], strict=True))
    # The log calls the column so.
    reference = table[table["split"] == "validation"].rename(columns={"accepted": "known"})
    return metadata["version"], names, reference


def _read_log(folder: Path, day: str | None) -> tuple[str, pd.DataFrame]:
    """A day, or the latest one in the log, and its predictions; of others nothing stays in memory.

    The log has a file for each worker, and below `folder` one folder for each pod.
    """
    rows: list[list[Any]] = []
    chosen, days, damaged = day or "", set(), 0
    for path in sorted(folder.rglob("data.*.log*")):
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    row = json.loads(line)
                    of_day, values = row["timestamp"][:10], [row[name] for name in LOGGED]
                except (ValueError, KeyError, TypeError):
                    damaged += 1  # cut off, for example by a full disk
                    continue
                days.add(of_day)
                if day is None and of_day > chosen:
                    chosen, rows = of_day, []
                if of_day == chosen:
                    rows.append(values)
    if damaged:
        print(f"{damaged} damaged lines of the log were left out.", file=sys.stderr)
    if not days:
        raise UserError(
            f"There is no log of predictions in {folder}. `bentoml serve` writes one into the "
            "folder where it runs, unless SIGNS_LOGGED_PER_SECOND is 0; --log names another folder."
        )
    if not rows:
        found = ", ".join(sorted(days))
        raise UserError(f"The log has no predictions of {chosen}. It has predictions of: {found}.")
    return chosen, pd.DataFrame(rows, columns=LOGGED)


def _columns(table: pd.DataFrame, names: dict[int, str]) -> pd.DataFrame:
    """The columns to compare, in the words that Evidently's report shows."""
    sign, confidence = table["prediction"].map(names).astype(str), table["confidence"].astype(float)
    known = table["known"].map({True: "known", False: "unknown"})
    return pd.DataFrame({"sign": sign, "confidence": confidence, "known": known})


def _compare(
    current: pd.DataFrame, reference: pd.DataFrame, path: Path
) -> dict[str, tuple[bool, str]]:
    """Write Evidently's report; for each column, whether it drifted and by which test."""
    os.environ["DO_NOT_TRACK"] = "1"
    print("Loading Evidently ...", file=sys.stderr)
    try:
        from evidently import DataDefinition, Dataset, Report
        from evidently.presets import DataDriftPreset
    except ModuleNotFoundError as error:
        raise UserError(
            f"{error}. The drift report has an environment of its own: `make drift`."
        ) from error

    kinds = DataDefinition(categorical_columns=["sign", "known"], numerical_columns=["confidence"])
    sides = [Dataset.from_pandas(side, data_definition=kinds) for side in (current, reference)]
    snapshot = Report([DataDriftPreset()]).run(*sides)
    try:
        snapshot.save_html(str(path))
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}.") from error
    tests = {}
    for metric in snapshot.dict()["metrics"]:
        config = metric["config"]
        if "column" in config:
            method, threshold, score = config["method"], config["threshold"], float(metric["value"])
            # A small p-value means drift; for a distance, a large one does.
            drifted = score < threshold if "p_value" in method else score >= threshold
            test = f"{method}: {score:.3g}, threshold {threshold:g}"
            tests[config["column"]] = drifted, test
    return tests
