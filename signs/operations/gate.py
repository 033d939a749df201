"""Decide whether the classifier in models/ may replace the deployed one.

    signs gate                        compares it with the one in production, else with main's
    signs gate --champion v1.2        with that of a tag, branch or commit
    signs gate --champion none        with none: the first classifier of all

Both are measured now, on the same photos. Exits with 1 if one of the checks fails; their limits are
in params.yaml under `gate`. Writes gate.json, and gate.md for a comment on a pull request.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd

from signs import files, params, paths
from signs.commands import commit_of, deployed_commit
from signs.data import arrays, images, layouts, splits
from signs.errors import UserError
from signs.evaluation import external, ood, robustness
from signs.inference import revisions
from signs.inference.classifier import MODEL, Classifier, Logits
from signs.inference.tables import predict_table, predictions_of
from signs.operations import checks
from signs.reporting import pages

VERDICT, TEXT = Path("gate.json"), Path("gate.md")
TIMED_PHOTOS, ROUNDS = 300, 3
OTHER_PHOTOS = (
    "The test photos are not those of the champion's own evaluation. It was evaluated on them now, "
    "and may have trained on some of them."
)


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
    champion = None if revision == "none" else revisions.classifier_of(revision, threads=1)
    megabytes = (paths.CLASSIFIER / MODEL).stat().st_size / 1e6
    models = [challenger, champion] if champion else [challenger]
    lines = [*checks.of_files(_audit(), megabytes, settings), *_compare(models, data, settings)]
    notes = [] if champion else ["There is no champion to compare with."]
    if champion and _origin(champion) != _origin(challenger):
        notes = [OTHER_PHOTOS]
    verdict = {
        "passed": all(check.passed for check in lines),
        "challenger": challenger.metadata.version,
        "champion": champion.metadata.version if champion else None,
        "champion_revision": revision,
        "notes": notes,
        "checks": [check._asdict() for check in lines],
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


def _audit() -> dict[str, object]:
    try:
        audit: dict[str, object] = json.loads(paths.AUDIT.read_bytes())
    except (OSError, ValueError) as error:
        reason = f"{paths.AUDIT} cannot be read ({error})"
        raise UserError(f"{reason}; run `dvc repro` first.") from error
    return audit


def _compare(
    models: list[Classifier], data: arrays.Prepared, settings: params.Params
) -> list[checks.Check]:
    """All checks that need predictions of the challenger and, if there is one, of the champion."""
    folder, evaluate, limits = paths.DATA / data.dataset, settings.evaluate, settings.gate
    test = data.samples[data.samples["split"] == splits.TEST]
    names = dict(zip(data.labels["ClassId"], data.labels["Name"], strict=True))
    predicted = [_predict(model, folder, test, evaluate.batch_size) for model in models]
    lines = checks.of_predictions([table for table, _ in predicted], names, limits)
    if len(models) == 1:
        return lines
    if not evaluate.external_photos:
        lines.append(checks.Check("OOD", "not measured (evaluate.external_photos: 0)"))
    elif found := _ood(models, [logits for _, logits in predicted], evaluate):
        lines += checks.of_ood(found, limits)
    else:
        lines.append(checks.Check("OOD", "not measured: no photo is OOD for both classifiers"))
    if count := evaluate.corruption_photos:
        corrupted = [_corrupted(model, folder, test, count) for model in models]
        lines.append(checks.of_corruptions(corrupted, min(count, len(test)), limits))
    else:
        reason = "not measured (evaluate.corruption_photos: 0)"
        lines.append(checks.Check("corrupted accuracy", reason))
    return lines + checks.of_time(_seconds(models, folder, test), limits)


def _predict(
    classifier: Classifier, folder: Path, test: pd.DataFrame, batch: int
) -> tuple[pd.DataFrame, Logits]:
    """For each test photo, what `checks.of_predictions` needs, and the logits (N, classes)."""
    rows, logits = predict_table(classifier, folder, test, batch)
    predicted = predictions_of(classifier, logits).set_index(rows.index)
    predicted["correct"] = predicted["prediction"] == rows["class_id"]
    return predicted.join(rows[["class_id", "group"]]), logits


def _ood(
    models: list[Classifier], known: list[Logits], settings: params.Evaluate
) -> list[dict[str, float]]:
    """`ood.summarize` of each classifier for photos that are OOD for both; none if there are none.

    `known` are their logits for the test photos.
    """
    folder, table, _ = external.choose(settings, models[0].metadata)
    for model in models:
        table = external.with_labels(table, model.metadata, settings.external_set)
        table = table[table["label"] == external.OOD]
    found = []
    for model, inside in zip(models, known, strict=True) if len(table) else ():
        _, outside = predict_table(model, folder, table, settings.batch_size)
        found.append(ood.summarize(inside, outside, predictions_of(model, outside)))
    return found


def _corrupted(classifier: Classifier, folder: Path, test: pd.DataFrame, count: int) -> float:
    # The champion may have its classes in another order.
    labels = {class_id: label for label, class_id in enumerate(classifier.metadata.class_ids)}
    test = test.assign(label=test["class_id"].map(labels))
    return float(robustness.measure(classifier, folder, test, count)[0]["accuracy"].mean())


def _seconds(models: list[Classifier], folder: Path, test: pd.DataFrame) -> checks.Floats:
    """Seconds of each classifier for each of some photos, decoded already: (2, N).

    The two take turns. The fastest of `ROUNDS` counts, so that other work on the machine does not.
    """
    table = test.sample(min(TIMED_PHOTOS, len(test)), random_state=0)
    reader, rounds = layouts.Reader(folder), range(ROUNDS)
    seconds = []
    for file, region in zip(table["file"], layouts.regions(table), strict=True):
        photo = images.decode(reader.read(file))
        times = [[_time(model, photo, region) for model in models] for _ in rounds]
        seconds.append(np.min(times, axis=0))
    return np.array(seconds).T


def _time(classifier: Classifier, photo: images.Image, region: images.Region | None) -> float:
    started = time.perf_counter()
    classifier.logits(classifier.prepare([photo], [region]))
    return time.perf_counter() - started
