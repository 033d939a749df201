"""Ctrl-C ends a stage, also where Python loses its exception."""

import subprocess
import sys

import pytest

from tests.harness import heed_ctrl_c

STAGE = """
import os, signal
from signs import errors

class Finalized:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        sum(range(10))  # where Python runs the handler at the latest

def work():
    for _ in range(1000):
        Finalized()
    print("goes on", flush=True)

signal.signal(signal.SIGINT, errors.end_at_once)
errors.run_stage(work, tidies={tidies})
"""


@pytest.mark.parametrize(
    ("tidies", "expected"),
    [
        (False, (130, "", "\nStopped. `dvc repro` starts this stage again.\n")),
        # A stage that tidies up gets Python's exception, which a finalizer loses.
        (True, (0, "goes on\n")),
    ],
)
def test_ctrl_c_in_a_finalizer(tidies, expected):
    done = subprocess.run(
        [sys.executable, "-c", STAGE.format(tidies=tidies)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        preexec_fn=heed_ctrl_c,
    )
    found = (done.returncode, done.stdout, done.stderr)
    assert found[: len(expected)] == expected
