"""containers/nginx.conf in the real nginx, before the real service."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).parents[2]
BODY_LIMIT = 64 * 2**20
CONNECTIONS = 3
HEADER_SECONDS = 2


@pytest.fixture(scope="module")
def nginx() -> str:
    found = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin")
    return found or pytest.skip("needs nginx (apt install nginx-light)")


@dataclass
class Proxy:
    """A running nginx."""

    port: int
    folder: Path

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def ask(
        self, method: str = "GET", path: str = "/model", body: bytes | None = None, **headers: str
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, decoded body and headers (lower case)."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        with contextlib.closing(connection):
            connection.request(method, path, body, named)
            answer = connection.getresponse()
            got = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, json.loads(answer.read()), got


@contextlib.contextmanager
def started(nginx: str, service_port: int, folder: Path) -> Iterator[Proxy]:
    """The committed file, with other ports and lower limits where a test would take long."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    text = (ROOT / "containers/nginx.conf").read_text()
    for old, new in (
        ("server 127.0.0.1:3000;", f"server 127.0.0.1:{service_port};"),
        ("listen 8080;", f"listen 127.0.0.1:{port};"),
        ("client_header_timeout 5s;", f"client_header_timeout {HEADER_SECONDS}s;"),
        ("limit_conn addresses 32;", f"limit_conn addresses {CONNECTIONS};"),
        ("/dev/stdout", str(folder / "access.log")),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (folder / "nginx.conf").write_text(text)
    command = [nginx, "-c", str(folder / "nginx.conf"), "-e", "stderr"]
    with (folder / "error.log").open("wb") as errors:
        process = subprocess.Popen(
            [*command, "-g", f"daemon off; pid {folder / 'pid'};"], stderr=errors
        )
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            assert process.poll() is None, (folder / "error.log").read_text()
            time.sleep(0.1)
        yield Proxy(port, folder)
    finally:
        process.send_signal(signal.SIGQUIT)
        process.wait(20)


@pytest.fixture(scope="module")
def proxy(nginx: str, running: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with started(nginx, running.port, tmp_path_factory.mktemp("nginx")) as found:
        yield found


def test_passes_requests_and_errors_of_the_service(
    proxy: Proxy, make_photo: Callable[..., bytes]
) -> None:
    status, answer, headers = proxy.ask(
        "POST", "/predict", make_photo(), Content_Type="image/png", X_Request_ID="given-1"
    )
    assert (status, answer["name"], headers["x-request-id"]) == (200, "Green", "given-1")
    status, answer, headers = proxy.ask("POST", "/predict", b"no image", Content_Type="image/png")
    assert (status, list(answer)) == (400, ["error"])
    assert "known format" in answer["error"]
    made = headers["x-request-id"]
    assert len(made) == 32  # nginx's; the service's own have 16
    wanted = {("given-1", 200), (made, 400)}
    for _ in range(50):  # a line is written after its answer
        lines = (proxy.folder / "access.log").read_text().splitlines()
        if wanted <= {(e["request_id"], e["status"]) for e in map(json.loads, lines)}:
            break
        time.sleep(0.1)
    else:
        pytest.fail("\n".join(lines))


def test_keeps_its_connections_to_the_service(proxy: Proxy, running: Any) -> None:
    def connections() -> int:
        held = [
            found
            for process in running.workers()
            for found in process.net_connections("tcp")
            if found.status == psutil.CONN_ESTABLISHED and found.laddr.port == running.port
        ]
        return len(held)

    before = connections()
    for _ in range(30):
        proxy.ask()
    # A worker of nginx keeps its own: at most one for each, not one for each request.
    assert before <= connections() <= before + (os.cpu_count() or 1)
    assert connections() > 0


def test_cuts_off_slow_headers(proxy: Proxy) -> None:
    with proxy.connect() as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\n")
        started = time.monotonic()
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            for _ in range(40):
                connection.sendall(b"X-A: b\r\n")
                time.sleep(0.2)
        assert HEADER_SECONDS - 0.5 < time.monotonic() - started < HEADER_SECONDS + 2
    assert proxy.ask()[0] == 200


@pytest.mark.parametrize("declared", [True, False])
def test_refuses_a_body_of_100_mb(proxy: Proxy, declared: bool) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=20)
    connection.putrequest("POST", "/predict")
    connection.putheader("Content-Type", "image/png")
    if declared:
        connection.putheader("Content-Length", str(100 * 2**20))
    else:
        connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    with contextlib.closing(connection):
        if not declared:  # else it is refused before the first byte
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                for _ in range(BODY_LIMIT // 2**20 + 1):
                    connection.send(b"100000\r\n" + bytes(2**20) + b"\r\n")
        answer = connection.getresponse()
        assert (answer.status, answer.headers["content-type"]) == (413, "application/json")
        assert "64 MB" in json.loads(answer.read())["error"]


def test_one_address_cannot_have_all_connections(nginx: str, running: Any, tmp_path: Path) -> None:
    # One of its own: those that other tests left may count for some seconds.
    with started(nginx, running.port, tmp_path) as proxy:
        with contextlib.ExitStack() as held:
            for _ in range(CONNECTIONS):
                connection = held.enter_context(proxy.connect())
                connection.sendall(
                    b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
                    b"Content-Length: 1000\r\n\r\nbegin"
                )
            time.sleep(0.5)
            status, answer, headers = proxy.ask()
            assert (status, headers.get("retry-after")) == (429, "1"), answer
            assert "too many" in answer["error"]
        time.sleep(0.5)
        assert proxy.ask()[0] == 200


def test_says_so_where_there_is_no_service_and_no_request(nginx: str, tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # taken, but nobody listens
        with started(nginx, nobody.getsockname()[1], tmp_path) as proxy:
            status, answer, headers = proxy.ask("POST", "/predict", b"x", Content_Type="image/png")
            assert (status, headers["retry-after"]) == (503, "5")
            assert "does not answer" in answer["error"]
            with proxy.connect() as connection:
                connection.sendall(b"nonsense\r\n\r\n")
                assert b'{"error": "not a valid HTTP request"}' in connection.recv(4096)
