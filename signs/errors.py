"""Errors that a person can act on, and how a stage ends on one."""

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
_NO_ACCESS = {errno.EROFS, errno.EACCES, errno.EPERM}
_STOPPED = "\nStopped. `dvc repro` starts this stage again."


class UserError(Exception):
    """Something the user can put right; its text says what is wrong and what to do."""


def run_stage(stage: Callable[[], None], tidies: bool = True) -> None:
    """Run a stage as a program: no traceback for what the user can put right.

    Exits with 1 on a `UserError`, a full disk or a file without access, with 130 on Ctrl-C.

    Args:
        stage: the work.
        tidies: whether it has something to put away on Ctrl-C; otherwise it ends at once.
    """
    if tidies and signal.getsignal(signal.SIGINT) is end_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        stage()
    except UserError as error:
        sys.exit(f"ERROR: {error}")
    except OSError as error:
        if error.errno in _DISK_FULL:
            problem, advice = "the disk is full", "Free some space"
        elif error.errno in _NO_ACCESS:
            problem, advice = "no access to a file", "Check who owns it and how its disk is mounted"
        else:
            raise
        sys.exit(
            f"ERROR: {problem} ({error}). {advice}, then run `dvc repro` again: it starts this "
            "stage anew."
        )
    except KeyboardInterrupt:
        print(_STOPPED, file=sys.stderr)
        sys.exit(130)


def end_at_once(number: int, frame: Any) -> None:
    """Handle Ctrl-C while TensorFlow is imported or works.

    An exception could come up anywhere in its code, where finalizers lose it (about one in
    twenty, measured) and its bindings to C++ make another one of it.
    """
    with contextlib.suppress(RuntimeError):  # it was writing just now
        sys.stdout.flush()
    os.write(2, f"{_STOPPED}\n".encode())
    os._exit(130)
