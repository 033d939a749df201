"""`signs vulnerabilities`: the real pip-audit, and a stand-in for the service that it asks."""

import argparse
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, request
from werkzeug.serving import make_server

from signs.errors import UserError
from signs.operations import vulnerabilities

ROOT = Path(__file__).parents[2]
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


class Service:
    """Answers as osv.dev does; `asked` are the packages that it was asked about."""

    def __init__(self) -> None:
        self.vulnerable: dict[str, Any] = {}
        self.asked: set[str] = set()
        app = Flask("osv")
        app.add_url_rule("/<path:path>", view_func=self.answer, methods=["GET", "POST"])
        app.add_url_rule("/", view_func=self.answer, methods=["POST"])
        self.server = make_server("127.0.0.1", 0, app)

    def answer(self, path: str = "") -> Any:
        if request.method == "GET":
            self.asked.add(f"/{path}")
            return "", 404
        name = request.get_json(force=True)["package"]["name"]
        self.asked.add(name)
        return {"vulns": [self.vulnerable[name]] if name in self.vulnerable else []}


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    threading.Thread(target=service.server.serve_forever, daemon=True).start()
    yield service
    service.server.shutdown()


@pytest.fixture
def address(service: Service) -> str:
    return f"http://127.0.0.1:{service.server.port}/"


@pytest.mark.parametrize(("lock", "status"), [("", 0), ("bad", 1)])
def test_asks_with_the_chosen_options(
    folder: Path,
    lock: str,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    (folder / "pip_audit.py").write_text(PIP_AUDIT)
    for path in folder.glob("requirements/*.txt"):
        path.write_text(lock)
    vulnerabilities.ACCEPTED.write_text(ACCEPTED)
    parser = argparse.ArgumentParser()
    vulnerabilities.add_arguments(parser)
    options = parser.parse_args(["--service", "osv", "--osv-url", "http://host"])
    assert vulnerabilities.run(options) == status
    said = capfd.readouterr().out
    assert "--vulnerability-service osv --osv-url http://host" in said
    assert said.count("--ignore-vuln CVE-2030-12345 --requirement requirements/") == 2
    vulnerabilities.ACCEPTED.write_text(ACCEPTED.replace("2999", "2020"))
    vulnerabilities.run(options)
    said = capfd.readouterr().out
    assert "No longer accepted: CVE-2030-12345, until 2020-12-31: we like it" in said
    assert "--ignore-vuln" not in said


def test_says_in_one_sentence_what_it_could_not_ask(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    (folder / "pip_audit.py").write_text(PIP_AUDIT)
    options = argparse.Namespace(service="pypi", osv_url=None)
    (folder / "requirements/security.txt").write_text("strange")
    with pytest.raises(UserError, match=r"security\.txt could not be checked.*: what is this\?$"):
        vulnerabilities.run(options)
    vulnerabilities.ACCEPTED.write_text('[CVE-2030-12345]\nuntil = "soon"\n')
    with pytest.raises(UserError, match=r"accepted\.toml cannot be used"):
        vulnerabilities.run(options)


@pytest.mark.network
def test_shows_what_is_known_unless_it_is_accepted(
    folder: Path, service: Service, address: str
) -> None:
    # Another version than in uv.txt: pip-audit accepts only one in a run.
    older = "uv==0.0.1 \\\n    --hash=sha256:" + 64 * "0"
    (folder / "requirements/older.txt").write_text(older)
    service.vulnerable["uv"] = KNOWN
    done = check(folder, address)
    assert done.returncode != 0
    assert {"uv", "pip-audit", "requests"} <= service.asked
    assert "security.txt: No known vulnerabilities found" in done.stdout
    assert "uv.txt: Found 1 known vulnerability in 1 package" in done.stdout
    lines = [line for line in done.stdout.splitlines() if line.startswith("uv ")]
    assert ["PYSEC-2030-1" in line for line in lines] == [True, True]
    (folder / "requirements/accepted.toml").write_text(ACCEPTED)
    done = check(folder, address)
    assert done.returncode == 0, done.stderr
    assert "Accepted until 2999-12-31: CVE-2030-12345: we like it" in done.stdout
    assert "1 ignored" in done.stdout


@pytest.mark.network
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
    done = check(folder, "http://unused", service="pypi")
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "not found on PyPI" in done.stderr
    assert any(path.startswith("/pypi/") for path in service.asked)
