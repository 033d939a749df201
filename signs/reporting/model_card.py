"""A model card from the metrics: what the classifier is for, what it can do and what it cannot.

Sections after M. Mitchell et al., "Model Cards for Model Reporting" (FAT* 2019).
"""

import json
from pathlib import Path
from typing import Any

import pandas as pd

SHOWN_CLASSES = 10

CARD = """# Model card: traffic signs, {dataset}

Written by the evaluate stage from `metrics/`; do not edit. Pictures and all figures: `report.html`.

## Model

Version `{version}`, code of commit `{commit}`. Network `{network}`, {parameters:,} parameters, \
{megabytes:.1f} MB as ONNX. Input: one photo of one sign, {size}x{size} pixels {color} after \
`signs.data.images.prepare` ({contrast} contrast). Output: probabilities of {classes} classes, \
calibrated with temperature {temperature:.3f}; below a confidence of {threshold:.3f} or an \
energy score of {energy_threshold:.3f} the answer is "unknown". Trained on {images_seen:,} \
images in {epochs} epochs, seed {seed}; the minutes that took stand in `metrics/timing.json`.

## Use

For: naming the sign on a photo that shows one sign and little else, of the classes listed in \
`metrics/evaluate/classes.csv`, as a part of a system in which a wrong answer does no harm by \
itself: mapping, inventories, teaching, research. Not for: finding signs in a scene, signs of \
other countries or classes, steering a vehicle.

## Data

Photo set `{dataset}`: {files:,} files, {distinct:,} distinct photos in {groups:,} groups of \
photos that show the same thing. {split}; {not_tested} classes have too few groups to be tested. \
Test photos with a pixel-identical twin in training: {twins} %{random}.{drawn}{outliers}

## Results on {test[images]:,} test photos{leak}

| measure | value |
|---|---|
{figures}

Hardest classes (recall, with its 95 % interval):

| class | test photos | recall | |
|---|---|---|---|
{hardest}

## Bad conditions

{corruptions}

## Signs it does not know

{strangers}{elsewhere}{committee}

## Limits

- {limit_data}
- The figures hold for photos like those of the set; other cameras, countries and seasons are \
other photos.
- Confidence was calibrated on {validation:,} validation photos of the same set.
- One training with one seed and one fold; other folds give other figures.
"""

NO_CORRUPTIONS = "Not measured (`evaluate.corruption_photos: 0`)."
NOT_ELSEWHERE = "Not measured (`evaluate.external_photos: 0`)."
NO_OOD = "Not measured: `evaluate.external_set` has no photos of such."


