"""params.yaml as typed, validated settings.

A key that is unknown, missing, of the wrong type or out of range raises `ParamsError`, which
names the key, the value found and what is allowed, for all problems at once.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from signs.errors import UserError
from signs.paths import PARAMS as PARAMS_FILE

Fraction = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Count = Annotated[int, Field(ge=1)]
# Of a folder, in any script; one that begins with a dot is hidden, with a dash it is an option.
FolderName = Annotated[str, Field(pattern=r"^[^\s./\\-][^/\\\x00-\x1f]*$")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class ParamsError(UserError):
    """params.yaml holds something that no stage can work with."""


class Block(BaseModel):
    """Base of all blocks: unknown keys and silent conversions are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


Model = TypeVar("Model", bound=Block)


class Range(Block):
    """An interval from which values are taken uniformly."""

    low: Annotated[float, Field(allow_inf_nan=False)]
    high: Annotated[float, Field(allow_inf_nan=False)]

    @model_validator(mode="after")
    def _ordered(self) -> "Range":
        if self.low > self.high:
            raise ValueError(f"low ({self.low}) must not exceed high ({self.high})")
        return self


def _within(lowest: float, highest: float) -> AfterValidator:
    """The limits that a `Range` must keep."""

    def check(found: Range) -> Range:
        if found.low < lowest or found.high > highest:
            raise ValueError(f"{found.low} to {found.high} must lie within {lowest} to {highest}")
        return found

    return AfterValidator(check)


class Synthesize(Block):
    """Settings of the synthesize stage; see params.yaml for units and reasons."""

    seed: Seed
    images_per_class: Count
    ood_per_class: Count
    auxiliary_outliers_per_class: Count
    size: Annotated[Range, _within(8, 256)]
    margin: Annotated[Range, _within(0, 0.4)]
    shift: Annotated[float, Field(ge=0, le=0.5)]
    aspect: Annotated[float, Field(ge=0, le=0.5)]
    rotation: Annotated[float, Field(ge=0, le=45)]
    perspective: Annotated[float, Field(ge=0, le=0.5)]
    bend: Annotated[float, Field(ge=0, le=0.2)]
    hue: Annotated[float, Field(ge=0, le=60)]
    saturation: Annotated[Range, _within(0, 3)]
    brightness: Annotated[Range, _within(1, 1000)]
    haze: Fraction
    shade: Fraction
    fade: Fraction
    wear: Fraction
    occlusion: Fraction
    aliasing: Fraction
    blur: Annotated[Range, _within(0, 0.2)]
    noise: Annotated[Range, _within(0, 1)]
    mosaic: Fraction
    quality: Annotated[Range, _within(1, 100)]


class ImageSettings(Block):
    """How a decoded photo becomes the array that a network sees."""

    size: Annotated[int, Field(ge=8, le=512)]
    color: Literal["rgb", "grey"]
    contrast: Literal["none", "equalize", "clahe"]
    margin: Annotated[float, Field(ge=0, le=0.5)]

    @property
    def channels(self) -> int:
        """3 for colour, 1 for grey."""
        return 3 if self.color == "rgb" else 1

    @property
    def shape(self) -> tuple[int, int, int]:
        """(size, size, channels) of a prepared image."""
        return self.size, self.size, self.channels


class Split(Block):
    """Which images train, validate and test."""

    group: Literal["duplicates", "none"]
    similarity: Annotated[float, Field(gt=0, le=1)]
    validation: Annotated[float, Field(gt=0, lt=1)]
    folds: Annotated[int, Field(ge=3)]
    fold: Annotated[int, Field(ge=0)]
    seed: Seed

    @model_validator(mode="after")
    def _has_the_fold_and_leaves_training_data(self) -> "Split":
        if self.fold >= self.folds:
            raise ValueError(f"fold ({self.fold}) must stay below folds ({self.folds})")
        if self.validation + 1 / self.folds >= 1:
            raise ValueError(
                f"validation ({self.validation}) and one of {self.folds} folds "
                "must stay below 1 together, the rest is what training gets"
            )
        return self


