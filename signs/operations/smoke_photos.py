"""Photos with known answers for `make smoke` and `make deploy`, which know no data set.

    python -m signs.operations.smoke_photos

writes build/smoke: test photos, of as many classes as possible, that the classifier names right,
and predictions.json with its version and what it says of them: what whoever serves it must say, too.
"""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np

from signs.data import arrays, images, layouts, splits
from signs.errors import UserError, run_stage
from signs.inference import predictions
from signs.inference.classifier import FOLDER, Classifier

TARGET = Path("build/smoke")
PHOTOS = 20
# Tried for each class; one that is never named right has no photo here.
TRIED = 5


def smoke() -> None:
    """Choose the photos and write them.

    Raises:
        UserError: the classifier is of other data, or names no photo right.
    """
    classifier, data = Classifier(threads=1), arrays.load()
    if classifier.metadata.provenance["data"] != data.digest:
        raise UserError(f"{FOLDER} was trained on other data; run `dvc repro` first.")
    test = data.samples[data.samples["split"] == splits.TEST]
    classes = np.random.default_rng(0).permutation(sorted(test["label"].unique()))
    reader = layouts.Reader(layouts.DATA / data.dataset)
    shutil.rmtree(TARGET, ignore_errors=True)
    TARGET.mkdir(parents=True)
    expected: list[dict[str, object]] = []
    for label in classes.tolist():
        table = test[test["label"] == label].iloc[:TRIED]
        for file, region in zip(table["file"], layouts.regions(table), strict=True):
            photo = images.decode(reader.read(file))
            if region is not None:
                left, top, right, bottom = (round(edge) for edge in region)
                photo = photo[top:bottom, left:right]
            content = cv2.imencode(".png", photo[..., ::-1])[1].tobytes()
            (answer,) = predictions.predict_photos(classifier, [content])
            if answer["known"] and answer["prediction"] == data.labels["ClassId"][label]:
                name = f"{len(expected):02}.png"
                (TARGET / name).write_bytes(content)
                keys = ("prediction", "name", "confidence", "known")
                expected.append({"photo": name} | {key: answer[key] for key in keys})
                break
        if len(expected) == PHOTOS:
            break
    if not expected:
        raise UserError("The classifier names none of the tried test photos right.")
    text = json.dumps({"model": classifier.metadata.version, "photos": expected}, indent=2)
    (TARGET / "answers.json").write_text(text + "\n", encoding="utf-8")
    print(f"{len(expected)} photos with their answers are in {TARGET}.")


if __name__ == "__main__":
    run_stage(smoke)
