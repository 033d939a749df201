"""What a data set is really like: duplicates, label conflicts, groups, leaks, gaps.

Works on the table of samples that `decode` returns, one row an image: file, class_id, label (-1
if unusable), track, fixed_split, digest (of the sign's pixels; "" if unusable), height, width.
`assign_splits` adds group and split.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from signs import files
from signs.data import duplicates, splits
from signs.data.alike import Thumbnails
from signs.data.layouts import Dataset, Problem
from signs.data.splits import Bools, Ints, Strings
from signs.errors import UserError
from signs.params import Preprocess, Split

SHOWN_GROUPS, SHOWN_FILES, SHOWN_PROBLEMS = 20, 18, 10

Metrics = dict[str, Any]


def find_label_conflicts(samples: pd.DataFrame) -> list[Problem]:
    """Find photos that are filed under several classes: nobody can tell which one is right.

    Adds the column `label_conflict` to samples; returns (file, problem) for each.
    """
    usable = samples[samples["digest"] != ""]
    classes = usable.groupby("digest")["class_id"].nunique()
    samples["label_conflict"] = samples["digest"].isin(classes[classes > 1].index)
    return [
        (file, f"the same photo is in several classes: {', '.join(files)}")
        for _, files in samples[samples["label_conflict"]].groupby("digest")["file"]
        for file in files
    ]


def assign_splits(samples: pd.DataFrame, thumbnails: Thumbnails, settings: Split) -> None:
    """Add the columns `group`, `near_duplicate` and `split` to samples.

    Unusable images and label conflicts get the split "unused", and so do all but one of exact
    duplicates; with `group: none` duplicates are used, each on its own: that is the leak.
    """
    digests, tracks = (samples[name].to_numpy(dtype=str) for name in ("digest", "track"))
    duplicate = _duplicate(samples)
    near = np.empty((0, 2), np.int64)
    if not has_tracks(samples):
        rows = np.flatnonzero((digests != "") & ~duplicate)
        labels = samples["label"].to_numpy()[rows]
        near = rows[duplicates.near_duplicate_pairs(thumbnails[rows], labels, settings.similarity)]
    # Signs on one photo stay together, too.
    photos = samples["file"].to_numpy(dtype=str)
    pairs = [duplicates.same_value_pairs(values) for values in (digests, tracks, photos)]
    samples["group"] = duplicates.groups(len(samples), np.concatenate([*pairs, near]))
    samples["near_duplicate"] = np.isin(np.arange(len(samples)), near)
    if settings.group == "none":
        samples["split"] = _assign(samples, np.arange(len(samples)), settings)
        return
    # A given split stays as it is: its leaks are counted and reported.
    surplus = duplicate & (samples["fixed_split"] == "").to_numpy()
    samples["split"] = _assign(samples, samples["group"].to_numpy(), settings, surplus)


def _assign(
    samples: pd.DataFrame, group: Ints, settings: Split, surplus: Bools | bool = False
) -> Strings:
    usable = ((samples["digest"] != "") & ~samples["label_conflict"]).to_numpy()
    used = usable & np.logical_not(surplus)
    labels = samples["label"].to_numpy()[used]
    fixed = samples["fixed_split"].to_numpy(dtype="<U10")[used]
    split = np.full(len(samples), splits.UNUSED, dtype="<U10")
    split[used] = splits.assign(labels, group[used], settings, fixed)
    return split


def _duplicate(samples: pd.DataFrame) -> Bools:
    """All but the first of the images with the same pixels."""
    return (samples["digest"].duplicated() & (samples["digest"] != "")).to_numpy()


def has_tracks(samples: pd.DataFrame) -> bool:
    """Whether the data set says which photos belong together.

    Then thumbnails are not compared: frames of different physical signs look alike too.
    """
    return bool((samples["track"] != "").any())


def compute(samples: pd.DataFrame, thumbnails: Thumbnails, settings: Split) -> Metrics:
    """The audit's metrics: counts, and what leaks according to the finished split alone."""
    digests, split = (samples[name].to_numpy(dtype=str) for name in ("digest", "split"))
    labels, group = (samples[name].to_numpy() for name in ("label", "group"))
    usable, duplicate = digests != "", _duplicate(samples)
    sizes = np.unique(group[usable], return_counts=True)[1]
    near = None  # not compared
    if not has_tracks(samples):
        counts = duplicates.count_near_duplicates(split, thumbnails, labels, settings.similarity)
        near = sum(counts.values())
    dealt = samples.assign(fixed_split="")
    at_random = _assign(dealt, np.arange(len(samples)), settings)
    return {
        "given_split": bool((samples["fixed_split"] == splits.TRAIN).any()),
        "files": len(samples),
        "unusable": int((~usable).sum()),
        "label_conflicts": int(samples["label_conflict"].sum()),
        "distinct": int((usable & ~duplicate).sum()),
        "exact_duplicates": int(duplicate.sum()),
        "with_near_duplicate": None if near is None else int(samples["near_duplicate"].sum()),
        "groups": len(sizes),
        "largest_group": int(sizes.max(initial=0)),
        "classes": len(np.unique(labels[usable])),
        "classes_not_tested": len(
            np.setdiff1d(labels[split != splits.UNUSED], labels[split == splits.TEST])
        ),
        **{name: int((split == name).sum()) for name in splits.SPLITS},
        "leaks": {
            "exact": sum(duplicates.count_shared(split, digests).values()),
            "group": sum(duplicates.count_shared(split, group.astype(str)).values()),
            "near": near,
            "test_percent": _test_duplicates_percent(split, digests),
            "test_percent_if_split_at_random": _test_duplicates_percent(at_random, digests),
        },
    }


