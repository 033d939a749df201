"""Photos → arrays, leak-free splits and an audit of the data.

Run by `dvc repro preprocess`, or alone: python -m stages.preprocess
"""

import shutil

import pandas as pd

from signs import files, params
from signs.data import arrays, audit, auxiliary, layouts
from signs.data.decode import decode_all
from signs.errors import run_stage
from signs.paths import PREPARED, PREPROCESS_METRICS


def preprocess() -> None:
    """Decode the chosen data set, split it without leaks, write arrays and audit."""
    settings = params.load()
    split = settings.preprocess.split
    dataset = layouts.read(settings.dataset)
    print(dataset.summary())
    PREPROCESS_METRICS.mkdir(parents=True, exist_ok=True)
    # A killed run must not leave half an array where training looks for a whole one.
    staging = PREPARED.with_name("prepared.tmp")
    files.make_empty(staging)
    try:
        samples, thumbnails = decode_all(dataset, settings.images, staging / arrays.IMAGES)
        used = sorted(samples.loc[samples["digest"] != "", "class_id"].unique())
        labels = pd.DataFrame({"ClassId": used, "Name": [dataset.names[c] for c in used]})
        # -1 is a class without a usable image.
        samples["label"] = pd.Index(used).get_indexer(samples["class_id"])
        dataset.problems += audit.find_label_conflicts(samples)
        audit.assign_splits(samples, thumbnails, split)
        metrics = audit.compute(samples, thumbnails, split)
        synthetic = auxiliary.add_synthetic(settings, labels, samples, staging)
        metrics["synthetic"] = synthetic
        outlier_names = auxiliary.add_outliers(settings, labels, synthetic["photos"] > 0, staging)
        audit.write(PREPROCESS_METRICS, metrics, samples, labels, dataset)
        audit.refuse_bad_data(metrics, dataset.problems, settings.preprocess, PREPROCESS_METRICS)
        arrays.write_tables(staging, samples, labels)
        arrays.describe(staging, settings.dataset, settings.images, split, outlier_names)
        shutil.rmtree(PREPARED, ignore_errors=True)
        staging.rename(PREPARED)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    print(audit.summary(metrics))


if __name__ == "__main__":
    run_stage(preprocess)
