"""What a trained classifier must do, whatever its metrics: invariance, direction, minimum skill.

After M. T. Ribeiro et al., "Beyond Accuracy: Behavioral Testing of NLP Models with CheckList"
(ACL 2020). Tests the classifier in models/, so `make` comes first.
"""

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from signs import params, paths
from signs.data import images
from signs.inference.classifier import Classifier
from signs.synthesis import render
from signs.synthesis.svg import templates_of

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / paths.CLASSIFIER
SIDE = 64
# German class ids of signs that are each other's mirror images.
MIRRORED = [(19, 20), (33, 34), (36, 37), (38, 39)]
# A sign as a person with a good camera sees it; the synthesize stage makes far worse photos.
CLEAR = {
    "size": {"low": SIDE, "high": SIDE},
    "rotation": 3,
    "perspective": 0.05,
    "hue": 5,
    "saturation": {"low": 0.8, "high": 1.1},
    "brightness": {"low": 120, "high": 230},
    "haze": 0.05,
    "shade": 0.1,
    "fade": 0.1,
    "wear": 0.1,
    "occlusion": 0.0,
    "blur": {"low": 0.0, "high": 0.005},
    "noise": {"low": 0.0, "high": 0.01},
    "quality": {"low": 90, "high": 95},
}
Photos = list[images.Image]

pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason="no classifier yet: run `make` first")


@pytest.fixture(scope="module")
def model() -> Classifier:
    found, expected = Classifier(FOLDER), params.load(ROOT / "params.yaml")
    provenance, used = found.metadata.provenance, found.metadata.provenance["params"]
    if (
        provenance["dataset"] != expected.dataset
        or used["network"] != expected.train.network
        or used["recipe"] != expected.train.recipe.model_dump()
    ):
        pytest.skip("the classifier in models/ is not the one of params.yaml: run `make`")
    if expected.dataset not in ("synthetic", "gtsrb"):
        pytest.skip("the classifier in models/ does not know the German signs")
    return found


@pytest.fixture(scope="module")
def classes() -> npt.NDArray[np.int64]:
    """The class id of each clear photo: five of each German class."""
    return np.repeat(list(templates_of("gtsrb")), 5)


@pytest.fixture(scope="module")
def photos(classes: npt.NDArray[np.int64]) -> Photos:
    settings = params.load(ROOT / "params.yaml").synthesize
    clear = params.Synthesize.model_validate(settings.model_dump() | CLEAR)
    return [
        images.decode(render.render(clear, "gtsrb", int(class_id), 10**6 + number))
        for number, class_id in enumerate(classes)
    ]


def predict(model: Classifier, photos: Photos) -> npt.NDArray[np.int64]:
    """Class ids."""
    labels = model.logits(model.prepare(photos)).argmax(axis=1)
    return np.array(model.metadata.class_ids)[labels]


def unknown(model: Classifier, photos: Photos) -> float:
    """Share of photos that are "unknown"."""
    return float((~model.accepted(model.logits(model.prepare(photos)))).mean())


def test_clear_signs_are_recognised(model, photos, classes) -> None:
    assert (predict(model, photos) == classes).mean() >= 0.98


@pytest.mark.parametrize(("across", "down"), [(1, 0), (-1, 0), (0, 1), (0, -1)])
def test_a_shift_by_a_pixel_changes_nothing(model, photos, across: int, down: int) -> None:
    matrix = np.array([[1, 0, across], [0, 1, down]], float)
    moved = [cv2.warpAffine(p, matrix, (SIDE, SIDE), borderMode=1) for p in photos]
    assert (predict(model, moved) == predict(model, photos)).mean() >= 0.98


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_a_tenth_more_or_less_light_changes_nothing(model, photos, factor: float) -> None:
    other = [cv2.convertScaleAbs(photo, alpha=factor) for photo in photos]
    assert (predict(model, other) == predict(model, photos)).mean() >= 0.99


@pytest.mark.parametrize("pair", MIRRORED)
def test_a_mirrored_sign_is_the_opposite_sign(model, photos, classes, pair) -> None:
    for shown, opposite in (pair, pair[::-1]):
        rows = np.flatnonzero(classes == shown)
        mirrored = [np.ascontiguousarray(photos[row][:, ::-1]) for row in rows]
        assert (predict(model, mirrored) == opposite).mean() >= 0.8


def test_blank_images_are_unknown(model) -> None:
    rng = np.random.default_rng(1)
    colors = [*range(0, 256, 15), *rng.integers(0, 256, (30, 3))]
    assert unknown(model, [np.full((SIDE, SIDE, 3), c, np.uint8) for c in colors]) >= 0.9


def test_noise_is_unknown(model) -> None:
    fine = [*np.random.default_rng(2).integers(0, 256, (30, SIDE, SIDE, 3), np.uint8)]
    coarse = [cv2.resize(n[:8, :8], (SIDE, SIDE), interpolation=cv2.INTER_CUBIC) for n in fine]
    assert unknown(model, fine) >= 0.9
    assert unknown(model, coarse) >= 0.9


def test_scenes_without_a_sign_are_unknown(model) -> None:
    settings = params.load(ROOT / "params.yaml").synthesize
    numbers = range(10**6, 10**6 + 100)
    scenes = [render.render(settings, "gtsrb", render.NO_SIGN, number) for number in numbers]
    assert unknown(model, [images.decode(scene) for scene in scenes]) >= 0.8
