"""params.yaml: which values are refused, and what the message says."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from signs import params
from signs.params import ParamsError

FILE = Path(__file__).parents[2] / "params.yaml"


@pytest.fixture
def content() -> dict[str, Any]:
    return params.read(FILE)


def load(content: object, folder: Path) -> params.Params:
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return params.load(path)


def problems(content: object, folder: Path) -> list[str]:
    """The problems that the error lists, one a line."""
    with pytest.raises(ParamsError, match=r"params\.yaml") as caught:
        load(content, folder)
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


def test_the_settings_are_what_the_committed_file_holds(content):
    assert params.load(FILE).model_dump() == content


@pytest.mark.parametrize("network", ["compact", "classic"])
def test_the_network_chooses_recipe_and_image_settings(network, content, tmp_path):
    params.assign(content, {"train.network": network})
    loaded = load(content, tmp_path)
    assert loaded.train.recipe.model_dump() == content["train"][network]
    assert loaded.images.model_dump() == content["preprocess"]["images"][network]
    assert loaded.images.shape == {"compact": (32, 32, 3), "classic": (100, 100, 1)}[network]


def test_assign_sets_dotted_keys_and_makes_blocks():
    content: dict[str, Any] = {"a": {"b": 1, "c": 2}, "d": 3}
    params.assign(content, {"a.b": 4, "d.e.f": 5, "g": 6})
    assert content == {"a": {"b": 4, "c": 2}, "d": {"e": {"f": 5}}, "g": 6}


@pytest.mark.parametrize(
    ("key", "allowed"),
    [
        ("dataste", "dataset, synthesize, preprocess, train, evaluate"),
        (
            "train.epochs",
            "network, start, seed, devices, target_precision, target_coverage, max_int8_loss",
        ),
        ("train.compact.augment.flip", "rotation, scale, shift, shear"),
        ("synthesize.size.middle", "low, high"),
    ],
)
def test_an_unknown_key_is_refused_with_the_allowed_ones(key, allowed, content, tmp_path):
    params.assign(content, {key: 1})
    (problem,) = problems(content, tmp_path)
    assert problem.startswith(f"{key}: unknown key; allowed here: {allowed}")


@pytest.mark.parametrize("key", ["dataset", "train.seed", "train.compact.augment.blur", "evaluate"])
def test_a_missing_key_is_named(key, content, tmp_path):
    *blocks, last = key.split(".")
    block = content
    for name in blocks:
        block = block[name]
    del block[last]
    assert problems(content, tmp_path) == [f"{key}: missing"]


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("train.seed", 2**31, "less than 2147483648"),
        ("train.compact.epochs", 0, "greater than or equal to 1"),
        ("train.compact.epochs", True, "valid integer"),
        ("train.compact.learning_rate", "1e-3", "in YAML, 1e-3 is a text"),
        ("train.compact.learning_rate", 0, "greater than 0"),
        ("train.compact.learning_rate", float("nan"), "less than or equal to 1"),
        ("train.compact.schedule", "linear", "'cosine' or 'constant'"),
        ("train.compact.width", 3, "greater than or equal to 4"),
        ("train.target_precision", 1.0, "less than 1"),
        ("preprocess.split.group", "tracks", "'duplicates' or 'none'"),
        ("preprocess.images.compact.size", 7, "greater than or equal to 8"),
        ("train", None, "dictionary"),
        ("dataset", "../secrets", "folder name without slashes"),
        ("dataset", "a/b", "folder name without slashes"),
        ("dataset", "-rf", "folder name without slashes"),
        ("dataset", " x", "folder name without slashes"),
        ("dataset", ".git", "folder name without slashes"),
        ("synthesize.size", [16, 64], "dictionary"),
        ("synthesize.blur.low", float("nan"), "finite"),
        ("evaluate.max_onnx_difference", float("inf"), "finite"),
        ("evaluate.ensemble", "main", "a list of experiments or git revisions"),
    ],
)
def test_a_bad_value_is_refused_with_what_is_allowed(key, value, allowed, content, tmp_path):
    params.assign(content, {key: value})
    (problem,) = problems(content, tmp_path)
    assert problem.startswith(f"{key} = {value!r}: ")
    assert allowed in problem


@pytest.mark.parametrize("name", ["my set", "Straße", "标志", "2024-05 (new)"])
def test_data_sets_may_be_called_as_people_call_folders(name, content, tmp_path):
    params.assign(content, {"dataset": name})
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(content))
    assert params.load(path).dataset == name


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            {"preprocess.split.validation": 0.7, "preprocess.split.folds": 3},
            "preprocess.split: validation (0.7) and one of 3 folds must stay below 1",
        ),
        (
            {"preprocess.split.folds": 5, "preprocess.split.fold": 5},
            "preprocess.split: fold (5) must stay below folds (5)",
        ),
        ({"preprocess.images.classic.size": 16}, "preprocess.images: classic.size (16) must be"),
        ({"train.devices": 3}, "train: devices (3) must divide compact.batch_size (128)"),
        (
            {"train.compact.augment.blur": 0.8, "train.compact.augment.coarse": 0.3},
            "train.compact.augment: blur, motion, coarse and sharpen must not exceed 1 together",
        ),
        (
            {"evaluate.external_set": "synthetic"},
            "evaluate.external_set and dataset are both 'synthetic'",
        ),
        (
            {"dataset": "gtsrb", "evaluate.external_set": "synthetic"},
            "evaluate.external_set is 'synthetic', but synthetic photos are in training",
        ),
        (
            {"synthesize.size": {"low": 40, "high": 20}},
            "synthesize.size: low (40.0) must not exceed high (20.0)",
        ),
        (
            {"synthesize.size": {"low": 4, "high": 20}},
            "synthesize.size: 4.0 to 20.0 must lie within 8 to 256",
        ),
    ],
)
def test_values_that_exclude_each_other_are_refused(values, expected, content, tmp_path):
    params.assign(content, values)
    (problem,) = problems(content, tmp_path)
    assert problem.startswith(expected)


@pytest.mark.parametrize(
    "values",
    [
        {"train.compact.balance": 1},  # a whole number where a fraction is expected
        {"preprocess.split.validation": 0.5, "preprocess.split.folds": 3},
        {
            "dataset": "gtsrb",
            "evaluate.external_set": "synthetic",
            "train.compact.synthetic_share": 0.0,
        },
        {"evaluate.external_set": "synthetic", "evaluate.external_photos": 0},
    ],
)
def test_unusual_but_good_values_are_accepted(values, content, tmp_path):
    params.assign(content, values)
    assert load(content, tmp_path).model_dump() == content


def test_all_problems_are_listed_at_once(content, tmp_path):
    changes = {"train.compact.epochs": -3, "evaluate.mistakes_shown": "many", "prepare": {}}
    params.assign(content, changes)
    del content["dataset"]
    found = {line.split(":")[0].split(" =")[0] for line in problems(content, tmp_path)}
    assert found == {*changes, "dataset"}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        *[(content, "must hold a mapping") for content in (b"", b"[]", b"5", b"train")],
        *[(content, "not valid YAML") for content in (b"train: [1, 2", b"a: b: c", b"\xe9", b"\0")],
        (None, r"is missing; run from the root"),
    ],
)
def test_a_file_without_settings_is_refused(content, problem, tmp_path):
    path = tmp_path / "params.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ParamsError, match=rf"params\.yaml.*{problem}"):
        params.load(path)
