import signal
import subprocess
import sys

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


def run(tidies: bool) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", STAGE.format(tidies=tidies)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def test_ctrl_c_in_a_finalizer_ends_a_stage_that_has_nothing_to_tidy():
    done = run(tidies=False)
    assert done.returncode == 130
    assert done.stdout == ""
    assert done.stderr == "\nStopped. `dvc repro` starts this stage again.\n"


def test_python_itself_would_lose_it_there():
    assert run(tidies=True).stdout == "goes on\n"
