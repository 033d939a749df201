"""What the HTTP API and the command line say of photos."""

from pathlib import Path

import numpy as np
import pytest

import signs
from signs.data.images import ImageError
from signs.inference.classifier import ClassifierError
from signs.inference.predictions import predict_photos
from tests.inference.small import load, plain, png, write


def test_classes_in_order_of_their_probability(tmp_path: Path) -> None:
    model = load(tmp_path)
    photo = png(plain((40, 200, 40), size=30)[0])
    (found,) = predict_photos(model, [photo])
    # Red and blue are equally probable: the data set's order decides.
    assert [entry["name"] for entry in found["top"]] == ["Green", "Red", "Blue", "Grey"]
    assert [entry["prediction"] for entry in found["top"]] == [14, 3, 20, 41]
    expected = sorted(model.probabilities(plain((40, 200, 40)))[0].tolist(), reverse=True)
    assert [entry["confidence"] for entry in found["top"]] == [round(p, 6) for p in expected]
    assert found["top"][0].items() <= found.items()
    assert found["known"] is True
    assert found["model"] == model.metadata.version


def test_an_unusable_photo_does_not_shift_the_others(tmp_path: Path) -> None:
    photos = [png(plain(color, size=30)[0]) for color in ((255, 0, 0), (9, 9, 9))]
    red, error, grey = predict_photos(load(tmp_path), [photos[0], b"no photo", photos[1]])
    assert (red["name"], red["known"]) == ("Red", True)
    assert list(error) == ["error"]
    assert (grey["name"], grey["known"]) == ("Grey", False)
    assert predict_photos(load(tmp_path), [b""]) == [{"error": "the file is empty"}]


def test_a_photo_is_a_path_or_bytes_or_pixels(tmp_path: Path) -> None:
    pixels = plain((40, 200, 40), size=30)[0]
    content, path = png(pixels), tmp_path / "photo.png"
    path.write_bytes(content)
    model = signs.Classifier(write(tmp_path / "classifier"))
    (expected,) = predict_photos(model, [content])
    photos = [str(path), path, content, pixels]
    assert [model.predict(photo) for photo in photos] == [expected] * 4
    assert model.predict(photos * 100) == [expected] * 400  # more than one batch
    assert model.predict([]) == []


def test_a_box_names_the_part_of_each_photo(tmp_path: Path) -> None:
    photo = np.concatenate([*plain((255, 0, 0), (0, 0, 255), size=30)], axis=1)
    model = load(tmp_path)
    assert model.predict(photo, box=(0, 0, 30, 30))["name"] == "Red"
    assert [p["name"] for p in model.predict([photo] * 2, box=(30, 0, 60, 30))] == ["Blue"] * 2


@pytest.mark.parametrize(
    ("photo", "why"),
    [
        (b"no photo", "not an image of a known format"),
        (Path("missing.png"), "missing.png cannot be read: No such file"),
        ("too_large.png", "more than 20 MB"),
        (np.zeros((30, 30, 3)), r"an array of float64 \(30, 30, 3\) is no photo: give RGB, uint8"),
        (np.zeros((30, 30), np.uint8), r"uint8 \(30, 30\) is no photo"),
        (np.zeros((30, 7, 3), np.uint8), "with at least 8 pixels a side"),
    ],
)
def test_an_unusable_photo_is_an_error_and_in_a_list_a_result(
    photo: str | Path | bytes | np.ndarray,
    why: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, usable = load(tmp_path / "classifier"), plain((255, 0, 0), size=30)[0]
    monkeypatch.chdir(tmp_path)
    with Path("too_large.png").open("wb") as file:
        file.truncate(20 * 2**20 + 1)
    with pytest.raises(ImageError, match=why) as raised:
        model.predict(photo)
    red, error = model.predict([usable, photo])
    assert red["name"] == "Red"
    assert error == {"error": str(raised.value)}


def test_a_released_classifier_is_known_by_its_name(tmp_path: Path) -> None:
    assert "Stop" in signs.Classifier("gtsrb").metadata.names
    names = r"\(gtsrb, signs, synthetic\)"
    with pytest.raises(ClassifierError, match=f"nosuch is neither a folder nor a .* {names}"):
        signs.Classifier("nosuch")
    with pytest.raises(ClassifierError, match=r"There is no classifier in .*gtsrb"):
        signs.Classifier(tmp_path / "gtsrb")
    assert signs.Classifier(str(write(tmp_path / "own"))).metadata.names[0] == "Red"


def test_the_package_has_no_other_names() -> None:
    with pytest.raises(AttributeError, match="module 'signs' has no attribute 'Clasifier'"):
        signs.Clasifier  # noqa: B018
