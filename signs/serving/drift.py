"""Whether what the service sees still looks like what its classifier was checked on.

    make drift                                the latest day of the service's log
    make drift ARGS='--day 2030-01-31 --fail' for a nightly job: exit status 1 if it drifted

Compares what was answered on one day (monitoring/, written by `bentoml serve`) with what the same
classifier says of the validation photos (data/predictions.csv, written by the evaluate stage):
the mix of classes, how sure the answers are, how many are unknown. Which test and threshold suits
the number of answers is Evidently's choice. Runs in an environment of its own, as Evidently does
not work with the pipeline's pandas: requirements/drift.txt.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from signs.errors import UserError, run_stage

LOG = Path("monitoring/predictions/data")
PREDICTIONS = Path("data/predictions.csv")
CLASSIFIER = Path("models/classifier/classifier.json")
REPORT = Path("drift.html")
FEWEST = 50  # fewer answers are no sample of a day


def drift() -> None:
    """Write the report and say what it found."""
    parser = argparse.ArgumentParser(description="Whether the answers of a day have drifted.")
    parser.add_argument("--day", metavar="YYYY-MM-DD", help="the latest in the log, if not given")
    parser.add_argument("--fail", action="store_true", help="exit with 1 if a column drifted")
    parser.add_argument("--log", type=Path, default=LOG, metavar="FOLDER")
    parser.add_argument("--output", type=Path, default=REPORT, metavar="FILE")
    arguments = parser.parse_args()
    about = _read_classifier()
    names = dict(zip(about["class_ids"], about["names"], strict=True))
    log = _read_log(arguments.log)
    day = arguments.day or log["day"].max()
    answers = log[log["day"] == day]
    if answers.empty:
        days = ", ".join(sorted(log["day"].unique()))
        raise UserError(f"No answers were logged on {day}; there are some of {days}.")
    of_others = int((answers["model"] != about["version"]).sum())
    answers = answers[answers["model"] == about["version"]]
    if len(answers) < FEWEST:
        raise UserError(
            f"Of {day} there are {len(answers)} answers of the present classifier, "
            f"{about['version']} ({of_others} of others); a comparison takes {FEWEST}."
        )
    expected = _read_predictions()
    drifted = _compare(_columns(answers, names), _columns(expected, names), arguments.output)
    print(
        f"{len(answers):,} answers of {day} by {about['version']} against {len(expected):,} "
        f"validation photos." + (f" {of_others:,} answers of others left out." * bool(of_others))
    )
    for column, (method, score, threshold, has_drifted) in drifted.items():
        verdict = "DRIFTED" if has_drifted else "as expected"
        print(f"  {column:<12} {verdict:<12} {method}: {score:.3g}, threshold {threshold:g}")
    print(f"Report: {arguments.output}")
    if arguments.fail and any(has_drifted for *_, has_drifted in drifted.values()):
        sys.exit(1)


def _read_classifier() -> dict[str, Any]:
    try:
        about: dict[str, Any] = json.loads(CLASSIFIER.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{CLASSIFIER} cannot be read ({error}); `dvc repro` makes it.") from error
    return about


def _read_log(folder: Path) -> pd.DataFrame:
    """All answers in the log, with the day of each."""
    rows, damaged = [], 0
    for path in sorted(folder.glob("data.*.log*")):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
                rows.append({**row, "day": row["timestamp"][:10]})
            except (ValueError, KeyError, TypeError):
                damaged += 1  # cut off, as by a full disk
    if damaged:
        print(f"{damaged} damaged lines of the log were left out.", file=sys.stderr)
    if not rows:
        raise UserError(
            f"There is no log of answers in {folder}. `bentoml serve` writes one where it runs, "
            "unless SIGNS_LOGGED_PER_SECOND is 0; --log names another place."
        )
    return pd.DataFrame(rows)


def _read_predictions() -> pd.DataFrame:
    try:
        table = pd.read_csv(PREDICTIONS)
    except OSError as error:
        raise UserError(f"{PREDICTIONS} cannot be read; `dvc repro` makes it.") from error
    return table[table["split"] == "validation"]


def _columns(table: pd.DataFrame, names: dict[int, str]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "sign": table["prediction"].map(names).astype(str),
            "confidence": table["confidence"].astype(float),
            "known": table["known"].map({True: "known", False: "unknown"}),
        }
    )


def _compare(
    current: pd.DataFrame, reference: pd.DataFrame, path: Path
) -> dict[str, tuple[str, float, float, bool]]:
    """Write Evidently's report; for each column test, score, threshold and whether it drifted."""
    os.environ["DO_NOT_TRACK"] = "1"
    print("Evidently is being loaded ...", file=sys.stderr)
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    definition = DataDefinition(
        categorical_columns=["sign", "known"], numerical_columns=["confidence"]
    )
    sides = [Dataset.from_pandas(side, data_definition=definition) for side in (current, reference)]
    snapshot = Report([DataDriftPreset()]).run(*sides)
    try:
        snapshot.save_html(str(path))
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}.") from error
    found = {}
    for metric in snapshot.dict()["metrics"]:
        config, score = metric["config"], metric["value"]
        if "column" in config:
            method, threshold = config["method"], config["threshold"]
            # Of a p-value little, of a distance much tells of drift.
            has_drifted = score < threshold if "p_value" in method else score >= threshold
            found[config["column"]] = (method, float(score), threshold, bool(has_drifted))
    return found


if __name__ == "__main__":
    run_stage(drift)
