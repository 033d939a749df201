"""A small network that tells four colours apart, as the train stage writes one; and photos."""

from pathlib import Path
from typing import NamedTuple

import cv2
import keras
import numpy as np
import pytest

from signs.data.arrays import Prepared
from signs.training import export, networks
from tests.training.small import PARAMS, prepared

SIZE = 16
COLORS = np.array([[200, 40, 40], [40, 180, 60], [50, 60, 210], [200, 190, 60]])


class Trained(NamedTuple):
    """The folder of a project with a trained classifier, and the data that it was trained on."""

    folder: Path
    data: Prepared


def photos(labels: np.ndarray, seed: int) -> np.ndarray:
    """Noisy photos, uint8 (N, 16, 16, 3), of a disk in the colour of the label."""
    rng = np.random.default_rng(seed)
    images = rng.integers(60, 190, (len(labels), SIZE, SIZE, 3), np.uint8)
    for image, label in zip(images, labels, strict=True):
        centre = tuple(map(int, rng.integers(6, 10, 2)))
        color = tuple(map(float, COLORS[label] * rng.uniform(0.6, 1.2)))
        cv2.circle(image, centre, 5, color, -1)
    return images


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Trained for some seconds, and not moved into its folder with `chdir`."""
    folder = tmp_path_factory.mktemp("project")
    data = prepared(real=400)
    data.samples["label"] = labels = np.arange(400) % 4
    data.images = photos(labels, 1)
    data.labels.loc[3] = [3, "d"]
    data.settings = data.settings.model_copy(update={"size": SIZE})
    keras.utils.set_random_seed(1)
    model = networks.compact(SIZE, 3, 4, 8)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss)
    model.fit(data.images, labels, batch_size=40, epochs=12, verbose=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train = PARAMS.train.model_copy(update={"max_int8_loss": -1.0})
        export.write_classifier(model, data, train, "f1n6e7")
    return Trained(folder, data)
