"""Search for better settings, judged on validation photos: a sweep, described in a YAML file.

    signs sweep sweeps/signs.yaml                run it, or continue it
    signs sweep sweeps/signs.yaml --push         also send each experiment to the remotes
    signs sweep sweeps/signs.yaml --report       only write the report
    signs sweep sweeps/signs.yaml --promote      commit the winner if it passes the gate
    signs sweep sweeps/signs.yaml --promote 3    commit the settings of trial 3 instead

Ray Tune runs the trials, on this machine or on the cluster that RAY_ADDRESS names. Optuna chooses
their settings, ASHA ends poor ones early. Each trial is a DVC experiment NAME-NUMBER.
"""

import argparse
import os
import re
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, Literal

from filelock import FileLock, Timeout
from optuna import distributions
from pydantic import Field, field_validator, model_validator

from signs import params
from signs.commands import git
from signs.errors import UserError
from signs.params import ParamsError
from signs.scale import cluster

STATE = Path(".sweeps")
# Other values of these would judge trials on other photos, or would not change a training at all.
NOT_SEARCHED = (
    r"(dataset|preprocess\.(split|max_problems)|train\.(target_\w+|\w+\.validation_images)"
    r"|evaluate|gate|verify)(\.|$)"
)
# With that data set the validation photos are synthetic, too.
NOT_WITH_SYNTHETIC = r"synthesize\."


class Sweep(params.Block):
    """The content of a sweep file; sweeps/signs.yaml explains each key."""

    metric: list[
        Literal["validation_loss", "validation_accuracy", "minutes", "megabytes", "milliseconds"]
    ]
    trials: params.Count
    hours: params.Positive | None = None
    sampler: Literal["tpe", "random"] = "tpe"
    pruner: Literal["asha", "none"] = "asha"
    startup: Annotated[int, Field(ge=0)] = 5
    warmup: params.Count = 1
    folds: params.Count = 1
    seed: params.Seed = 1
    cores_per_trial: params.Count | None = None
    gpus_per_trial: Annotated[float, Field(ge=0)] = 0.0
    storage: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)
    space: Annotated[dict[str, Any], Field(min_length=1)]

    @field_validator("metric", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _fits(self) -> "Sweep":
        if not self.metric or not self.metric[0].startswith("validation"):
            raise ValueError("metric: the first must be validation_loss or validation_accuracy")
        if len(set(self.metric)) < len(self.metric):
            raise ValueError("metric: each may be named once")
        if len(self.metric) > 1 and self.pruner != "none":
            raise ValueError("pruner: must be none with several metrics, as ASHA compares one")
        if self.gpus_per_trial > 1 and self.gpus_per_trial % 1:
            raise ValueError("gpus_per_trial: above 1 it must be a whole number")
        return self


def load(path: Path) -> Sweep:
    """Read and validate a sweep file.

    Raises:
        ParamsError: a value cannot be used. The ends of each interval and all choices are
            validated as if they stood in params.yaml.
    """
    sweep = params.validate(Sweep, params.read(path), path)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", path.stem):
        raise ParamsError(
            f"{path}: experiments get its name, so only letters, digits, _ and - are allowed."
        )
    base = params.read()
    params.assign(base, sweep.settings)
    settings = params.validate(params.Params, base, f"{path}: settings")
    if sweep.folds > (folds := settings.preprocess.split.folds):
        raise ParamsError(f"{path}: folds = {sweep.folds}, but preprocess.split.folds is {folds}.")
    for key, entry in space(path, sweep).items():
        synthetic = settings.dataset == "synthetic" and re.match(NOT_WITH_SYNTHETIC, key)
        if re.match(NOT_SEARCHED, key) or synthetic:
            raise ParamsError(
                f"{path}: space.{key} cannot be searched, because its trials could not be "
                "compared. It may stand under settings, the same for all trials."
            )
        network = re.match(r"(?:train|preprocess\.images)\.(compact|classic)\.", key)
        if network and network[1] != settings.train.network and "train.network" not in sweep.space:
            raise ParamsError(
                f"{path}: space.{key} changes nothing, as train.network is "
                f"{settings.train.network!r}."
            )
        known = vars(entry)
        for value in known.get("choices") or (known["low"], known["high"]):
            content = deepcopy(base)
            params.assign(content, {key: value})
            params.validate(params.Params, content, f"{path}: space")
    return sweep


def space(path: Path, sweep: Sweep) -> dict[str, distributions.BaseDistribution]:
    """The search space for Optuna, by dotted key.

    Raises:
        ParamsError: an entry is neither a list of choices nor an interval.
    """
    found: dict[str, distributions.BaseDistribution] = {}
    for key, entry in sweep.space.items():
        try:
            if isinstance(entry, list) and entry:
                found[key] = distributions.CategoricalDistribution(entry)
            elif isinstance(entry["low"], int) and isinstance(entry["high"], int):
                found[key] = distributions.IntDistribution(**entry)
            else:
                found[key] = distributions.FloatDistribution(**entry)
        except (IndexError, KeyError, TypeError, ValueError) as error:
            why = f": {error}" if type(error) is ValueError else "."
            raise ParamsError(
                f"{path}: space.{key} = {entry!r}: must be a list of choices, or low and high, "
                f"with log and step if need be{why}"
            ) from error
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `signs sweep`."""
    add = parser.add_argument
    add("file", type=Path, help="what to search, such as sweeps/signs.yaml")
    add("--push", action="store_true", help="send experiments to the remotes (always on a cluster)")
    add("--report", action="store_true", help="only write the report")
    promote = "commit the winner, or this trial, if it passes the gate"
    add("--promote", type=int, nargs="?", const=-1, metavar="TRIAL", help=promote)


def run(arguments: argparse.Namespace) -> int:
    """Run a sweep, report on it or promote a trial; the exit status, 130 after Ctrl-C.

    Raises:
        UserError: the sweep cannot be run, or failed.
    """
    path: Path = arguments.file
    sweep = load(path)
    cluster.load()
    from signs.scale import tuning  # it needs Ray

    STATE.mkdir(exist_ok=True)
    try:
        with FileLock(STATE / f"{path.stem}.lock", timeout=0):
            study = tuning.Study(path.stem, sweep, space(path, sweep))
            if arguments.report:
                study.report()
                return 0
            # A line is a status and a name; the first one has lost a space at its start.
            lines = git("status", "--porcelain").splitlines()
            if changed := [line.split(maxsplit=1)[1] for line in lines]:
                shown = ", ".join(changed[:5]) + (", …" if len(changed) > 5 else "")
                raise UserError(f"Commit or remove {shown} first: trials run what is committed.")
            remote = arguments.push or "RAY_ADDRESS" in os.environ
            if arguments.promote is None:
                return study.run(remote)
            study.promote(arguments.promote, remote)
            return 0
    except Timeout as error:
        raise UserError(f"The sweep {path.stem} is running already.") from error
