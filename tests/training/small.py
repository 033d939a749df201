"""Prepared images of a few pixels, and recipes of a few steps."""

from pathlib import Path

import numpy as np
import pandas as pd

from signs import params
from signs.data.arrays import Prepared

PARAMS = params.load(Path(__file__).parents[2] / "params.yaml")
REAL, SYNTHETIC, OUTLIER = 40, 200, 250  # grey levels that tell where an image comes from


def prepared(real: int = 90, synthetic: int = 60, outliers: int = 0) -> Prepared:
    """Classes 0, 1, 2 in turn; of ten photos, one is for validation and one for the test."""
    number = np.arange(real)
    samples = pd.DataFrame({"label": number % 3})
    samples["split"] = np.where(number % 10 == 9, "test", "train")
    samples.loc[number % 10 == 8, "split"] = "validation"
    return Prepared(
        images=np.full((real, 8, 8, 3), REAL, np.uint8),
        samples=samples,
        labels=pd.DataFrame({"ClassId": [0, 1, 2], "Name": ["a", "b", "c"]}),
        synthetic_images=np.full((synthetic, 8, 8, 3), SYNTHETIC, np.uint8),
        synthetic_labels=np.arange(synthetic) % 3,
        auxiliary_outliers=np.full((outliers, 8, 8, 3), OUTLIER, np.uint8),
        outlier_names=["No sign"],
        settings=PARAMS.images,
        split=PARAMS.preprocess.split,
        dataset="own",
        digest="",
    )


def recipe(synthetic: float = 0.0, outliers: float = 0.0, **changes: object) -> params.Recipe:
    """Ten steps of twenty images without augmentation; the shares are those of an epoch."""
    none = dict.fromkeys(params.Augment.model_fields, 0.0)
    changes = {"steps_per_epoch": 10, "batch_size": 20, "augment": none} | changes
    changes |= {"synthetic_share": synthetic, "auxiliary_outlier_share": outliers}
    return params.Recipe.model_validate(PARAMS.train.compact.model_dump() | changes)
