"""Synthetic photos: they show their class, and each setting does what its name says."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from signs.data.images import decode
from signs.params import Range, Synthesize, load
from signs.synthesis import render, svg

PARAMS = load(Path(__file__).parents[2] / "params.yaml").synthesize
NO_ENTRY, END_OF_LIMIT = 17, 41  # red with a white bar; black and white


def only(value: float) -> Range:
    return Range(low=value, high=value)


# Without any disturbance.
CALM: Synthesize = PARAMS.model_copy(
    update={name: only(0) for name in ("margin", "blur", "noise")}
    | {"size": only(64), "quality": only(95), "saturation": only(1), "brightness": only(255)}
    | dict.fromkeys(("shift", "aspect", "rotation", "perspective", "bend", "hue", "haze"), 0.0)
    | dict.fromkeys(("shade", "fade", "wear", "occlusion", "aliasing", "mosaic"), 0.0)
)


# What photos (N, 64, 64, 3) of a sign have in common, or by how much they differ.


def middle(photos: np.ndarray) -> np.ndarray:
    return photos[:, 16:48, 16:48]


def red(photos: np.ndarray) -> np.ndarray:
    return photos[..., 0] - photos[..., 1:].max(axis=-1) > 90


def white(photos: np.ndarray) -> np.ndarray:
    return photos.min(axis=-1) > 180


def brightness(photos: np.ndarray) -> float:
    return middle(photos).mean()


def darkest(photos: np.ndarray) -> float:
    return np.quantile(middle(photos), 0.05)


def corners(photos: np.ndarray) -> float:
    """Brightness of the background."""
    return photos[:, [1, 1, -2, -2], [1, -2, 1, -2]].mean()


def chroma(photos: np.ndarray) -> float:
    return np.ptp(middle(photos), axis=-1).mean()


def tints(photos: np.ndarray) -> float:
    """How much the colours of the disc above the bar differ."""
    return np.std(photos[:, 12, 32, 1] - photos[:, 12, 32, 2])


def sharpness(photos: np.ndarray) -> float:
    return np.mean([cv2.Laplacian(photo, cv2.CV_64F) ** 2 for photo in middle(photos)])


def area(photos: np.ndarray) -> float:
    return red(photos).mean()


def places(photos: np.ndarray) -> float:
    return np.std([np.nonzero(mask)[1].mean() for mask in red(photos)])


def proportions(photos: np.ndarray) -> float:
    extents = [np.std(np.nonzero(mask), axis=1) for mask in red(photos)]
    return np.std([height / width for height, width in extents])


def angles(photos: np.ndarray) -> float:
    moments = [np.cov(np.nonzero(mask)) for mask in white(middle(photos))]
    return np.std([np.arctan2(2 * m[0, 1], m[1, 1] - m[0, 0]) / 2 for m in moments])


def asymmetry(photos: np.ndarray) -> float:
    """Share of pixels that are red only if the photo is upside down, or only if it is not."""
    return (red(photos) != red(photos)[:, ::-1, ::-1]).mean()


def hidden(photos: np.ndarray) -> float:
    """Share of the middle that is neither red nor white."""
    return 1 - middle(white(photos) | red(photos)).mean()


@pytest.mark.parametrize(
    ("setting", "value", "class_id", "measure", "rises"),
    [
        ("margin", only(0.3), NO_ENTRY, area, False),
        ("shift", 0.3, NO_ENTRY, places, True),
        ("aspect", 0.5, NO_ENTRY, proportions, True),
        ("rotation", 45.0, NO_ENTRY, angles, True),
        ("perspective", 0.5, NO_ENTRY, asymmetry, True),
        ("bend", 0.2, NO_ENTRY, asymmetry, True),
        ("hue", 60.0, NO_ENTRY, tints, True),
        ("saturation", only(0), NO_ENTRY, chroma, False),
        ("brightness", only(100), NO_ENTRY, brightness, False),
        ("brightness", only(600), NO_ENTRY, brightness, True),
        ("haze", 1.0, END_OF_LIMIT, darkest, True),
        ("shade", 1.0, NO_ENTRY, corners, False),
        ("fade", 1.0, NO_ENTRY, chroma, False),
        ("wear", 1.0, NO_ENTRY, brightness, False),
        ("occlusion", 1.0, NO_ENTRY, hidden, True),
        ("aliasing", 1.0, END_OF_LIMIT, sharpness, True),
        ("blur", only(0.05), NO_ENTRY, sharpness, False),
        ("noise", only(0.2), NO_ENTRY, sharpness, True),
        ("mosaic", 1.0, END_OF_LIMIT, chroma, True),
        ("quality", only(5), NO_ENTRY, sharpness, False),
    ],
)
def test_each_setting_does_what_its_name_says(setting, value, class_id, measure, rises):
    measured = []
    for settings in (CALM, CALM.model_copy(update={setting: value})):
        rendered = (render.render(settings, "gtsrb", class_id, index) for index in range(16))
        measured.append(measure(np.stack([decode(jpeg) for jpeg in rendered]).astype(float)))
    low, high = measured if rises else reversed(measured)
    assert high > 1.2 * low


def test_a_mosaic_leaves_plain_colours_and_fringes_fine_lines():
    plain = np.empty((9, 11, 3), np.uint8)
    plain[:] = 10, 100, 200
    assert (render._mosaic(plain) == plain).all()
    lines = np.zeros((12, 12, 3), np.uint8)
    lines[:, ::2] = 255  # black and white, without any colour
    seen = render._mosaic(lines)[3:-3, 3:-3].astype(int)
    assert np.ptp(seen, axis=2).max() > 100


def test_seed_class_and_index_each_change_the_photo():
    other_seed = PARAMS.model_copy(update={"seed": PARAMS.seed + 1})
    arguments = [(PARAMS, 1, 0), (PARAMS, 1, 1), (PARAMS, 2, 0), (other_seed, 1, 0)]
    rendered = [render.render(chosen, "gtsrb", *which) for chosen, *which in arguments * 2]
    assert len(set(rendered)) == 4
    assert rendered[:4] == rendered[4:]


@pytest.mark.parametrize("class_id", [14, render.NO_SIGN])
@pytest.mark.parametrize("extreme", [0, 1])
def test_extreme_settings_still_give_photos(class_id, extreme):
    limits = {
        "size": (8, 256),
        "margin": (0, 0.4),
        "blur": (0, 0.2),
        "brightness": (1, 1000),
        "saturation": (0, 3),
        "noise": (0, 1),
        "quality": (1, 100),
    }
    bold = PARAMS.model_copy(update={name: only(limits[name][extreme]) for name in limits})
    for index in range(10):
        assert decode(render.render(bold, "gtsrb", class_id, index)).shape[0] == bold.size.low


def test_photos_show_their_class():
    """Without disturbances a photo is a template of its class, upright and not mirrored."""
    inside = slice(12, 52), slice(12, 52)
    templates = {}
    for class_id, paths in svg.templates_of("gtsrb").items():
        for path in paths:
            tile = svg.pyramid(path)[1]
            on_grey = tile[..., :3] + 128 * (1 - tile[..., 3:])
            templates[class_id, path.stem] = cv2.cvtColor(on_grey, cv2.COLOR_BGR2GRAY)[inside]
    # All templates are compared with each photo, except empty rings: they correlate with nothing.
    templates = {key: grey for key, grey in templates.items() if grey.std() > 1}
    assert len(templates) > 80
    for class_id in {class_id for class_id, _ in templates}:
        photo = decode(render.render(CALM, "gtsrb", class_id, 0))
        seen = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)[inside].ravel()
        likeness = {key: np.corrcoef(seen, grey.ravel())[0, 1] for key, grey in templates.items()}
        assert max(likeness, key=lambda key: likeness[key])[0] == class_id


def test_signs_that_look_the_same_upside_down():
    asymmetric = {path.stem for path in svg.asymmetric_templates("gtsrb")}
    all_of_them = {path.stem for paths in svg.templates_of("gtsrb").values() for path in paths}
    # Priority road, no vehicles, no entry, and the end of all limits, each in its designs.
    assert all_of_them - asymmetric == {"12", "12b", "12c", "15", "15b", "17", "17b", "32", "32b"}


@pytest.mark.parametrize("name", ["01", "13", "14"])
def test_a_sign_upside_down_is_that_sign_turned(monkeypatch, name):
    template = svg.TEMPLATES / f"gtsrb/{name}.svg"
    monkeypatch.setattr(render, "asymmetric_templates", lambda labels: [template])
    monkeypatch.setattr(render, "templates_of", lambda labels: {int(name): [template]})
    turned = decode(render.render(CALM, "gtsrb", render.UPSIDE_DOWN, 0)).astype(float)
    upright = decode(render.render(CALM, "gtsrb", int(name), 0))
    pairs = (turned[::-1, ::-1], turned)
    likeness, before = (np.corrcoef(upright.ravel(), p.ravel())[0, 1] for p in pairs)
    assert likeness > before + 0.1
