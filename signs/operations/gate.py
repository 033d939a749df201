"""Decide whether the classifier in models/ may replace the deployed one.

    signs gate                        compares it with the one in production, else with main's
    signs gate --champion v1.2        with that of a tag, branch or commit
    signs gate --champion none        with none: the first classifier of all

Both predict the same test photos. Exits with 1 if one of the checks fails; their limits are in
params.yaml under `gate`. Writes gate.json, and gate.md for a comment on a pull request.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from scipy.stats import binomtest

from signs import files, params, paths
from signs.commands import commit_of, deployed_commit
from signs.data import arrays, images, layouts, splits
from signs.errors import UserError
from signs.evaluation import calibration
from signs.inference import revisions
from signs.inference.classifier import MODEL, Classifier
from signs.inference.tables import predict_table, predictions_of
from signs.reporting import pages

VERDICT, TEXT = Path("gate.json"), Path("gate.md")
BATCH = 256
TIMED_PHOTOS = 300
LEAKS = ("exact", "group", "near")
OTHER_PHOTOS = (
    "The test photos are not those of the champion's own evaluation. It was evaluated on them now, "
    "and may have trained on some of them."
)


class Check(NamedTuple):
    """One condition: what was found, what is allowed, and whether it holds."""

    name: str
    found: str
    allowed: str
    passed: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument(
        "--champion",
        metavar="REVISION",
        help="the classifier to compare with; default: that in production, else that of main",
    )


def run(arguments: argparse.Namespace) -> int:
    """Compare and write the verdict; 1 for a refusal; `UserError` if a classifier is missing."""
    revision = arguments.champion or deployed_commit() or commit_of("main")
    settings, data = params.load(), arrays.load()
    # One thread each, as in the service.
    challenger = Classifier(threads=1)
    if challenger.metadata.provenance["data"] != data.digest:
        raise UserError(f"{paths.CLASSIFIER} was trained on other data; run `dvc repro` first.")
    champion = None if revision == "none" else revisions.classifier_of(revision)
    now, notes = _predict(challenger, data), ["There is no champion to compare with."]
    checks = _check_alone(now, settings)
    if champion:
        checks += _check_predictions(now, _predict(champion, data), data, settings.gate)
        checks.append(_check_time(challenger, champion, data, settings.gate.max_latency_ratio))
        notes = [] if _origin(champion) == _origin(challenger) else [OTHER_PHOTOS]
    verdict = {
        "passed": all(check.passed for check in checks),
        "challenger": challenger.metadata.version,
        "champion": champion.metadata.version if champion else None,
        "champion_revision": revision,
        "test_photos": len(now),
        "notes": notes,
        "checks": [check._asdict() for check in checks],
    }
    files.write_json(VERDICT, verdict)
    text = pages.render("gate.md", **verdict)
    files.write_text(TEXT, text)
    print(text)
    return 0 if verdict["passed"] else 1


def _origin(classifier: Classifier) -> tuple[object, ...]:
    """What decides which photos are test photos."""
    provenance = classifier.metadata.provenance
    return provenance["data"], provenance["params"]["split"]


def _predict(classifier: Classifier, data: arrays.Prepared) -> pd.DataFrame:
    """One row for each test photo: class_id, correct (whether that is predicted), confidence."""
    test = data.samples[data.samples["split"] == splits.TEST]
    rows, logits = predict_table(classifier, paths.DATA / data.dataset, test, BATCH)
    predicted = predictions_of(classifier, logits)
    predicted["class_id"] = rows["class_id"].to_numpy()
    predicted["correct"] = predicted["prediction"] == predicted["class_id"]
    return predicted


def _check_alone(now: pd.DataFrame, settings: params.Params) -> list[Check]:
    """What needs no champion: data, calibration and size."""
    try:
        audit = json.loads(paths.AUDIT.read_bytes())
    except (OSError, ValueError) as error:
        reason = f"{paths.AUDIT} cannot be read ({error})"
        raise UserError(f"{reason}; run `dvc repro` first.") from error
    leaks = sum(audit["leaks"][kind] for kind in LEAKS)
    unusable, problems = audit["unusable"] / audit["files"], settings.preprocess.max_problems
    confidence, correct = now["confidence"].to_numpy(), now["correct"].to_numpy()
    ece, max_ece = (
        calibration.expected_calibration_error(confidence, correct),
        settings.gate.max_ece,
    )
    size, max_size = (paths.CLASSIFIER / MODEL).stat().st_size / 1e6, settings.gate.max_model_mb
    return [
        Check("no leak", f"{leaks} photos", "0", leaks == 0),
        Check("usable files", f"{unusable:.2%} unusable", f"{problems:.2%}", unusable <= problems),
        Check("calibration", f"ECE {ece:.4f}", f"{max_ece:g}", bool(ece <= max_ece)),
        Check("size", f"{size:.2f} MB", f"{max_size:g} MB", size <= max_size),
    ]


def _check_predictions(
    now: pd.DataFrame, before: pd.DataFrame, data: arrays.Prepared, limits: params.Gate
) -> list[Check]:
    """Accuracy, and the recall of the class that loses most.

    McNemar's test, exact and one-sided: may chance alone explain that there are more mistakes?
    Q. McNemar, "Note on the sampling error of the difference between correlated proportions or
    percentages" (Psychometrika 12, 1947).
    """
    lost = int((before["correct"] & ~now["correct"]).sum())
    won = int((now["correct"] & ~before["correct"]).sum())
    p = binomtest(lost, lost + won, alternative="greater").pvalue if lost + won else 1.0
    found = (
        f"{now['correct'].mean():.2%}, the champion {before['correct'].mean():.2%}: {won} photos "
        f"won, {lost} lost, p = {p:.3g}"
    )
    allowed = f"p at least {limits.significance:g}"
    accuracy = Check("accuracy", found, allowed, bool(p >= limits.significance))
    recall, recall_before = (t.groupby("class_id")["correct"].mean() for t in (now, before))
    photos = now.groupby("class_id").size()
    drops = (recall_before - recall)[photos >= limits.min_class_photos]
    if drops.empty:
        found = f"no class has {limits.min_class_photos} photos"
        return [accuracy, Check("recall", found, "", passed=True)]
    drop = max(0.0, float(drops.max()))
    names = dict(zip(data.labels["ClassId"], data.labels["Name"], strict=True))
    found = f"{names[drops.idxmax()]} loses {drop:.1%}" if drop else "no class loses"
    allowed = f"{limits.max_recall_drop:.1%} a class"
    return [accuracy, Check("recall", found, allowed, drop <= limits.max_recall_drop)]


def _check_time(
    challenger: Classifier, champion: Classifier, data: arrays.Prepared, limit: float
) -> Check:
    """Time for one photo that is decoded already; the two take turns."""
    test = data.samples[data.samples["split"] == splits.TEST]
    table = test.sample(min(TIMED_PHOTOS, len(test)), random_state=0)
    reader = layouts.Reader(paths.DATA / data.dataset)
    ratios = []
    for file, region in zip(table["file"], layouts.regions(table), strict=True):
        photo = images.decode(reader.read(file))
        one, other = (_seconds(model, photo, region) for model in (challenger, champion))
        ratios.append(one / other)
    ratio = statistics.median(ratios)
    return Check("time for a photo", f"{ratio:.2f} of the champion's", f"{limit:g}", ratio <= limit)


def _seconds(classifier: Classifier, photo: images.Image, region: images.Region | None) -> float:
    started = time.perf_counter()
    classifier.logits(classifier.prepare([photo], [region]))
    return time.perf_counter() - started
