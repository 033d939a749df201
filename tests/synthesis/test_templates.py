"""Templates: one for each class of a label set, and no two look alike."""

import csv
import itertools

import numpy as np
import pytest

from signs.data import layouts
from signs.synthesis import svg


@pytest.fixture(scope="module")
def on_grey() -> dict[int, np.ndarray]:
    """Class id → the first template of a GTSRB class before grey, float (64, 64, 3)."""
    pictures = {}
    for class_id, paths in svg.templates_of("gtsrb").items():
        template = svg.rasterize(paths[0], 64)
        alpha = template[:, :, 3:] / 255
        pictures[class_id] = template[:, :, :3] * alpha + 128 * (1 - alpha)
    return pictures


@pytest.mark.parametrize("labels", ["gtsrb", "signs"])
def test_every_class_has_templates_with_its_name(labels):
    with (layouts.LABELS / f"{labels}.csv").open(encoding="utf-8", newline="") as file:
        names = {int(row["ClassId"]): row["Name"] for row in csv.DictReader(file)}
    templates = svg.templates_of(labels)
    assert list(templates) == list(names)
    for class_id, paths in templates.items():
        for path in paths:
            text = path.read_text(encoding="utf-8")
            assert f"<title>{names[class_id]}</title>" in text, path
            assert "<text" not in text, f"{path} looks different where its font is missing"
            svg.rasterize(path)


@pytest.mark.parametrize(
    ("dataset", "labels"),
    [("gtsrb", "gtsrb"), ("signs", "signs"), ("synthetic", "gtsrb"), ("own", "gtsrb")],
)
def test_the_data_set_decides_on_the_label_set(dataset, labels):
    assert svg.label_set(dataset) == labels


def test_templates_can_be_told_apart(on_grey):
    for one, other in itertools.combinations(on_grey, 2):
        different = (np.abs(on_grey[one] - on_grey[other]).max(axis=2) > 60).mean()
        assert different > 0.01, f"{one} and {other} look the same"


@pytest.mark.parametrize(("one", "other"), [(19, 20), (33, 34), (36, 37), (38, 39)])
def test_left_and_right_mirror_each_other(one, other, on_grey):
    assert np.abs(on_grey[one][:, ::-1] - on_grey[other]).mean() < 1
    assert np.abs(on_grey[one] - on_grey[other]).mean() > 5


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot be rasterized"),
        ("no template", "cannot be rasterized"),
        ('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"/>', "is empty"),
        ('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 5"/>', "must be square"),
    ],
)
def test_a_bad_template_is_named(content, problem, tmp_path):
    path = tmp_path / "07.svg"
    if content:
        path.write_text(content)
    with pytest.raises(svg.TemplateError, match=rf"07\.svg {problem}"):
        svg.rasterize(path)
