"""The exported classifier against photos that it has never seen: metrics and tables.

Run by `dvc repro evaluate`, or alone: python -m stages.evaluate
It starts from the bytes of the photos, as the service does.
"""

from typing import Any

import numpy as np
import pandas as pd

from signs import files, params, paths
from signs.data import arrays, splits
from signs.errors import UserError, run_stage
from signs.evaluation import ensemble, external, metrics, ood, parity, robustness, slices
from signs.inference.classifier import Classifier, Logits
from signs.inference.saliency import occlusion_map
from signs.inference.tables import predict_table, predictions_of

# What `dvc metrics show` and `dvc exp show` print: a line that fits a screen.
HEADLINE = [
    *["accuracy", "accuracy_low", "accuracy_high", "balanced_accuracy", "macro_f1"],
    *["top3_accuracy", "log_loss", "ece", "ece_uncalibrated", "corrupted_accuracy"],
    *["ood_rejection_rate", "external_accuracy", "ensemble_accuracy"],
]


def evaluate() -> None:
    """Predict validation and test photos; write metrics, tables and predictions."""
    settings = params.load().evaluate
    data, model = arrays.load(), Classifier()
    if model.metadata.provenance["data"] != data.digest:
        raise UserError(
            f"{paths.CLASSIFIER} was trained on other data than {paths.PREPARED} holds. "
            "Run `dvc repro train`."
        )
    # What this run does not measure must not look as if it had.
    for folder in (paths.EVALUATE_METRICS, paths.EVALUATION):
        files.make_empty(folder)
    photos = paths.DATA / data.dataset
    samples = data.samples[data.samples["split"].isin([splits.VALIDATION, splits.TEST])]
    _, logits = predict_table(model, photos, samples, settings.batch_size, data.images)
    inputs = data.images[samples.index.to_numpy()]
    more: dict[str, Any] = {}
    more |= parity.compare(
        model, paths.FLOAT_MODEL, paths.KERAS_MODEL, inputs, settings.max_onnx_difference
    )
    tested = (samples["split"] == splits.TEST).to_numpy()
    details: dict[str, Any] = {
        name: metrics.with_coverage(samples[rows], logits[rows], model)
        for name, rows in (("validation", ~tested), ("test", tested))
    }
    test = samples[tested]
    more["formats"] = parity.formats(model, logits[tested], paths.FLOAT_MODEL, test, inputs[tested])
    correct = test["label"] == logits[tested].argmax(axis=1)
    _write_table(slices.measure(photos, test, correct), "slices.csv")
    if count := settings.corruption_photos:
        table, example = robustness.measure(model, photos, test, count)
        _write_table(table, "corruptions.csv")
        details["test"]["corrupted_accuracy"] = round(float(table["accuracy"].mean()), 5)
        more["corruption_example"] = example
    if settings.external_photos:
        result = external.measure(model, logits[tested], settings)
        if len(result.ood_predictions):
            result.ood_predictions.to_csv(paths.OOD_PREDICTIONS, index=False, float_format="%.6f")
            names = dict(zip(model.metadata.class_ids, model.metadata.names, strict=True))
            _write_table(ood.by_class(result.ood_predictions, names).reset_index(), "ood.csv")
        details["test"] |= result.ood_metrics
        details |= {"external": result.metrics} if result.metrics else {}
        more["external_part"] = result.part
    if settings.ensemble or settings.tta_shift:
        details["ensemble"] = ensemble.measure(model, samples, data, settings)
    _write_predictions(model, samples, logits, data, settings.mistakes_shown)
    _write_metrics(details, model, more)


def _write_predictions(
    model: Classifier, samples: pd.DataFrame, logits: Logits, data: arrays.Prepared, shown: int
) -> None:
    """Write all predictions, tables of the test photos, and maps of the most confident mistakes."""
    table = samples[["file", "split", "group", "class_id", "label"]]
    table = table.join(predictions_of(model, logits).set_index(samples.index))
    table["correct"] = table["label"] == table["predicted_label"]
    # The report orders the mistakes by what predictions.csv holds; the maps must have that order.
    table = table.round({"confidence": 6})
    table.to_csv(paths.PREDICTIONS, index=False, float_format="%.6f")
    test = table[table["split"] == splits.TEST]
    _write_table(metrics.by_class(test, data.labels), "classes.csv")
    _write_table(metrics.confusions(test, data.labels), "confusions.csv")
    wrong = test[~test["correct"]].sort_values("confidence", ascending=False, kind="stable")
    mistakes = wrong["predicted_label"].head(shown)
    rows = zip(mistakes.index.tolist(), mistakes.tolist(), strict=True)
    maps = [occlusion_map(model, data.images[row], label) for row, label in rows]
    np.save(paths.SALIENCY, np.array(maps, np.float32))


def _write_metrics(details: dict[str, Any], model: Classifier, more: dict[str, Any]) -> None:
    chosen = model.metadata.model_dump(include={"temperature", "threshold", "energy_threshold"})
    files.write_json(paths.EVALUATE_METRICS / "details.json", {**details, **chosen, **more})
    test = details["test"]
    headline = {f"{part}_accuracy": found["accuracy"] for part, found in details.items()} | test
    files.write_json(paths.HEADLINE, {key: headline[key] for key in HEADLINE if key in headline})
    print(
        f"Test: {test['images']} photos, accuracy {test['accuracy']:.2%} "
        f"(95 % interval {test['accuracy_low']:.2%} to {test['accuracy_high']:.2%}), balanced "
        f"{test['balanced_accuracy']:.2%} over {test['classes']} classes, ECE {test['ece']:.4f}."
    )


def _write_table(table: pd.DataFrame, name: str) -> None:
    table.to_csv(paths.EVALUATE_METRICS / name, index=False, float_format="%.4f")


if __name__ == "__main__":
    run_stage(evaluate, tidies=False)
