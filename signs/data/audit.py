"""What a data set is really like: duplicates, label conflicts, groups, leaks, gaps.

Works on the table of samples that `decode` returns, one row an image: file, class_id, label (-1
if unusable), track, fixed_split, digest (of the decoded pixels; "" if unusable), height, width.
`assign_splits` adds group and split.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from signs import files
from signs.data import duplicates, splits
from signs.data.layouts import Dataset
from signs.errors import UserError
from signs.params import Preprocess, Split

SHOWN_GROUPS, SHOWN_FILES, SHOWN_PROBLEMS = 20, 18, 10

Bools = npt.NDArray[np.bool_]
Thumbnails = npt.NDArray[np.uint8]


def find_label_conflicts(samples: pd.DataFrame) -> list[tuple[str, str]]:
    """Find photos that are filed under several classes: nobody can tell which one is right.

    Adds the column `label_conflict` to samples; returns (file, problem) for each.
    """
    usable = samples[samples["digest"] != ""]
    classes = usable.groupby("digest")["class_id"].nunique()
    samples["label_conflict"] = samples["digest"].isin(classes[classes > 1].index)
    problems = []
    for _, rows in samples[samples["label_conflict"]].groupby("digest"):
        problem = f"the same photo is in several classes: {', '.join(rows['file'])}"
        problems += [(file, problem) for file in rows["file"]]
    return problems


def assign_splits(samples: pd.DataFrame, thumbnails: Thumbnails, settings: Split) -> None:
    """Add the columns `group`, `near_duplicate` and `split` to samples.

    Unusable images and label conflicts get the split "unused", and so do all but one of exact
    duplicates; with `group: none` duplicates are used, each on its own: that is the leak.
    """
    digests = samples["digest"].to_numpy(dtype=str)
    labels = samples["label"].to_numpy()
    fixed_test = _fixed_test(samples)
    usable = digests != ""
    surplus = _duplicate(samples) | (np.isin(digests, digests[fixed_test & usable]) & usable)
    # An official test set stays whole; its duplicates among the training photos go.
    surplus[fixed_test] = False

    rows = np.flatnonzero(usable & ~_duplicate(samples))
    near = np.empty((0, 2), np.int64)
    if not has_tracks(samples):
        near = rows[
            duplicates.near_duplicate_pairs(thumbnails[rows], labels[rows], settings.similarity)
        ]
    tracks = samples["track"].to_numpy(dtype=str)
    pairs = [duplicates.same_value_pairs(digests), duplicates.same_value_pairs(tracks), near]
    samples["group"] = duplicates.groups(len(samples), np.concatenate(pairs))
    samples["near_duplicate"] = np.isin(np.arange(len(samples)), near)

    used = usable & ~samples["label_conflict"].to_numpy()
    if settings.group == "none":
        samples["split"] = _assign(samples, used, np.arange(len(samples)), settings)
    else:
        samples["split"] = _assign(samples, used & ~surplus, samples["group"].to_numpy(), settings)


def _assign(
    samples: pd.DataFrame, used: Bools, group: splits.Ints, settings: Split
) -> splits.Strings:
    split = np.full(len(samples), splits.UNUSED, dtype="<U10")
    labels = samples["label"].to_numpy()
    split[used] = splits.assign(labels[used], group[used], settings, _fixed_test(samples)[used])
    return split


def _fixed_test(samples: pd.DataFrame) -> Bools:
    return (samples["fixed_split"] == splits.TEST).to_numpy()


def _duplicate(samples: pd.DataFrame) -> Bools:
    """All but the first of the images with the same pixels."""
    return (samples["digest"].duplicated() & (samples["digest"] != "")).to_numpy()


def has_tracks(samples: pd.DataFrame) -> bool:
    """Whether the data set says which photos belong together.

    Then thumbnails are not compared: frames of different physical signs look alike too.
    """
    return bool((samples["track"] != "").any())


def compute(samples: pd.DataFrame, thumbnails: Thumbnails, settings: Split) -> dict[str, Any]:
    """The audit's metrics: counts, and what leaks according to the finished split alone."""
    digests = samples["digest"].to_numpy(dtype=str)
    labels = samples["label"].to_numpy()
    split = samples["split"].to_numpy(dtype=str)
    usable = digests != ""
    group = samples["group"].to_numpy()
    sizes = np.unique(group[usable], return_counts=True)[1]
    used, tested = split != splits.UNUSED, split == splits.TEST
    near = None  # not compared
    if not has_tracks(samples):
        counts = duplicates.count_near_duplicates(split, thumbnails, labels, settings.similarity)
        near = sum(counts.values())
    every_image = np.arange(len(samples))
    at_random = _assign(
        samples, usable & ~samples["label_conflict"].to_numpy(), every_image, settings
    )
    return {
        "files": len(samples),
        "unusable": int((~usable).sum()),
        "label_conflicts": int(samples["label_conflict"].sum()),
        "distinct": int((usable & ~_duplicate(samples)).sum()),
        "exact_duplicates": int(_duplicate(samples).sum()),
        "with_near_duplicate": None if near is None else int(samples["near_duplicate"].sum()),
        "groups": len(sizes),
        "largest_group": int(sizes.max(initial=0)),
        "classes": len(np.unique(labels[usable])),
        "classes_not_tested": len(np.setdiff1d(labels[used], labels[tested])),
        **{name: int((split == name).sum()) for name in splits.SPLITS},
        "leaks": {
            "exact": sum(duplicates.count_shared(split, digests).values()),
            "group": sum(duplicates.count_shared(split, group.astype(str)).values()),
            "near": near,
            "test_percent": _test_duplicates_percent(split, digests),
            "test_percent_if_split_at_random": _test_duplicates_percent(at_random, digests),
        },
    }


