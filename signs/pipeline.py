"""What dvc.yaml declares: the one place that says which code and data determine a result."""

import hashlib
import json
from pathlib import Path
from typing import Any

import yaml

from signs.paths import PIPELINE

STAGES = ("synthesize", "preprocess", "train", "evaluate", "report")
_CODE = ("signs", "stages", "requirements")


def stages(path: Path = PIPELINE) -> dict[str, Any]:
    """The stages of a dvc.yaml file, by name."""
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))["stages"]
    return found


def code(*names: str, root: Path = Path()) -> list[Path]:
    """The code and locked packages that some stages declare, sorted; folders stay folders."""
    declared = stages(root / PIPELINE)
    found = {dep for name in names for dep in declared[name]["deps"] if dep.startswith(_CODE)}
    return [Path(dep) for dep in sorted(found)]


def fingerprint(stage: str, *determinants: object, root: Path = Path()) -> str:
    """The sha256 of all that determines a stage's result.

    That is the code and the locked packages that the stage declares, and the `determinants` (JSON):
    its parameters and the digest of its data. Neither git nor a date is part of it, so equal
    fingerprints mean equal results wherever and whenever the stage runs.
    """
    digest = hashlib.sha256(json.dumps(determinants, sort_keys=True).encode())
    for path in code(stage, root=root):
        files = sorted((root / path).rglob("*")) if (root / path).is_dir() else [root / path]
        for file in files:
            if file.is_file() and file.suffix != ".pyc":
                digest.update(f"{file.relative_to(root).as_posix()}\0".encode())
                digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
