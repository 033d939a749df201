"""Draw photos of all classes of the chosen label set, from nothing but vector drawings.

    dvc repro synthesize        or        python -m stages.synthesize

Writes data/synthetic/images.zip with <class id>/<index>.jpg, labels.csv beside it, and
metrics/synthesize/contact_sheet.png, which shows a few photos of each class. In the same way
data/auxiliary_outliers, signs of the other label sets and no sign at all, from which a network learns its
limits, and data/ood, signs of other classes than those, to see whether it did.
"""

import csv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from signs import progress
from signs.data import layouts
from signs.data.images import Image, decode
from signs.errors import run_stage
from signs.parallel import ordered_map
from signs.params import Synthesize, load
from signs.synthesis import render

ARCHIVE = Path("data/synthetic/images.zip")
OOD = Path("data/ood/images.zip")
OUTLIERS = Path("data/auxiliary_outliers/images.zip")
CONTACT_SHEET = Path("metrics/synthesize/contact_sheet.png")
# Images for one task: enough that handing tasks out costs nothing, few enough for the bar to move.
CHUNK = 100
Classes = dict[int, tuple[str, int]]  # class id in the archive → label set, class id there

FAMILY = 8  # classes

# A zip file holds dates; a fixed one keeps its bytes, and DVC's hash, the same each time.
DATE = (1980, 1, 1, 0, 0, 0)

SHEET_COLUMNS = 4
SHEET_PHOTOS = 4
SHEET_SIDE = 48


def synthesize() -> None:
    """Render `images_per_class` photos of every class, on all cores."""
    settings = load()
    labels = render.label_set(settings.dataset)
    write_set(ARCHIVE, settings.synthesize, all_classes(labels), _names(labels))
    for archive, (drawn, classes, names) in others(settings.synthesize, labels).items():
        write_set(archive, drawn, classes, names)
    CONTACT_SHEET.parent.mkdir(parents=True, exist_ok=True)
    with replaced(CONTACT_SHEET) as path:
        path.write_bytes(contact_sheet(ARCHIVE, labels))
    print(f"{ARCHIVE}: {ARCHIVE.stat().st_size / 1e6:.1f} MB; a look at it: {CONTACT_SHEET}")


def all_classes(labels: str) -> Classes:
    """The classes of a label set that have drawings."""
    return {class_id: (labels, class_id) for class_id in render.templates_of(labels)}


def others(
    settings: Synthesize, labels: str
) -> dict[Path, tuple[Synthesize, Classes, dict[int, str]]]:
    """What is none of the classes: outliers to train with, and strangers to test with.

    The classes of the other label sets go to the two in turns of `FAMILY`: label sets list
    alike signs one after the other, and a stranger whose sibling trained is none.

    Returns:
        For the archives of outliers (with no sign at all) and of strangers: settings to draw
        them with, what to draw, and the names.
    """
    known = {name.casefold() for name in _names(labels).values()}
    strange = [
        ((other, class_id), name)
        for other in render.other_label_sets(labels)
        for class_id, name in _names(other).items()
        if name.casefold() not in known
    ]
    chosen = {OUTLIERS: [((labels, render.NO_SIGN), "No sign")], OOD: []}
    for place, drawing in enumerate(strange):
        chosen[OUTLIERS if place // FAMILY % 2 == 0 else OOD].append(drawing)
    counts = {OUTLIERS: settings.auxiliary_outliers_per_class, OOD: settings.ood_per_class}
    # Another seed: with the same one, they would be training photos with another sign.
    seed = settings.seed + 2**31
    return {
        archive: (
            settings.model_copy(update={"images_per_class": counts[archive], "seed": seed}),
            {place: drawing for place, (drawing, _) in enumerate(drawn)},
            {place: name for place, (_, name) in enumerate(drawn)},
        )
        for archive, drawn in chosen.items()
    }


def write_set(archive: Path, settings: Synthesize, classes: Classes, names: dict[int, str]) -> None:
    """Write an archive of photos and labels.csv beside it, which never belongs to another."""
    labels = archive.with_name("labels.csv")
    labels.unlink(missing_ok=True)
    write_archive(archive, settings, classes)
    with replaced(labels) as path, path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("ClassId", "Name"), *names.items()])


