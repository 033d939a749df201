"""The page on a judged classifier: its metrics, tables and pictures."""

import tempfile
from pathlib import Path

import pandas as pd

from signs.evaluation import metrics
from signs.inference.classifier import Classifier, Logits
from signs.inference.tables import predictions_of
from signs.reporting import pages, plots
from signs.reporting.pages import number, percent

SHOWN_PAIRS = 15


def tables(test: pd.DataFrame, logits: Logits, model: Classifier) -> dict[str, pd.DataFrame]:
    """Predictions of the judged photos, and their tables by class and by confusion."""
    metadata = model.metadata
    labels = pd.DataFrame({"ClassId": metadata.class_ids, "Name": metadata.names})
    rows = test[["file", "label", "group"]].assign(class_id=test["label"])
    rows = rows.join(predictions_of(model, logits).set_index(test.index))
    rows["correct"] = rows["label"] == rows["predicted_label"]
    rows["prediction"] = rows["predicted_label"]
    by_number = labels.assign(ClassId=range(len(labels)))
    return {
        "predictions": rows,
        "classes": metrics.by_class(rows, by_number),
        "confusions": metrics.confusions(rows, by_number),
    }


def render(
    title: str,
    summary: str,
    found: dict[str, float],
    parts: dict[str, pd.DataFrame],
    model: Classifier,
) -> tuple[str, str]:
    """The judgement as Markdown and as an HTML page, of metrics and `tables`."""
    facts = [(name, text) for name, text in _facts(found).items() if "–" not in text]
    classes = parts["classes"][parts["classes"]["test"] > 0].sort_values("recall", kind="stable")
    rows = [
        [str(row["name"]), number(row["test"]), percent(row["recall"]), percent(row["precision"])]
        for row in classes.to_dict("records")
    ]
    pairs = [
        [str(row["true_name"]), str(row["predicted_name"]), number(row["count"])]
        for row in parts["confusions"].head(SHOWN_PAIRS).to_dict("records")
    ]
    corrupted = parts.get("corruptions", pd.DataFrame())
    if len(corrupted):
        table = corrupted.pivot(index="corruption", columns="level", values="accuracy")
        table = table.assign(mean=table.mean(axis=1)).sort_values("mean", kind="stable")
        corruptions = [[kind, *map(percent, shares)] for kind, *shares in table.itertuples()]
    else:
        corruptions = []
    context = {"title": title, "summary": summary, "facts": facts, "pairs": pairs}
    context |= {"classes": rows, "corruptions": corruptions}
    with tempfile.TemporaryDirectory() as folder:
        pictures = _pictures(parts, found, model, Path(folder))
        page = pages.render("judge.html", **context, pictures=pictures)
    return pages.render("judge.md", **context), page


def _facts(found: dict[str, float]) -> dict[str, str]:
    """The figures that a person looks for, as text."""
    get = found.get
    interval = f"{percent(get('accuracy_low'))} to {percent(get('accuracy_high'))}"
    return {
        "photos": number(get("images")),
        "accuracy": f"{percent(get('accuracy'))} (95 % interval by groups: {interval})",
        "balanced accuracy": percent(get("balanced_accuracy")),
        "macro-F1": percent(get("macro_f1")),
        "ECE, calibrated": number(get("ece"), 4),
        "ECE, as it is": number(get("ece_uncalibrated"), 4),
        "threshold of the confidence": number(get("threshold"), 3),
        "accepted": percent(get("accepted")),
        "precision of the accepted": percent(get("accepted_precision")),
        "accuracy on corrupted photos": percent(get("corrupted_accuracy")),
        "OOD photos rejected where 99 % are accepted": percent(get("ood_rejection_at_99")),
        "OOD FPR95": percent(get("ood_fpr95")),
        "OOD AUROC": number(get("ood_auroc"), 4),
        "milliseconds for an image, one thread": number(get("milliseconds"), 2),
        "megabytes": number(get("megabytes"), 2),
    }


def _pictures(
    parts: dict[str, pd.DataFrame], found: dict[str, float], model: Classifier, folder: Path
) -> list[tuple[str, str]]:
    """Data URIs of the diagrams, and what they show."""
    rows, names = parts["predictions"], model.metadata.names
    labels = rows["label"].to_numpy(), rows["predicted_label"].to_numpy()
    plots.plot_confusion(*labels, names, range(len(names)), folder / "confusion.png")
    confidence = rows["uncalibrated_confidence"].to_numpy(), rows["confidence"].to_numpy()
    errors = found["ece_uncalibrated"], found["ece"]
    correct = rows["correct"].to_numpy()
    plots.plot_reliability(*confidence, correct, errors, folder / "reliability.png")
    plots.plot_recall(parts["classes"], folder / "recall.png")
    shown = {"reliability": "Reliability", "confusion": "Confusion", "recall": "Recall"}
    return [(pages.picture(folder / f"{name}.png"), text) for name, text in shown.items()]
