"""The output of the preprocess stage: a few large files that training maps into memory."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from signs import files
from signs.data.images import REGION
from signs.errors import UserError
from signs.params import ImageSettings, Split
from signs.paths import PREPARED

COLUMNS = ["file", "class_id", "label", "group", "split", "height", "width", *REGION]
IMAGES, SAMPLES, LABELS, METADATA = "images.npy", "samples.csv", "labels.csv", "prepared.json"
SYNTHETIC_IMAGES, SYNTHETIC_LABELS = "synthetic_images.npy", "synthetic_labels.npy"
AUXILIARY_OUTLIERS = "auxiliary_outliers.npy"
FILES = (IMAGES, SAMPLES, LABELS, SYNTHETIC_IMAGES, SYNTHETIC_LABELS, AUXILIARY_OUTLIERS)


class PreparedError(UserError):
    """The prepared files are missing or not what preprocess wrote."""


@dataclass
class Prepared:
    """Images ready for a network, uint8 (…, size, size, channels), and what they are.

    `images` and, for training only, `synthetic_images` (of the same classes) and
    `auxiliary_outliers` (of other classes) are mapped from disk; the latter two may be empty.
    `samples` has one row an image: file, class_id, label (index of the class), group, split
    (train, validation, test or unused), height, width, and the sign's region left/top/right/bottom
    in shares of width and height (NaN: the whole image).
    """

    images: npt.NDArray[np.uint8]
    samples: pd.DataFrame
    labels: pd.DataFrame  # one row a class, in label order: ClassId, Name
    synthetic_images: npt.NDArray[np.uint8]
    synthetic_labels: npt.NDArray[np.int64]
    auxiliary_outliers: npt.NDArray[np.uint8]
    outlier_names: list[str]
    settings: ImageSettings  # how the images were made from the photos
    split: Split  # how they were divided
    dataset: str
    digest: str  # identifies the content of all of this

    def rows(self, split: str) -> npt.NDArray[np.int64]:
        """Row numbers of one split."""
        return np.flatnonzero(self.samples["split"].to_numpy() == split)

    def some_rows(self, split: str, most: int) -> npt.NDArray[np.int64]:
        """Row numbers of one split, of at most so many images: always the same ones."""
        rows = self.rows(split)
        if len(rows) > most:
            rows = np.sort(np.random.default_rng(0).choice(rows, most, replace=False))
        return rows


def write_tables(folder: Path, samples: pd.DataFrame, labels: pd.DataFrame) -> None:
    """Write samples.csv and labels.csv; columns as in `Prepared`."""
    samples[COLUMNS].to_csv(folder / SAMPLES, index=False)
    labels.to_csv(folder / LABELS, index=False)


def describe(
    folder: Path, dataset: str, settings: ImageSettings, split: Split, outlier_names: list[str]
) -> None:
    """Write prepared.json: settings, and the md5 of each file, which `load` checks."""
    metadata = {
        "dataset": dataset,
        "images": settings.model_dump(),
        "split": split.model_dump(),
        "auxiliary_outliers": outlier_names,
        "md5": {name: files.md5(folder / name) for name in FILES},
    }
    files.write_json(folder / METADATA, metadata)


def load(folder: Path = PREPARED) -> Prepared:
    """Open the prepared files; a missing or damaged one raises `PreparedError`.

    DVC checks out a damaged cache object without a word, so the check is ours.
    """
    try:
        metadata: dict[str, Any] = json.loads((folder / METADATA).read_text(encoding="utf-8"))
        for name, expected in metadata["md5"].items():
            if files.md5(folder / name) != expected:
                raise PreparedError(
                    f"{folder / name} is damaged: it is not what the preprocess stage wrote. "
                    "Delete it and its copy in the cache, .dvc/cache/files/md5/"
                    f"{expected[:2]}/{expected[2:]}, then run `dvc repro -f preprocess`."
                )
        return Prepared(
            images=np.load(folder / IMAGES, mmap_mode="r"),
            samples=pd.read_csv(
                folder / SAMPLES, keep_default_na=False, na_values={side: [""] for side in REGION}
            ),
            labels=pd.read_csv(folder / LABELS, keep_default_na=False, dtype={"Name": str}),
            synthetic_images=np.load(folder / SYNTHETIC_IMAGES, mmap_mode="r"),
            synthetic_labels=np.load(folder / SYNTHETIC_LABELS),
            auxiliary_outliers=np.load(folder / AUXILIARY_OUTLIERS, mmap_mode="r"),
            outlier_names=list(metadata["auxiliary_outliers"]),
            settings=ImageSettings.model_validate(metadata["images"]),
            split=Split.model_validate(metadata["split"]),
            dataset=metadata["dataset"],
            digest=files.md5(folder / METADATA),
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PreparedError(
            f"{folder} is incomplete ({error}). Run `dvc repro -f preprocess`."
        ) from error
