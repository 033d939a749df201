"""Whether the classifier in models/ may replace the one that is deployed.

    make gate                              against the one in production, else that of main
    make gate ARGS='--champion v1.2'       against that of a tag, branch or commit
    make gate ARGS='--champion none'       the first of all

Both answer the same test photos, side by side. Exits with 1 if one check fails; limits stand
in params.yaml under `gate`. Writes gate.json and gate.md, the text for a pull request.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import binomtest

from signs import params, progress
from signs.data import arrays, images, layouts, splits
from signs.errors import UserError, run_stage
from signs.evaluation import calibration
from signs.inference import revisions
from signs.inference.classifier import FOLDER, MODEL, Classifier

AUDIT = Path("metrics/preprocess/audit.json")
VERDICT, TEXT = Path("gate.json"), Path("gate.md")
BATCH = 256
TIMED_PHOTOS = 300
LEAKS = ("exact", "group", "near")

Answers = tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]


@dataclass(frozen=True)
class Check:
    """One condition: what was found, what is allowed, and whether it holds."""

    name: str
    found: str
    allowed: str
    passed: bool


def gate() -> None:
    """Compare, write the verdict, exit with 1 if it is a refusal."""
    parser = argparse.ArgumentParser(description="Whether the classifier may be deployed.")
    parser.add_argument("--champion", metavar="REVISION", help="default: production's, else main's")
    name = parser.parse_args().champion or revisions.deployed() or revisions.commit_of("main")
    settings, data = params.load(), arrays.load()
    # One thread each, as in the service.
    challenger = Classifier(threads=1)
    if challenger.metadata.provenance["data"] != data.digest:
        raise UserError(f"{FOLDER} was trained on other data; run `dvc repro` first.")
    champion = None if name == "none" else revisions.classifier_of(name)
    test = data.samples[data.samples["split"] == splits.TEST]
    truth = np.array(data.labels["ClassId"])[test["label"].to_numpy()]
    notes = []
    answers = _answer(challenger, data.dataset, test)
    checks = [
        *_check_data(settings.preprocess.max_problems),
        _check_calibration(answers, truth, settings.gate.max_ece),
        _check_size(settings.gate.max_model_mb),
    ]
    if champion is None:
        notes.append("There is no champion to compare with.")
    else:
        if _origin(champion) != _origin(challenger):
            notes.append(
                "The test photos are not those of the champion's own evaluation. It was evaluated "
                "on them now, and may have trained on some of them."
            )
        others = _answer(champion, data.dataset, test)
        right, right_before = answers[0] == truth, others[0] == truth
        checks += [
            _check_accuracy(right, right_before, settings.gate.significance),
            _check_recall(right, right_before, truth, settings.gate, data.labels),
            _check_time(challenger, champion, data.dataset, test, settings.gate.max_latency_ratio),
        ]
    passed = all(check.passed for check in checks)
    verdict = {
        "passed": passed,
        "challenger": challenger.metadata.version,
        "champion": champion.metadata.version if champion else None,
        "champion_revision": name,
        "test_photos": len(test),
        "notes": notes,
        "checks": [asdict(check) for check in checks],
    }
    VERDICT.write_text(json.dumps(verdict, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    text = _text(checks, notes, passed, challenger.metadata.version, name, len(test))
    TEXT.write_text(text, encoding="utf-8")
    print(text)
    if not passed:
        sys.exit(1)


def _origin(classifier: Classifier) -> tuple[object, ...]:
    provenance = classifier.metadata.provenance
    return provenance["data"], provenance["params"]["split"]


def _batches(
    dataset: str, table: pd.DataFrame
) -> Iterator[tuple[list[images.Image], list[images.Region | None]]]:
    reader = layouts.Reader(layouts.DATA / dataset)
    for start in range(0, len(table), BATCH):
        batch = table.iloc[start : start + BATCH]
        yield [images.decode(reader.read(f)) for f in batch["file"]], layouts.regions(batch)


def _answer(classifier: Classifier, dataset: str, test: pd.DataFrame) -> Answers:
    """Class ids (N,) and confidences (N,) that it gives for the photos themselves."""
    parts = []
    with progress.bar(len(test), classifier.metadata.version, " photos") as bar:
        for photos, regions in _batches(dataset, test):
            parts.append(classifier.probabilities(classifier.prepare(photos, regions)))
            bar.update(len(photos))
    probabilities = np.concatenate(parts)
    class_ids = np.array(classifier.metadata.class_ids)[probabilities.argmax(axis=1)]
    return class_ids, probabilities.max(axis=1)


def _check_data(max_problems: float) -> list[Check]:
    try:
        audit = json.loads(AUDIT.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{AUDIT} cannot be read ({error}); run `dvc repro` first.") from error
    leaks = sum(audit["leaks"][kind] for kind in LEAKS)
    unusable = audit["unusable"] / audit["files"]
    return [
        Check("no leak", f"{leaks} photos", "0", leaks == 0),
        Check(
            "usable files", f"{unusable:.2%} not", f"{max_problems:.2%}", unusable <= max_problems
        ),
    ]


def _check_calibration(answers: Answers, truth: npt.NDArray[np.intp], limit: float) -> Check:
    ece = calibration.expected_calibration_error(answers[1], answers[0] == truth)
    return Check("calibration", f"ECE {ece:.4f}", f"{limit:g}", bool(ece <= limit))


def _check_size(limit: float) -> Check:
    megabytes = (FOLDER / MODEL).stat().st_size / 1e6
    return Check("size", f"{megabytes:.2f} MB", f"{limit:g} MB", megabytes <= limit)


def _check_accuracy(
    right: npt.NDArray[np.bool_], right_before: npt.NDArray[np.bool_], significance: float
) -> Check:
    """McNemar's test, exact and one-sided: is it only by accident that it misreads more?

    Q. McNemar, "Note on the sampling error of the difference between correlated proportions or
    percentages" (Psychometrika 12, 1947).
    """
    lost, won = int((right_before & ~right).sum()), int((right & ~right_before).sum())
    p = binomtest(lost, lost + won, alternative="greater").pvalue if lost + won else 1.0
    found = (
        f"{right.mean():.2%} after {right_before.mean():.2%}: {won} photos won, {lost} lost, "
        f"p = {p:.3g}"
    )
    return Check("accuracy", found, f"p at least {significance:g}", bool(p >= significance))


def _check_recall(
    right: npt.NDArray[np.bool_],
    right_before: npt.NDArray[np.bool_],
    truth: npt.NDArray[np.intp],
    limits: params.Gate,
    labels: pd.DataFrame,
) -> Check:
    """The class that loses most."""
    names = dict(zip(labels["ClassId"], labels["Name"], strict=True))
    losses = {
        class_id: right_before[truth == class_id].mean() - right[truth == class_id].mean()
        for class_id, photos in zip(*np.unique(truth, return_counts=True), strict=True)
        if photos >= limits.min_class_photos
    }
    if not losses:
        return Check("recall", f"no class of {limits.min_class_photos} photos", "", passed=True)
    worst = max(losses, key=lambda class_id: float(losses[class_id]))
    loss = max(0.0, float(losses[worst]))
    found = f"{names[worst]} loses {loss:.1%}" if loss else "no class loses"
    return Check(
        "recall", found, f"{limits.max_recall_drop:.1%} a class", loss <= limits.max_recall_drop
    )


def _check_time(
    challenger: Classifier, champion: Classifier, dataset: str, test: pd.DataFrame, limit: float
) -> Check:
    """Time for one photo, decoded already; the two take turns."""
    table = test.sample(min(TIMED_PHOTOS, len(test)), random_state=0)
    ratios = []
    for photos, regions in _batches(dataset, table):
        for photo, region in zip(photos, regions, strict=True):
            one, other = (_seconds(c, photo, region) for c in (challenger, champion))
            ratios.append(one / other)
    ratio = statistics.median(ratios)
    return Check("time for a photo", f"{ratio:.2f} of the champion's", f"{limit:g}", ratio <= limit)


def _seconds(classifier: Classifier, photo: images.Image, region: images.Region | None) -> float:
    started = time.perf_counter()
    classifier.logits(classifier.prepare([photo], [region]))
    return time.perf_counter() - started


def _text(
    checks: list[Check], notes: list[str], passed: bool, version: str, champion: str, photos: int
) -> str:
    lines = [
        f"### {'May be deployed' if passed else 'REFUSED'}: {version}, against {champion}",
        "",
        f"{photos:,} test photos.",
        *notes,
        "",
        "| | check | found | allowed |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {'✓' if check.passed else '✗'} | {check.name} | {check.found} | {check.allowed} |"
        for check in checks
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run_stage(gate)
