"""Occlusion maps: a classifier that looks at one corner is seen to look there."""

import keras
import numpy as np
import pytest

from signs.inference import classifier
from signs.inference.saliency import occlusion_map, overlay
from signs.params import ImageSettings
from signs.training import export

SIZE = 16
SETTINGS = ImageSettings(size=SIZE, color="rgb", contrast="none", margin=0.0)


@pytest.fixture(scope="module")
def corner(tmp_path_factory: pytest.TempPathFactory) -> classifier.Classifier:
    """Knows "Bright" and "Dark" by the upper left quarter alone."""
    inputs = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    scaled = keras.layers.Rescaling(1 / 255)(inputs)
    flat = keras.layers.Flatten()(scaled)
    network = keras.Model(inputs, keras.layers.Dense(2)(flat))
    weights = np.zeros((SIZE, SIZE, 3, 2), np.float32)
    weights[:8, :8, :, 0], weights[:8, :8, :, 1] = 0.01, -0.01
    network.layers[-1].set_weights([weights.reshape(-1, 2), np.array([-0.96, 0.96], np.float32)])
    network(np.zeros((1, SIZE, SIZE, 3), np.uint8))
    folder = tmp_path_factory.mktemp("corner")
    classifier.write(
        folder,
        model=export.to_onnx(network),
        class_ids=[0, 1],
        names=["Bright", "Dark"],
        settings=SETTINGS,
        temperature=1.0,
        threshold=0.5,
        energy_threshold=0.0,
        provenance={},
    )
    return classifier.Classifier(folder)


def photo() -> np.ndarray:
    image = np.full((SIZE, SIZE, 3), 60, np.uint8)
    image[:8, :8] = 255
    return image


def test_what_matters_is_where_the_network_looks(corner: classifier.Classifier) -> None:
    found = occlusion_map(corner, photo(), 0)
    assert found.shape == (SIZE, SIZE)
    assert found.dtype == np.float32
    assert found[:6, :6].min() > 0.02
    assert np.abs(found[10:, 10:]).max() < 1e-6


def test_hiding_it_speaks_for_the_other_class(corner: classifier.Classifier) -> None:
    assert occlusion_map(corner, photo(), 1)[:6, :6].max() < -0.02


def test_the_image_is_left_as_it_was(corner: classifier.Classifier) -> None:
    image = photo()
    occlusion_map(corner, image, 0)
    assert (image == photo()).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_overlay_is_red_where_it_matters(channels: int) -> None:
    importance = np.zeros((40, 40), np.float32)
    importance[5:15, 5:15] = 2
    importance[30:, 30:] = -5
    shown = overlay(np.full((40, 40, channels), 100, np.uint8), importance).astype(int)
    assert shown.shape == (40, 40, 3)
    assert shown[10, 10, 0] > shown[10, 10, 2] + 80
    assert tuple(shown[35, 35]) == (100, 100, 100)


def test_overlay_of_nothing_is_grey() -> None:
    shown = overlay(photo(), np.zeros((SIZE, SIZE), np.float32))
    assert (shown == photo()).all()
