"""Choose photos with known predictions for the smoke test of a running service.

    signs smoke-photos

Writes build/smoke: test photos, of as many classes as possible, that the classifier recognizes, and
predictions.json with the classifier's version and its predictions, which the service must repeat.
"""

import argparse
import shutil
from pathlib import Path

import cv2
import numpy as np

from signs import files, paths
from signs.data import arrays, images, layouts, splits
from signs.errors import UserError
from signs.inference import predictions
from signs.inference.classifier import Classifier

TARGET = Path("build/smoke")
PHOTOS = 20
# Tried for each class; a class of which none is recognized has no photo here.
TRIED = 5
KEYS = ("prediction", "name", "confidence", "known")


def run(arguments: argparse.Namespace) -> int:
    """Write them; `UserError` if the classifier is of other data or recognizes no photo."""
    classifier, data = Classifier(threads=1), arrays.load()
    if classifier.metadata.provenance["data"] != data.digest:
        raise UserError(f"{paths.CLASSIFIER} was trained on other data; run `dvc repro` first.")
    test = data.samples[data.samples["split"] == splits.TEST]
    reader = layouts.Reader(paths.DATA / data.dataset)
    shutil.rmtree(TARGET, ignore_errors=True)
    TARGET.mkdir(parents=True)
    chosen: list[dict[str, object]] = []
    for class_id in np.random.default_rng(0).permutation(sorted(test["class_id"].unique())):
        table = test[test["class_id"] == class_id].iloc[:TRIED]
        for file, region in zip(table["file"], layouts.regions(table), strict=True):
            photo = images.decode(reader.read(file))
            if region:  # the service gets the file alone, so it must hold nothing but the sign
                photo = images.crop_and_resize(photo, classifier.metadata.images, region)
            content = cv2.imencode(".png", photo[..., ::-1])[1].tobytes()
            (row,) = predictions.predict_photos(classifier, [content])
            if row["known"] and row["prediction"] == class_id:
                name = f"{len(chosen):02}.png"
                (TARGET / name).write_bytes(content)
                chosen.append({"photo": name} | {key: row[key] for key in KEYS})
                break
        if len(chosen) == PHOTOS:
            break
    if not chosen:
        raise UserError("The classifier recognizes none of the test photos that were tried.")
    document = {"model": classifier.metadata.version, "photos": chosen}
    files.write_json(TARGET / "predictions.json", document)
    print(f"{len(chosen)} photos with their predictions are in {TARGET}.")
    return 0
