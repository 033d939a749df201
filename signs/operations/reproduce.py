"""Whether the committed results come out again: all of it once more, in a clean folder.

    make verify

Clones the commit, brings the photos, runs every stage by force and compares what came out with
dvc.lock and the metrics of the commit. On the kind of processor that they were made on, all must
be the same bytes; on another, each metric within `verify.tolerance` of params.yaml. Exits with 1
if not, and names the stage that differs first.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from signs import machine, params
from signs.errors import UserError, run_stage

METRICS, TIMING = "metrics/evaluate/metrics.json", "metrics/timing.json"

Lock = dict[str, Any]


def verify() -> None:
    """Run it again and compare."""
    root = Path.cwd()
    settings = params.load()
    if _git(root, "status", "--porcelain", "--untracked-files=no"):
        print("Note: the commit is verified, without the changes that are not committed.")
    with tempfile.TemporaryDirectory(prefix="verify-") as name:
        clone = Path(name) / "clone"
        _git(root, "clone", "--quiet", str(root), str(clone))
        _bring_photos(root, clone, {settings.dataset, settings.evaluate.external_set})
        before, metrics = _read(clone)
        made_on = json.loads((clone / TIMING).read_bytes()).get("processor")
        # Not into the cache: nothing there may change by looking.
        _run(clone, "repro", "--force", "--no-commit")
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


def compare(
    before: Lock,
    after: Lock,
    metrics: dict[str, float],
    metrics_now: dict[str, float],
    tolerance: float,
) -> None:
    """Print what each stage made; judge.

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
    differing = {name: found for name in after if (found := _outs(before, after, name))}
    for name in after:
        print(f"{name:12} {', '.join(differing.get(name, [])) or 'the same'}")
    wrong = [
        f"{key}: {metrics.get(key)} committed, {metrics_now.get(key)} now"
        for key in sorted(metrics.keys() | metrics_now.keys())
        if key not in metrics
        or key not in metrics_now
        or not abs(metrics[key] - metrics_now[key]) <= tolerance
    ]
    if wrong or (tolerance == 0 and differing):
        raise UserError(
            f"Not reproduced; the first stage that differs is {next(iter(differing), 'none')}. "
            + ("; ".join(wrong) or "The metrics are the same.")
        )


def _bring_photos(root: Path, clone: Path, names: set[str]) -> None:
    """Photo sets that no stage draws, from the cache here or the DVC remote."""
    local = root / ".dvc/config.local"
    if local.exists():
        shutil.copy(local, clone / ".dvc/config.local")
    command = [sys.executable, "-m", "dvc", "cache", "dir"]
    cache = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    _run(clone, "cache", "dir", "--quiet", "--local", cache.strip())
    for file in sorted(clone.glob("?*.dvc")):
        outs = [Path(out["path"]) for out in yaml.safe_load(file.read_bytes())["outs"]]
        if {out.name for out in outs} & names:
            print(f"Fetching {file.name} ...", flush=True)
            _run(clone, "pull", "--quiet", file.name)


def _read(clone: Path) -> tuple[Lock, dict[str, float]]:
    try:
        lock = yaml.safe_load((clone / "dvc.lock").read_bytes())["stages"]
        metrics = json.loads((clone / METRICS).read_bytes())
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
        known = {entry["path"]: entry["md5"] for entry in before.get(name, {}).get("deps", [])}
        for entry in stage["deps"]:
            if entry["path"] not in made and known.get(entry["path"]) != entry["md5"]:
                return name, entry["path"]
    return None


def _outs(before: Lock, after: Lock, name: str) -> list[str]:
    """The outputs of a stage that are others than the commit's."""
    known = {entry["path"]: entry["md5"] for entry in before.get(name, {}).get("outs", [])}
    return [
        entry["path"]
        for entry in after[name]["outs"]
        if entry["path"] != TIMING and known.get(entry["path"]) != entry["md5"]
    ]


def _run(clone: Path, *arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=clone, check=False)
    if done.returncode:
        raise UserError(f"`dvc {' '.join(arguments)}` failed in a clone of the commit.")


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(
        command, cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


if __name__ == "__main__":
    run_stage(verify)
