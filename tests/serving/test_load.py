"""Overload, long runs, and workers or the whole service that end under load."""

import contextlib
import functools
import http.client
import json
import os
import re
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from signs.serving.app import MAX_HELD
from tests.conftest import Server, photo
from tests.harness import wait_until
from tests.serving.clients import connect, head, needs_wrk, wrk

# Four times as many as two workers let wait.
CONNECTIONS = 4 * 2 * 128

RED = photo("Red")
Start = Callable[..., Server]


def seconds(server: Server, status: int) -> dict[str, float]:
    """Number of responses of /predict with this status, by upper bound of their seconds."""
    pattern = rf'duration_seconds_bucket\{{le="([^"]+)",path="/predict",status="{status}"\}} (\S+)'
    found = re.findall(pattern, server.ask("/metrics").body.decode())
    return {"+Inf": 0.0} | {bound: float(count) for bound, count in found}


def connection(server: Server) -> "contextlib.closing[http.client.HTTPConnection]":
    return contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=60))


@pytest.mark.long
@needs_wrk
def test_refuses_what_is_too_much_and_serves_the_rest_soon(
    own_server: Start, tmp_path: Path
) -> None:
    server = own_server()
    printed = wrk(server, RED, tmp_path, CONNECTIONS, 60).communicate()[0]
    assert "Socket errors" not in printed, printed
    assert seconds(server, 503)["+Inf"] > 100
    accepted = seconds(server, 200)
    assert accepted["+Inf"] > 1000
    assert accepted["2.5"] == accepted["+Inf"], accepted
    for _ in range(100):  # it recovers at once
        assert server.send(RED).body["name"] == "Red"


def test_says_when_to_try_again(own_server: Start) -> None:
    server = own_server(SIGNS_WORKERS="1")
    # Noise, so that it is a large file: each one is half of what may wait.
    noise = b"\x89PNG\r\n\x1a\n" + os.urandom(9 * 2**20) + b"IEND"
    refused = []
    end = time.monotonic() + 60

    def explain() -> None:
        while not refused and time.monotonic() < end:
            with contextlib.suppress(OSError):  # refused while it was still sending
                reply = server.send(noise, "/explain")
                assert reply.status in (400, 503)
                if reply.status == 503:
                    refused.append((reply.headers["retry-after"], reply.error))

    with ThreadPoolExecutor(8) as clients:
        list(clients.map(lambda _: explain(), range(8)))
    assert set(refused) == {("1", "the service is overloaded; try again shortly")}
    assert server.send(RED).body["name"] == "Red"


@pytest.mark.long
@needs_wrk
def test_memory_does_not_grow(own_server: Start, tmp_path: Path) -> None:
    server = own_server()

    def memory_after(duration: float) -> tuple[float, int]:
        wrk(server, RED, tmp_path, 8, duration).communicate()
        memory = sum(worker.memory_info().rss for worker in server.workers())
        return seconds(server, 200)["+Inf"], memory

    # BentoML keeps a timer for each request of the last minute, about 25 MB.
    first, before = memory_after(70)
    requests, after = memory_after(150)
    assert requests - first > 10_000
    assert after < 1.1 * before
    print(f"{first:,.0f} requests: {before >> 20} MB; {requests:,.0f}: {after >> 20} MB")


def test_large_bodies_that_never_end_do_not_fill_the_memory(own_server: Start) -> None:
    server = own_server(SIGNS_WORKERS="1")
    (worker,) = server.workers()
    before = peak = worker.memory_info().rss
    statuses = set()
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(connect(server)) for _ in range(24)]
        for client in opened:  # 24 x 19 MB is more than a worker may hold
            with contextlib.suppress(OSError):
                client.sendall(head(20 * 2**20) + bytes(19 * 2**20))
            peak = max(peak, worker.memory_info().rss)
        for client in opened:
            with contextlib.suppress(OSError):
                statuses.add(int(client.recv(12)[9:]))
    assert 503 in statuses
    assert statuses <= {408, 503}
    assert peak - before < 2 * MAX_HELD
    assert server.send(RED).body["name"] == "Red"


def test_large_batches_do_not_fill_the_memory(own_server: Start) -> None:
    server = own_server(SIGNS_WORKERS="1")
    (worker,) = server.workers()
    before = peak = worker.memory_info().rss
    part = b'--b\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n'
    batch = 3 * (part + b"\x89PNG\r\n\x1a\n" + bytes(19 * 2**20) + b"\r\n") + b"--b--\r\n"
    statuses = set()

    def send(_: int) -> None:
        with contextlib.suppress(OSError):  # refused while it was still sending
            reply = server.send(batch, "/predict_batch", "multipart/form-data; boundary=b")
            statuses.add(reply.status)

    with ThreadPoolExecutor(12) as clients:
        sent = [clients.submit(send, number) for number in range(36)]
        while not all(done.done() for done in sent):
            peak = max(peak, worker.memory_info().rss)
            time.sleep(0.005)
    assert 200 in statuses
    assert statuses <= {200, 503}
    # What it holds, and copies of the batches that it reads and predicts.
    assert peak - before < 2.5 * MAX_HELD
    assert server.send(RED).body["name"] == "Red"


def ask_until_refused(server: Server, body: bytes, complete: set[str], name: str) -> str | None:
    """Ask without a pause until the service stops; adds to `complete`, returns a lost request."""
    for number in range(100_000):
        request_id = f"{name}-{number}"
        headers = {"Content-Type": "image/png", "X-Request-ID": request_id}
        with connection(server) as client:
            try:
                client.connect()
            except OSError:
                return None
            try:
                client.request("POST", "/predict", body, headers)
                response = client.getresponse()
                assert response.status in (200, 503)
                json.loads(response.read())
            except (OSError, http.client.HTTPException):
                return request_id
        complete.add(request_id)
    return None


def test_loses_no_accepted_request_when_told_to_stop(own_server: Start) -> None:
    server, large = own_server(), photo("Green", side=600)
    complete: set[str] = set()
    with ThreadPoolExecutor(12) as clients:
        ask = functools.partial(ask_until_refused, server, large, complete)
        asked = [clients.submit(ask, f"c{i}") for i in range(12)]
        while len(complete) < 200:
            assert server.process.poll() is None
            time.sleep(0.1)
        assert server.stop() == 0
        lost = {done.result() for done in asked}
    lines = [json.loads(x) for x in server.log.read_text().splitlines() if x.startswith("{")]
    # The service finished all that it began; what a client lost was never begun.
    assert {line["request_id"] for line in lines} == complete
    assert not complete & lost


def test_a_killed_worker_comes_back(own_server: Start) -> None:
    server = own_server()
    killed, _ = server.workers()
    killed.send_signal(signal.SIGKILL)
    psutil.wait_procs([killed], timeout=10)
    predicts = lambda: server.send(RED).body["name"] == "Red"  # noqa: E731
    assert predicts()  # the other worker goes on
    assert wait_until(lambda: predicts() and len(server.workers()) == 2)
    assert killed.pid not in {worker.pid for worker in server.workers()}
    assert all(predicts() for _ in range(50))
