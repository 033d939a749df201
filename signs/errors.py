"""Errors that a person can act on, and how a stage ends on one."""

import errno
import sys
from collections.abc import Callable
from types import TracebackType

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
_STOPPED = "\nStopped. `dvc repro` starts this stage again."


class UserError(Exception):
    """Something the user can put right; its text says what is wrong and what to do."""


def run_stage(stage: Callable[[], None]) -> None:
    """Run a stage as a program: no traceback for what the user can put right.

    Exits with 1 on a `UserError` or a full disk, with 130 on Ctrl-C.
    """
    try:
        stage()
    except UserError as error:
        sys.exit(f"ERROR: {error}")
    except OSError as error:
        if error.errno not in _DISK_FULL:
            raise
        sys.exit(
            f"ERROR: the disk is full ({error}). Free some space and run `dvc repro` again; "
            "nothing half-written was kept."
        )
    except KeyboardInterrupt:
        print(_STOPPED, file=sys.stderr)
        sys.exit(130)


def report_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """A `sys.excepthook` for stages: Ctrl-C while TensorFlow is loaded gives no traceback."""
    if issubclass(kind, KeyboardInterrupt):
        print(_STOPPED, file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)
