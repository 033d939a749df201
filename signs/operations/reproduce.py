"""Check that the committed results come out again, in a clean clone.

    signs verify

Clones the commit, fetches the photos, runs all stages by force, and compares the outputs with
dvc.lock and the metrics of the commit. On the processor that made them, all outputs must be the
same bytes; on another kind, each metric must be within `verify.tolerance` of params.yaml. If not,
names the first stage that differs and exits with 1. Uncommitted changes do not count.
"""

import argparse
import json
import shutil
import tempfile
from math import nan
from pathlib import Path
from typing import Any

import yaml

from signs import machine, params, paths
from signs.commands import dvc, git
from signs.errors import UserError

Lock = dict[str, Any]
Metrics = dict[str, float]


def run(arguments: argparse.Namespace) -> int:
    """Run the pipeline in a clone and compare.

    Raises:
        UserError: the results are not reproduced.
    """
    settings = params.load()
    if git("status", "--porcelain", "--untracked-files=no"):
        print("Note: the commit is verified, without the changes that are not committed.")
    with tempfile.TemporaryDirectory(prefix="verify-") as name:
        clone = Path(name) / "clone"
        git("clone", "--quiet", str(Path.cwd()), str(clone))
        _fetch_photos(clone, {settings.dataset, settings.evaluate.external_set})
        before, metrics = _read(clone)
        made_on = json.loads((clone / paths.TIMING).read_bytes()).get("processor")
        # Not into the cache: to verify changes nothing.
        _dvc(clone, "repro", "--force", "--no-commit")
        after, metrics_now = _read(clone)
    same_machine = made_on == machine.processor()
    tolerance = 0.0 if same_machine else settings.verify.tolerance
    compare(before, after, metrics, metrics_now, tolerance)
    if same_machine:
        print("Reproduced, byte for byte.")
    else:
        print(
            f"Reproduced: each metric is within {tolerance:g} of what was made on {made_on}; this "
            f"is {machine.processor()}."
        )
    return 0


def compare(
    before: Lock, after: Lock, metrics: Metrics, metrics_now: Metrics, tolerance: float
) -> None:
    """Print what each stage made, and judge it.

    Args:
        before: the stages of the commit's dvc.lock.
        after: those of the present run.
        metrics: of the commit, by name.
        metrics_now: of the present run.
        tolerance: largest difference of a metric; with 0 all outputs must be the same, too.

    Raises:
        UserError: it is not reproduced; names the first stage that differs.
    """
    if stale := _stale(before, after):
        raise UserError(
            f"dvc.lock is not of this commit: {stale[0]} was run with another {stale[1]}. "
            "Run `dvc repro` and commit dvc.lock and metrics/."
        )
    differing = {name: outs for name in after if (outs := _changed_outs(before, after, name))}
    for name in after:
        print(f"{name:12} {', '.join(differing.get(name, [])) or 'the same'}")
    wrong = [
        f"{key}: {metrics.get(key)} committed, {metrics_now.get(key)} now"
        for key in sorted(metrics.keys() | metrics_now.keys())
        # Of a metric that is absent or not a number, no comparison holds.
        if not abs(metrics.get(key, nan) - metrics_now.get(key, nan)) <= tolerance
    ]
    if wrong or (tolerance == 0 and differing):
        raise UserError(
            f"Not reproduced; the first stage that differs is {next(iter(differing), 'none')}. "
            + ("; ".join(wrong) or "The metrics are the same.")
        )


def _fetch_photos(clone: Path, names: set[str]) -> None:
    """Photo sets that no stage makes, from the cache here or the DVC remote."""
    local = Path(".dvc/config.local")
    if local.exists():
        shutil.copy(local, clone / local)
    _dvc(clone, "cache", "dir", "--quiet", "--local", dvc("cache", "dir").strip())
    for file in sorted(clone.glob("?*.dvc")):
        outs = [Path(out["path"]) for out in yaml.safe_load(file.read_bytes())["outs"]]
        if {out.name for out in outs} & names:
            print(f"Fetching {file.name} ...", flush=True)
            _dvc(clone, "pull", "--quiet", file.name)


def _read(clone: Path) -> tuple[Lock, Metrics]:
    try:
        lock = yaml.safe_load((clone / "dvc.lock").read_bytes())["stages"]
        metrics = json.loads((clone / paths.HEADLINE).read_bytes())
    except FileNotFoundError as error:
        raise UserError(
            f"The commit has no {Path(error.filename).name}: run `dvc repro` and commit "
            "dvc.lock and metrics/."
        ) from error
    return lock, metrics


def _stale(before: Lock, after: Lock) -> tuple[str, str] | None:
    """The first stage that was run with other code or photos than the commit's, and which."""
    made = {out["path"] for stage in after.values() for out in stage["outs"]}
    for name, stage in after.items():
        known = _hashes(before, name, "deps")
        for entry in stage["deps"]:
            if entry["path"] not in made and known.get(entry["path"]) != entry["md5"]:
                return name, entry["path"]
    return None


def _changed_outs(before: Lock, after: Lock, name: str) -> list[str]:
    """The outputs of a stage that differ from the commit's; times always do."""
    known = _hashes(before, name, "outs")
    return [
        path
        for path, md5 in _hashes(after, name, "outs").items()
        if path != paths.TIMING.as_posix() and known.get(path) != md5
    ]


def _hashes(lock: Lock, stage: str, kind: str) -> dict[str, str]:
    return {entry["path"]: entry["md5"] for entry in lock.get(stage, {}).get(kind, [])}


def _dvc(clone: Path, *arguments: str) -> None:
    try:
        dvc(*arguments, at=clone, show=True)
    except UserError as error:
        raise UserError(f"`dvc {' '.join(arguments)}` failed in a clone of the commit.") from error
