"""The examples of docs/service.md, run as they stand there, and its tables."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Server, photo

ROOT = Path(__file__).parents[2]
MANUAL = (ROOT / "docs/service.md").read_text(encoding="utf-8")
ADDRESS = "http://127.0.0.1:3000"


@pytest.fixture
def run(running: Server, tmp_path: Path) -> Callable[[list[str]], str]:
    """Runs a command beside two photos, with the address of the running service."""
    (tmp_path / "sign.png").write_bytes(photo("Green"))
    (tmp_path / "other.png").write_bytes(photo("Red"))

    def run(command: list[str]) -> str:
        command = [word.replace(ADDRESS, running.address) for word in command]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_examples(run: Callable[[list[str]], str], tmp_path: Path) -> None:
    (commands,) = (b for b in re.findall(r"```sh\n(.*?)```", MANUAL, re.DOTALL) if "curl " in b)
    one, raw, batch, explain, model = [run(["sh", "-c", x]) for x in commands.splitlines()]
    assert json.loads(one)["name"] == json.loads(raw)["name"] == "Green"
    assert [prediction["name"] for prediction in json.loads(batch)] == ["Green", "Red"]
    assert explain == ""
    assert (tmp_path / "why.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads(model)["dataset"] == "colors"


def test_python_example(run: Callable[[list[str]], str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", MANUAL, re.DOTALL)
    name, confidence = run([sys.executable, "-c", code]).split()
    assert name == "Green"
    assert 0.99 < float(confidence) <= 1


def test_names_every_path_and_variable() -> None:
    folder = ROOT / "signs/serving"
    code = "".join(f.read_text() for f in (ROOT / "service.py", *sorted(folder.glob("*.py"))))
    variables = set(re.findall(r"SIGNS_[A-Z_]+", code))
    assert variables == set(re.findall(r"SIGNS_[A-Z_]+", MANUAL))
    paths = re.findall(r'"(/[a-z_]+(?:\.json)?)": \(', code)
    assert len(paths) >= 6
    for path in paths:
        assert f"`{path}`" in MANUAL or f" {path}`" in MANUAL, path
