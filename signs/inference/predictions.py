"""Predictions for photos, in the form that the HTTP API, the command line and their logs share."""

from collections.abc import Sequence
from itertools import repeat
from typing import Any

import numpy as np

from signs.data import images
from signs.inference.classifier import Classifier, Inputs

TOP = 5

Prediction = dict[str, Any]


def predict(classifier: Classifier, prepared: Inputs) -> list[Prediction]:
    """Prepared images, uint8 (N, size, size, channels) → N predictions, ready for JSON.

    Each holds `prediction` (class id of the most probable class), `name`, `confidence`
    (calibrated, 0 to 1), `known` (False: the classifier does not accept it, read it as "unknown"),
    `top` (the most probable classes, in descending order) and `model` (the classifier's version).
    """
    metadata = classifier.metadata
    probabilities, accepted = classifier.classify(classifier.logits(prepared))
    ids, names = metadata.class_ids, metadata.names
    classes = range(len(ids))
    result = []
    for row, known in zip(probabilities.tolist(), accepted.tolist(), strict=True):
        # For one photo, this takes half the time of sorting, picking and rounding with NumPy.
        most_probable = sorted(classes, key=row.__getitem__, reverse=True)[:TOP]
        top = [
            {"prediction": ids[i], "name": names[i], "confidence": round(row[i], 6)}
            for i in most_probable
        ]
        result.append({**top[0], "known": known, "top": top, "model": metadata.version})
    return result


def predict_photos(
    classifier: Classifier, photos: Sequence[bytes], boxes: Sequence[images.Box | None] = ()
) -> list[Prediction]:
    """The bytes of N photos → N predictions; `{"error": why}` for each photo that is unusable.

    The N boxes say where the sign is; None, or no boxes: the photo shows little else.
    """
    result: list[Prediction] = [{} for _ in photos]
    settings = classifier.metadata.images
    resized, positions = [], []
    for position, (photo, box) in enumerate(zip(photos, boxes or repeat(None), strict=False)):
        try:
            # One at a time: large photos would fill the memory if all were decoded at once.
            image = images.decode(photo)
            region = images.region_of(box, image)
            resized.append(images.crop_and_resize(image, settings, region))
            positions.append(position)
        except images.ImageError as error:
            result[position] = {"error": str(error)}
    if resized:
        prepared = images.equalize(np.stack(resized), settings)
        for position, prediction in zip(positions, predict(classifier, prepared), strict=True):
            result[position] = prediction
    return result
