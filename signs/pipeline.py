"""What dvc.yaml declares: the one place that says which code and data determine a result."""

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
