"""`make vulnerabilities`: the real pip-audit, and a stand-in for the service that it asks."""

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
KNOWN = {
    "id": "PYSEC-2030-1",
    "aliases": ["CVE-2030-12345"],
    "summary": "Anybody can have everything installed",
    "affected": [{"package": {"name": "uv", "ecosystem": "PyPI"}, "versions": []}],
}
# The first run downloads pip-audit.
pytestmark = [pytest.mark.network, pytest.mark.timeout(300)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project with two locks."""
    (tmp_path / "requirements").mkdir()
    (tmp_path / "signs").symlink_to(ROOT / "signs")
    for name in ("uv.txt", "security.txt", "accepted.toml"):
        shutil.copy(ROOT / "requirements" / name, tmp_path / "requirements")
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / ".venv").symlink_to(Path(sys.prefix))
    return tmp_path


def check(folder: Path, address: str, service: str = "osv") -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["make", "-o", "setup", "vulnerabilities", f"ARGS=-s {service} --osv-url {address}"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )


class Service(ThreadingHTTPServer):
    """Answers as osv.dev does; `asked` are the packages that it was asked about."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.vulnerable: dict[str, Any] = {}
        self.asked: set[str] = set()


class Handler(BaseHTTPRequestHandler):
    server: Service

    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = question["package"]["name"]
        self.server.asked.add(name)
        found = self.server.vulnerable.get(name)
        body = json.dumps({"vulns": [found]} if found else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.server.asked.add(self.path)
        self.send_error(404)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def address(service: Service) -> str:
    return f"http://127.0.0.1:{service.server_port}/"


def test_asks_about_every_lock(folder: Path, service: Service, address: str) -> None:
    # Another version than in uv.txt, which pip-audit takes in no file beside it.
    older = "uv==0.0.1 \\\n    --hash=sha256:" + 64 * "0"
    (folder / "requirements/older.txt").write_text(older)
    found = check(folder, address)
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines() == [
        f"requirements/{name}.txt: No known vulnerabilities found"
        for name in ("older", "security", "uv")
    ]
    assert {"uv", "pip-audit", "requests"} <= service.asked


def test_shows_what_is_known_unless_it_is_accepted(
    folder: Path, service: Service, address: str
) -> None:
    service.vulnerable["uv"] = KNOWN
    found = check(folder, address)
    assert found.returncode != 0
    assert "uv.txt: Found 1 known vulnerability in 1 package" in found.stdout
    (line,) = (line for line in found.stdout.splitlines() if line.startswith("uv "))
    assert "PYSEC-2030-1" in line

    accepted = folder / "requirements/accepted.toml"
    accepted.write_text('[CVE-2030-12345]\nuntil = 2999-12-31\nreason = "we like it"\n')
    found = check(folder, address)
    assert found.returncode == 0, found.stderr
    assert "Accepted until 2999-12-31: CVE-2030-12345: we like it" in found.stdout
    assert "1 ignored" in found.stdout

    accepted.write_text(accepted.read_text().replace("2999", "2020"))
    found = check(folder, address)
    assert found.returncode != 0
    assert "No longer accepted: CVE-2030-12345" in found.stdout
    assert "uv " in found.stdout


def test_says_in_one_sentence_what_it_could_not_ask(folder: Path) -> None:
    assert "could not be checked, so nothing is known" in _error(
        check(folder, "http://127.0.0.1:9/")
    )
    (folder / "requirements/accepted.toml").write_text('[CVE-2030-12345]\nuntil = "soon"\n')
    assert "accepted.toml cannot be used" in _error(check(folder, "http://127.0.0.1:9/"))


def _error(result: "subprocess.CompletedProcess[str]") -> str:
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("ERROR: "))
    return line


def test_what_the_service_does_not_know_is_no_pass(
    folder: Path, service: Service, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a mirror behaves that has packages and nothing else: PyPI's address is fixed."""
    (folder / "sitecustomize.py").write_text(
        "import contextlib\n"
        "with contextlib.suppress(ImportError):\n"
        "    import requests\n"
        "    ask = requests.Session.request\n"
        "    requests.Session.request = lambda self, method, url, **more: ask(\n"
        f"        self, method, url.replace('https://pypi.org/', '{address}'), **more)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("PIP_CACHE_DIR", str(folder))
    assert "not found on PyPI" in _error(check(folder, "http://unused", service="pypi"))
    assert any(path.startswith("/pypi/") for path in service.asked)
