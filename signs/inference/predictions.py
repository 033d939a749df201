"""What a classifier says of photos, as the HTTP API, the command line and their logs give it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from signs.data import images
from signs.inference.classifier import Classifier

TOP = 5

Answer = dict[str, Any]


def answers(classifier: Classifier, prepared: npt.NDArray[np.uint8]) -> list[Answer]:
    """Prepared images, uint8 (N, size, size, channels) → N answers, ready for JSON.

    Each holds `prediction` (class id), `name`, `confidence` (calibrated, 0 to 1), `known`
    (False: better taken for "unknown"), `top` (the most probable classes, likeliest first) and
    `model` (the classifier's version).
    """
    about = classifier.metadata
    confidences, all_known = classifier.classify(classifier.logits(prepared))
    classes = range(len(about.class_ids))
    result = []
    for row, known in zip(confidences.tolist(), all_known.tolist(), strict=True):
        # For one photo, half the time of sorting, picking and rounding with NumPy.
        likeliest = sorted(classes, key=row.__getitem__, reverse=True)[:TOP]
        top = [
            {
                "prediction": about.class_ids[i],
                "name": about.names[i],
                "confidence": round(row[i], 6),
            }
            for i in likeliest
        ]
        result.append({**top[0], "known": known, "top": top, "model": about.version})
    return result


def predict_photos(classifier: Classifier, photos: Sequence[bytes]) -> list[Answer]:
    """The bytes of N photos → N answers; `{"error": why}` for each that cannot be used."""
    result: list[Answer] = [{} for _ in photos]
    settings = classifier.metadata.images
    fitted, places = [], []
    for place, photo in enumerate(photos):
        try:
            # One at a time: decoded, large photos would fill the memory.
            fitted.append(images.crop_and_resize(images.decode(photo), settings))
            places.append(place)
        except images.ImageError as error:
            result[place] = {"error": str(error)}
    if fitted:
        prepared = images.equalize(np.stack(fitted), settings)
        for place, answer in zip(places, answers(classifier, prepared), strict=True):
            result[place] = answer
    return result