def _names(labels: str) -> dict[int, str]:
    with (layouts.LABELS / f"{labels}.csv").open(encoding="utf-8", newline="") as file:
        return {int(row["ClassId"]): row["Name"] for row in csv.DictReader(file)}


def write_archive(
    target: Path, settings: Synthesize, classes: Classes, workers: int | None = None
) -> None:
    """Write all photos into one zip file: DVC's cost is per file, not per byte."""
    count = settings.images_per_class
    tasks = [
        (class_id, range(start, min(start + CHUNK, count)))
        for class_id in classes
        for start in range(0, count, CHUNK)
    ]
    target.parent.mkdir(parents=True, exist_ok=True)
    total = count * len(classes)
    with (
        replaced(target) as path,
        zipfile.ZipFile(path, "w") as archive,
        progress.bar(total, "synthesize", " images") as bar,
    ):
        photos = ordered_map(
            partial(_render, settings, classes), tasks, initializer=_one_thread, workers=workers
        )
        for (class_id, indices), jpegs in zip(tasks, photos, strict=True):
            for index, jpeg in zip(indices, jpegs, strict=True):
                archive.writestr(_member(f"{class_id}/{index:05d}.jpg"), jpeg)
            bar.update(len(jpegs))


def _one_thread() -> None:
    # The processes already share out the cores.
    cv2.setNumThreads(1)


def _render(settings: Synthesize, classes: Classes, task: tuple[int, range]) -> list[bytes]:
    labels, class_id = classes[task[0]]
    return [render.render(settings, labels, class_id, index) for index in task[1]]


def _member(name: str) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name, DATE)
    # Otherwise Windows writes another number here.
    member.create_system = 3
    return member


@contextmanager
def replaced(target: Path) -> Iterator[Path]:
    """Give a temporary name beside `target`, and rename it to `target` if all went well."""
    path = target.with_name(target.name + ".part")
    try:
        yield path
        path.replace(target)
    finally:
        path.unlink(missing_ok=True)


def contact_sheet(archive_path: Path, labels: str) -> bytes:
    """The first photos of each class beside its drawing, with id and name, as a PNG file."""
    names = _names(labels)
    with zipfile.ZipFile(archive_path) as archive:
        members: dict[int, list[str]] = {}
        for member in archive.namelist():
            members.setdefault(int(member.split("/")[0]), []).append(member)
        cells = [
            _cell(
                f"{class_id}  {names.get(class_id, '')}",
                render.rasterize(render.templates_of(labels)[class_id][0], SHEET_SIDE),
                [archive.read(member) for member in found[:SHEET_PHOTOS]],
            )
            for class_id, found in members.items()
        ]
    blank = np.full_like(cells[0], 255)
    cells += [blank] * (-len(cells) % SHEET_COLUMNS)
    rows = [np.hstack(cells[i : i + SHEET_COLUMNS]) for i in range(0, len(cells), SHEET_COLUMNS)]
    # 32 levels a colour look the same and halve the file, which git keeps.
    sheet = np.vstack(rows) & 0b11111000
    return cv2.imencode(".png", sheet, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()


def _cell(title: str, drawing: Image, jpegs: list[bytes]) -> Image:
    alpha = drawing[:, :, 3:] / 255
    tiles: list[npt.NDArray[Any]] = [drawing[:, :, :3] * alpha + 255 * (1 - alpha)]
    for jpeg in jpegs:
        photo = decode(jpeg)[:, :, ::-1]  # OpenCV writes BGR
        tiles.append(cv2.resize(photo, (SHEET_SIDE, SHEET_SIDE), interpolation=cv2.INTER_CUBIC))
    gap, head = 4, 20
    cell = np.full(
        (head + SHEET_SIDE + gap, (SHEET_PHOTOS + 1) * (SHEET_SIDE + gap) + 3 * gap, 3),
        255,
        np.uint8,
    )
    for position, tile in enumerate(tiles):
        left = gap + position * (SHEET_SIDE + gap)
        cell[head : head + SHEET_SIDE, left : left + SHEET_SIDE] = tile
    cv2.putText(
        cell, title, (gap, head - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.36, (0, 0, 0), 1, cv2.LINE_AA
    )
    return cell


if __name__ == "__main__":
    run_stage(synthesize)