class PreprocessImages(Block):
    """Image settings, one block for each network."""

    compact: ImageSettings
    classic: ImageSettings

    @model_validator(mode="after")
    def _leaves_pixels_to_classic(self) -> "PreprocessImages":
        # Its convolutions do not pad; nothing would be left after the last pooling.
        if self.classic.size < 20:
            raise ValueError(f"classic.size ({self.classic.size}) must be at least 20")
        return self


class Preprocess(Block):
    """Settings of the preprocess stage."""

    images: PreprocessImages
    max_problems: Fraction
    split: Split


class Augment(Block):
    """Random changes of training images, none of which changes a sign's meaning."""

    rotation: Annotated[float, Field(ge=0, le=45)]
    scale: Annotated[float, Field(ge=0, lt=1)]
    shift: Annotated[float, Field(ge=0, le=0.5)]
    shear: Annotated[float, Field(ge=0, le=0.5)]
    contrast: Annotated[float, Field(ge=0, lt=1)]
    brightness: Annotated[float, Field(ge=0, le=1)]
    exposure: Annotated[float, Field(ge=0, le=5)]
    gamma: Annotated[float, Field(ge=0, le=3)]
    tint: Annotated[float, Field(ge=0, le=0.5)]
    shade: Fraction
    noise: Fraction
    blur: Fraction
    motion: Fraction
    coarse: Fraction
    sharpen: Fraction
    erase: Fraction

    @model_validator(mode="after")
    def _resamples_once(self) -> "Augment":
        if self.blur + self.motion + self.coarse + self.sharpen > 1:
            raise ValueError("blur, motion, coarse and sharpen must not exceed 1 together")
        return self


class Recipe(Block):
    """How one network is built and trained."""

    width: Annotated[int, Field(ge=4, le=128)]
    epochs: Count
    steps_per_epoch: Count
    batch_size: Count
    learning_rate: Annotated[float, Field(gt=0, le=1)]
    schedule: Literal["cosine", "constant"]
    warmup: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: Annotated[float, Field(ge=0, lt=1)]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    balance: Fraction
    synthetic_share: Fraction
    auxiliary_outlier_share: Fraction
    validation_images: Count
    augment: Augment


class Train(Block):
    """Settings of the train stage: the chosen network and a recipe for each."""

    network: Literal["compact", "classic"]
    start: FolderName
    seed: Seed
    devices: Count
    target_precision: Annotated[float, Field(gt=0, lt=1)]
    target_coverage: Annotated[float, Field(gt=0, lt=1)]
    max_int8_loss: Annotated[float, Field(ge=-1, le=1)]
    compact: Recipe
    classic: Recipe

    @model_validator(mode="after")
    def _shares_batches(self) -> "Train":
        if self.recipe.batch_size % self.devices:
            raise ValueError(
                f"devices ({self.devices}) must divide "
                f"{self.network}.batch_size ({self.recipe.batch_size})"
            )
        return self

    @property
    def recipe(self) -> Recipe:
        """The recipe of the chosen network."""
        return {"compact": self.compact, "classic": self.classic}[self.network]

    def chosen(self) -> dict[str, Any]:
        """All settings but the recipes of other networks."""
        return self.model_dump(exclude={"compact", "classic"} - {self.network})


class Evaluate(Block):
    """Settings of the evaluate stage."""

    batch_size: Count
    max_onnx_difference: Positive
    mistakes_shown: Count
    corruption_photos: Annotated[int, Field(ge=0)]
    external_set: FolderName
    external_photos: Annotated[int, Field(ge=0)]
    external_tracks: Literal["all", "odd", "even"]
    ensemble: list[Annotated[str, Field(pattern=r"^[^-].*$")]]
    tta_shift: Annotated[int, Field(ge=0, le=8)]


