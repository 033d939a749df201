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
    committee,
    corruptions,
    datasets,
    diagrams,
    elsewhere,
    images,
    measures,
    model_card,
    params,
    prepared,
    progress,
    report,
    saliency,
    splits,
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
    "elsewhere_accuracy",
    "committee_accuracy",
]

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
    measured = {name: _measure(samples[rows], logits[rows], model) for name, rows in on.items()}
    if settings.evaluate.corruption_photos:
        table = _corrupt(model, samples[on[splits.TEST]], data, settings.evaluate)
        measured[splits.TEST]["corrupted_accuracy"] = round(float(table["accuracy"].mean()), 5)
    asked, more = settings.evaluate, {}
    if asked.elsewhere_photos:
        own = classifier.energy_scores(logits[on[splits.TEST]])
        strange, measured["elsewhere"], part = _go_elsewhere(model, own, asked)
        measured[splits.TEST] |= strange
        more["elsewhere_part"] = part
    if asked.committee or asked.shifts:
        measured["committee"] = _ask_committee(model, samples, data, asked)
    details = {
        **{name: found for name, found in measured.items() if found},
        "temperature": model.about.temperature,
        "threshold": model.about.threshold,
        "energy_threshold": model.about.energy_threshold,
        **agreement,
        **more,
    }
    _write_json(METRICS / "details.json", details)
    figures = measured[splits.TEST].copy()
    for part in ("elsewhere", "committee"):
        if measured.get(part):
            figures[f"{part}_accuracy"] = measured[part]["accuracy"]
    _write_json(METRICS / "metrics.json", {k: figures[k] for k in HEADLINE if k in figures})
    test = predictions[on[splits.TEST]]
    classes = measures.by_class(test, data.labels)
    classes.to_csv(METRICS / "classes.csv", index=False, float_format="%.4f")
    pairs = measures.confusions(test, data.labels)
    pairs.to_csv(METRICS / "confusions.csv", index=False, float_format="%.4f")
    _draw(test, logits[on[splits.TEST]], classes, measured[splits.TEST], model)
    _draw_mistakes(model, test, data, settings.evaluate.gallery)
    used = _settings(settings, model.about)
    model_card.write(
        Path("metrics"), used, (classifier.FOLDER / classifier.MODEL).stat().st_size, MODEL_CARD
    )
    report.write_page(Path("metrics"), used, data.labels, REPORT)
    print(_summary(measured[splits.TEST]))


def _go_elsewhere(
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
    found, logits, part = elsewhere.answers(
        model,
        settings.elsewhere,
        settings.elsewhere_photos,
        settings.elsewhere_tracks,
        settings.batch_size,
    )
    strange = (found["label"] == elsewhere.STRANGER).to_numpy()
    refused, figures = {}, {}
    if strange.any():
        refused = _meet_strangers(model, own, found[strange], logits[strange])
    if not strange.all():
        figures = _measure(found[~strange], logits[~strange], model)
    return refused, figures, part


def _meet_strangers(
    model: classifier.Classifier,
    own: npt.NDArray[np.float64],
    found: pd.DataFrame,
    logits: npt.NDArray[np.float32],
) -> dict[str, float]:
    """Whether signs that the network does not know are "unknown"; a table and a picture."""
    energy = classifier.energy_scores(logits)
    confidence = classifier.probabilities(logits, model.about.temperature).max(axis=1)
    found = found.assign(
        refused=~model.known(logits),
        confidence=confidence,
        answer=np.array(model.about.names)[logits.argmax(axis=1)],
    )
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
    diagrams.draw_strangers(own, energy, model.about.energy_threshold, METRICS / "strangers.png")
    figures = {
        "strangers_refused": found["refused"].mean(),
        "strangers_refused_at_99": elsewhere.refused_at(0.99, own, energy),
        "strangers_auroc": elsewhere.auroc(own, energy),
    }
    return {"strangers": len(found), **measures.rounded(figures)}


def _ask_committee(
    model: classifier.Classifier,
    samples: pd.DataFrame,
    data: prepared.Prepared,
    settings: params.Evaluate,
) -> dict[str, float]:
    """What the mean of several classifiers' and places' answers is worth, and what it costs.

    Raises:
        UserError: a classifier is missing or was trained otherwise.
    """
    members = [model, *committee.fetch(settings.committee, model.about)]
    together = committee.Committee(members, settings.shifts)
    rows, parts = samples.index.to_numpy(), []
    with progress.bar(len(rows), "committee", " images") as bar:
        for start in range(0, len(rows), settings.batch_size):
            batch = rows[start : start + settings.batch_size]
            parts.append(together.logits(data.images[batch]))
            bar.update(len(batch))
    logits, labels = np.concatenate(parts), samples["label"].to_numpy()
    on_test = (samples["split"] == splits.TEST).to_numpy()
    temperature = calibration.fit_temperature(logits[~on_test], labels[~on_test])
    figures = measures.figures(labels[on_test], logits[on_test], temperature)
    if settings.elsewhere_photos:
        found, other, _ = elsewhere.answers(
            together,
            settings.elsewhere,
            settings.elsewhere_photos,
            settings.elsewhere_tracks,
            settings.batch_size,
        )
        strange = (found["label"] == elsewhere.STRANGER).to_numpy()
        if not strange.all():
            right = other[~strange].argmax(axis=1) == found["label"][~strange]
            figures["elsewhere_accuracy"] = round(float(right.mean()), 5)
        if strange.any():
            own, others = map(classifier.energy_scores, (logits[on_test], other[strange]))
            figures["strangers_refused_at_99"] = round(elsewhere.refused_at(0.99, own, others), 5)
            figures["strangers_auroc"] = round(elsewhere.auroc(own, others), 5)
    return {"classifiers": len(members), "passes": together.passes, **figures}


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
            zip(test["file"], test["label"], datasets.regions(test), strict=True)
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
            inputs = model.prepare(photos, datasets.regions(batch))
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


def _measure(
    samples: pd.DataFrame, logits: npt.NDArray[np.float32], model: classifier.Classifier
) -> dict[str, float]:
    """All figures of a set of photos, with what "unknown" costs and brings."""
    labels = samples["label"].to_numpy()
    known, correct = model.known(logits), logits.argmax(axis=1) == labels
    shares = {
        "known": known.mean(),
        "known_precision": correct[known].mean() if known.any() else 1.0,
    }
    groups = samples["group"].nunique() if (samples["group"] != "").any() else None
    return {
        **({} if groups is None else {"groups": groups}),
        **measures.figures(labels, logits, model.about.temperature),
        **measures.rounded(shares),
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
    table["known"] = model.known(logits)
    table["correct"] = table["label"] == table["predicted_label"]
    return table


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
    run_stage(evaluate, tidies=False)
