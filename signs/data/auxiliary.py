"""Photos that only train: synthetic ones of the same classes, and auxiliary outliers.

Outlier exposure: D. Hendrycks et al., "Deep Anomaly Detection with Outlier Exposure" (ICLR 2019).
Both functions raise `DatasetError` if the photos are missing or damaged.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from signs.data import arrays, layouts, splits
from signs.data.decode import create_array, decode_all
from signs.params import ImageSettings, Params

SYNTHETIC, AUXILIARY_OUTLIERS = "synthetic", "auxiliary_outliers"


def add_synthetic(
    settings: Params, labels: pd.DataFrame, samples: pd.DataFrame, folder: Path
) -> dict[str, int]:
    """Write the synthetic photos of the data set's classes, matched by name.

    The folder gets synthetic_images.npy and synthetic_labels.npy, empty if none are wanted.
    A synthetic photo that the data set itself validates or tests with (somebody may have copied
    it there) is left out.

    Args:
        settings: all parameters.
        labels: one row a class: ClassId, Name.
        samples: the data set's images, with digest and split.
        folder: of the prepared files.

    Returns:
        The number of `photos`, and of the `classes` that they show.
    """
    path = folder / arrays.SYNTHETIC_IMAGES
    kept = np.empty(0, np.int64)
    if settings.dataset == SYNTHETIC or not settings.train.recipe.synthetic_share:
        create_array(path, (0, *settings.images.shape))
    else:
        synthetic = layouts.read(SYNTHETIC)
        names = labels["Name"].str.casefold()
        names = names[~names.duplicated(keep=False)]  # nobody can tell which of two is meant
        label_of = {name: label for label, name in names.items()}
        table = synthetic.table
        table["label"] = table["class_id"].map(synthetic.names).str.casefold().map(label_of)
        synthetic.table = table[table["label"].notna()]
        decoded = _decode(synthetic, settings.images, path)
        held_out = samples["digest"][samples["split"].isin([splits.VALIDATION, splits.TEST])]
        duplicate = decoded["digest"].isin(held_out).to_numpy()
        if duplicate.any():
            np.save(path, np.load(path)[~duplicate])
        kept = decoded["label"][~duplicate].to_numpy(np.int64)
    np.save(folder / arrays.SYNTHETIC_LABELS, kept)
    return {"photos": len(kept), "classes": len(np.unique(kept))}


def add_outliers(
    settings: Params, labels: pd.DataFrame, with_synthetic: bool, folder: Path
) -> list[str]:
    """Write auxiliary_outliers.npy, empty if none are wanted; returns what it shows, sorted.

    A data set without any synthetic photo of its classes gets none: outliers are synthetic, and
    would teach what "synthetic" looks like.
    """
    path = folder / arrays.AUXILIARY_OUTLIERS
    with_synthetic = with_synthetic or settings.dataset == SYNTHETIC
    if not (settings.train.recipe.auxiliary_outlier_share and with_synthetic):
        create_array(path, (0, *settings.images.shape))
        return []
    outliers = layouts.read(AUXILIARY_OUTLIERS)
    # One's own data set may hold a class that is another label set's.
    names = outliers.table["class_id"].map(outliers.names)
    foreign = ~names.str.casefold().isin(labels["Name"].str.casefold())
    outliers.table = outliers.table[foreign]
    _decode(outliers, settings.images, path)
    return sorted(names[foreign].unique())


def _decode(dataset: layouts.Dataset, settings: ImageSettings, path: Path) -> pd.DataFrame:
    decoded, _ = decode_all(dataset, settings, path)
    if dataset.problems:
        raise layouts.DatasetError(
            f"{dataset.folder} is damaged ({': '.join(dataset.problems[0])}). "
            "Run `dvc repro -f synthesize`."
        )
    return decoded
