"""The machine that this process runs on."""

import os
import platform
from pathlib import Path


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor(info: Path = Path("/proc/cpuinfo")) -> str:
    """Name, generation and cores: what decides how floating point sums are rounded.

    Virtual machines give processors of different instruction sets the same name, so that of Linux
    has family and model, too: "AMD EPYC, family 25, model 1, 2 cores".
    """
    parts = [platform.processor() or platform.machine()]
    if info.exists():
        pairs = [line.partition(":") for line in info.read_text(encoding="utf-8").splitlines()]
        facts = {key.strip(): value.strip() for key, _, value in reversed(pairs)}
        named = {"model name": "", "cpu family": "family ", "model": "model "}
        parts = [word + facts[key] for key, word in named.items() if key in facts] or parts
    return ", ".join([*parts, f"{cores()} cores"])