class Gate(Block):
    """Limits of the gate before a deployment."""

    significance: Annotated[float, Field(gt=0, lt=1)]
    max_recall_drop: Fraction
    min_class_photos: Count
    max_ece: Fraction
    min_accepted_precision: Fraction
    max_accepted_drop: Fraction
    max_ood_rejection_drop: Fraction
    max_ood_fpr95_rise: Fraction
    max_corrupted_drop: Fraction
    max_latency_ratio: Annotated[float, Field(ge=1)]
    max_p99_ratio: Annotated[float, Field(ge=1)]
    max_model_mb: Positive


class Verify(Block):
    """What counts as reproduced."""

    tolerance: Fraction
    ood_tolerance: Fraction

    def allowed(self, metric: str) -> float:
        """How much a metric may differ on another kind of processor."""
        return self.ood_tolerance if metric.startswith("ood_") else self.tolerance


class Params(Block):
    """The whole of params.yaml."""

    dataset: FolderName
    synthesize: Synthesize
    preprocess: Preprocess
    train: Train
    evaluate: Evaluate
    gate: Gate
    verify: Verify

    @model_validator(mode="after")
    def _evaluates_other_photos(self) -> "Params":
        external = self.evaluate.external_set if self.evaluate.external_photos else None
        if external == self.dataset:
            raise ValueError(
                f"evaluate.external_set and dataset are both {self.dataset!r}; "
                "name another set or set evaluate.external_photos to 0"
            )
        share = self.train.recipe.synthetic_share
        if external == "synthetic" and share:
            raise ValueError(
                "evaluate.external_set is 'synthetic', but synthetic photos are in training "
                f"(train.{self.train.network}.synthetic_share is {share:g}); name another set"
            )
        return self

    @property
    def images(self) -> ImageSettings:
        """The image settings of the chosen network."""
        settings: ImageSettings = getattr(self.preprocess.images, self.train.network)
        return settings


def load(path: Path = PARAMS_FILE) -> Params:
    """The validated settings of a params file."""
    return validate(Params, read(path), path)


def read(path: Path = PARAMS_FILE) -> dict[str, Any]:
    """What a YAML file holds, values not yet validated; `ParamsError` if it is no mapping."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ParamsError(f"{path} is missing; run from the root of the repository.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ParamsError(f"{path} must hold a mapping of keys to values.")
    return content


def assign(content: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Set dotted keys, such as train.seed, in place; blocks that are missing are made."""
    for key, value in values.items():
        *blocks, last = key.split(".")
        block = content
        for name in blocks:
            if not isinstance(block.get(name), dict):
                block[name] = {}
            block = block[name]
        block[last] = value


def validate(model: type[Model], content: object, place: object) -> Model:
    """The content of a file, or of a part of it, as settings; errors name `place`."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        problems = "\n".join(f"  {_describe(problem, model)}" for problem in error.errors())
        raise ParamsError(f"{place} holds values that cannot be used:\n{problems}") from error


def _describe(problem: Any, model: type[Block]) -> str:
    """One line: dotted key, value found, what is allowed."""
    kind, location, value, allowed = (problem[name] for name in ("type", "loc", "input", "msg"))
    key = ".".join(str(part) for part in location)
    if kind == "extra_forbidden":
        block: Any = model
        for part in location[:-1]:
            block = block.model_fields[part].annotation
        return f"{key}: unknown key; allowed here: {', '.join(block.model_fields)}"
    if kind == "missing":
        return f"{key}: missing"
    if kind == "value_error":
        return f"{key}: {problem['ctx']['error']}".removeprefix(": ")
    if location[:2] == ("evaluate", "ensemble"):
        allowed = "a list of experiments or git revisions, as texts"
    elif kind == "string_pattern_mismatch":
        allowed = "a folder name without slashes; it begins with no dot, dash or space"
    elif kind == "float_type" and isinstance(value, str):
        allowed += " (in YAML, 1e-3 is a text; write 0.001 or 1.0e-3)"
    return f"{key} = {value!r}: {allowed}"
