"""The kind of machine that something ran on."""

import platform
from pathlib import Path


def processor() -> str:
    """Its name as the system gives it: on another kind, floating point sums differ in the end."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
