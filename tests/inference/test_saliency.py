"""Occlusion maps: for a classifier that looks at one corner, that corner matters."""

from pathlib import Path

import numpy as np
import pytest

from signs.inference.classifier import Classifier
from signs.inference.heatmap import overlay
from signs.inference.saliency import occlusion_map
from signs.params import ImageSettings
from tests.inference.small import load, model

SIZE = 16
SETTINGS = ImageSettings(size=SIZE, color="rgb", contrast="none", margin=0.0)


@pytest.fixture
def corner(tmp_path: Path) -> Classifier:
    """Tells "Bright" from "Dark" by the upper left quarter alone."""
    weights = np.zeros((SIZE, SIZE, 3, 2))
    weights[:8, :8] = [0.01 / 255, -0.01 / 255]
    names = {"class_ids": [0, 1], "names": ["Bright", "Dark"]}
    return load(tmp_path, model(weights, (-0.96, 0.96)), images=SETTINGS, temperature=1.0, **names)


def photo() -> np.ndarray:
    image = np.full((SIZE, SIZE, 3), 60, np.uint8)
    image[:8, :8] = 255
    return image


def test_only_the_part_that_the_network_looks_at_matters(corner: Classifier) -> None:
    image = photo()
    found = occlusion_map(corner, image, 0)
    assert (found.shape, found.dtype) == ((SIZE, SIZE), np.float32)
    assert found[:6, :6].min() > 0.02
    assert np.abs(found[10:, 10:]).max() < 1e-6
    # Hidden, it makes the other class more probable.
    assert occlusion_map(corner, image, 1)[:6, :6].max() < -0.02
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


def test_overlay_shows_a_dark_image_bright() -> None:
    nothing = np.zeros((SIZE, SIZE), np.float32)
    stretched = np.where(photo() == 60, 0, 255)
    assert (overlay(photo(), nothing) == stretched).all()
    assert (overlay(photo() // 30, nothing) == stretched).all()
