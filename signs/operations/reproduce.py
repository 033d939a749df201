"""Check that the committed results come out again.

    signs verify           run the commit's pipeline in a clean clone, and compare
    signs verify --made    compare what the last `dvc repro` made here; runs nothing

Compares the outputs of all stages with the commit's dvc.lock, and its metrics. On the processor
that made them, all outputs must be the same bytes; on another kind, each metric must be within
the tolerances of params.yaml. If not, names what differs first and exits with 1.
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

LOCK = Path("dvc.lock")
STALE = (
    "dvc.lock is not of this commit: {stage} was run with another {name}. "
    "Run `dvc repro` and commit dvc.lock and metrics/."
)
Lock = dict[str, Any]
Metrics = dict[str, float]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    help_text = "compare what the last `dvc repro` made here, instead of running all stages again"
    parser.add_argument("--made", action="store_true", help=help_text)


def run(arguments: argparse.Namespace) -> int:
    """Compare with the commit; `UserError` if its results are not reproduced."""
    settings = params.load()
    here = machine.processor()
    committed = {path: _committed(path) for path in (LOCK, paths.HEADLINE, paths.TIMING)}
    made_on = json.loads(committed[paths.TIMING]).get("processor")
    if arguments.made:
        now = _made(Path())
    else:
        if git("status", "--porcelain", "--untracked-files=no"):
            print("Note: the commit is verified, without the changes that are not committed.")
        now = _run_in_clone({settings.dataset, settings.evaluate.external_set})
    lock, lock_now = (yaml.safe_load(files[LOCK])["stages"] for files in (committed, now))
    metrics, metrics_now = (json.loads(files[paths.HEADLINE]) for files in (committed, now))
    compare(lock, lock_now, metrics, metrics_now, None if made_on == here else settings.verify)
    if made_on == here:
        print("Reproduced, byte for byte.")
    else:
        print("Reproduced: each metric is within the tolerance of params.yaml.")
        print(f"The committed results were made on {made_on}; this is {here}.")
    return 0


def compare(
    before: Lock, after: Lock, metrics: Metrics, metrics_now: Metrics, limits: params.Verify | None
) -> None:
    """Print what each stage made, and judge it.

    Compares the stages of the commit's dvc.lock, and its metrics by name, with those of the present
    run. Without limits, all outputs must be the same bytes. `UserError` names what differs first.
    """
    outs, outs_now = _hashes(before, "outs"), _hashes(after, "outs")
    made, deps = {path for _, path in outs_now}, _hashes(before, "deps")
    for (stage, path), md5 in _hashes(after, "deps").items():
        if path not in made and deps.get((stage, path)) != md5:
            raise UserError(STALE.format(stage=stage, name=path))
    for stage, made_with in after.items():
        if before.get(stage, {}).get("params") != made_with.get("params"):
            raise UserError(STALE.format(stage=stage, name=paths.PARAMS))
    # Times always differ.
    timing = paths.TIMING.as_posix()
    differing = [k for k, md5 in outs_now.items() if outs.get(k) != md5 and k[1] != timing]
    wrong = [
        f"{key}: {metrics.get(key)} committed, {metrics_now.get(key)} now"
        for key in sorted(metrics.keys() | metrics_now.keys())
        # Of a metric that is absent or not a number, no comparison holds.
        if not abs(metrics.get(key, nan) - metrics_now.get(key, nan))
        <= (limits.allowed(key) if limits else 0.0)
    ]
    verdict = "within tolerance on another processor" if limits and not wrong else "differs"
    for name in after:
        paths_of = ", ".join(path for stage, path in differing if stage == name)
        print(f"{name:12} {f'{verdict}: {paths_of}' if paths_of else 'same bytes'}")
    if wrong or (differing and not limits):
        first = f"{differing[0][1]} of {differing[0][0]}" if differing else "no output"
        reason = "; ".join(wrong) or "The metrics are the same."
        raise UserError(f"Not reproduced; what differs first is {first}. {reason}")


def _hashes(lock: Lock, kind: str) -> dict[tuple[str, str], str]:
    """The md5 of each of a kind, deps or outs, by stage and path."""
    return {
        (name, entry["path"]): entry["md5"]
        for name, stage in lock.items()
        for entry in stage.get(kind, [])
    }


def _run_in_clone(photos: set[str]) -> dict[Path, str]:
    """dvc.lock and metrics after a run of the commit in a clone, with these data sets."""
    with tempfile.TemporaryDirectory(prefix="verify-") as name:
        clone = Path(name) / "clone"
        git("clone", "--quiet", str(Path.cwd()), str(clone))
        _fetch(clone, photos)
        _refuse_stale(clone)
        # Not into the cache: to verify changes nothing.
        dvc("repro", "--force", "--no-commit", at=clone, show=True)
        return _made(clone)


def _fetch(clone: Path, names: set[str]) -> None:
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


def _made(root: Path) -> dict[Path, str]:
    try:
        return {path: (root / path).read_text("utf-8") for path in (LOCK, paths.HEADLINE)}
    except FileNotFoundError as error:
        raise UserError(f"There is no {error.filename} here: run `dvc repro` first.") from error


def _refuse_stale(clone: Path) -> None:
    """Before a long run, find what was changed and committed without one."""
    status = json.loads(dvc("status", "--json", at=clone))
    for stage, kinds in status.items():
        for kind in (kind for kind in kinds if isinstance(kind, dict)):
            changes = kind.get("changed deps", {})
            # Outputs are not there yet, so they count as deleted.
            changes |= changes.pop(paths.PARAMS.name, {})
            for name, change in changes.items():
                if change in ("modified", "new"):
                    raise UserError(STALE.format(stage=stage, name=name))


def _committed(path: Path) -> str:
    try:
        return git("show", f"HEAD:{path.as_posix()}")
    except UserError as error:
        raise UserError(
            f"The commit has no {path.name}: run `dvc repro` and commit dvc.lock and metrics/."
        ) from error
