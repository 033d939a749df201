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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

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

VERDICT, TEXT = Path("gate.json"), Path("gate.md")
BATCH = 256
TIMED_PHOTOS = 300
LEAKS = ("exact", "group", "near")
OTHER_PHOTOS = (
    "The test photos are not those of the champion's own evaluation. It was evaluated on them now, "
    "and may have trained on some of them."
)


@dataclass(frozen=True)
class Check:
    """One condition: what was found, what is allowed, and whether it holds."""

    name: str
    found: str
    allowed: str
    passed: bool


@dataclass(frozen=True)
class TestSet:
    """The photos that decide: their folder, one row each, and the names of the classes."""

    folder: Path
    table: pd.DataFrame
    names: dict[int, str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument(
        "--champion",
        metavar="REVISION",
        help="the classifier to compare with; default: that in production, else that of main",
    )


def run(arguments: argparse.Namespace) -> int:
    """Compare and write the verdict; 1 if it is a refusal.

    Raises:
        UserError: a classifier is missing or of other data.
    """
    revision = arguments.champion or deployed_commit() or commit_of("main")
    settings, data = params.load(), arrays.load()
    # One thread each, as in the service.
    challenger = Classifier(threads=1)
    if challenger.metadata.provenance["data"] != data.digest:
        raise UserError(f"{paths.CLASSIFIER} was trained on other data; run `dvc repro` first.")
    champion = None if revision == "none" else revisions.classifier_of(revision)
    test = TestSet(
        folder=paths.DATA / data.dataset,
        table=data.samples[data.samples["split"] == splits.TEST],
        names=dict(zip(data.labels["ClassId"], data.labels["Name"], strict=True)),
    )
    checks, notes = _judge(challenger, champion, test, settings)
    verdict = {
        "passed": all(check.passed for check in checks),
        "challenger": challenger.metadata.version,
        "champion": champion.metadata.version if champion else None,
        "champion_revision": revision,
        "test_photos": len(test.table),
        "notes": notes,
        "checks": [asdict(check) for check in checks],
    }
    files.write_json(VERDICT, verdict)
    text = _text(verdict)
    files.write_text(TEXT, text)
    print(text)
    return 0 if verdict["passed"] else 1


def _judge(
    challenger: Classifier, champion: Classifier | None, test: TestSet, settings: params.Params
) -> tuple[list[Check], list[str]]:
    """All checks, and notes for whoever reads them."""
    limits = settings.gate
    now = _predict(challenger, test)
    checks = [
        *_check_data(settings.preprocess.max_problems),
        _check_calibration(now, limits.max_ece),
        _check_size(limits.max_model_mb),
    ]
    if champion is None:
        return checks, ["There is no champion to compare with."]
    before = _predict(champion, test)
    checks += [
        _check_accuracy(now["correct"], before["correct"], limits.significance),
        _check_recall(now, before, test.names, limits),
        _check_time(challenger, champion, test, limits.max_latency_ratio),
    ]
    return checks, [] if _origin(champion) == _origin(challenger) else [OTHER_PHOTOS]


def _origin(classifier: Classifier) -> tuple[object, ...]:
    """What decides which photos are test photos."""
    provenance = classifier.metadata.provenance
    return provenance["data"], provenance["params"]["split"]


def _predict(classifier: Classifier, test: TestSet) -> pd.DataFrame:
    """One row for each test photo: class_id, correct (whether that is predicted), confidence."""
    rows, logits = predict_table(classifier, test.folder, test.table, BATCH)
    predicted = predictions_of(classifier, logits)
    predicted["class_id"] = rows["class_id"].to_numpy()
    predicted["correct"] = predicted["prediction"] == predicted["class_id"]
    return predicted


def _check_data(max_problems: float) -> list[Check]:
    try:
        audit = json.loads(paths.AUDIT.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{paths.AUDIT} cannot be read ({error}); run `dvc repro` first."
        ) from error
    leaks = sum(audit["leaks"][kind] for kind in LEAKS)
    unusable = audit["unusable"] / audit["files"]
    passed = unusable <= max_problems
    return [
        Check("no leak", f"{leaks} photos", "0", leaks == 0),
        Check("usable files", f"{unusable:.2%} unusable", f"{max_problems:.2%}", passed),
    ]


def _check_calibration(now: pd.DataFrame, limit: float) -> Check:
    confidence, correct = now["confidence"].to_numpy(), now["correct"].to_numpy()
    ece = calibration.expected_calibration_error(confidence, correct)
    return Check("calibration", f"ECE {ece:.4f}", f"{limit:g}", bool(ece <= limit))


def _check_size(limit: float) -> Check:
    megabytes = (paths.CLASSIFIER / MODEL).stat().st_size / 1e6
    return Check("size", f"{megabytes:.2f} MB", f"{limit:g} MB", megabytes <= limit)


def _check_accuracy(
    correct: "pd.Series[bool]", before: "pd.Series[bool]", significance: float
) -> Check:
    """McNemar's test, exact and one-sided: may chance alone explain that it makes more mistakes?

    Q. McNemar, "Note on the sampling error of the difference between correlated proportions or
    percentages" (Psychometrika 12, 1947).
    """
    lost, won = int((before & ~correct).sum()), int((correct & ~before).sum())
    p = binomtest(lost, lost + won, alternative="greater").pvalue if lost + won else 1.0
    found = (
        f"{correct.mean():.2%}, the champion {before.mean():.2%}: {won} photos won, {lost} lost, "
        f"p = {p:.3g}"
    )
    return Check("accuracy", found, f"p at least {significance:g}", bool(p >= significance))


def _check_recall(
    now: pd.DataFrame, before: pd.DataFrame, names: dict[int, str], limits: params.Gate
) -> Check:
    """The class that loses most."""
    photos = now.groupby("class_id").size()
    recall, recall_before = (t.groupby("class_id")["correct"].mean() for t in (now, before))
    drops = (recall_before - recall)[photos >= limits.min_class_photos]
    if drops.empty:
        return Check("recall", f"no class has {limits.min_class_photos} photos", "", passed=True)
    drop = max(0.0, float(drops.max()))
    worst = names[drops.index[int(drops.argmax())]]
    found = f"{worst} loses {drop:.1%}" if drop else "no class loses"
    allowed = f"{limits.max_recall_drop:.1%} a class"
    return Check("recall", found, allowed, drop <= limits.max_recall_drop)


def _check_time(challenger: Classifier, champion: Classifier, test: TestSet, limit: float) -> Check:
    """Time for one photo that is decoded already; the two take turns."""
    table = test.table.sample(min(TIMED_PHOTOS, len(test.table)), random_state=0)
    reader = layouts.Reader(test.folder)
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


def _text(verdict: dict[str, Any]) -> str:
    """The verdict as Markdown."""
    said = "May be deployed" if verdict["passed"] else "REFUSED"
    lines = [
        f"### {said}: {verdict['challenger']}, compared with {verdict['champion_revision']}",
        "",
        f"{verdict['test_photos']:,} test photos.",
        *verdict["notes"],
        "",
        "| | check | found | allowed |",
        "|---|---|---|---|",
    ]
    for check in verdict["checks"]:
        mark = "✓" if check["passed"] else "✗"
        lines.append(f"| {mark} | {check['name']} | {check['found']} | {check['allowed']} |")
    return "\n".join(lines) + "\n"
