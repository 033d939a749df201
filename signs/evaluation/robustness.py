"""Accuracy on corrupted photos."""

from pathlib import Path

import numpy as np
import pandas as pd

from signs import progress
from signs.data import images, layouts
from signs.evaluation import corruptions
from signs.inference.classifier import Classifier


def measure(
    model: Classifier, folder: Path, test: pd.DataFrame, count: int
) -> tuple[pd.DataFrame, str]:
    """Accuracy (0 to 1) in each kind and level of corruption, and the file that shows them best.

    At most `count` of the test photos (file, label, region) in the data set's folder are chosen at
    random, and each is corrupted in all ways.
    """
    if len(test) > count:
        chosen = np.random.default_rng(0).choice(len(test), count, replace=False)
        test = test.iloc[np.sort(chosen)]
    reader = layouts.Reader(folder)
    variants = [(kind, level) for kind in corruptions.KINDS for level in corruptions.LEVELS]
    correct = np.zeros((len(test), len(variants)), bool)
    contrast = np.zeros(len(test))
    rows = zip(test["file"], test["label"], layouts.regions(test), strict=True)
    with progress.bar(len(test), "corrupt", " photos") as bar:
        for row, (file, label, region) in enumerate(rows):
            photo = corruptions.shrink(images.decode(reader.read(file)))
            contrast[row] = photo.std() * photo.size  # best is large and rich in contrast
            corrupted = corruptions.all_variants(photo, row, region)
            inputs = model.prepare(corrupted, [region] * len(variants))
            correct[row] = model.logits(inputs).argmax(axis=1) == label
            bar.update()
    table = pd.DataFrame(variants, columns=["corruption", "level"])
    table = table.assign(photos=len(test), accuracy=correct.mean(axis=0))
    return table, str(test["file"].iloc[contrast.argmax()])
