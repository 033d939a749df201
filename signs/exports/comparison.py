"""What an export keeps of the classifier that it was made of, and what it gains."""

import statistics
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from signs.evaluation import metrics
from signs.exports import formats
from signs.exports.formats import Runtime
from signs.inference.classifier import Classifier, Inputs, Logits, probabilities

BATCH = 64
BATCHES_TIMED = 1, 16
ROUNDS = 7
ROUND_SECONDS = 0.3


def compare(
    original: Classifier, exports: Mapping[str, Path], samples: pd.DataFrame, images: Inputs
) -> pd.DataFrame:
    """One row an export: by its format, the folder that `formats.export` wrote.

    The photos have a label and a group each, and a prepared image.

    Columns: accuracy, ece, accepted and accepted_precision as of `metrics.with_coverage`, with the
    original's temperature and thresholds; same_predictions (share of the photos) and
    max_difference (of a probability), both to the original; images_per_second_1 and _16: the
    median of rounds in which the runtimes take turns, in batches of 1 and 16, on one thread;
    megabytes of all files.
    """
    runtimes = {name: formats.load(name, folder) for name, folder in exports.items()}
    expected = _logits(original.logits, images)
    rows = {}
    for name, runtime in runtimes.items():
        logits = _logits(runtime, images)
        found = metrics.with_coverage(samples, logits, original)
        temperature = original.metadata.temperature
        change = probabilities(logits, temperature) - probabilities(expected, temperature)
        rows[name] = {
            **{key: found[key] for key in ("accuracy", "ece", "accepted", "accepted_precision")},
            "same_predictions": (logits.argmax(axis=1) == expected.argmax(axis=1)).mean(),
            "max_difference": np.abs(change).max(),
        }
    table = pd.DataFrame.from_dict(rows, orient="index")
    for batch in BATCHES_TIMED:
        table[f"images_per_second_{batch}"] = _rates(runtimes, images[:batch])
    sizes = {name: sum(_sizes(folder)) for name, folder in exports.items()}
    return table.assign(megabytes=pd.Series(sizes) / 1e6)


def _sizes(folder: Path) -> list[int]:
    return [file.stat().st_size for file in folder.iterdir()]


def _logits(runtime: Runtime, images: Inputs) -> Logits:
    parts = (images[start : start + BATCH] for start in range(0, len(images), BATCH))
    return np.concatenate([runtime(np.ascontiguousarray(part)) for part in parts])


def _rates(runtimes: Mapping[str, Runtime], batch: Inputs) -> dict[str, float]:
    rates: dict[str, list[float]] = {name: [] for name in runtimes}
    for _ in range(ROUNDS):
        for name, runtime in runtimes.items():
            runtime(batch)
            count, started = 0, time.perf_counter()
            while (seconds := time.perf_counter() - started) < ROUND_SECONDS:
                runtime(batch)
                count += len(batch)
            rates[name].append(count / seconds)
    return {name: statistics.median(found) for name, found in rates.items()}
