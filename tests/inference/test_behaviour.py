"""What a trained classifier must do, whatever its figures: invariance, direction, least skill.

After M. T. Ribeiro et al., "Beyond Accuracy: Behavioral Testing of NLP Models with CheckList"
(ACL 2020). Tests the classifier that lies in models/, so `make` comes first.
"""

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from signs import params
from signs.data import images
from signs.inference import classifier
from signs.synthesis import render

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / classifier.FOLDER
SIDE = 64
# Signs that a mirror turns into each other: German class ids.
MIRRORED = [(19, 20), (33, 34), (36, 37), (38, 39)]
# A sign as a person with a good camera sees it; the stage draws far worse ones.
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

pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason="no classifier yet: run `make` first")


@pytest.fixture(scope="module")
def model() -> classifier.Classifier:
    found = classifier.Classifier(FOLDER)
    provenance, expected = found.metadata.provenance, params.load(ROOT / "params.yaml")
    used = provenance["params"]
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
def photos() -> tuple[list[images.Image], npt.NDArray[np.int64]]:
    """Five clear photos of each German class, and the classes."""
    settings = params.load(ROOT / "params.yaml").synthesize
    clear = params.Synthesize.model_validate(settings.model_dump() | CLEAR)
    classes = np.repeat(list(render.templates_of("gtsrb")), 5)
    drawn = [
        images.decode(render.render(clear, "gtsrb", int(class_id), 10**6 + number))
        for number, class_id in enumerate(classes)
    ]
    return drawn, classes


def answers(model: classifier.Classifier, photos: list[images.Image]) -> npt.NDArray[np.int64]:
    """Class ids."""
    found = model.probabilities(model.prepare(photos)).argmax(axis=1)
    return np.array(model.metadata.class_ids)[found]


def unknown(model: classifier.Classifier, photos: list[images.Image]) -> float:
    """Share that is "unknown"."""
    return float((~model.accepted(model.logits(model.prepare(photos)))).mean())


def test_clear_signs_are_read(model, photos) -> None:
    drawn, classes = photos
    assert (answers(model, drawn) == classes).mean() >= 0.98


@pytest.mark.parametrize(("across", "down"), [(1, 0), (-1, 0), (0, 1), (0, -1)])
def test_a_shift_by_a_pixel_changes_nothing(model, photos, across: int, down: int) -> None:
    drawn, _ = photos
    matrix = np.array([[1, 0, across], [0, 1, down]], float)
    moved = [cv2.warpAffine(p, matrix, (SIDE, SIDE), borderMode=1) for p in drawn]
    assert (answers(model, moved) == answers(model, drawn)).mean() >= 0.98


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_a_tenth_more_or_less_light_changes_nothing(model, photos, factor: float) -> None:
    drawn, _ = photos
    other = [cv2.convertScaleAbs(photo, alpha=factor) for photo in drawn]
    assert (answers(model, other) == answers(model, drawn)).mean() >= 0.99


@pytest.mark.parametrize("pair", MIRRORED)
def test_a_mirror_turns_right_into_left(model, photos, pair: tuple[int, int]) -> None:
    drawn, classes = photos
    for shown, seen in (pair, pair[::-1]):
        mirrored = [
            np.ascontiguousarray(photo[:, ::-1])
            for photo, class_id in zip(drawn, classes, strict=True)
            if class_id == shown
        ]
        assert (answers(model, mirrored) == seen).mean() >= 0.8


def test_blank_images_are_unknown(model) -> None:
    greys = [np.full((SIDE, SIDE, 3), grey, np.uint8) for grey in range(0, 256, 15)]
    rng = np.random.default_rng(1)
    colours = [np.full((SIDE, SIDE, 3), c, np.uint8) for c in rng.integers(0, 256, (30, 3))]
    assert unknown(model, greys + colours) >= 0.9


def test_noise_is_unknown(model) -> None:
    rng = np.random.default_rng(2)
    shape = (SIDE, SIDE, 3)
    fine = [rng.integers(0, 256, shape, np.uint8) for _ in range(30)]
    coarse = [cv2.resize(n[:8, :8], (SIDE, SIDE), interpolation=cv2.INTER_CUBIC) for n in fine]
    assert unknown(model, fine) >= 0.9
    assert unknown(model, coarse) >= 0.9


def test_scenes_without_a_sign_are_unknown(model) -> None:
    settings = params.load(ROOT / "params.yaml").synthesize
    scenes = [
        images.decode(render.render(settings, "gtsrb", render.NO_SIGN, 10**6 + i))
        for i in range(100)
    ]
    assert unknown(model, scenes) >= 0.8
