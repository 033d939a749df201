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

from signs import params, progress
from signs.data import arrays, images, layouts, splits
from signs.errors import UserError, run_stage
from signs.evaluation import calibration, corruptions, external, metrics
from signs.inference import classifier, ensemble, saliency
from signs.reporting import model_card, plots, report

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
    "ood_rejection_rate",
    "external_accuracy",
    "ensemble_accuracy",
]

# Enough to meet a disagreement; Keras needs seconds for them where ONNX Runtime needs one.
AGREEMENT_IMAGES = 1000


def evaluate() -> None:
    """Predict validation and test photos, write metrics, tables, pictures and the report."""
    settings = params.load()
    data = arrays.load()
    model = classifier.Classifier()
    if model.metadata.provenance["data"] != data.digest:
        raise UserError(
            f"{classifier.FOLDER} was trained on other data than {arrays.FOLDER} holds. "
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
    measured = {name: _measure(samples[rows], logits[rows], model) for name, rows in on.items()}
    if settings.evaluate.corruption_photos:
        table = _corrupt(model, samples[on[splits.TEST]], data, settings.evaluate)
        measured[splits.TEST]["corrupted_accuracy"] = round(float(table["accuracy"].mean()), 5)
    asked, more = settings.evaluate, {}
    if asked.external_photos:
        own = classifier.energy_scores(logits[on[splits.TEST]])
        strange, measured["external"], part = _measure_external(model, own, asked)
        measured[splits.TEST] |= strange
        more["external_part"] = part
    if asked.ensemble or asked.tta_shift:
        measured["ensemble"] = _measure_ensemble(model, samples, data, asked)
    details = {
        **{name: found for name, found in measured.items() if found},
        "temperature": model.metadata.temperature,
        "threshold": model.metadata.threshold,
        "energy_threshold": model.metadata.energy_threshold,
        **agreement,
        **more,
    }
    _write_json(METRICS / "details.json", details)
    figures = measured[splits.TEST].copy()
    for part in ("external", "ensemble"):
        if measured.get(part):
            figures[f"{part}_accuracy"] = measured[part]["accuracy"]
    _write_json(METRICS / "metrics.json", {k: figures[k] for k in HEADLINE if k in figures})
    test = predictions[on[splits.TEST]]
    classes = metrics.by_class(test, data.labels)
    classes.to_csv(METRICS / "classes.csv", index=False, float_format="%.4f")
    pairs = metrics.confusions(test, data.labels)
    pairs.to_csv(METRICS / "confusions.csv", index=False, float_format="%.4f")
    _draw(test, logits[on[splits.TEST]], classes, measured[splits.TEST], model)
    _plot_mistakes(model, test, data, settings.evaluate.mistakes_shown)
    used = _settings(settings, model.metadata)
    model_card.write(
        Path("metrics"), used, (classifier.FOLDER / classifier.MODEL).stat().st_size, MODEL_CARD
    )
    report.write_page(Path("metrics"), used, data.labels, REPORT)
    print(_summary(measured[splits.TEST]))


def _measure_external(
    model: classifier.Classifier, own: npt.NDArray[np.float64], settings: params.Evaluate
) -> tuple[dict[str, float], dict[str, float], str]:
    """Strangers, and the network's classes, in another photo set; tables and a picture.

    Args:
        model: the exported classifier.
        own: (N,) energy scores of the test photos.
        settings: which set, and how much of it.

    Returns:
        Figures of the strangers and of the others, empty if there are none, and which part of
        the set they were measured on.
    """
    found, logits, part = external.answers(
        model,
        settings.external_set,
        settings.external_photos,
        settings.external_tracks,
        settings.batch_size,
    )
    strange = (found["label"] == external.OOD).to_numpy()
    refused, figures = {}, {}
    if strange.any():
        refused = _measure_ood(model, own, found[strange], logits[strange])
    if not strange.all():
        figures = _measure(found[~strange], logits[~strange], model)
    return refused, figures, part


def _measure_ood(
    model: classifier.Classifier,
    own: npt.NDArray[np.float64],
    found: pd.DataFrame,
    logits: npt.NDArray[np.float32],
) -> dict[str, float]:
    """Whether signs that the network does not know are "unknown"; a table and a picture."""
    energy = classifier.energy_scores(logits)
    confidence = classifier.probabilities(logits, model.metadata.temperature).max(axis=1)
    found = found.assign(
        refused=~model.accepted(logits),
        confidence=confidence,
        answer=np.array(model.metadata.names)[logits.argmax(axis=1)],
    )
    by_name = found.groupby("name", sort=False)
    table = pd.DataFrame(
        {
            "photos": by_name.size(),
            "refused": by_name["refused"].mean(),
            "mean_confidence": by_name["confidence"].mean(),
            "most_frequent_prediction": by_name["answer"].agg(lambda given: given.mode()[0]),
        }
    )
    table.sort_values("refused", kind="stable").to_csv(METRICS / "ood.csv", float_format="%.4f")
    plots.plot_ood(own, energy, model.metadata.energy_threshold, METRICS / "ood.png")
    figures = {
        "ood_rejection_rate": found["refused"].mean(),
        "ood_rejection_at_99": external.rejected_at(0.99, own, energy),
        "ood_auroc": external.auroc(own, energy),
    }
    return {"ood_images": len(found), **metrics.rounded(figures)}


def _measure_ensemble(
    model: classifier.Classifier,
    samples: pd.DataFrame,
    data: arrays.Prepared,
    settings: params.Evaluate,
) -> dict[str, float]:
    """What the mean of several classifiers' and places' answers is worth, and what it costs.

    Raises:
        UserError: a classifier is missing or was trained otherwise.
    """
    members = [model, *ensemble.fetch(settings.ensemble, model.metadata)]
    together = ensemble.Ensemble(members, settings.tta_shift)
    rows, parts = samples.index.to_numpy(), []
    with progress.bar(len(rows), "ensemble", " images") as bar:
        for start in range(0, len(rows), settings.batch_size):
            batch = rows[start : start + settings.batch_size]
            parts.append(together.logits(data.images[batch]))
            bar.update(len(batch))
    logits, labels = np.concatenate(parts), samples["label"].to_numpy()
    on_test = (samples["split"] == splits.TEST).to_numpy()
    temperature = calibration.fit_temperature(logits[~on_test], labels[~on_test])
    figures = metrics.compute(labels[on_test], logits[on_test], temperature)
    if settings.external_photos:
        found, other, _ = external.answers(
            together,
            settings.external_set,
            settings.external_photos,
            settings.external_tracks,
            settings.batch_size,
        )
        strange = (found["label"] == external.OOD).to_numpy()
        if not strange.all():
            right = other[~strange].argmax(axis=1) == found["label"][~strange]
            figures["external_accuracy"] = round(float(right.mean()), 5)
        if strange.any():
            own, others = map(classifier.energy_scores, (logits[on_test], other[strange]))
            figures["ood_rejection_at_99"] = round(external.rejected_at(0.99, own, others), 5)
            figures["ood_auroc"] = round(external.auroc(own, others), 5)
    return {"classifiers": len(members), "passes": together.passes, **figures}


def _corrupt(
    model: classifier.Classifier,
    test: pd.DataFrame,
    data: arrays.Prepared,
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
    reader = layouts.Reader(layouts.DATA / data.dataset)
    variants = [(kind, level) for kind in corruptions.KINDS for level in corruptions.LEVELS]
    right = np.zeros((len(test), len(variants)), bool)
    example: tuple[images.Image, images.Region | None] | None = None
    with progress.bar(len(test), "corrupt", " photos") as bar:
        for row, (file, label, region) in enumerate(
            zip(test["file"], test["label"], layouts.regions(test), strict=True)
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
    plots.plot_corruptions(example[0], pictures, table, METRICS / "corruptions.jpg")
    return table


def _settings(settings: params.Params, about: classifier.Metadata) -> dict[str, Any]:
    """What this run used, and no more: other settings may change without a new report."""
    provenance = dict(about.provenance)
    used = provenance.pop("params")
    provenance["auxiliary_outliers"] = ", ".join(provenance["auxiliary_outliers"])
    return {
        "dataset": provenance.pop("dataset"),
        "preprocess": {"images": about.images.model_dump(), "split": used.pop("split")},
        "train": used,
        "evaluate": settings.evaluate.model_dump(),
        "provenance": {"version": about.version, **provenance},
    }


def _predict(
    model: classifier.Classifier, samples: pd.DataFrame, data: arrays.Prepared, batch_size: int
) -> npt.NDArray[np.float32]:
    """Logits (N, classes) from the photos themselves, as the service computes them.

    Raises:
        UserError: a photo, prepared for the classifier, is not what training saw of it.
    """
    reader = layouts.Reader(layouts.DATA / data.dataset)
    parts = []
    with progress.bar(len(samples), "evaluate", " images") as bar:
        for start in range(0, len(samples), batch_size):
            batch = samples.iloc[start : start + batch_size]
            photos = [images.decode(reader.read(file)) for file in batch["file"]]
            inputs = model.prepare(photos, layouts.regions(batch))
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
    data: arrays.Prepared,
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
    if not difference <= settings.max_onnx_difference:
        raise UserError(
            f"ONNX and Keras differ by {difference:.2g} in a probability; "
            f"evaluate.max_onnx_difference allows {settings.max_onnx_difference:g}."
        )
    same = (original.argmax(axis=1) == exported.argmax(axis=1)).mean()
    # Rounded up to a power of ten: the last digits change with the processor.
    return {
        "onnx_max_difference": float(f"{10 ** np.ceil(np.log10(max(difference, 1e-12))):.0e}"),
        "onnx_same_predictions": float(same),
    }


def _measure(
    samples: pd.DataFrame, logits: npt.NDArray[np.float32], model: classifier.Classifier
) -> dict[str, float]:
    """All figures of a set of photos, with what "unknown" costs and brings."""
    labels = samples["label"].to_numpy()
    known, correct = model.accepted(logits), logits.argmax(axis=1) == labels
    shares = {
        "known": known.mean(),
        "accepted_precision": correct[known].mean() if known.any() else 1.0,
    }
    groups = samples["group"].nunique() if (samples["group"] != "").any() else None
    return {
        **({} if groups is None else {"groups": groups}),
        **metrics.compute(labels, logits, model.metadata.temperature),
        **metrics.rounded(shares),
    }


def _table(
    model: classifier.Classifier, samples: pd.DataFrame, logits: npt.NDArray[np.float32]
) -> pd.DataFrame:
    """One row a photo: what it shows, what the classifier says, how sure it is."""
    probabilities = classifier.probabilities(logits, model.metadata.temperature)
    answer = probabilities.argmax(axis=1)
    table = samples[["file", "split", "group", "class_id", "label"]].copy()
    table["prediction"] = np.array(model.metadata.class_ids)[answer]
    table["predicted_label"] = answer
    table["confidence"] = probabilities.max(axis=1)
    table["known"] = model.accepted(logits)
    table["correct"] = table["label"] == table["predicted_label"]
    return table


def _draw(
    test: pd.DataFrame,
    logits: npt.NDArray[np.float32],
    classes: pd.DataFrame,
    metrics: dict[str, float],
    model: classifier.Classifier,
) -> None:
    names = model.metadata.names
    true, predicted = test["label"].to_numpy(), test["predicted_label"].to_numpy()
    plots.plot_confusion(
        true, predicted, names, METRICS / "confusion.png", model.metadata.class_ids
    )
    plots.plot_recall(classes, METRICS / "recall.png")
    correct = test["correct"].to_numpy()
    plots.plot_reliability(
        {
            "before": classifier.probabilities(logits).max(axis=1),
            "after": test["confidence"].to_numpy(),
        },
        {"before": correct, "after": correct},
        {"before": metrics["ece_uncalibrated"], "after": metrics["ece"]},
        METRICS / "reliability.png",
    )


def _plot_mistakes(
    model: classifier.Classifier, test: pd.DataFrame, data: arrays.Prepared, count: int
) -> None:
    """The wrong answers that were given with the most confidence, and what led to them."""
    reader = layouts.Reader(layouts.DATA / data.dataset)
    names = data.labels["Name"].tolist()
    wrong = test[~test["correct"]].sort_values("confidence", ascending=False, kind="stable")
    columns = ["file", "label", "predicted_label", "confidence"]
    mistakes = []
    for row, file, label, answer, sure in wrong[columns].head(count).itertuples(name=None):
        photo, seen = images.decode(reader.read(file)), data.images[row]
        looked = saliency.overlay(seen, saliency.occlusion_map(model, seen, answer))
        mistakes.append((photo, looked, names[label], names[answer], sure, file))
    plots.plot_mistakes(mistakes, METRICS / "mistakes.jpg")


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
    run_stage(evaluate, tidies=False)
