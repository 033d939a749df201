"""deployment/haproxy.cfg in the real HAProxy, in front of the real service."""

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from deployment import proxy
from deployment.container import read_values
from signs.errors import UserError
from tests.conftest import Server, photo
from tests.deployment.conftest import at, end_job
from tests.harness import free_ports
from tests.serving.clients import connect, head

REQUESTS = 3
SECONDS = 2
COOKIE = f"test-proxy-{os.getpid()}"


@pytest.fixture(scope="module")
def haproxy(running: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[proxy.Proxy]:
    """The service is blue; there is no green one. Limits are lower where a test would take long."""
    if shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        pytest.skip("needs HAProxy (apt install haproxy)")
    folder = tmp_path_factory.mktemp("haproxy")
    text = proxy.TEMPLATE.read_text()
    for old in ("timeout http-request 5s", "wait-for-body time 10s"):
        assert text.count(old) == 1
        text = text.replace(old, f"{old.rpartition(' ')[0]} {SECONDS}s")
    (folder / "template").write_text(text)
    port, green = free_ports(2)
    ports = {"port": port, "blue_port": running.port, "green_port": green}
    values = replace(read_values(), requests_per_address=REQUESTS, **ports)
    made = proxy.Proxy(values, folder)
    assert made.active() is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proxy, "TEMPLATE", folder / "template")
        patch.setenv("JENKINS_NODE_COOKIE", COOKIE)
        made.switch("blue")
        yield made
    os.kill(int((folder / "haproxy.pid").read_text()), signal.SIGTERM)


@pytest.fixture
def service(haproxy: proxy.Proxy) -> Server:
    return at(haproxy.values.url)


def test_passes_answers_and_errors_of_the_service(service: Server) -> None:
    reply = service.send(photo())
    assert (reply.status, reply.body["name"]) == (200, "Green")
    reply = service.send(b"no image")
    assert (reply.status, "known format" in reply.error) == (400, True)
    assert reply.headers["x-request-id"]


def test_outlives_the_job_that_started_it(service: Server) -> None:
    end_job(COOKIE)
    assert service.ask("/model").status == 200


def test_switch_sends_requests_to_the_other_slot(haproxy: proxy.Proxy, service: Server) -> None:
    assert haproxy.active() == "blue"
    haproxy.switch("green")
    assert haproxy.active() == "green"
    reply = service.ask("/model")
    assert (reply.status, reply.headers["retry-after"]) == (503, "5")
    assert "does not answer" in reply.error
    haproxy.switch("blue")
    haproxy.drain("green", 5)
    assert service.ask("/model").status == 200


@pytest.mark.parametrize(
    ("begin", "piece"),
    [(head(1000)[:-2], b"X-A: b\r\n"), (head(1000), b"x")],
    ids=["headers", "body"],
)
def test_cuts_off_slow_senders(service: Server, begin: bytes, piece: bytes) -> None:
    with connect(service) as connection:
        connection.sendall(begin)
        started = time.monotonic()
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            for _ in range(40):
                connection.sendall(piece)
                time.sleep(0.2)
        assert SECONDS - 0.5 < time.monotonic() - started < SECONDS + 2
    with connect(service) as connection:
        connection.sendall(begin + piece)
        assert connection.recv(4096).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("declared", [True, False])
def test_refuses_a_body_of_100_mb(service: Server, declared: bool) -> None:
    begin = head(100 * 2**20, "/predict_batch", "multipart/form-data; boundary=x")
    if not declared:
        begin = re.sub(rb"Content-Length: \d+", b"Transfer-Encoding: chunked", begin)
    with connect(service) as connection:
        connection.sendall(begin)
        if not declared:  # HAProxy refuses a declared length before the first byte of the body
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                for _ in range(100):
                    connection.sendall(b"100000\r\n" + bytes(2**20) + b"\r\n")
        response = http.client.HTTPResponse(connection)
        response.begin()
        assert (response.status, response.headers["content-type"]) == (413, "application/json")
        assert "64 MB" in json.loads(response.read())["error"]


def test_one_address_cannot_have_all_requests(service: Server) -> None:
    # HAProxy holds each for SECONDS: a busy machine may need several tries to have all at once.
    for _ in range(10):
        with contextlib.ExitStack() as held:
            for _ in range(REQUESTS):
                held.enter_context(connect(service)).sendall(head(1000) + b"begin")
            end = time.monotonic() + SECONDS
            while (reply := service.ask("/model")).status == 200 and time.monotonic() < end:
                time.sleep(0.05)
        if reply.status != 200:
            break
    assert (reply.status, reply.headers.get("retry-after")) == (429, "1")
    assert "too many" in reply.error
    time.sleep(0.5)
    assert service.ask("/model").status == 200


def test_says_why_haproxy_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        values = replace(read_values(), port=taken.getsockname()[1])
        with pytest.raises(UserError, match=r"HAProxy does not start: (?s:.*)already in use"):
            proxy.Proxy(values, tmp_path).switch("blue")
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(UserError, match="apt install haproxy"):
        proxy.Proxy(values, tmp_path)
