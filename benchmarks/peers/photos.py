"""The photos of one split of GTSRB, as files that any trainer reads.

training/train/00014/000123.png   class folders, named so that text order is the order of ids
training/val/00014/000456.png
judged/photos/000456.png          validation and test
judged/photos.csv                 filename,label,split,track
judged/labels.csv                 ClassId,Name
names.txt                         the class names in the order of the outputs

Each photo is one sign, cut out as `preprocess` does, in the photo's own pixels.
"""

from pathlib import Path

import cv2
import pandas as pd

from signs import progress
from signs.data import arrays, images, layouts, splits
from signs.files import write_text
from signs.paths import DATA

TRAINING, JUDGED, NAMES = "training", "judged", "names.txt"
FOLDERS = {splits.TRAIN: "train", splits.VALIDATION: "val"}


def write(prepared: arrays.Prepared, folder: Path) -> None:
    """Write the photos and tables of a split."""
    reader, rows = layouts.Reader(DATA / prepared.dataset), []
    samples = prepared.samples[prepared.samples["split"] != splits.UNUSED]
    table = zip(samples.to_dict("records"), layouts.regions(samples), strict=True)
    (folder / JUDGED / "photos").mkdir(parents=True)
    with progress.bar(len(samples), "photos", " photos") as bar:
        for number, (sample, region) in enumerate(table):
            photo = images.decode(reader.read(sample["file"]))
            sign = images.crop(photo, region, prepared.settings.margin)
            png = cv2.imencode(".png", sign[..., ::-1])[1].tobytes()
            name, split, label = f"{number:06d}.png", sample["split"], sample["class_id"]
            if split in FOLDERS:
                place = folder / TRAINING / FOLDERS[split] / f"{label:05d}"
                place.mkdir(parents=True, exist_ok=True)
                (place / name).write_bytes(png)
            if split != splits.TRAIN:
                (folder / JUDGED / "photos" / name).write_bytes(png)
                rows.append((name, label, split, sample["group"]))
            bar.update()
    columns = ["filename", "label", "split", "track"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / JUDGED / "photos.csv", index=False)
    prepared.labels.to_csv(folder / JUDGED / "labels.csv", index=False)
    # Last, so that it stands for the rest.
    write_text(folder / NAMES, "\n".join(prepared.labels["Name"]) + "\n")
