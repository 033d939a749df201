"""The progress bar of all long work."""

import sys
from typing import Any

from tqdm import tqdm


def bar(total: int, desc: str, unit: str, initial: int = 0) -> "tqdm[Any]":
    """A bar on a terminal; in a log file a line every half minute."""
    interval = 0.5 if sys.stderr.isatty() else 30.0
    return tqdm(
        total=total,
        initial=initial,
        desc=desc,
        unit=unit,
        mininterval=interval,
        smoothing=0,  # a moving average takes the pause after each epoch for the rule
    )
