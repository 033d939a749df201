"""How long one prediction takes."""

import statistics
import time

import numpy as np

from signs.inference.classifier import Classifier

CALLS = 200


def milliseconds(classifier: Classifier) -> float:
    """For one prepared image, as the median of many; load it with one thread to compare."""
    image = np.zeros((1, *classifier.input_shape), np.uint8)
    times = []
    for _ in range(CALLS):
        started = time.perf_counter()
        classifier.logits(image)
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times)
