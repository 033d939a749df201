"""What a photo set is really like: duplicates, contradictions, groups, leaks, gaps.

Works on the table of samples that the preprocess stage builds, one row an image:
file, class_id, label (-1 if unusable), track, fixed_split, digest (of the decoded pixels;
"" if unusable), height, width; `assign_splits` adds group and split.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from signs.data import layouts
from signs.data import images
from signs.reporting import grids
from signs.data import splits
from signs.errors import UserError
from signs.params import Preprocess, Split

SHOWN_GROUPS, SHOWN_PHOTOS, SHOWN_PROBLEMS = 20, 18, 10

Bools = npt.NDArray[np.bool_]
Thumbnails = npt.NDArray[np.uint8]


def find_label_conflicts(samples: pd.DataFrame) -> list[tuple[str, str]]:
    """Find photos that stand in several classes: which is right nobody can tell.

    Adds the column `contradicting` to samples; returns (file, problem) for each.
    """
    usable = samples[samples["digest"] != ""]
    classes = usable.groupby("digest")["class_id"].nunique()
    samples["label_conflicts"] = samples["digest"].isin(classes[classes > 1].index)
    problems = []
    for _, rows in samples[samples["label_conflicts"]].groupby("digest"):
        listed = ", ".join(rows["file"])
        problems += [
            (file, f"the same photo stands in several classes: {listed}") for file in rows["file"]
        ]
    return problems


def assign_splits(samples: pd.DataFrame, thumbnails: Thumbnails, settings: Split) -> None:
    """Add the columns `group` and `split` to samples.

    Unusable and contradicting images get the split "unused", and so do all but one of exact
    duplicates; with `group: none` duplicates are used, each on its own: that is the leak.
    """
    digests = samples["digest"].to_numpy(dtype=str)
    labels = samples["label"].to_numpy()
    fixed_test = _fixed_test(samples)
    usable = digests != ""
    surplus = _duplicate(samples) | (np.isin(digests, digests[fixed_test & usable]) & usable)
    # An official test set stays whole; its twins among the training photos go.
    surplus[fixed_test] = False

    rows = np.flatnonzero(usable & ~_duplicate(samples))
    near = np.empty((0, 2), np.int64)
    if not has_tracks(samples):
        near = rows[
            splits.near_duplicate_pairs(thumbnails[rows], labels[rows], settings.similarity)
        ]
    tracks = samples["track"].to_numpy(dtype=str)
    pairs = [splits.same_value_pairs(digests), splits.same_value_pairs(tracks), near]
    samples["group"] = splits.groups(len(samples), np.concatenate(pairs))
    samples["near_duplicate"] = np.isin(np.arange(len(samples)), near)

    used = usable & ~samples["label_conflicts"].to_numpy()
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
    """Whether the set says which photos belong together.

    Then thumbnails are not compared: frames of different physical signs look alike too.
    """
    return bool((samples["track"] != "").any())


def measure(samples: pd.DataFrame, thumbnails: Thumbnails, settings: Split) -> dict[str, Any]:
    """Count what was found and, from the finished split alone, what leaks."""
    digests = samples["digest"].to_numpy(dtype=str)
    labels = samples["label"].to_numpy()
    split = samples["split"].to_numpy(dtype=str)
    usable = digests != ""
    group = samples["group"].to_numpy()
    sizes = np.unique(group[usable], return_counts=True)[1]
    used, tested = split != splits.UNUSED, split == splits.TEST
    random_split = _assign(
        samples, usable & ~samples["label_conflicts"].to_numpy(), np.arange(len(samples)), settings
    )
    near = None  # not compared
    if not has_tracks(samples):
        near = sum(splits.count_near_duplicates(split, thumbnails, labels, settings.similarity).values())
    return {
        "files": len(samples),
        "unusable": int((~usable).sum()),
        "label_conflicts": int(samples["label_conflicts"].sum()),
        "distinct": int((usable & ~_duplicate(samples)).sum()),
        "exact_duplicates": int(_duplicate(samples).sum()),
        "with_near_duplicate": None if near is None else int(samples["near_duplicate"].sum()),
        "groups": len(sizes),
        "largest_group": int(sizes.max(initial=0)),
        "classes": len(np.unique(labels[usable])),
        "classes_not_tested": len(np.setdiff1d(labels[used], labels[tested])),
        **{name: int((split == name).sum()) for name in splits.SPLITS},
        "leaks": {
            "exact": sum(splits.count_shared(split, digests).values()),
            "group": sum(splits.count_shared(split, group.astype(str)).values()),
            "near": near,
            "test_percent": _test_duplicates_percent(split, digests),
            "test_percent_if_split_at_random": _test_duplicates_percent(random_split, digests),
        },
    }


def _test_duplicates_percent(split: splits.Strings, digests: splits.Strings) -> float:
    """Share of test images with a pixel-identical twin in training."""
    twins = splits.count_shared(split, digests)[splits.TEST]
    return round(100 * twins / max(1, int((split == splits.TEST).sum())), 2)


def write(
    folder: Path,
    found: dict[str, Any],
    samples: pd.DataFrame,
    labels: pd.DataFrame,
    dataset: layouts.Dataset,
) -> None:
    """Write audit.json, classes.csv, problems.csv and duplicates.jpg."""
    (folder / "audit.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    problems = pd.DataFrame(dataset.problems, columns=["file", "problem"])
    problems.to_csv(folder / "problems.csv", index=False)
    _class_table(samples, labels).to_csv(folder / "classes.csv", index=False)
    _draw_groups(samples, dataset, folder / "duplicates.jpg")


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


def _draw_groups(samples: pd.DataFrame, dataset: layouts.Dataset, path: Path) -> None:
    """A contact sheet of the groups with the most images, from the photos themselves."""
    usable = samples[samples["digest"] != ""]
    sizes = usable["group"].value_counts()
    sizes = sizes[sizes > 1].sort_index().sort_values(ascending=False, kind="stable")
    reader = layouts.Reader(dataset.folder)
    rows = []
    for group in sizes.index[:SHOWN_GROUPS]:
        members = usable[usable["group"] == group]
        name = dataset.names[int(members["class_id"].iloc[0])]
        caption = f"{name[:38]}\n{len(members)} files, {members['digest'].nunique()} distinct"
        files = members["file"][:SHOWN_PHOTOS]
        rows.append((caption, [images.decode(reader.read(file)) for file in files]))
    title = "the largest groups of photos that stay together" if rows else "no duplicates"
    grids.contact_sheet(rows, path, f"{dataset.folder.name}: {title}")


def refuse_bad_data(
    found: dict[str, Any], problems: list[tuple[str, str]], settings: Preprocess, folder: Path
) -> None:
    """List the problems, and end the stage if the set cannot be used.

    Raises:
        UserError: too many problems, fewer than two classes, an empty split, or a leak.
    """
    if problems:
        print(f"{len(problems)} problems, all listed in {folder / 'problems.csv'}:")
        print("\n".join(f"  {file}: {problem}" for file, problem in problems[:SHOWN_PROBLEMS]))
    share = len(problems) / max(1, found["files"])
    if share > settings.max_problems:
        raise UserError(
            f"{len(problems)} of {found['files']} files ({share:.1%}) cannot be used; "
            f"preprocess.max_problems allows {settings.max_problems:.1%}. "
            f"Repair or remove the files listed in {folder / 'problems.csv'}, or raise the limit."
        )
    if found["classes"] < 2:
        raise UserError("There is nothing to tell apart: the set needs at least two classes.")
    for name in splits.SPLITS:
        if not found[name]:
            raise UserError(
                f"No image is left for {name}: a class needs at least two groups of photos that "
                f"do not show the same thing to be tested, three to be validated too. "
                f"See {folder / 'classes.csv'}."
            )
    leaks = found["leaks"]
    leaked = leaks["exact"] or leaks["group"] or leaks["near"]
    if settings.split.group == "duplicates" and leaked:
        raise UserError(f"The split leaks: {leaks}. This is a defect of signs/data/splits.py.")


def summary(found: dict[str, Any]) -> str:
    """A few lines for the person at the terminal."""
    leaks, drawn = found["leaks"], found["synthetic"]
    beside = (
        f"{drawn['photos']:,} drawn photos of {drawn['classes']} classes train beside them.\n"
        if drawn["photos"]
        else ""
    )
    return (
        f"{found['files']:,} files, {found['distinct']:,} distinct photos in "
        f"{found['groups']:,} groups, {found['classes']} classes "
        f"({found['classes_not_tested']} with too few groups to be tested).\n"
        f"{beside}"
        f"train {found['train']:,}, validation {found['validation']:,}, test {found['test']:,}. "
        f"Test photos with an identical twin in training: {leaks['test_percent']} % "
        f"(split at random: {leaks['test_percent_if_split_at_random']} %)."
    )
