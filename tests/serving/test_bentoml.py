"""What people know from BentoML: its clients, middlewares, CORS, traces; and API keys, a prefix."""

import asyncio
import http.client
import http.server
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import bentoml
import pytest
from bentoml.exceptions import BentoMLException

from signs.errors import UserError
from signs.serving.app import BENTOML_PATHS
from signs.serving.middleware import api_keys
from tests.conftest import Server, copy_service, photo, start
from tests.harness import ROOT, free_port, wait_until
from tests.serving.clients import connect, head

KEY, OTHER = "k" * 16, "another-" * 3
NAME = "SIGNS_API_KEYS"
BEARER = {"Authorization": f"Bearer {KEY}"}
ORIGIN = "https://app.example"
PREFIX = "/signs-kept"
# As BentoML documents it. It comes after the service's own middlewares and sees every request.
MIDDLEWARE = """

class Stamp:
    def __init__(self, app, text):
        self.app, self.text = app, text

    async def __call__(self, scope, receive, send):
        async def stamped(message):
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-stamp", self.text)]
            await send(message)

        await self.app(scope, receive, stamped)


TrafficSigns.add_asgi_middleware(Stamp, text=b"seen")
"""
SETTINGS = """
services:
  traffic_signs:
    http:
      cors:
        enabled: true
        access_control_allow_origins: ["{origin}"]
        access_control_allow_methods: ["POST"]
        access_control_allow_headers: ["authorization"]
    tracing:
      exporter_type: otlp
      sample_rate: 1.0
      otlp:
        protocol: http
        endpoint: http://127.0.0.1:{port}/v1/traces
"""


