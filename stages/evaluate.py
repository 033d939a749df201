"""The exported classifier against photos that it has never seen.

Run by `dvc repro evaluate`, or alone: python -m stages.evaluate
Starts from the bytes of the photos and goes the way that the service goes.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd

from signs import (
    calibration,
    classifier,
    corruptions,
    datasets,
    diagrams,
    images,
    model_card,
    params,
    prepared,
    progress,
    report,
    saliency,
    splits,
    strangers,
)
from signs.errors import UserError, run_stage

METRICS = Path("metrics/evaluate")
PREDICTIONS = Path("data/predictions.csv")
REPORT = Path("report.html")
MODEL_CARD = Path("docs/model_card.md")
KERAS_MODEL = Path("models/model.keras")

# What `dvc metrics show` and `dvc exp show` print: a line that fits a screen.
HEADLINE = [
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "balanced_accuracy",
    "macro_f1",
    "top3_accuracy",
    "log_loss",
    "ece",
    "ece_uncalibrated",
    "corrupted_accuracy",
    "strangers_refused",
]

REGION = ["left", "top", "right", "bottom"]
# Enough to meet a disagreement; Keras needs seconds for them where ONNX Runtime needs one.
AGREEMENT_IMAGES = 1000


def evaluate() -> None:
    """Predict validation and test photos, write metrics, tables, pictures and the report."""
    settings = params.load()
    data = prepared.load()
    model = classifier.Classifier()
    if model.about.provenance["data"] != data.digest:
        raise UserError(
            f"{classifier.FOLDER} was trained on other data than {prepared.FOLDER} holds. "
            "Run `dvc repro train`."
        )
    # What this run does not measure must not look as if it had.
    shutil.rmtree(METRICS, ignore_errors=True)
    METRICS.mkdir(parents=True)
    samples = data.samples[data.samples["split"].isin([splits.VALIDATION, splits.TEST])]
    logits = _predict(model, samples, data, settings.evaluate.batch_size)
    agreement = _compare_with_keras(model, samples, data, settings.evaluate)
    predictions = _table(model, samples, logits)
    predictions.to_csv(PREDICTIONS, index=False, float_format="%.6f")

    on = {name: (samples["split"] == name).to_numpy() for name in (splits.VALIDATION, splits.TEST)}
    measured = {
        name: _measure(samples[rows], logits[rows], model.about) for name, rows in on.items()
    }
    if settings.evaluate.corruption_photos:
        table = _corrupt(model, samples[on[splits.TEST]], data, settings.evaluate)
        measured[splits.TEST]["corrupted_accuracy"] = round(float(table["accuracy"].mean()), 5)
    if settings.evaluate.stranger_photos:
        measured[splits.TEST] |= _meet_strangers(
            model, predictions[on[splits.TEST]]["confidence"].to_numpy(), settings.evaluate
        )
    details = {
        **measured,
        "temperature": model.about.temperature,
        "threshold": model.about.threshold,
        **agreement,
    }
    _write_json(METRICS / "details.json", details)
    figures = measured[splits.TEST]
    _write_json(METRICS / "metrics.json", {k: figures[k] for k in HEADLINE if k in figures})
    test = predictions[on[splits.TEST]]
    classes = _class_table(test, data)
    classes.to_csv(METRICS / "classes.csv", index=False, float_format="%.4f")
    _confusions(test, data).to_csv(METRICS / "confusions.csv", index=False, float_format="%.4f")
    _draw(test, logits[on[splits.TEST]], classes, measured[splits.TEST], model)
    _draw_mistakes(model, test, data, settings.evaluate.gallery)
    used = _settings(settings, model.about)
    model_card.write(
        Path("metrics"), used, (classifier.FOLDER / classifier.MODEL).stat().st_size, MODEL_CARD
    )
    report.write_page(Path("metrics"), used, data.labels, REPORT)
    print(_summary(measured[splits.TEST]))


def _meet_strangers(
    model: classifier.Classifier, own: npt.NDArray[np.float64], settings: params.Evaluate
) -> dict[str, float]:
    """Whether signs that the network does not know are "unknown"; a table and a picture."""
    found = strangers.answers(
        model, settings.strangers, settings.stranger_photos, settings.batch_size
    )
    strange = found["confidence"].to_numpy()
    found["refused"] = strange < model.about.threshold
    by_name = found.groupby("name", sort=False)
    table = pd.DataFrame(
        {
            "photos": by_name.size(),
            "refused": by_name["refused"].mean(),
            "mean_confidence": by_name["confidence"].mean(),
            "most_frequent_answer": by_name["answer"].agg(lambda given: given.mode()[0]),
        }
    )
    table.sort_values("refused", kind="stable").to_csv(
        METRICS / "strangers.csv", float_format="%.4f"
    )
    diagrams.draw_strangers(own, strange, model.about.threshold, METRICS / "strangers.png")
    figures = {
        "strangers_refused": found["refused"].mean(),
        "strangers_refused_at_99": strangers.refused_at(0.99, own, strange),
        "strangers_auroc": strangers.auroc(own, strange),
    }
    return {
        "strangers": len(found),
        **{name: round(float(value), 5) for name, value in figures.items()},
    }


def _corrupt(
    model: classifier.Classifier,
    test: pd.DataFrame,
    data: prepared.Prepared,
    settings: params.Evaluate,
) -> pd.DataFrame:
    """Accuracy in each kind and level of bad conditions; writes it as a table and a picture.

    The same photos each time, so that differences are the conditions' alone.
    """
    if len(test) > settings.corruption_photos:
        chosen = np.random.default_rng(0).choice(
            len(test), settings.corruption_photos, replace=False
        )
        test = test.iloc[np.sort(chosen)]
    reader = datasets.Reader(datasets.DATA / data.dataset)
    variants = [(kind, level) for kind in corruptions.KINDS for level in corruptions.LEVELS]
    right = np.zeros((len(test), len(variants)), bool)
    example: tuple[images.Image, images.Region | None] | None = None
    with progress.bar(len(test), "corrupt", " photos") as bar:
        for row, (file, label, region) in enumerate(
            zip(test["file"], test["label"], _regions(test), strict=True)
        ):
            photo = corruptions.shrink(images.decode(reader.read(file)))
            inputs = model.prepare(
                corruptions.all_variants(photo, row, region), [region] * len(variants)
            )
            right[row] = model.logits(inputs).argmax(axis=1) == label
            # Large and rich in contrast: shows best what happens.
            if example is None or photo.std() * photo.size > example[0].std() * example[0].size:
                example = photo, region
            bar.update()
    table = pd.DataFrame(variants, columns=["corruption", "level"])
    table["photos"] = len(test)
    table["accuracy"] = right.mean(axis=0)
    table.to_csv(METRICS / "corruptions.csv", index=False, float_format="%.4f")
    assert example is not None
    pictures = corruptions.all_variants(example[0], 0, example[1])
    diagrams.draw_corruptions(example[0], pictures, table, METRICS / "corruptions.jpg")
    return table


def _regions(samples: pd.DataFrame) -> list[images.Region | None]:
    return [
        None if np.isnan(region[0]) else (region[0], region[1], region[2], region[3])
        for region in samples[REGION].to_numpy(dtype=float)
    ]


def _settings(settings: params.Params, about: classifier.About) -> dict[str, Any]:
    """What this run used, and no more: other settings may change without a new report."""
    provenance = dict(about.provenance)
    used = provenance.pop("params")
    provenance["outliers"] = ", ".join(provenance["outliers"])
    return {
        "dataset": provenance.pop("dataset"),
        "preprocess": {"images": about.images.model_dump(), "split": used.pop("split")},
        "train": used,
        "evaluate": settings.evaluate.model_dump(),
        "provenance": {"version": about.version, **provenance},
    }


def _predict(
    model: classifier.Classifier, samples: pd.DataFrame, data: prepared.Prepared, batch_size: int
) -> npt.NDArray[np.float32]:
    """Logits (N, classes) from the photos themselves, as the service computes them.

    Raises:
        UserError: a photo, prepared for the classifier, is not what training saw of it.
    """
    reader = datasets.Reader(datasets.DATA / data.dataset)
    parts = []
    with progress.bar(len(samples), "evaluate", " images") as bar:
        for start in range(0, len(samples), batch_size):
            batch = samples.iloc[start : start + batch_size]
            photos = [images.decode(reader.read(file)) for file in batch["file"]]
            inputs = model.prepare(photos, _regions(batch))
            if not np.array_equal(inputs, data.images[batch.index]):
                raise UserError(
                    f"{data.dataset}: photos are prepared otherwise than for training. "
                    "Run `dvc repro -f preprocess` and then `dvc repro`."
                )
            parts.append(model.logits(inputs))
            bar.update(len(batch))
    return np.concatenate(parts)


def _compare_with_keras(
    model: classifier.Classifier,
    samples: pd.DataFrame,
    data: prepared.Prepared,
    settings: params.Evaluate,
) -> dict[str, float]:
    """Largest difference of a probability between the ONNX and the Keras model.

    Raises:
        UserError: it exceeds `agreement`, so what is deployed is not what was trained.
    """
    rows = samples.index.to_numpy()
    if len(rows) > AGREEMENT_IMAGES:
        rows = np.sort(np.random.default_rng(0).choice(rows, AGREEMENT_IMAGES, replace=False))
    inputs = data.images[rows]
    try:
        keras_model = keras.models.load_model(KERAS_MODEL)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{KERAS_MODEL} cannot be read ({error}). If it is damaged in DVC's cache, too, "
            "`dvc repro -f train` makes it anew."
        ) from error
    original = keras_model.predict(inputs, batch_size=256, verbose=0)
    exported = np.concatenate([model.logits(inputs[i : i + 256]) for i in range(0, len(rows), 256)])
    difference = np.abs(
        classifier.probabilities(original) - classifier.probabilities(exported)
    ).max()
    if not difference <= settings.agreement:
        raise UserError(
            f"ONNX and Keras differ by {difference:.2g} in a probability; "
            f"evaluate.agreement allows {settings.agreement:g}."
        )
    same = (original.argmax(axis=1) == exported.argmax(axis=1)).mean()
    # Rounded up to a power of ten: the last digits change with the processor.
    return {
        "onnx_agreement": float(f"{10 ** np.ceil(np.log10(max(difference, 1e-12))):.0e}"),
        "onnx_same_answers": float(same),
    }


def _table(
    model: classifier.Classifier, samples: pd.DataFrame, logits: npt.NDArray[np.float32]
) -> pd.DataFrame:
    """One row a photo: what it shows, what the classifier says, how sure it is."""
    probabilities = classifier.probabilities(logits, model.about.temperature)
    answer = probabilities.argmax(axis=1)
    table = samples[["file", "split", "group", "class_id", "label"]].copy()
    table["prediction"] = np.array(model.about.class_ids)[answer]
    table["predicted_label"] = answer
    table["confidence"] = probabilities.max(axis=1)
    table["known"] = table["confidence"] >= model.about.threshold
    table["correct"] = table["label"] == table["predicted_label"]
    return table


def _measure(
    samples: pd.DataFrame, logits: npt.NDArray[np.float32], about: classifier.About
) -> dict[str, float]:
    """All figures of one split; averages over classes count the classes that occur in it."""
    labels = samples["label"].to_numpy()
    probabilities = classifier.probabilities(logits, about.temperature)
    answer = probabilities.argmax(axis=1)
    correct = answer == labels
    confidence = probabilities.max(axis=1)
    known = confidence >= about.threshold
    low, high = calibration.wilson_interval(int(correct.sum()), len(labels))
    present = np.unique(labels)
    recalls = [correct[labels == c].mean() for c in present]
    f1 = [
        2 * (correct & (labels == c)).sum() / ((labels == c).sum() + (answer == c).sum())
        for c in present
    ]
    top3 = (np.argsort(-logits, axis=1)[:, :3] == labels[:, None]).any(axis=1)
    uncalibrated = classifier.probabilities(logits).max(axis=1)
    figures = {
        "accuracy": correct.mean(),
        "accuracy_low": low,
        "accuracy_high": high,
        "balanced_accuracy": np.mean(recalls),
        "macro_f1": np.mean(f1),
        "top3_accuracy": top3.mean(),
        "log_loss": calibration.log_loss(logits, labels, about.temperature),
        "ece": calibration.expected_calibration_error(confidence, correct),
        "ece_uncalibrated": calibration.expected_calibration_error(uncalibrated, correct),
        "known": known.mean(),
        "known_precision": correct[known].mean() if known.any() else 1.0,
    }
    return {
        "images": len(labels),
        "groups": samples["group"].nunique(),
        "classes": len(present),
        **{name: round(float(value), 5) for name, value in figures.items()},
    }


def _class_table(test: pd.DataFrame, data: prepared.Prepared) -> pd.DataFrame:
    """Recall with its 95 % interval, precision and F1 of each class on the test photos."""
    rows: list[dict[str, Any]] = []
    for label, (class_id, name) in enumerate(
        zip(data.labels["ClassId"], data.labels["Name"], strict=True)
    ):
        shown, answered = test["label"] == label, test["predicted_label"] == label
        count, hits = int(shown.sum()), int((shown & answered).sum())
        low, high = calibration.wilson_interval(hits, count)
        row: dict[str, Any] = {"class_id": class_id, "name": name, "test": count, "correct": hits}
        if count:
            row |= {"recall": hits / count, "recall_low": low, "recall_high": high}
            row["precision"] = hits / answered.sum() if answered.any() else 0.0
            row["f1"] = 2 * hits / (count + int(answered.sum()))
        rows.append(row)
    return pd.DataFrame(rows)


def _confusions(test: pd.DataFrame, data: prepared.Prepared) -> pd.DataFrame:
    """Pairs of true and answered class, most frequent first."""
    names = dict(zip(data.labels["ClassId"], data.labels["Name"], strict=True))
    wrong = test[~test["correct"]]
    pairs = wrong.groupby(["class_id", "prediction"]).size().rename("count").reset_index()
    pairs = pairs.sort_values(["count", "class_id", "prediction"], ascending=[False, True, True])
    totals = test["class_id"].value_counts()
    return pd.DataFrame(
        {
            "true_id": pairs["class_id"],
            "true_name": pairs["class_id"].map(names),
            "predicted_id": pairs["prediction"],
            "predicted_name": pairs["prediction"].map(names),
            "count": pairs["count"],
            "share": pairs["count"] / pairs["class_id"].map(totals),
        }
    )


def _draw(
    test: pd.DataFrame,
    logits: npt.NDArray[np.float32],
    classes: pd.DataFrame,
    metrics: dict[str, float],
    model: classifier.Classifier,
) -> None:
    names = model.about.names
    true, predicted = test["label"].to_numpy(), test["predicted_label"].to_numpy()
    diagrams.draw_confusion(
        true, predicted, names, METRICS / "confusion.png", model.about.class_ids
    )
    diagrams.draw_recall(classes, METRICS / "recall.png")
    correct = test["correct"].to_numpy()
    diagrams.draw_reliability(
        {
            "before": classifier.probabilities(logits).max(axis=1),
            "after": test["confidence"].to_numpy(),
        },
        {"before": correct, "after": correct},
        {"before": metrics["ece_uncalibrated"], "after": metrics["ece"]},
        METRICS / "reliability.png",
    )


def _draw_mistakes(
    model: classifier.Classifier, test: pd.DataFrame, data: prepared.Prepared, count: int
) -> None:
    """The wrong answers that were given with the most confidence, and what led to them."""
    reader = datasets.Reader(datasets.DATA / data.dataset)
    names = data.labels["Name"].tolist()
    wrong = test[~test["correct"]].sort_values("confidence", ascending=False, kind="stable")
    columns = ["file", "label", "predicted_label", "confidence"]
    mistakes = []
    for row, file, label, answer, sure in wrong[columns].head(count).itertuples(name=None):
        photo, seen = images.decode(reader.read(file)), data.images[row]
        looked = saliency.overlay(seen, saliency.occlusion_map(model, seen, answer))
        mistakes.append((photo, looked, names[label], names[answer], sure, file))
    diagrams.draw_mistakes(mistakes, METRICS / "mistakes.jpg")


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _summary(test: dict[str, float]) -> str:
    return (
        f"Test: {test['images']:.0f} photos, accuracy {test['accuracy']:.2%} "
        f"(95 % interval {test['accuracy_low']:.2%} to {test['accuracy_high']:.2%}), "
        f"balanced {test['balanced_accuracy']:.2%} over {test['classes']:.0f} classes, "
        f"ECE {test['ece']:.4f}.\nReport: {REPORT}"
    )


if __name__ == "__main__":
    run_stage(evaluate)
