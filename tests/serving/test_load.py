"""Overload, long runs, and workers or the whole service ending under load."""

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

WRK = shutil.which("wrk")
# All that two workers let wait, four times over.
CONNECTIONS = 4 * 2 * 128
needs_wrk = pytest.mark.skipif(WRK is None, reason="needs wrk (apt install wrk)")

Photo = Callable[..., bytes]


def load(server: Any, photo: bytes, connections: int, seconds: float, folder: Path) -> str:
    """Post a photo over and over with wrk; what it printed."""
    (folder / "photo").write_bytes(photo)
    script = folder / "post.lua"
    script.write_text(
        'wrk.method = "POST"\nwrk.headers["Content-Type"] = "image/png"\n'
        f'wrk.body = io.open("{folder / "photo"}", "rb"):read("*a")\n'
    )
    command = [str(WRK), "--threads", "1", "--connections", str(connections), "--timeout", "30s"]
    command += ["--duration", f"{seconds}s", "--script", str(script), f"{server.address}/predict"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout


def post(server: Any, photo: bytes) -> Any:
    request = urllib.request.Request(
        f"{server.address}/predict", photo, {"Content-Type": "image/png"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())


def seconds(server: Any, status: int) -> dict[str, float]:
    """Answers of /predict with this status: how many took up to so many seconds."""
    with urllib.request.urlopen(f"{server.address}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    pattern = (
        r"signs_request_duration_seconds_bucket\{le=\"([^\"]+)\","
        rf'path="/predict",status="{status}"\}} (\S+)'
    )
    return {bound: float(count) for bound, count in re.findall(pattern, text)}


def answered(server: Any, status: int = 200) -> int:
    return int(seconds(server, status).get("+Inf", 0))


@pytest.mark.slow
@needs_wrk
def test_sheds_what_it_cannot_carry_and_answers_the_rest_soon(
    own_server: Callable[..., Any], make_photo: Photo, tmp_path: Path
) -> None:
    server, photo = own_server(), make_photo("Red")
    printed = load(server, photo, CONNECTIONS, 60, tmp_path)
    # Each is an answer, of one kind or the other.
    assert "Socket errors" not in printed, printed
    assert answered(server, 503) > 100
    accepted = seconds(server, 200)
    assert accepted["+Inf"] > 1000
    assert accepted["2.5"] == accepted["+Inf"], accepted
    for _ in range(100):  # and is well again at once
        assert post(server, photo)["name"] == "Red"


def test_says_when_to_try_again(own_server: Callable[..., Any], make_photo: Photo) -> None:
    server = own_server(SIGNS_WORKERS="1")
    host, _, port = server.address.removeprefix("http://").partition(":")
    # A large photo, as noise compresses badly: each is half of what may wait.
    photo = os.urandom(9 * 2**20)
    refused = []

    def ask() -> None:
        connection = http.client.HTTPConnection(host, int(port), timeout=60)
        with contextlib.closing(connection):
            header = {"Content-Type": "image/png"}
            connection.request("POST", "/explain", b"\x89PNG\r\n\x1a\n" + photo + b"IEND", header)
            answer = connection.getresponse()
            content = json.loads(answer.read())
            assert answer.status in (400, 503)
            if answer.status == 503:
                refused.append((answer.headers["Retry-After"], content["error"]))

    def ask_often() -> None:
        while not refused and time.monotonic() < end:
            ask()

    end = time.monotonic() + 60
    threads = [threading.Thread(target=ask_often) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refused
    assert set(refused) == {("1", "too much to do; try again shortly")}
    assert post(server, make_photo("Blue"))["name"] == "Blue"


@pytest.mark.slow
@needs_wrk
def test_memory_does_not_grow(
    own_server: Callable[..., Any], make_photo: Photo, tmp_path: Path
) -> None:
    server, photo = own_server(), make_photo("Red")

    def memory_after(requests: int) -> int:
        end = time.monotonic() + 240
        while answered(server) < requests and time.monotonic() < end:
            load(server, photo, 8, 2 if requests < 10_000 else 10, tmp_path)
        assert answered(server) >= requests
        return sum(worker.memory_info().rss for worker in server.workers())

    before = memory_after(1_000)
    assert memory_after(50_000) < 1.1 * before


def test_large_bodies_that_never_end_do_not_fill_the_memory(
    own_server: Callable[..., Any], make_photo: Photo
) -> None:
    server = own_server(SIGNS_WORKERS="1")
    host, _, port = server.address.removeprefix("http://").partition(":")
    (worker,) = server.workers()
    before = worker.memory_info().rss
    piece, statuses, peak = bytes(2**20), [], before
    connections = []
    for _ in range(24):  # 24 x 19 MB is more than may be held
        connection = http.client.HTTPConnection(host, int(port), timeout=30)
        connections.append(connection)
        connection.putrequest("POST", "/predict")
        connection.putheader("Content-Type", "image/png")
        connection.putheader("Content-Length", str(20 * 2**20))
        connection.endheaders()
        with contextlib.suppress(OSError):
            for _ in range(19):
                connection.send(piece)
        peak = max(peak, worker.memory_info().rss)
    for connection in connections:
        with contextlib.closing(connection), contextlib.suppress(OSError):
            statuses.append(connection.getresponse().status)
    assert 503 in statuses
    assert set(statuses) <= {408, 503}
    assert peak - before < 400 * 2**20
    assert post(server, make_photo("Blue"))["name"] == "Blue"


@dataclass
class Client:
    """Asks without a pause; knows what became of each of its requests."""

    server: Any
    photo: bytes
    name: str
    answered: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    def run(self) -> None:
        host, _, port = self.server.address.removeprefix("http://").partition(":")
        for number in range(100_000):
            request_id = f"{self.name}-{number}"
            headers = {"Content-Type": "image/png", "X-Request-ID": request_id}
            connection = http.client.HTTPConnection(host, int(port), timeout=30)
            with contextlib.closing(connection):
                try:
                    connection.connect()
                except OSError:
                    return  # it takes no more
                try:
                    connection.request("POST", "/predict", self.photo, headers)
                    answer = connection.getresponse()
                    assert answer.status in (200, 503)
                    json.loads(answer.read())
                except (OSError, http.client.HTTPException):
                    self.lost.append(request_id)
                    return
            self.answered.append(request_id)


def test_loses_no_accepted_request_when_told_to_stop(
    own_server: Callable[..., Any], make_photo: Photo
) -> None:
    server = own_server()
    clients = [Client(server, make_photo("Green", side=600), f"client{i}") for i in range(12)]
    threads = [threading.Thread(target=client.run) for client in clients]
    for thread in threads:
        thread.start()
    time.sleep(2)
    assert server.stop() == 0
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    lines = [json.loads(x) for x in server.log.read_text().splitlines() if x.startswith("{")]
    accepted = {line["request_id"] for line in lines}
    assert len(accepted) > 100
    # Whatever the service began it brought to its client; what a client lost was never begun.
    assert accepted == {request for client in clients for request in client.answered}
    assert not accepted & {request for client in clients for request in client.lost}


def test_a_killed_worker_comes_back(own_server: Callable[..., Any], make_photo: Photo) -> None:
    server, photo = own_server(), make_photo("Green")
    killed, _ = server.workers()
    killed.send_signal(signal.SIGKILL)
    psutil.wait_procs([killed], timeout=10)
    end = time.monotonic() + 60
    while time.monotonic() < end and len(server.workers()) < 2:
        assert post(server, photo)["name"] == "Green"  # the other goes on
        time.sleep(0.2)
    assert len(server.workers()) == 2
    assert killed.pid not in {worker.pid for worker in server.workers()}
    for _ in range(50):
        assert post(server, photo)["name"] == "Green"
