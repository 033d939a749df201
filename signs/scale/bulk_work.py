"""What a bulk job makes of photos: a table of predictions or of prepared arrays."""

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from signs import params
from signs.data import decode, images, sources
from signs.data.sources import Source
from signs.inference import classifier
from signs.operations.predict import predict_chunk


class Predict:
    """Names the sign on each photo, in the columns of `signs predict`."""

    _SCHEMA = pa.schema(
        {
            "file": pa.string(),
            "prediction": pa.int64(),
            "name": pa.string(),
            "confidence": pa.float64(),
            "known": pa.bool_(),
            "model": pa.string(),
            "error": pa.string(),
        }
    )

    def __init__(self, folder: Path) -> None:
        """Read a classifier into memory, because workers on other machines have no such folder.

        Raises:
            ClassifierError: a file is missing or truncated, or files contradict each other.
        """
        self._version = classifier.Classifier(folder, threads=1).metadata.version
        names = (classifier.MODEL, classifier.METADATA)
        self._content = tuple((name, (folder / name).read_bytes()) for name in names)

    def describe(self) -> dict[str, Any]:
        """What determines the results besides the photos."""
        return {"work": "predict", "classifier": self._version}

    def table(self, chunk: list[Source]) -> pa.Table:
        """One row for each photo; `error` says why a photo cannot be used."""
        return pa.Table.from_pylist(predict_chunk(_classifier(self._content), chunk), self._SCHEMA)


@functools.lru_cache(1)
def _classifier(content: tuple[tuple[str, bytes], ...]) -> classifier.Classifier:
    with tempfile.TemporaryDirectory() as folder:
        for name, part in content:
            (Path(folder) / name).write_bytes(part)
        return classifier.Classifier(Path(folder), threads=1)


class Preprocess:
    """Prepares each whole photo as the preprocess stage does.

    `image` has the bytes of uint8 (size, size, channels); it is null if there is an error. Photos
    with the same `digest` have the same pixels and must not be on two sides of a split.
    """

    def __init__(self, settings: params.ImageSettings) -> None:
        self._settings = settings
        self._schema = pa.schema(
            {
                "file": pa.string(),
                # Not a list: Parquet keeps each number of a list in 32 bits.
                "image": pa.binary(settings.size**2 * settings.channels),
                "height": pa.int32(),
                "width": pa.int32(),
                "digest": pa.string(),
                "error": pa.string(),
            }
        )

    def describe(self) -> dict[str, Any]:
        """What determines the results besides the photos."""
        return {"work": "preprocess", "images": self._settings.model_dump()}

    def table(self, chunk: list[Source]) -> pa.Table:
        """One row for each photo; `error` says why a photo cannot be used."""
        side = self._settings.size
        photos, errors = sources.read_all(chunk)
        resized = np.zeros((len(chunk), side, side, 3), np.uint8)
        rows: list[dict[str, Any]] = []
        for index, (source, photo) in enumerate(zip(chunk, photos, strict=True)):
            row: dict[str, Any] = {"file": source.name, "error": errors.get(index)}
            rows.append(row)
            if index in errors:
                continue
            try:
                image = images.decode(photo)
                resized[index] = images.crop_and_resize(image, self._settings)
            except images.ImageError as error:
                row["error"] = str(error)
                continue
            row["height"], row["width"] = image.shape[:2]
            row["digest"] = decode.digest(image)
        prepared = images.equalize(resized, self._settings)
        for row, array in zip(rows, prepared, strict=True):
            if row["error"] is None:
                row["image"] = array.tobytes()
        return pa.Table.from_pylist(rows, self._schema)


Work = Predict | Preprocess
