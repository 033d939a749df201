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
    """Run the pipeline in a clone and compare; `UserError` if the results are not reproduced."""
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
        dvc("repro", "--force", "--no-commit", at=clone, show=True)
        after, metrics_now = _read(clone)
    here, tolerance = machine.processor(), settings.verify.tolerance
    compare(before, after, metrics, metrics_now, 0.0 if made_on == here else tolerance)
    if made_on == here:
        print("Reproduced, byte for byte.")
    else:
        made_on = f"what was made on {made_on}; this is {here}"
        print(f"Reproduced: each metric is within {tolerance:g} of {made_on}.")
    return 0


def compare(
    before: Lock, after: Lock, metrics: Metrics, metrics_now: Metrics, tolerance: float
) -> None:
    """Print what each stage made, and judge it.

    Compares the stages of the commit's dvc.lock, and its metrics by name, with those of the present
    run. With a tolerance of 0, all outputs must be the same, too. `UserError` names the first stage
    that differs.
    """
    outs, outs_now = _hashes(before, "outs"), _hashes(after, "outs")
    made, deps = {path for _, path in outs_now}, _hashes(before, "deps")
    for (stage, path), md5 in _hashes(after, "deps").items():
        if path not in made and deps.get((stage, path)) != md5:
            raise UserError(
                f"dvc.lock is not of this commit: {stage} was run with another {path}. "
                "Run `dvc repro` and commit dvc.lock and metrics/."
            )
    # Times always differ.
    timing = paths.TIMING.as_posix()
    differing = [k for k, md5 in outs_now.items() if outs.get(k) != md5 and k[1] != timing]
    for name in after:
        print(f"{name:12} {', '.join(p for stage, p in differing if stage == name) or 'the same'}")
    wrong = [
        f"{key}: {metrics.get(key)} committed, {metrics_now.get(key)} now"
        for key in sorted(metrics.keys() | metrics_now.keys())
        # Of a metric that is absent or not a number, no comparison holds.
        if not abs(metrics.get(key, nan) - metrics_now.get(key, nan)) <= tolerance
    ]
    if wrong or (tolerance == 0 and differing):
        first = differing[0][0] if differing else "none"
        reason = "; ".join(wrong) or "The metrics are the same."
        raise UserError(f"Not reproduced; the first stage that differs is {first}. {reason}")


def _hashes(lock: Lock, kind: str) -> dict[tuple[str, str], str]:
    """The md5 of each of a kind, deps or outs, by stage and path."""
    return {
        (name, entry["path"]): entry["md5"]
        for name, stage in lock.items()
        for entry in stage.get(kind, [])
    }


def _fetch_photos(clone: Path, names: set[str]) -> None:
    """Data sets that no stage makes, from the cache here or the DVC remote."""
    local = Path(".dvc/config.local")
    if local.exists():
        shutil.copy(local, clone / local)
    dvc("cache", "dir", "--quiet", "--local", dvc("cache", "dir").strip(), at=clone)
    for file in sorted(clone.glob("?*.dvc")):
        outs = [Path(out["path"]) for out in yaml.safe_load(file.read_bytes())["outs"]]
        if {out.name for out in outs} & names:
            print(f"Fetching {file.name} ...", flush=True)
            dvc("pull", "--quiet", file.name, at=clone, show=True)


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