def _test_duplicates_percent(split: splits.Strings, digests: splits.Strings) -> float:
    """Share of test images with an exact duplicate in training."""
    count = duplicates.count_shared(split, digests)[splits.TEST]
    return round(100 * count / max(1, int((split == splits.TEST).sum())), 2)


def write(
    folder: Path,
    metrics: dict[str, Any],
    samples: pd.DataFrame,
    labels: pd.DataFrame,
    dataset: Dataset,
) -> None:
    """Write audit.json, classes.csv, problems.csv and duplicates.csv."""
    files.write_json(folder / "audit.json", metrics)
    problems = pd.DataFrame(dataset.problems, columns=["file", "problem"])
    problems.to_csv(folder / "problems.csv", index=False)
    _class_table(samples, labels).to_csv(folder / "classes.csv", index=False)
    _largest_groups(samples, dataset.names).to_csv(folder / "duplicates.csv", index=False)


def _class_table(samples: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    usable = samples[samples["digest"] != ""]
    by_label = usable.groupby("label")
    table = pd.DataFrame(
        {
            "class_id": labels["ClassId"],
            "name": labels["Name"],
            "files": by_label.size(),
            "distinct": by_label["digest"].nunique(),
            "groups": by_label["group"].nunique(),
        }
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
    metrics: dict[str, Any], problems: list[tuple[str, str]], settings: Preprocess, folder: Path
) -> None:
    """List the problems, and end the stage if the data set cannot be used.

    Raises:
        UserError: too many problems, fewer than two classes, an empty split, or a leak.
    """
    if problems:
        print(f"{len(problems)} problems, all listed in {folder / 'problems.csv'}:")
        print("\n".join(f"  {file}: {problem}" for file, problem in problems[:SHOWN_PROBLEMS]))
    share = len(problems) / max(1, metrics["files"])
    if share > settings.max_problems:
        raise UserError(
            f"{len(problems)} of {metrics['files']} files ({share:.1%}) cannot be used; "
            f"preprocess.max_problems allows {settings.max_problems:.1%}. "
            f"Repair or remove the files listed in {folder / 'problems.csv'}, or raise the limit."
        )
    if metrics["classes"] < 2:
        raise UserError("The data set needs at least two classes that have usable photos.")
    for name in splits.SPLITS:
        if not metrics[name]:
            raise UserError(
                f"No image is left for {name}: a class needs at least two groups of photos that "
                f"do not show the same thing to be tested, three to be validated too. "
                f"See {folder / 'classes.csv'}."
            )
    leaks = metrics["leaks"]
    leaked = leaks["exact"] or leaks["group"] or leaks["near"]
    if settings.split.group == "duplicates" and leaked:
        raise UserError(f"The split leaks: {leaks}. This is a defect of signs/data/splits.py.")


def summary(metrics: dict[str, Any]) -> str:
    """A few lines for the person at the terminal."""
    leaks, synthetic = metrics["leaks"], metrics["synthetic"]
    beside = (
        f"{synthetic['photos']:,} synthetic photos of {synthetic['classes']} classes train beside "
        "them.\n"
        if synthetic["photos"]
        else ""
    )
    return (
        f"{metrics['files']:,} files, {metrics['distinct']:,} distinct photos in "
        f"{metrics['groups']:,} groups, {metrics['classes']} classes "
        f"({metrics['classes_not_tested']} with too few groups to be tested).\n"
        f"{beside}"
        f"train {metrics['train']:,}, validation {metrics['validation']:,}, "
        f"test {metrics['test']:,}. "
        f"Test photos with an exact duplicate in training: {leaks['test_percent']} % "
        f"(split at random: {leaks['test_percent_if_split_at_random']} %)."
    )