def write(metrics: Path, settings: dict[str, Any], onnx_bytes: int, target: Path) -> None:
    """Write the card.

    Args:
        metrics: the folder with each stage's metrics and tables.
        settings: what the run used: dataset, preprocess, train, provenance.
        onnx_bytes: size of the exported network.
        target: the Markdown file.
    """
    evaluated = _read(metrics / "evaluate/details.json")
    trained = _read(metrics / "train/metrics.json")
    audit = _read(metrics / "preprocess/audit.json")
    test, train = evaluated["test"], settings["train"]
    images, recipe = settings["preprocess"]["images"], train["recipe"]
    leaks, drawn = audit["leaks"], audit["synthetic"]
    random = leaks["test_percent_if_split_at_random"]
    leaky = any(leaks[kind] for kind in ("exact", "group", "near"))
    text = CARD.format(
        dataset=settings["dataset"],
        version=settings["provenance"]["version"],
        commit=settings["provenance"]["commit"],
        network=train["network"],
        parameters=trained["parameters"],
        megabytes=onnx_bytes / 1e6,
        size=images["size"],
        color=images["color"],
        contrast=images["contrast"],
        classes=audit["classes"],
        temperature=evaluated["temperature"],
        threshold=evaluated["threshold"],
        energy_threshold=evaluated["energy_threshold"],
        images_seen=recipe["epochs"] * recipe["steps_per_epoch"] * recipe["batch_size"],
        epochs=recipe["epochs"],
        seed=train["seed"],
        files=audit["files"],
        distinct=audit["distinct"],
        groups=audit["groups"],
        split=", ".join(f"{audit[name]:,} {name}" for name in ("train", "validation", "test")),
        not_tested=audit["classes_not_tested"],
        twins=leaks["test_percent"],
        drawn=(
            f" Beside them train {drawn['photos']:,} drawn photos of {drawn['classes']} classes."
            if drawn["photos"]
            else ""
        ),
        outliers=(
            f" To be unsure of other signs was learnt from drawn photos of {outliers}."
            if (outliers := settings["provenance"]["auxiliary_outliers"])
            else ""
        ),
        leak=(
            ": the split leaks, so they are too good"
            if leaky
            else " that share no group with training"
        ),
        random=f" (split at random: {random} %)" if random else "",
        test=test,
        figures=_figures(test),
        hardest=_hardest(metrics / "evaluate/classes.csv"),
        corruptions=_corruptions(metrics / "evaluate/corruptions.csv"),
        strangers=_strangers(metrics / "evaluate/ood.csv", evaluated, settings["evaluate"]),
        elsewhere=_elsewhere(evaluated, settings["evaluate"]["external_set"]),
        committee=_committee(evaluated.get("ensemble")),
        limit_data=(
            "The photos are drawn, not taken: no figure here speaks of real ones."
            if settings["dataset"] == "synthetic"
            else "Where the photos come from, and under which terms, is for their owner to say."
        ),
        validation=evaluated["validation"]["images"],
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")


def _figures(test: dict[str, float]) -> str:
    interval = f"{test['accuracy_low']:.2%} to {test['accuracy_high']:.2%}"
    rows = {
        "accuracy (95 % interval)": f"{test['accuracy']:.2%} ({interval})",
        "balanced accuracy": f"{test['balanced_accuracy']:.2%}",
        "macro F1": f"{test['macro_f1']:.4f}",
        "top-3 accuracy": f"{test['top3_accuracy']:.2%}",
        "log loss": f"{test['log_loss']:.4f} nats",
        "calibration error (ECE)": f"{test['ece']:.4f}",
        'answers that are not "unknown"': f"{test['known']:.2%}",
        "right answers among those": f"{test['accepted_precision']:.2%}",
    }
    return "\n".join(f"| {name} | {value} |" for name, value in rows.items())


def _hardest(path: Path) -> str:
    # A class may be called "30" or "None": names stay texts.
    table = pd.read_csv(
        path, keep_default_na=False, na_values={"recall": [""]}, dtype={"name": str}
    )
    table = table[table["recall"].notna()].sort_values("recall", kind="stable")
    return "\n".join(
        f"| {row['class_id']} {row['name'].replace('|', '/')} | {row['test']} "
        f"| {row['recall']:.1%} "
        f"| {float(row['recall_low']):.1%} to {float(row['recall_high']):.1%} |"
        for _, row in table.head(SHOWN_CLASSES).iterrows()
    )


def _corruptions(path: Path) -> str:
    if not path.exists():
        return NO_CORRUPTIONS
    table = pd.read_csv(path).groupby("corruption")["accuracy"].agg(["mean", "min"])
    rows = "\n".join(
        f"| {kind} | {mean:.1%} | {worst:.1%} |"
        for kind, mean, worst in table.sort_values("mean").itertuples()
    )
    head = "| condition | mean accuracy over 5 levels | worst level |\n|---|---|---|\n"
    return head + rows


def _strangers(path: Path, evaluated: dict[str, Any], settings: dict[str, Any]) -> str:
    if not settings["external_photos"]:
        return NOT_ELSEWHERE
    if not path.exists():
        return NO_OOD
    test = evaluated["test"]
    table = pd.read_csv(path, keep_default_na=False, dtype={"name": str})
    worst = ", ".join(
        f"{name} ({refused:.0%}, read as {answer})"
        for name, refused, answer in table[["name", "refused", "most_frequent_prediction"]]
        .head(5)
        .itertuples(index=False)
    )
    return (
        f"{test['ood_rejection_rate']:.1%} of {test['ood_images']:,} photos of the set "
        f"`{settings['external_set']}` ({evaluated['external_part']}), of "
        'classes whose names the network has never met, are "unknown"; '
        f"{test['ood_rejection_at_99']:.1%} if 99 % of the test photos shall be known. "
        f"AUROC {test['ood_auroc']:.4f}. Least refused: {worst}."
    )


def _elsewhere(evaluated: dict[str, Any], name: str) -> str:
    found = evaluated.get("external")
    if not found:
        return ""
    return (
        f"\n\n## Another photo set\n\nOf {found['images']:,} photos of the set `{name}` "
        f"({evaluated['external_part']}), of {found['classes']} classes whose names the network "
        f"knows, {found['accuracy']:.2%} are read right; balanced accuracy "
        f"{found['balanced_accuracy']:.2%}."
    )


def _committee(found: dict[str, float] | None) -> str:
    if not found:
        return ""
    return (
        f"\n\n## A committee\n\nThe mean answer of {found['classifiers']} such classifier"
        f"{'s' if found['classifiers'] > 1 else ''}, in {found['passes']} passes through a network "
        f"for one photo: accuracy {found['accuracy']:.2%} ({found['accuracy_low']:.2%} to "
        f"{found['accuracy_high']:.2%}), ECE {found['ece']:.4f}."
    )


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))
