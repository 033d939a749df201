"""Work on all cores, in order, with bounded memory."""

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ordered_map(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    initializer: Callable[..., None] | None = None,
    initargs: tuple[Any, ...] = (),
    workers: int | None = None,
) -> Iterator[Result]:
    """Yield function(task) for each task, in their order, from a pool of processes.

    Few results wait at any time, however slow the consumer is. On an error or Ctrl-C
    the pool ends with the tasks that are running; no worker is left behind.
    """
    workers = workers or cores()
    waiting: deque[Future[Result]] = deque()
    with ProcessPoolExecutor(
        workers, initializer=_start_worker, initargs=(initializer, initargs)
    ) as pool:
        try:
            with _ctrl_c_afterwards():
                pool.submit(int)  # the first task starts the processes
            for task in tasks:
                waiting.append(pool.submit(function, task))
                if len(waiting) > 3 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _ctrl_c_afterwards() -> Iterator[None]:
    """Let Ctrl-C wait: Python ignores it, but for a traceback, while it starts a process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        signal.raise_signal(signal.SIGINT)


def _start_worker(initializer: Callable[..., None] | None, initargs: tuple[Any, ...]) -> None:
    # Ctrl-C reaches the whole process group; the parent alone decides what to do with it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if initializer:
        initializer(*initargs)
