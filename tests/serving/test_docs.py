"""The examples of docs/service.md, run as they stand there, and its tables."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.conftest import Server, photo

ROOT = Path(__file__).parents[2]
MANUAL = (ROOT / "docs/service.md").read_text(encoding="utf-8")


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_examples(running: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, color in (("sign.png", "Green"), ("other.png", "Red")):
        (tmp_path / name).write_bytes(photo(color))

    def run(*command: str) -> str:
        here = [word.replace("http://127.0.0.1:3000", running.address) for word in command]
        return subprocess.check_output(here, cwd=tmp_path, text=True)

    blocks = re.findall(r"```sh\n(.*?)```", MANUAL, re.DOTALL)
    commands, boxed, _ = (block for block in blocks if "curl " in block)
    one, raw, batch, explain, model = [run("sh", "-c", line) for line in commands.splitlines()]
    assert json.loads(one)["name"] == json.loads(raw)["name"] == "Green"
    assert [prediction["name"] for prediction in json.loads(batch)] == ["Green", "Red"]
    assert explain == ""
    assert (tmp_path / "why.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads(model)["dataset"] == "colors"
    street = np.full((200, 500, 3), (40, 40, 120), np.uint8)
    sign = cv2.imdecode(np.frombuffer(photo("Green"), np.uint8), cv2.IMREAD_COLOR)
    street[80:139, 412:470] = cv2.resize(sign, (58, 59))
    cv2.imwrite(str(tmp_path / "street.jpg"), street)
    assert json.loads(run("sh", "-c", boxed.splitlines()[0]))["name"] == "Green"
    code, with_bentoml = re.findall(r"```python\n(.*?)```", MANUAL, re.DOTALL)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("no_proxy", "")
    name, confidence = run(sys.executable, "-c", code).split()
    assert name == "Green"
    assert 0.99 < float(confidence) <= 1
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert run(sys.executable, "-c", with_bentoml).split()[0] == "Green"


def test_names_every_path_and_variable() -> None:
    folder = ROOT / "signs/serving"
    code = "".join(f.read_text() for f in (ROOT / "service.py", *sorted(folder.glob("*.py"))))
    in_code, in_manual = (set(re.findall(r"SIGNS_[A-Z_]+", text)) for text in (code, MANUAL))
    assert in_code == in_manual
    paths = re.findall(r'"(/[a-z_]+(?:\.json)?)": self', code)
    assert len(paths) >= 6
    for path in paths:
        assert f"`{path}`" in MANUAL or f" {path}`" in MANUAL, path
