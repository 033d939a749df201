"""The README's client examples, run as they stand there."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ADDRESS = "http://127.0.0.1:3000"


def examples(language: str) -> list[str]:
    section = (ROOT / "README.md").read_text().split("\n## Serve it\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, make_photo: Callable[..., bytes]) -> Path:
    (tmp_path / "sign.png").write_bytes(make_photo("Green"))
    (tmp_path / "other.png").write_bytes(make_photo("Red"))
    return tmp_path


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(
        command, cwd=folder, env=dict(os.environ), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_examples(server: str, folder: Path) -> None:
    (commands,) = (block for block in examples("sh") if "curl" in block)
    lines = commands.replace(ADDRESS, server).splitlines()
    one, raw, batch, explain, model = [run(["sh", "-c", line], folder) for line in lines]
    assert json.loads(one)["name"] == json.loads(raw)["name"] == "Green"
    assert [answer["name"] for answer in json.loads(batch)] == ["Green", "Red"]
    assert explain == ""
    assert (folder / "why.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads(model)["dataset"] == "colors"


def test_python_example(server: str, folder: Path) -> None:
    (code,) = examples("python")
    name, confidence = run([sys.executable, "-c", code.replace(ADDRESS, server)], folder).split()
    assert name == "Green"
    assert 0.99 < float(confidence) <= 1


def test_every_path_and_variable_is_there() -> None:
    readme = (ROOT / "README.md").read_text()
    code = "".join(
        (ROOT / f).read_text()
        for f in ("service.py", "signs/serving/app.py", "signs/serving/monitoring.py")
    )
    for name in sorted(set(re.findall(r"SIGNS_[A-Z_]+", readme + code))):
        assert name in readme
        assert name in code
    for path in re.findall(r'"(/[a-z_]+(?:\.json)?)": \(', code):
        assert f"`{path}`" in readme or f" {path}`" in readme, path
