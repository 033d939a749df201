"""Look for what makes the numbers of a data set wrong: leaks, conflicts, unreadable photos, gaps.

    signs audit data/NAME
    signs audit photos.zip --page seen.html --json audit.json --summary audit.md

Takes any image classification set that docs/data.md names, and trains nothing. Exits with 1 if it
finds a fault: photos that a given split has on both sides, photos in two classes, unreadable ones.
The summary is Markdown, for a pull request; the page has pictures of the worst.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from signs import files, params
from signs.data import audit, duplicates, images, layouts, splits
from signs.data.alike import Thumbnails
from signs.data.decode import decode_all
from signs.data.layouts import Dataset, Problem, Reader
from signs.operations.inspect import opened, read_photo
from signs.params import ImageSettings
from signs.reporting import pages
from signs.reporting.grids import Line, Tile, plot_grid, rows_of, strip

PAGE = Path("audit.html")
THUMBNAILS = ImageSettings(size=16, color="grey", contrast="none", margin=0.0)
SHOWN_PAIRS, SHOWN_FILES, TILE = 24, 200, 96
# Of two photos of one scene. Signs of two classes reach 0.99 where they are small and blurred.
SAME_SCENE = 0.995
IMBALANCE = 20  # times as many photos in the largest class as in the smallest


class Finding(NamedTuple):
    """Something that the audit found."""

    what: str
    number: str
    advice: str
    fault: bool  # the numbers of this set cannot be trusted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("path", type=Path, metavar="PATH", help="a folder or a zip archive")
    parser.add_argument(
        "--page", type=Path, default=PAGE, metavar="FILE", help="default: %(default)s"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all metrics")
    parser.add_argument("--summary", type=Path, metavar="FILE", help="also write it as Markdown")


def run(arguments: argparse.Namespace) -> int:
    """Print, and write, what was found; 1 if there is a fault."""
    with opened(arguments.path) as folder:
        dataset = layouts.identify(folder)
        print(dataset.summary(), flush=True)
        samples, metrics = audited(dataset)
        findings = _findings(samples, metrics, dataset)
        context = {
            "title": str(arguments.path),
            "summary": dataset.summary(),
            "findings": findings,
            "faults": sum(finding.fault for finding in findings),
            "problems": (dataset.problems + dataset.notes)[:SHOWN_FILES],
        }
        text = pages.render("audit.md", **context)
        with tempfile.TemporaryDirectory() as pictures:
            picture = Path(pictures) / "pairs.jpg"
            _plot_pairs(samples, dataset, picture)
            page = pages.render("audit.html", **context, picture=picture)
        files.write_text(arguments.page, page)
    if arguments.json:
        found = [finding._asdict() for finding in findings]
        files.write_json(arguments.json, metrics | {"findings": found})
    if arguments.summary:
        files.write_text(arguments.summary, text)
    print(f"\n{text}\nWith pictures: {arguments.page}")
    return 1 if context["faults"] else 0


def audited(dataset: Dataset) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The samples with group and split, as preprocess would make them, and the audit's metrics."""
    split = params.Split(
        group="duplicates", similarity=0.9, validation=0.1, folds=10, fold=0, seed=1
    )
    with tempfile.TemporaryDirectory() as folder:
        samples, thumbnails = decode_all(dataset, THUMBNAILS, Path(folder) / "small.npy")
    used = sorted(samples.loc[samples["digest"] != "", "class_id"].unique())
    samples["label"] = pd.Index(used).get_indexer(samples["class_id"])
    dataset.problems += audit.find_label_conflicts(samples)
    audit.assign_splits(samples, thumbnails, split)
    metrics = audit.compute(samples, thumbnails, split)
    look_alikes = _look_alikes(samples, thumbnails, dataset.names)
    dataset.notes += look_alikes
    return samples, metrics | {"look_alikes": len(look_alikes)}


def _look_alikes(
    samples: pd.DataFrame, thumbnails: Thumbnails, names: dict[int, str]
) -> list[Problem]:
    """Photos that show what a photo of another class shows, in other pixels."""
    if audit.has_tracks(samples):
        return []
    usable = ((samples["digest"] != "") & ~samples["label_conflict"]).to_numpy()
    one_class = np.zeros(usable.sum(), np.int64)
    pairs = duplicates.near_duplicate_pairs(thumbnails[usable], one_class, SAME_SCENE)
    scene = duplicates.groups(len(one_class), pairs)
    classes = samples[usable].groupby(scene)["class_id"].unique()
    return [
        (file, f"looks the same in several classes: {', '.join(names[i] for i in classes[place])}")
        for file, place in zip(samples.loc[usable, "file"], scene, strict=True)
        if len(classes[place]) > 1
    ]