def _test_duplicates_percent(split: Strings, digests: Strings) -> float:
    """Share of test images with an exact duplicate in training."""
    count = duplicates.count_shared(split, digests)[splits.TEST]
    return round(100 * count / max(1, int((split == splits.TEST).sum())), 2)


def write(
    folder: Path, metrics: Metrics, samples: pd.DataFrame, labels: pd.DataFrame, dataset: Dataset
) -> None:
    """Write audit.json, classes.csv, problems.csv and duplicates.csv."""
    files.write_json(folder / "audit.json", metrics)
    tables = {
        "problems": pd.DataFrame(dataset.problems + dataset.notes, columns=["file", "problem"]),
        "classes": _class_table(samples, labels),
        "duplicates": _largest_groups(samples, dataset.names),
    }
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False)


def _class_table(samples: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    usable = samples[samples["digest"] != ""]
    by_label = usable.groupby("label")
    table = labels.set_axis(["class_id", "name"], axis=1).assign(
        files=by_label.size(),
        distinct=by_label["digest"].nunique(),
        groups=by_label["group"].nunique(),
    )
    for name in splits.SPLITS:
        table[name] = (usable["split"] == name).groupby(usable["label"]).sum()
    table["note"] = np.where(table["test"] == 0, "not tested: too few distinct groups", "")
    return table


def _largest_groups(samples: pd.DataFrame, names: dict[int, str]) -> pd.DataFrame:
    """The first files of the largest groups, for the report's picture of them."""
    usable = samples[samples["digest"] != ""]
    group = usable.groupby("group")
    usable = usable.assign(
        name=group["class_id"].transform("first").map(names),
        files=group["file"].transform("size"),
        distinct=group["digest"].transform("nunique"),
    )
    usable = usable[(usable["files"] > 1) & (group.cumcount() < SHOWN_FILES)]
    usable = usable.sort_values(["files", "group"], ascending=[False, True], kind="stable")
    largest = usable["group"].unique()[:SHOWN_GROUPS]
    columns = ["group", "class_id", "name", "files", "distinct", "file"]
    return usable.loc[usable["group"].isin(largest), columns]


def refuse_bad_data(
    metrics: Metrics, problems: list[Problem], settings: Preprocess, folder: Path
) -> None:
    """List the problems, and end the stage if the data set cannot be used.

    It cannot with too many problems, fewer than two classes, an empty split, or a leak.
    """
    table = folder / "problems.csv"
    if problems:
        print(f"{len(problems)} problems, all listed in {table}:")
        print("\n".join(f"  {file}: {problem}" for file, problem in problems[:SHOWN_PROBLEMS]))
    share = len(problems) / max(1, metrics["files"])
    if share > settings.max_problems:
        raise UserError(
            f"{len(problems)} of {metrics['files']} files ({share:.1%}) cannot be used; "
            f"preprocess.max_problems allows {settings.max_problems:.1%}. "
            f"Repair or remove the files listed in {table}, or raise the limit."
        )
    if metrics["classes"] < 2:
        raise UserError("The data set needs at least two classes that have usable photos.")
    empty = next((name for name in splits.SPLITS if not metrics[name]), None)
    if empty:
        raise UserError(
            f"No image is left for {empty}: a class needs at least two groups of photos that "
            "do not show the same thing to be tested, three to be validated too. "
            f"See {folder / 'classes.csv'}."
        )
    leaks = metrics["leaks"]
    dealt = settings.split.group == "duplicates" and not metrics["given_split"]
    if dealt and (leaks["exact"] or leaks["group"] or leaks["near"]):
        raise UserError(f"The split leaks: {leaks}. This is a defect of signs/data/splits.py.")


def summary(metrics: Metrics) -> str:
    """A few lines for the person at the terminal."""
    leaks, synthetic = metrics["leaks"], metrics["synthetic"]
    beside = (
        f"{synthetic['photos']:,} synthetic photos of {synthetic['classes']} classes train beside "
        "them.\n"
    )
    return (
        f"{metrics['files']:,} files, {metrics['distinct']:,} distinct photos in "
        f"{metrics['groups']:,} groups, {metrics['classes']} classes "
        f"({metrics['classes_not_tested']} with too few groups to be tested).\n"
        f"{beside if synthetic['photos'] else ''}train {metrics['train']:,}, "
        f"validation {metrics['validation']:,}, test {metrics['test']:,}. "
        f"Test photos with an exact duplicate in training: {leaks['test_percent']} % "
        f"(split at random: {leaks['test_percent_if_split_at_random']} %)."
    )
