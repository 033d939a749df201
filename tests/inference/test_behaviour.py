"""What a trained classifier must do, whatever its metrics: invariance, direction, minimum skill.

After M. T. Ribeiro et al., "Beyond Accuracy: Behavioral Testing of NLP Models with CheckList"
(ACL 2020). Tests the classifier in models/, so `make` comes first.

The limits below were not set on these photos. They come from two trainings of params.yaml, with
train.seed 1 and 2, on photos with other random numbers: `SEED` 2 and 3. Each limit leaves one to
five points to the worse training, as another seed or another processor needs them.
"""

from collections.abc import Callable
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
SEED = 1
SIDE = 48  # pixels; the network sees 32, so half size and double size lose and add some
PHOTOS = 500  # of each kind that shows no sign
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
Photo = images.Image
Photos = list[Photo]


def moved(across: int = 0, down: int = 0, turn: float = 0) -> Callable[[Photo], Photo]:
    """Shifts a photo by pixels and turns it by degrees; its edge goes on outside."""
    middle = (SIDE - 1) / 2
    matrix = cv2.getRotationMatrix2D((middle, middle), turn, 1)
    matrix[:, 2] += across, down
    return lambda p: cv2.warpAffine(p, matrix, (SIDE, SIDE), borderMode=cv2.BORDER_REPLICATE)


def bright(factor: float) -> Callable[[Photo], Photo]:
    return lambda p: cv2.convertScaleAbs(p, alpha=factor)


def resized(side: int) -> Callable[[Photo], Photo]:
    return lambda p: cv2.resize(p, (side, side), interpolation=cv2.INTER_AREA)


