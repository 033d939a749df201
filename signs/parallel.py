"""Work on all cores, in order, with bounded memory."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from typing import Any, TypeVar

from signs.machine import cores

Task = TypeVar("Task")
Result = TypeVar("Result")

# Plain fork copies a process without its threads: in the copy, OpenCV waits for its own for
# ever. Workers are forked from a server, which has imported packages but used none.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["pandas", "signs.data.images"])


def ordered_map(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    initializer: Callable[..., None] | None = None,
    initargs: tuple[Any, ...] = (),
    workers: int | None = None,
) -> Iterator[Result]:
    """Yield function(task) for each task, in their order, from a pool of processes.

    Few results wait at any time, however slow the consumer is. On an error or Ctrl-C
    the pool ends with the tasks that are running; no worker is left behind, also if this
    process is killed.
    """
    workers = workers or cores()
    _start_server()
    waiting: deque[Future[Result]] = deque()
    with ProcessPoolExecutor(
        workers, CONTEXT, _start_worker, (Path.cwd(), initializer, initargs)
    ) as pool:
        try:
            for task in tasks:
                waiting.append(pool.submit(function, task))
                if len(waiting) > 3 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _start_server() -> None:
    """Start the server from which workers come; it and they inherit that Ctrl-C is blocked.

    Ctrl-C reaches the whole process group; the parent alone decides what to do with it.
    """
    resource_tracker.ensure_running()  # the server would start it, and unblock Ctrl-C after
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(
    folder: Path, initializer: Callable[..., None] | None, initargs: tuple[Any, ...]
) -> None:
    os.chdir(folder)  # the server's folder is where this process was started
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if initializer:
        initializer(*initargs)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
