"""Archives of synthetic photos: the data set, out-of-distribution signs, auxiliary outliers."""

import csv
import zipfile
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2

from signs import progress
from signs.data import layouts
from signs.files import replaced
from signs.parallel import ordered_map
from signs.params import Synthesize
from signs.synthesis import render, svg

# Images of one task: enough that handing tasks out costs nothing, few enough for the bar to move.
CHUNK = 100
FAMILY = 8  # classes
# A zip file holds dates; a fixed one keeps its bytes, and DVC's hash, the same each time.
DATE = (1980, 1, 1, 0, 0, 0)

Templates = dict[int, tuple[str, int]]  # class id in the archive → label set, class id there
Entry = tuple[tuple[str, int], str]  # label set and class id there, name


class SyntheticSet(NamedTuple):
    """What an archive shows.

    Attributes:
        settings: how to render it.
        templates: class id in the archive → label set, class id there.
        names: class id in the archive → name.
    """

    settings: Synthesize
    templates: Templates
    names: dict[int, str]


def plan(settings: Synthesize, labels: str) -> dict[str, SyntheticSet]:
    """The sets to render for a label set: folder under data/ → what its archive shows.

    `synthetic` shows the classes of the label set. The classes of the other label sets are
    divided between `auxiliary_outliers` (beside photos of no sign at all), to train with, and
    `ood`, to evaluate with, in turns of `FAMILY`: label sets list similar signs one after the
    other, and a sign is not out of distribution if a similar one was an outlier in training.
    """
    names = _names(labels)
    known = {name.casefold() for name in names.values()}
    foreign = [
        ((other, class_id), name)
        for other in svg.other_label_sets(labels)
        for class_id, name in _names(other).items()
        if name.casefold() not in known
    ]
    outliers: list[Entry] = [((labels, render.NO_SIGN), "No sign")]
    ood: list[Entry] = []
    for place, entry in enumerate(foreign):
        (outliers if place // FAMILY % 2 == 0 else ood).append(entry)
    # Another seed: with the same one, they would be training photos with another sign.
    settings_of = partial(_with_count, settings, settings.seed + 2**31)
    return {
        "synthetic": SyntheticSet(
            settings, {i: (labels, i) for i in svg.templates_of(labels)}, names
        ),
        "auxiliary_outliers": _numbered(
            settings_of(settings.auxiliary_outliers_per_class), outliers
        ),
        "ood": _numbered(settings_of(settings.ood_per_class), ood),
    }


def _with_count(settings: Synthesize, seed: int, count: int) -> Synthesize:
    return settings.model_copy(update={"images_per_class": count, "seed": seed})


def _numbered(settings: Synthesize, entries: list[Entry]) -> SyntheticSet:
    templates = {place: template for place, (template, _) in enumerate(entries)}
    return SyntheticSet(
        settings, templates, {place: name for place, (_, name) in enumerate(entries)}
    )


def _names(labels: str) -> dict[int, str]:
    return layouts.read_labels(layouts.LABELS / f"{labels}.csv")


def write(folder: Path, content: SyntheticSet) -> None:
    """Write images.zip, with CLASS_ID/INDEX.jpg, and labels.csv, which belong together."""
    labels = folder / "labels.csv"
    labels.unlink(missing_ok=True)
    write_archive(folder / "images.zip", content)
    rows = [("ClassId", "Name"), *content.names.items()]
    with replaced(labels) as path, path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def write_archive(target: Path, content: SyntheticSet, workers: int | None = None) -> None:
    """Write all photos into one zip file: DVC's cost is per file, not per byte."""
    count = content.settings.images_per_class
    tasks = [
        (class_id, range(start, min(start + CHUNK, count)))
        for class_id in content.templates
        for start in range(0, count, CHUNK)
    ]
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        replaced(target) as path,
        zipfile.ZipFile(path, "w") as archive,
        progress.bar(count * len(content.templates), "synthesize", " images") as bar,
    ):
        photos = ordered_map(
            partial(_render, content), tasks, initializer=_one_thread, workers=workers
        )
        for (class_id, indices), jpegs in zip(tasks, photos, strict=True):
            for index, jpeg in zip(indices, jpegs, strict=True):
                archive.writestr(_member(f"{class_id}/{index:05d}.jpg"), jpeg)
            bar.update(len(jpegs))


def _one_thread() -> None:
    # The processes already share the cores.
    cv2.setNumThreads(1)


def _render(content: SyntheticSet, task: tuple[int, range]) -> list[bytes]:
    labels, class_id = content.templates[task[0]]
    return [render.render(content.settings, labels, class_id, index) for index in task[1]]


def _member(name: str) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name, DATE)
    # Otherwise Windows writes another number here.
    member.create_system = 3
    return member
