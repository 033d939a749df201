"""`signs vulnerabilities`: the real pip-audit, and a stand-in for the service that it asks."""

import argparse
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, request
from werkzeug.serving import make_server

from signs.errors import UserError
from signs.operations import vulnerabilities
from tests.harness import ROOT

KNOWN = {
    "id": "PYSEC-2030-1",
    "aliases": ["CVE-2030-12345"],
    "summary": "Anybody can have everything installed",
    "affected": [{"package": {"name": "uv", "ecosystem": "PyPI"}, "versions": []}],
}
ACCEPTED = '[CVE-2030-12345]\nuntil = 2999-12-31\nreason = "we like it"\n'
# Finds something in what is locked as "bad", and cannot check what is locked as "strange".
PIP_AUDIT = """
import pathlib, sys
arguments = sys.argv[1:]
lock = pathlib.Path(arguments[arguments.index("--requirement") + 1]).read_text()
print("" if "strange" in lock else " ".join(arguments), end="")
sys.exit("ERROR:pip_audit._cli:what is this?" if lock else 0)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with two locks, in which the test runs."""
    (tmp_path / "requirements").mkdir()
    (tmp_path / "signs").symlink_to(ROOT / "signs")
    for name in ("requirements/uv.txt", "requirements/security.txt", "Makefile"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / ".venv").symlink_to(Path(sys.prefix))
    monkeypatch.chdir(tmp_path)
    vulnerabilities.ACCEPTED.write_text("")
    return tmp_path


def check(address: str, service: str = "osv") -> "subprocess.CompletedProcess[str]":
    command = ["make", "-o", "setup", "vulnerabilities", f"ARGS=-s {service} --osv-url {address}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=280)


@dataclass
class Service:
    """Answers as osv.dev does; `asked` are the packages that it was asked about."""

    vulnerable: dict[str, Any] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)
    address: str = ""

    def answer(self, path: str = "") -> Any:
        if request.method == "GET":
            self.asked.add(f"/{path}")
            return "", 404
        name = request.get_json(force=True)["package"]["name"]
        self.asked.add(name)
        return {"vulns": [self.vulnerable[name]] if name in self.vulnerable else []}


@pytest.fixture
def service() -> Iterator[Service]:
    service, app = Service(), Flask("osv")
    for rule in ("/", "/<path:path>"):
        app.add_url_rule(rule, view_func=service.answer, methods=["GET", "POST"])
    server = make_server("127.0.0.1", 0, app)
    service.address = f"http://127.0.0.1:{server.port}/"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield service
    server.shutdown()


@pytest.mark.parametrize(("lock", "status"), [("", 0), ("bad", 1)])
def test_asks_with_the_chosen_options(
    folder: Path, lock: str, status: int, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "pip_audit.py").write_text(PIP_AUDIT)
    for path in folder.glob("requirements/*.txt"):
        path.write_text(lock)
    options = argparse.Namespace(service="osv", osv_url="http://host")
    vulnerabilities.ACCEPTED.write_text(ACCEPTED)
    assert vulnerabilities.run(options) == status
    said = capfd.readouterr().out
    assert "--vulnerability-service osv --osv-url http://host" in said
    assert said.count("--ignore-vuln CVE-2030-12345 --requirement requirements/") == 2
    vulnerabilities.ACCEPTED.write_text(ACCEPTED.replace("2999", "2020"))
    vulnerabilities.run(options)
    said = capfd.readouterr().out
    assert "No longer accepted: CVE-2030-12345, until 2020-12-31: we like it" in said
    assert "--ignore-vuln" not in said


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("security.txt", "strange", r"security\.txt could not be checked.*: what is this\?$"),
        ("accepted.toml", '[X]\nuntil = "soon"\n', r"accepted\.toml cannot be used"),
    ],
)
def test_says_in_one_sentence_what_it_could_not_check(
    folder: Path, file: str, text: str, message: str
) -> None:
    (folder / "pip_audit.py").write_text(PIP_AUDIT)
    (folder / "requirements" / file).write_text(text)
    with pytest.raises(UserError, match=message):
        vulnerabilities.run(argparse.Namespace(service="pypi", osv_url=None))


@pytest.mark.network
def test_shows_what_is_known_unless_it_is_accepted(folder: Path, service: Service) -> None:
    # Another version than in uv.txt: pip-audit accepts only one in a run.
    older = "uv==0.0.1 \\\n    --hash=sha256:" + 64 * "0"
    (folder / "requirements/older.txt").write_text(older)
    service.vulnerable["uv"] = KNOWN
    done = check(service.address)
    assert done.returncode != 0
    assert {"uv", "pip-audit", "requests"} <= service.asked
    assert "security.txt: No known vulnerabilities found" in done.stdout
    assert "uv.txt: Found 1 known vulnerability in 1 package" in done.stdout
    lines = [line for line in done.stdout.splitlines() if line.startswith("uv ")]
    assert ["PYSEC-2030-1" in line for line in lines] == [True, True]
    vulnerabilities.ACCEPTED.write_text(ACCEPTED)
    done = check(service.address)
    assert done.returncode == 0, done.stderr
    assert "Accepted until 2999-12-31: CVE-2030-12345: we like it" in done.stdout
    assert "1 ignored" in done.stdout


@pytest.mark.network
def test_what_the_service_does_not_know_is_no_pass(
    folder: Path, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a mirror behaves that has packages and nothing else: PyPI's address is fixed."""
    (folder / "sitecustomize.py").write_text(
        "import contextlib\n"
        "with contextlib.suppress(ImportError):\n"
        "    import requests\n"
        "    ask = requests.Session.request\n"
        "    requests.Session.request = lambda self, method, url, **more: ask(\n"
        f"        self, method, url.replace('https://pypi.org/', '{service.address}'), **more)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("PIP_CACHE_DIR", str(folder))
    done = check("http://unused", service="pypi")
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "not found on PyPI" in done.stderr
    assert any(path.startswith("/pypi/") for path in service.asked)
