"""What the HTTP API and the command line say of photos."""

from pathlib import Path

from signs.inference.predictions import predict_photos
from tests.inference.small import load, plain, png


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
