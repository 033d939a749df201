"""Archives of synthetic photos: the data set, out-of-distribution signs, auxiliary outliers."""

import zipfile
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import pandas as pd

from signs import progress
from signs.data import layouts
from signs.files import replaced
from signs.parallel import ordered_map
from signs.params import Synthesize
from signs.synthesis import render, svg

# Images of one task: enough that handing tasks out costs nothing, few enough for the bar to move.
CHUNK = 100
FAMILY = 8  # classes


class SyntheticSet(NamedTuple):
    """What an archive shows, by class id in the archive, and how to render it."""

    settings: Synthesize
    templates: dict[int, tuple[str, int]]  # label set, class id there
    names: dict[int, str]


def plan(settings: Synthesize, labels: str) -> dict[str, SyntheticSet]:
    """The sets to render for a label set: folder under data/ → what its archive shows.

    `synthetic` shows the classes of the label set. The classes of the other label sets are
    divided between `auxiliary_outliers` (beside photos of no sign at all and of signs upside down),
    to train with, and `ood`, to evaluate with, in turns of `FAMILY`: label sets list similar signs
    one after the other, and a sign is not out of distribution if a similar one was an outlier in
    training.
    """
    names = _names(labels)
    known = {name.casefold() for name in names.values()}
    foreign = [
        ((other, class_id), name)
        for other in svg.other_label_sets(labels)
        for class_id, name in _names(other).items()
        if name.casefold() not in known
    ]
    outliers = [entry for place, entry in enumerate(foreign) if place // FAMILY % 2 == 0]
    ood = [entry for place, entry in enumerate(foreign) if place // FAMILY % 2]
    outliers.insert(0, ((labels, render.NO_SIGN), "No sign"))
    turned = range(render.UPSIDE_DOWN, render.UPSIDE_DOWN + FAMILY)
    outliers += [((labels, class_id), "Sign upside down") for class_id in turned]
    own = {class_id: (labels, class_id) for class_id in svg.templates_of(labels)}
    sets = {"synthetic": SyntheticSet(settings, own, names)}
    for folder, entries, count in (
        ("auxiliary_outliers", outliers, settings.auxiliary_outliers_per_class),
        ("ood", ood, settings.ood_per_class),
    ):
        # Another seed: with the same one, they would be training photos with another sign.
        changes = {"images_per_class": count, "seed": settings.seed + 2**31}
        templates = {place: template for place, (template, _) in enumerate(entries)}
        names = {place: name for place, (_, name) in enumerate(entries)}
        sets[folder] = SyntheticSet(settings.model_copy(update=changes), templates, names)
    return sets


def _names(labels: str) -> dict[int, str]:
    return layouts.read_labels(layouts.LABELS / f"{labels}.csv")


def write(folder: Path, content: SyntheticSet) -> None:
    """Write images.zip, with CLASS_ID/INDEX.jpg, and labels.csv, which belong together."""
    labels = folder / "labels.csv"
    labels.unlink(missing_ok=True)
    write_archive(folder / "images.zip", content)
    table = pd.DataFrame(content.names.items(), columns=["ClassId", "Name"])
    with replaced(labels) as path:
        table.to_csv(path, index=False, lineterminator="\n")


def write_archive(target: Path, content: SyntheticSet, workers: int | None = None) -> None:
    """Write all photos into one zip file: DVC's cost is per file, not per byte."""
    count = content.settings.images_per_class
    tasks = [
        (class_id, range(start, min(start + CHUNK, count)))
        for class_id in content.templates
        for start in range(0, count, CHUNK)
    ]
    work = partial(_render, content)
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        replaced(target) as path,
        zipfile.ZipFile(path, "w") as archive,
        progress.bar(count * len(content.templates), "synthesize", " images") as bar,
    ):
        photos = ordered_map(work, tasks, cv2.setNumThreads, (1,), workers)
        for (class_id, indices), jpegs in zip(tasks, photos, strict=True):
            for index, jpeg in zip(indices, jpegs, strict=True):
                # The date (that of ZipInfo) and the system are fixed: a zip file holds them, and
                # its bytes, and DVC's hash, must be the same each time.
                member = zipfile.ZipInfo(f"{class_id}/{index:05d}.jpg")
                member.create_system = 3
                archive.writestr(member, jpeg)
            bar.update(len(jpegs))


def _render(content: SyntheticSet, task: tuple[int, range]) -> list[bytes]:
    labels, class_id = content.templates[task[0]]
    return [render.render(content.settings, labels, class_id, index) for index in task[1]]
