"""Work on all cores: results in order, and no worker left behind."""

import os
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from signs.parallel import ordered_map

ROOT = Path(__file__).parents[2]

SCRIPT = """
from signs.parallel import ordered_map
from tests.shared.test_parallel import two_quick_ones
if __name__ == "__main__":
    for pid in ordered_map(two_quick_ones, range(4), workers=2):
        print(pid, flush=True)
"""


def slow_square(number: int) -> int:
    time.sleep(0.05 * (number % 3))
    return number * number


def shrink(side: int) -> int:
    return cv2.resize(cv2.GaussianBlur(np.zeros((side, side), np.uint8), (9, 9), 3), (8, 8)).size


def refuse(number: int) -> int:
    if number == 3:
        raise ValueError("three")
    return os.getpid()


def folder_and_process(_: int) -> tuple[Path, int]:
    time.sleep(0.2)
    return Path.cwd(), os.getpid()


def two_quick_ones(number: int) -> int:
    time.sleep(0.2 if number < 2 else 100)
    return os.getpid()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_ended(pids: list[int]) -> None:
    deadline = time.monotonic() + 20
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < deadline, "a worker is left behind"
        time.sleep(0.05)


def test_results_come_in_the_order_of_the_tasks():
    results = list(ordered_map(slow_square, iter(range(20)), workers=3))
    assert results == [n * n for n in range(20)]


def test_it_works_after_opencv_has_used_threads():
    """After a plain fork, OpenCV would wait for ever for threads that were not copied."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(4)
    try:
        shrink(3000)
        assert list(ordered_map(shrink, [2000] * 4, workers=2)) == [64] * 4
    finally:
        cv2.setNumThreads(threads)


def test_workers_work_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders, pids = zip(*ordered_map(folder_and_process, range(4), workers=2), strict=True)
    assert set(folders) == {tmp_path}
    assert len(set(pids)) == 2


def test_an_error_ends_the_workers():
    results = ordered_map(refuse, range(8), workers=2)
    pids = [next(results) for _ in range(3)]
    with pytest.raises(ValueError, match="three"):
        next(results)
    wait_until_ended(pids)


def test_a_killed_process_leaves_no_worker(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pids = [int(process.stdout.readline()) for _ in range(2)]
        assert all(alive(pid) for pid in pids)
        process.kill()
    wait_until_ended(pids)
