"""Errors that a person can act on, and how a stage ends on one."""

import errno
import sys
from collections.abc import Callable

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}


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
        print("\nStopped. `dvc repro` starts this stage again.", file=sys.stderr)
        sys.exit(130)
