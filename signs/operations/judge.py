"""Judge anybody's classifier: how far can its predictions be believed, on these photos?

    signs judge model.onnx data/NAME --scale 0-1
    signs judge exports/onnx-int8 data/NAME --ood data/OTHER --page judge.html --json judge.json

Takes an ONNX file (images in, one score a class out) or a classifier's folder, and any data set
that docs/data.md names. Classes meet by name, else by number. Photos of a given test split are
judged, else all; a tenth of the others, whole groups, chooses temperature and threshold.
"""

import argparse
from pathlib import Path

import pandas as pd

from signs import files
from signs.data import layouts, splits
from signs.data.layouts import Dataset
from signs.errors import UserError
from signs.evaluation import calibration, metrics, ood, robustness
from signs.inference import classifier
from signs.inference.classifier import Classifier, Logits
from signs.inference.foreign import SCALES, ForeignClassifier, Options
from signs.inference.latency import milliseconds
from signs.inference.tables import predict_table
from signs.operations import judgement
from signs.operations.audit import audited
from signs.operations.inspect import opened

PAGE = Path("judge.html")
BATCH = 64
PRECISION, COVERAGE = 0.99, 0.99


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument(
        "model", type=Path, metavar="MODEL", help="ONNX file or classifier's folder"
    )
    parser.add_argument("path", type=Path, metavar="PATH", help="folder or zip archive of photos")
    parser.add_argument("--ood", type=Path, metavar="PATH", help="photos of other classes")
    parser.add_argument("--scale", choices=SCALES, help="range of the model's input")
    parser.add_argument("--size", type=int, metavar="PIXELS", help="side of the model's input")
    parser.add_argument("--output", choices=["logits", "probabilities"], help="default: detected")
    parser.add_argument("--names", type=Path, metavar="FILE", help="class names, one a line")
    parser.add_argument("--precision", type=float, default=PRECISION, help="default: %(default)s")
    parser.add_argument(
        "--corruption-photos", type=int, default=200, metavar="N", help="0: none; default: 200"
    )
    parser.add_argument(
        "--page", type=Path, default=PAGE, metavar="FILE", help="default: %(default)s"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all metrics")
    parser.add_argument("--summary", type=Path, metavar="FILE", help="also write it as Markdown")


def run(arguments: argparse.Namespace) -> int:
    """Print, and write, what was measured."""
    model = load(arguments)
    with opened(arguments.path) as folder:
        dataset = layouts.identify(folder)
        print(dataset.summary(), flush=True)
        samples = with_labels(_audited(dataset), dataset, model)
        chosen = samples["split"] == splits.VALIDATION
        given = (dataset.table["fixed_split"] == splits.TEST).any()
        judged = samples["split"] == splits.TEST if given else ~chosen
        calibrate(model, *predict_table(model, folder, samples[chosen], BATCH), arguments.precision)
        test, logits = predict_table(model, folder, samples[judged], BATCH)
        found = metrics.with_coverage(test, logits, model)
        found["milliseconds"] = round(milliseconds(model), 3)
        found["megabytes"] = _size(arguments.model)
        tables = judgement.tables(test, logits, model)
        if arguments.corruption_photos:
            table, _ = robustness.measure(model, folder, test, arguments.corruption_photos)
            found["corrupted_accuracy"] = round(float(table["accuracy"].mean()), 5)
            tables["corruptions"] = table
    if arguments.ood:
        found |= _ood(model, logits, arguments.ood)
    found["threshold"] = model.metadata.threshold
    title = f"{arguments.model.name} on {arguments.path.name}"
    text, page = judgement.render(title, dataset.summary(), found, tables, model)
    files.write_text(arguments.page, page)
    if arguments.json:
        files.write_json(arguments.json, found)
    if arguments.summary:
        files.write_text(arguments.summary, text)
    print(f"\n{text}\nWith pictures: {arguments.page}")
    return 0


def load(arguments: argparse.Namespace) -> Classifier:
    """The model that is judged; `UserError` if it cannot be."""
    path: Path = arguments.model
    if path.is_dir():
        return Classifier(path, threads=1)
    if (path.parent / classifier.METADATA).exists() and path.name == classifier.MODEL:
        return Classifier(path.parent, threads=1)
    if not path.exists():
        raise UserError(f"{path} does not exist.")
    names = arguments.names and arguments.names.read_text(encoding="utf-8").split("\n")
    named = [name.strip() for name in names if name.strip()] if names else None
    options = Options(arguments.size, arguments.scale, arguments.output, named)
    return ForeignClassifier(path, options)


def with_labels(samples: pd.DataFrame, dataset: Dataset, model: Classifier) -> pd.DataFrame:
    """The samples of classes that the model has, with the number of its output as `label`.

    A model whose classes have other names, or none, gets those of the data set.

    Raises:
        UserError: no class of the two is the same.
    """
    outputs = {name.casefold(): number for number, name in enumerate(model.metadata.names)}
    labels = {i: outputs.get(name.casefold()) for i, name in dataset.names.items()}
    if all(label is None for label in labels.values()):
        has_gaps = max(labels) >= len(labels)  # so the class ids are those of a larger set
        if len(outputs) != len(labels) and not (has_gaps and max(labels) < len(outputs)):
            raise UserError(
                f"The model has {len(outputs)} outputs, {dataset.folder.name} has {len(labels)} "
                "classes, and no two have the same name. Tell the model's class names: --names."
            )
        labels = {i: i if has_gaps else number for number, i in enumerate(sorted(labels))}
        for class_id, label in labels.items():
            assert label is not None
            model.metadata.names[label] = dataset.names[class_id]
    absent = [dataset.names[i] for i, label in labels.items() if label is None]
    if absent:
        print(f"Not judged, as the model has no such class: {', '.join(absent)}.")
    known = samples[samples["class_id"].map(labels).notna()]
    return known.assign(label=known["class_id"].map(labels).astype(int))


def _audited(dataset: Dataset) -> pd.DataFrame:
    """The photos that can be used, each once, with group and split."""
    samples, audit = audited(dataset)
    if audit["given_split"] and audit["leaks"]["group"]:
        print(f"The given split leaks: {audit['leaks']['group']} photos. `signs audit` shows them.")
    return samples[samples["split"] != splits.UNUSED]


def calibrate(model: Classifier, samples: pd.DataFrame, logits: Logits, precision: float) -> None:
    """Choose the model's temperature and thresholds on these photos.

    Raises:
        UserError: there are none.
    """
    if not len(samples):
        raise UserError("No photo is left to calibrate with: classes need three groups of photos.")
    labels = samples["label"].to_numpy()
    temperature = calibration.fit_temperature(logits, labels)
    probabilities = classifier.probabilities(logits, temperature)
    correct = probabilities.argmax(axis=1) == labels
    confidence = probabilities.max(axis=1)
    model.metadata.temperature = temperature
    model.metadata.threshold = calibration.precision_threshold(confidence, correct, precision)
    if not _gives_probabilities(model):
        energy = classifier.energy_scores(logits)
        model.metadata.energy_threshold = calibration.coverage_threshold(energy, COVERAGE)


def _ood(model: Classifier, known: Logits, path: Path) -> dict[str, float]:
    """How well photos of classes that the model does not have are told apart."""
    with opened(path) as folder:
        dataset = layouts.identify(folder)
        names = {name.casefold() for name in model.metadata.names}
        others = [i for i, name in dataset.names.items() if name.casefold() not in names]
        table = dataset.table[dataset.table["class_id"].isin(others)]
        if not len(table):
            raise UserError(f"{path} has no class that the model does not have.")
        _, logits = predict_table(model, folder, table, BATCH)
    rejected = 1 - model.accepted(logits).mean()
    if _gives_probabilities(model):
        # These tell nothing of the energy: the largest one is the score (D. Hendrycks and
        # K. Gimpel, "A baseline for detecting misclassified and out-of-distribution examples").
        known, logits = (each.max(axis=1, keepdims=True) for each in (known, logits))
    return {"ood_images": len(logits), "ood_rejection_rate": round(float(rejected), 5)} | (
        metrics.rounded(ood.scores(known, logits))
    )


def _gives_probabilities(model: Classifier) -> bool:
    return isinstance(model, ForeignClassifier) and model.gives_probabilities


def _size(path: Path) -> float:
    file = path / classifier.MODEL if path.is_dir() else path
    return round(file.stat().st_size / 1e6, 3)
