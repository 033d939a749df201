"""params.yaml: what is refused, and how it is said."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from signs.params import ParamsError, load

FILE = Path(__file__).parents[2] / "params.yaml"


@pytest.fixture
def content() -> dict[str, Any]:
    return copy.deepcopy(yaml.safe_load(FILE.read_text(encoding="utf-8")))


def change(content: dict[str, Any], key: str, value: object) -> None:
    *blocks, last = key.split(".")
    for block in blocks:
        content = content[block]
    content[last] = value


def refusal(content: object, folder: Path) -> str:
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(ParamsError) as caught:
        load(path)
    return str(caught.value)


def problem(content: object, folder: Path) -> str:
    """The only problem that is reported."""
    head, *problems = refusal(content, folder).splitlines()
    assert "params.yaml" in head
    assert len(problems) == 1, problems
    return problems[0].strip()


def test_the_committed_file_is_what_the_code_gets(content: dict[str, Any]) -> None:
    params = load(FILE)
    assert params.model_dump() == content
    assert params.images == getattr(params.preprocess.images, params.train.network)
    assert params.train.recipe == getattr(params.train, params.train.network)


@pytest.mark.parametrize("network", ["compact", "classic"])
def test_the_network_chooses_recipe_and_images(
    network: str, content: dict[str, Any], tmp_path: Path
) -> None:
    change(content, "train.network", network)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    params = load(tmp_path / "params.yaml")
    assert params.train.recipe.model_dump() == content["train"][network]
    assert params.images.model_dump() == content["preprocess"]["images"][network]
    assert params.images.channels == {"rgb": 3, "grey": 1}[params.images.color]


@pytest.mark.parametrize(
    ("key", "allowed"),
    [
        ("dataste", "dataset, synthesize, preprocess, train, evaluate"),
        ("train.epochs", "network, seed, devices, precision, accepted, compact, classic"),
        ("preprocess.split.shuffle", "group, similarity, validation, folds, fold, seed"),
        ("preprocess.images.large", "compact, classic"),
        ("preprocess.images.compact.side", "size, color, contrast, margin"),
        ("train.compact.augment.flip", "rotation, scale, shift, shear"),
        ("synthesize.size.middle", "low, high"),
    ],
)
def test_unknown_key(key: str, allowed: str, content: dict[str, Any], tmp_path: Path) -> None:
    change(content, key, 1)
    said = problem(content, tmp_path)
    assert said.startswith(f"{key}: unknown key; allowed here: ")
    assert allowed in said


@pytest.mark.parametrize("key", ["dataset", "train.seed", "train.compact.augment.blur", "evaluate"])
def test_missing_key(key: str, content: dict[str, Any], tmp_path: Path) -> None:
    *blocks, last = key.split(".")
    place = content
    for block in blocks:
        place = place[block]
    del place[last]
    assert problem(content, tmp_path) == f"{key}: missing"


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("train.seed", "1", "valid integer"),
        ("train.seed", -1, "greater than or equal to 0"),
        ("train.seed", 2**31, "less than 2147483648"),
        ("train.compact.epochs", -1, "greater than or equal to 1"),
        ("train.compact.epochs", 0, "greater than or equal to 1"),
        ("train.compact.epochs", 1.5, "valid integer"),
        ("train.compact.epochs", True, "valid integer"),
        ("train.compact.learning_rate", True, "valid number"),
        ("train.compact.learning_rate", "0.1", "valid number"),
        ("train.compact.learning_rate", 0, "greater than 0"),
        ("train.compact.learning_rate", float("nan"), "less than or equal to 1"),
        ("train.compact.schedule", "linear", "'cosine' or 'constant'"),
        ("train.network", "resnet", "'compact' or 'classic'"),
        ("train.target_precision", 1.0, "less than 1"),
        ("preprocess.split.group", "tracks", "'duplicates' or 'none'"),
        ("preprocess.split.similarity", 1.01, "less than or equal to 1"),
        ("preprocess.max_problems", 1.1, "less than or equal to 1"),
        ("preprocess.images.compact.size", 7, "greater than or equal to 8"),
        ("preprocess.images.compact.color", "gray", "'rgb' or 'grey'"),
        ("preprocess.split", 5, "dictionary"),
        ("train", None, "dictionary"),
        ("dataset", "../secrets", "folder name of letters"),
        ("dataset", "a/b", "folder name of letters"),
        ("synthesize.size", [16, 64], "dictionary"),
        ("synthesize.blur.low", float("nan"), "finite"),
        ("evaluate.max_onnx_difference", float("inf"), "finite"),
    ],
)
def test_bad_value(
    key: str, value: object, allowed: str, content: dict[str, Any], tmp_path: Path
) -> None:
    change(content, key, value)
    said = problem(content, tmp_path)
    assert said.startswith(f"{key} = {value!r}: ")
    assert allowed in said


def test_a_whole_number_is_good_for_a_fraction(content: dict[str, Any], tmp_path: Path) -> None:
    change(content, "train.compact.balance", 1)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    assert load(tmp_path / "params.yaml").train.compact.balance == 1.0


@pytest.mark.parametrize(("validation", "folds"), [(0.9, 10), (0.7, 3)])
def test_fractions_that_leave_nothing_for_training(
    validation: float, folds: int, content: dict[str, Any], tmp_path: Path
) -> None:
    content["preprocess"]["split"].update(validation=validation, folds=folds)
    said = problem(content, tmp_path)
    assert said.startswith("preprocess.split: ")
    assert f"validation ({validation}) and one of {folds} folds must stay below 1" in said


def test_a_set_is_not_its_own_stranger(content: dict[str, Any], tmp_path: Path) -> None:
    content["evaluate"]["elsewhere"] = content["dataset"]
    said = problem(content, tmp_path)
    assert said.startswith("evaluate.external_set and dataset are both 'synthetic'")


def test_drawn_photos_that_train_are_no_other_set(content: dict[str, Any], tmp_path: Path) -> None:
    content["dataset"] = "gtsrb"
    content["evaluate"]["elsewhere"] = "synthetic"
    said = problem(content, tmp_path)
    assert said.startswith("evaluate.external_set is 'synthetic', but drawn photos train")
    content["train"]["compact"]["drawn"] = 0.0
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    assert load(tmp_path / "params.yaml").evaluate.external_set == "synthetic"


def test_a_fold_that_does_not_exist(content: dict[str, Any], tmp_path: Path) -> None:
    content["preprocess"]["split"].update(folds=5, fold=5)
    said = problem(content, tmp_path)
    assert said.startswith("preprocess.split: fold (5) must stay below folds (5)")


def test_fractions_that_leave_something(content: dict[str, Any], tmp_path: Path) -> None:
    content["preprocess"]["split"].update(validation=0.5, folds=3)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    assert load(tmp_path / "params.yaml").preprocess.split.validation == 0.5


def test_ranges(content: dict[str, Any], tmp_path: Path) -> None:
    change(content, "synthesize.size", {"low": 40, "high": 20})
    assert problem(content, tmp_path) == ("synthesize.size: low (40.0) must not exceed high (20.0)")
    change(content, "synthesize.size", {"low": 4, "high": 20})
    assert problem(content, tmp_path) == ("synthesize.size: 4.0 to 20.0 must lie within 8 to 256")


def test_all_problems_at_once(content: dict[str, Any], tmp_path: Path) -> None:
    change(content, "train.compact.epochs", -3)
    change(content, "evaluate.mistakes_shown", "many")
    change(content, "prepare", {})
    del content["dataset"]
    lines = refusal(content, tmp_path).splitlines()[1:]
    assert {line.strip().split(":")[0].split(" =")[0] for line in lines} == {
        "train.compact.epochs",
        "evaluate.mistakes_shown",
        "prepare",
        "dataset",
    }


@pytest.mark.parametrize("content", [None, [], 5, "train"])
def test_not_a_mapping(content: object, tmp_path: Path) -> None:
    assert "must hold a mapping" in refusal(content, tmp_path)


@pytest.mark.parametrize(
    "content", [b"train: [1, 2", b"a: b: c", b"\tdataset: signs", b"dataset: \xe9\xff", b"\x00"]
)
def test_no_yaml(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(ParamsError, match="not valid YAML"):
        load(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"params\.yaml is missing; run from the root"):
        load(tmp_path / "params.yaml")