def grey(photo: Photo) -> Photo:
    return cv2.cvtColor(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def compressed(photo: Photo) -> Photo:
    content = cv2.imencode(".jpg", photo, [cv2.IMWRITE_JPEG_QUALITY, 50])[1]
    return cv2.imdecode(content, cv2.IMREAD_COLOR)


# What changes nothing, and the least share of photos whose prediction stays.
HARMLESS = {
    "a pixel to the right": (moved(across=1), 0.98),
    "a pixel to the left": (moved(across=-1), 0.98),
    "a pixel down": (moved(down=1), 0.98),
    "a pixel up": (moved(down=-1), 0.98),
    "turned left by 5 degrees": (moved(turn=5), 0.98),
    "turned right by 5 degrees": (moved(turn=-5), 0.98),
    "a tenth darker": (bright(0.9), 0.98),
    "a tenth brighter": (bright(1.1), 0.98),
    "JPEG of quality 50": (compressed, 0.98),
    "half size": (resized(SIDE // 2), 0.98),
    "double size": (resized(2 * SIDE), 0.98),
    "without colour": (grey, 0.96),
}
# What makes a sign unusable, and the largest share of photos that are accepted as another sign.
# Measured on one training with train.seed 1: 1.6, 3.5, 6.3, 20.0 and 18.1 %. The recipe before
# scaled images less in training, and accepted 4.0, 5.1, 7.2, 18.4 and 14.7 %.
# Upside down, signs 12, 15, 17, 32 and 40 look as before. None looks like another sign.
RUINED = {
    "upside down": (lambda p: p[::-1, ::-1], 0.15),
    "left half": (lambda p: p[:, : SIDE // 2], 0.08),
    "right half": (lambda p: p[:, SIDE // 2 :], 0.09),
    "upper half": (lambda p: p[: SIDE // 2], 0.22),
    "lower half": (lambda p: p[SIDE // 2 :], 0.22),
}


def color(rng: np.random.Generator) -> tuple[int, ...]:
    return tuple(map(int, rng.integers(0, 256, 3)))


def plain(rng: np.random.Generator) -> Photo:
    return np.full((SIDE, SIDE, 3), color(rng), np.uint8)


def noise(rng: np.random.Generator) -> Photo:
    return rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)


def coarse_noise(rng: np.random.Generator) -> Photo:
    return cv2.resize(noise(rng)[:8, :8], (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)


def text(rng: np.random.Generator) -> Photo:
    word = str(rng.choice(["OPEN", "Bakery", "Taxi", "Hello", "No. 7", "for sale", "ABC"]))
    x, y, font = (int(rng.integers(*limits)) for limits in ((0, 8), (18, 40), (0, 5)))
    return cv2.putText(plain(rng), word, (x, y), font, rng.uniform(0.4, 0.8), color(rng), 2)


def face(rng: np.random.Generator, cat: bool = False) -> Photo:
    photo, skin, ink = plain(rng), color(rng), color(rng)
    x, y, radius = (int(rng.integers(*limits)) for limits in ((20, 29), (20, 29), (12, 18)))
    cv2.circle(photo, (x, y), radius, skin, -1)
    for way in (-1, 1):
        cv2.circle(photo, (x + way * radius // 2, y - radius // 4), radius // 5, ink, -1)
        if cat:
            ear = [(1, -0.3), (1, -1.5), (0.2, -0.9)]
            corners = [(x + way * across * radius, y + down * radius) for across, down in ear]
            cv2.fillPoly(photo, [np.array(corners, int)], skin)
            for end in (-2, 2):  # of a whisker
                start = x + way * radius // 3, y + radius // 3
                cv2.line(photo, start, (x + way * (radius + 5), start[1] + end), ink)
    return cv2.ellipse(photo, (x, y + radius // 5), (radius // 2, radius // 3), 0, 20, 160, ink)


def cat(rng: np.random.Generator) -> Photo:
    return face(rng, cat=True)


# What shows no sign, and the least share of photos that are "unknown".
NO_SIGNS = {plain: 0.87, noise: 0.95, coarse_noise: 0.95, text: 0.91, face: 0.78, cat: 0.92}

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
    """The class id of each clear photo: ten of each German class."""
    return np.repeat(list(templates_of("gtsrb")), 10)


def rendered(class_ids: npt.NDArray[np.int64], **changes: object) -> Photos:
    """Photos that the synthesize stage did not render, with some settings changed."""
    used = params.load(ROOT / "params.yaml").synthesize.model_dump()
    settings = params.Synthesize.model_validate(used | changes)
    numbered = enumerate(class_ids, SEED * 10**6)
    return [images.decode(render.render(settings, "gtsrb", int(c), n)) for n, c in numbered]


@pytest.fixture(scope="module")
def photos(classes: npt.NDArray[np.int64]) -> Photos:
    return rendered(classes, **CLEAR)


def predict(
    model: Classifier, photos: Photos
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Class ids, and whether they are accepted."""
    logits = model.logits(model.prepare([np.ascontiguousarray(photo) for photo in photos]))
    return np.array(model.metadata.class_ids)[logits.argmax(axis=1)], model.accepted(logits)


@pytest.fixture(scope="module")
def predicted(model: Classifier, photos: Photos) -> npt.NDArray[np.int64]:
    return predict(model, photos)[0]


def test_clear_signs_are_recognised(predicted, classes) -> None:
    assert (predicted == classes).mean() >= 0.98


@pytest.mark.parametrize(("change", "floor"), HARMLESS.values(), ids=HARMLESS)
def test_a_harmless_change_changes_nothing(model, photos, predicted, change, floor: float) -> None:
    changed = predict(model, [change(photo) for photo in photos])[0]
    assert (changed == predicted).mean() >= floor


@pytest.mark.parametrize("pair", MIRRORED)
def test_a_mirrored_sign_is_the_opposite_sign(model, photos, classes, pair) -> None:
    for shown, opposite in (pair, pair[::-1]):
        mirrored = [photos[row][:, ::-1] for row in np.flatnonzero(classes == shown)]
        assert (predict(model, mirrored)[0] != opposite).sum() <= 1  # of ten; measured: none


@pytest.mark.parametrize(("change", "ceiling"), RUINED.values(), ids=RUINED)
def test_a_ruined_sign_is_no_other_sign(model, photos, classes, change, ceiling: float) -> None:
    found, accepted = predict(model, [change(photo) for photo in photos])
    assert (accepted & (found != classes)).mean() <= ceiling


def test_two_signs_side_by_side_are_no_third_sign(model, photos, classes) -> None:
    other = np.random.default_rng(SEED).permutation(len(photos))
    pairs = [np.hstack([photo, photos[row]]) for photo, row in zip(photos, other, strict=True)]
    found, accepted = predict(model, pairs)
    assert (accepted & (found != classes) & (found != classes[other])).mean() <= 0.04


@pytest.mark.parametrize(("draw", "floor"), NO_SIGNS.items(), ids=[d.__name__ for d in NO_SIGNS])
def test_what_is_no_sign_is_unknown(model, draw, floor: float) -> None:
    rng = np.random.default_rng(SEED)
    assert (~predict(model, [draw(rng) for _ in range(PHOTOS)])[1]).mean() >= floor


def test_scenes_without_a_sign_are_unknown(model) -> None:
    scenes = rendered(np.full(PHOTOS, render.NO_SIGN))
    assert (~predict(model, scenes)[1]).mean() >= 0.92