@pytest.fixture(scope="module")
def collected() -> Iterator[tuple[int, list[bytes]]]:
    """Port of a collector of traces, and what it got."""
    bodies: list[bytes] = []

    class Collector(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port, bodies
        server.shutdown()


@pytest.fixture(scope="module")
def configured(
    collected: tuple[int, list[bytes]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Four workers with a middleware, CORS, traces, two API keys and a prefix."""
    folder = copy_service(tmp_path_factory.mktemp("configured") / "app")
    with (folder / "service.py").open("a") as file:
        file.write(MIDDLEWARE)
    (folder / "settings.yaml").write_text(SETTINGS.format(origin=ORIGIN, port=collected[0]))
    (folder / "keys").write_text(f"{OTHER}\n")
    server = start(
        folder,
        BENTOML_CONFIG=str(folder / "settings.yaml"),
        SIGNS_WORKERS="4",
        SIGNS_API_KEYS=KEY,
        SIGNS_API_KEYS_FILE=str(folder / "keys"),
        SIGNS_OPEN="health,metrics,page",
        SIGNS_PATH_PREFIX=PREFIX,
    )
    yield server
    server.stop()


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """A photo of each colour, and a file that is none."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    made = {color: tmp_path / f"{color}.png" for color in ("Green", "Red")}
    for color, path in made.items():
        path.write_bytes(photo(color))
    (tmp_path / "text.png").write_text("no photo")
    return made | {"text": tmp_path / "text.png"}


def test_bentomls_client(server: str, files: dict[str, Path]) -> None:
    with bentoml.SyncHTTPClient(server) as client:
        prediction = client.predict(image=files["Green"])
        assert (prediction["name"], prediction["known"]) == ("Green", True)
        assert client.predict(files["Green"], "0,0,20,20")["name"] == "Green"
        assert client.predict(image=files["Green"], box=[0, 0, 20, 20])["name"] == "Green"
        batch = client.predict_batch(images=[files["Red"], files["text"], files["Green"]])
        assert [entry.get("name") for entry in batch] == ["Red", None, "Green"]
        assert "known format" in batch[1]["error"]
        picture = client.explain(image=files["Red"])
        assert Path(picture).read_bytes().startswith(b"\x89PNG")
        with pytest.raises(BentoMLException, match="known format"):
            client.predict(image=files["text"])


def test_bentomls_asynchronous_client(server: str, files: dict[str, Path]) -> None:
    async def ask() -> list[str]:
        async with bentoml.AsyncHTTPClient(server) as client:
            # One after the other: BentoML's client closes the files of all its calls at once.
            green = await client.predict(image=files["Green"])
            red = await client.predict(image=files["Red"])
            return [green["name"], red["name"]]

    assert asyncio.run(ask()) == ["Green", "Red"]


def test_bentomls_paths_refuse_as_ours_do(running: Server) -> None:
    for body in (b"no photo", photo()[:50], b""):
        ours, theirs = running.send(body), running.send(body, "/api/predict")
        assert (ours.status, ours.body) == (theirs.status, theirs.body)
    assert running.send(photo(), "/api/predict").body == running.send(photo()).body
    pickled = running.send(b"cos\nsystem\n", "/api/predict", "application/vnd.bentoml+pickle")
    assert (pickled.status, pickled.error) == (415, "pickle is not accepted")
    assert "Traceback" not in running.log.read_text()
    with connect(running) as connection:
        connection.sendall(head(100 * 2**20, "/api/explain"))
        assert b" 413 " in connection.recv(4096)  # though no byte of the body was sent
    document = running.ask("/docs.json").body
    declared = {path for path in document["paths"] if path.startswith("/api/")}
    assert declared == {f"/api{path}" for path in ("/predict", "/predict_batch", "/explain")}
    assert declared == {path for path, method in BENTOML_PATHS.items() if method == "POST"}
    named = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(document)))
    assert named <= set(document["components"]["schemas"])


def test_an_own_middleware_sees_every_request(configured: Server) -> None:
    replies = [configured.ask(path) for path in ("/", "/livez", "/metrics")]
    replies.append(configured.ask("/predict", photo(), **BEARER))
    replies.append(configured.ask("/nothing", **BEARER))
    assert [reply.headers.get("x-stamp") for reply in replies] == ["seen"] * 5


def test_cors_as_bentoml_documents_it(configured: Server) -> None:
    asked = {"Access_Control_Request_Method": "POST", "Origin": ORIGIN}
    asked["Access_Control_Request_Headers"] = "authorization"
    preflight = configured.ask("/predict", method="OPTIONS", **asked)
    assert preflight.status == 200
    assert preflight.headers["access-control-allow-origin"] == ORIGIN
    reply = configured.ask("/predict", photo(), Origin=ORIGIN, **BEARER)
    assert (reply.status, reply.headers["access-control-allow-origin"]) == (200, ORIGIN)
    other = configured.ask("/predict", photo(), Origin="https://other.example", **BEARER)
    assert "access-control-allow-origin" not in other.headers


def test_traces_as_bentoml_documents_them(
    configured: Server, collected: tuple[int, list[bytes]]
) -> None:
    configured.ask("/predict", photo(), **BEARER)
    assert wait_until(lambda: any(b"/predict" in body for body in collected[1]))
    assert not any(KEY.encode() in body for body in collected[1])


def test_needs_a_key(configured: Server, files: dict[str, Path]) -> None:
    for headers in (
        {},
        {"Authorization": f"Bearer {KEY}x"},
        {"Authorization": f"Basic {KEY}"},
        {"X_API_Key": KEY[:-1]},
        {"Authorization": "Bearer"},
    ):
        for path in ("/predict", "/api/predict", "/explain", PREFIX + "/predict", "/nothing"):
            reply = configured.ask(path, photo(), **headers)
            assert (reply.status, "API key" in reply.error) == (401, True)
        assert reply.headers["www-authenticate"] == "Bearer"
    for path in ("/model", "/docs.json", "/schema.json"):
        assert configured.ask(path).status == 401
    for headers in (BEARER, {"X_API_Key": OTHER}, {"Authorization": f"bearer {OTHER}"}):
        assert configured.ask("/predict", photo(), **headers).status == 200
    for path in ("/livez", "/readyz", "/metrics", "/", PREFIX + "/readyz"):
        assert configured.ask(path).status == 200
    with bentoml.SyncHTTPClient(configured.address, token=KEY) as client:
        assert client.predict(image=files["Red"])["name"] == "Red"
    assert not any(key in configured.log.read_text() for key in (KEY, OTHER))


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({NAME: ""}, "holds no key"),
        ({NAME: "short"}, "at least 16 characters"),
        ({NAME: f"{KEY},with blanks in between"}, "none a blank"),
        ({"SIGNS_API_KEYS_FILE": "/missing"}, "SIGNS_API_KEYS_FILE"),
        ({NAME: KEY, "SIGNS_OPEN": "predict"}, "Allowed: health, metrics, page"),
    ],
)
def test_says_what_is_wrong_with_keys(variables: dict[str, str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        api_keys(variables)


def test_says_so_at_the_start(tmp_path: Path) -> None:
    server = start(copy_service(tmp_path / "app"), wait=False, **{NAME: "short"})
    assert server.process.wait(60) != 0
    assert "ERROR: An API key must have at least 16 characters" in server.log.read_text()


def test_metrics_of_all_workers_agree(configured: Server) -> None:
    def counts() -> tuple[float, float]:
        text = configured.ask("/metrics").body.decode()
        found = re.findall(r'signs_predictions_total\{prediction="14"\} (\S+)', text)
        asked = r'signs_request_duration_seconds_count\{path="/predict",status="200"\} (\S+)'
        requests = re.findall(asked, text)
        return sum(map(float, found)), sum(map(float, requests))

    def ask(_: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", configured.port, timeout=60)
        for _ in range(50):
            connection.request("POST", "/predict", photo("Green"), BEARER)
            response = connection.getresponse()
            assert (response.status, json.load(response)["name"]) == (200, "Green")
        connection.close()

    before = counts()
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(ask, range(20)))
    assert [after - then for after, then in zip(counts(), before, strict=True)] == [1000, 1000]


@pytest.fixture(scope="module")
def nginx(
    configured: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SimpleNamespace]:
    """deployment/nginx.conf in the real nginx, in front of that service."""
    program = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if program is None:
        pytest.skip("needs nginx (apt install nginx-light)")
    folder, port = tmp_path_factory.mktemp("nginx"), free_port()
    text = (ROOT / "deployment/nginx.conf").read_text()
    text = text.replace("127.0.0.1:3000", f"127.0.0.1:{configured.port}")
    text = text.replace("127.0.0.1:8080", f"127.0.0.1:{port}")
    temporary = "".join(
        f"    {kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    text = text.replace("http {\n", f"http {{\n    access_log off;\n{temporary}")
    (folder / "nginx.conf").write_text(f"pid {folder}/pid;\ndaemon off;\n{text}")
    command = [program, "-c", str(folder / "nginx.conf"), "-e", str(folder / "errors")]
    process = subprocess.Popen(command)
    server = Server(f"http://127.0.0.1:{port}", process, folder, folder / "errors")  # type: ignore[arg-type]
    assert wait_until(lambda: server.ask("/signs/readyz").status == 200)
    yield server
    process.terminate()
    process.wait(30)


@pytest.mark.parametrize("prefix", ["/signs", PREFIX])
def test_behind_nginx(nginx: Server, files: dict[str, Path], prefix: str) -> None:
    assert nginx.ask(f"{prefix}/predict", photo("Red"), **BEARER).body["name"] == "Red"
    page = nginx.ask(f"{prefix}/").body.decode()
    assert not re.search(r"""(src|href|fetch\()=?["']/""", page)  # addresses are relative
    assert nginx.ask(prefix).body.decode() == page
    assert nginx.ask(f"{prefix}/predict", photo()).status == 401
    with bentoml.SyncHTTPClient(nginx.address + prefix, token=KEY) as client:
        assert client.predict(image=files["Green"])["name"] == "Green"


def test_nginx_limits_requests_of_one_address(nginx: Server) -> None:
    with ThreadPoolExecutor(10) as pool:
        asked = list(pool.map(lambda _: nginx.ask("/signs/livez").status, range(120)))
    assert set(asked) == {200, 429}