def _findings(samples: pd.DataFrame, metrics: dict[str, Any], dataset: Dataset) -> list[Finding]:
    """The faults first, then what is worth knowing."""
    leaks, given = metrics["leaks"], metrics["given_split"]
    by_class = samples[samples["digest"] != ""].groupby("class_id")
    counts, groups = by_class.size(), by_class["group"].nunique()
    missing = _missing(samples, dataset) if given else ""
    few = ", ".join(dataset.names[i] for i in groups.index[groups < 3])
    largest, smallest = counts.max(), max(1, counts.min())
    faults = {
        "held-out photos with an exact duplicate in training": (
            leaks["exact"] if given else 0,
            "The given split leaks. Split anew by groups, or remove the copies.",
        ),
        "held-out photos of a sign, photo or track that training has, too": (
            leaks["group"] if given else 0,
            "The given split leaks. Keep photos of one sign on one side.",
        ),
        "photos that are filed under two classes": (
            metrics["label_conflicts"],
            "Nobody can tell which class is right: keep one.",
        ),
        "unreadable photos": (metrics["unusable"], "Repair or remove them."),
    }
    notes = {
        "classes that a part of the split lacks": (missing, "Averages do not cover them."),
        "exact duplicates": (
            metrics["exact_duplicates"],
            f"Split at random, {leaks['test_percent_if_split_at_random']} % of the test photos "
            "would have a copy in training.",
        ),
        "photos with a near-duplicate": (
            metrics["with_near_duplicate"],
            "Frames of one sign, or crops of one photo: split by groups.",
        ),
        "photos that look the same as one of another class": (
            metrics["look_alikes"],
            "One of the two is filed wrongly: compare them.",
        ),
        "classes with fewer than three groups": (few, "They cannot be tested and validated."),
        "times as many photos in the largest class as in the smallest": (
            round(largest / smallest) if largest > IMBALANCE * smallest else 0,
            "Look at the balanced accuracy, too.",
        ),
    }
    return [
        Finding(what, f"{number:,}" if isinstance(number, int) else str(number), advice, fault)
        for part, fault in ((faults, True), (notes, False))
        for what, (number, advice) in part.items()
        if number
    ]


def _missing(samples: pd.DataFrame, dataset: Dataset) -> str:
    """The classes that a given part has no photo of."""
    texts = []
    for part in splits.SPLITS:
        there = samples.loc[samples["split"] == part, "class_id"].unique()
        if absent := [name for i, name in dataset.names.items() if i not in there]:
            texts.append(f"{part}: {', '.join(absent)}")
    return "; ".join(texts)


def _plot_pairs(samples: pd.DataFrame, dataset: Dataset, path: Path) -> None:
    """Photos of one group beside each other: across the given split, else the largest groups."""
    usable = samples[samples["digest"] != ""]
    held_out = usable["split"].isin([splits.VALIDATION, splits.TEST])
    leaking = set(usable["group"][held_out]) & set(usable["group"][usable["split"] == splits.TRAIN])
    sizes = usable["group"].value_counts()
    chosen = [g for g in sizes.index if g in leaking] or list(sizes.index[sizes > 1])
    reader, tiles = Reader(dataset.folder), []
    for group in chosen[:SHOWN_PAIRS]:
        members = usable[usable["group"] == group].sort_values("split", kind="stable")
        pair = pd.concat([members.iloc[:1], members.iloc[-1:]])
        photos = []
        for file, region in zip(pair["file"], layouts.regions(pair), strict=True):
            photo = read_photo(reader, file)
            if photo is not None:
                photos.append(images.crop(photo, region, 0.1))
        lines = [
            Line(f"{part}: …{file[-30:]}" if len(file) > 30 else f"{part}: {file}")
            for part, file in zip(pair["split"], pair["file"], strict=True)
        ]
        tiles.append(Tile(strip(photos, TILE, 4), lines))
    head = (
        f"Groups on both sides of the split: {len(leaking):,}" if leaking else "The largest groups",
        "Each group is shown by two of its photos.",
    )
    plot_grid(rows_of(tiles, 4), path, (2 * TILE + 4, TILE), 12, head)
