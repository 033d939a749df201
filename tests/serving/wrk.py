"""wrk, which posts a photo over and over on connections that it keeps open."""

import shutil
import subprocess
from pathlib import Path

import pytest

needs_wrk = pytest.mark.skipif(shutil.which("wrk") is None, reason="needs wrk (apt install wrk)")


def start(
    address: str, photo: bytes, folder: Path, connections: int, seconds: float
) -> "subprocess.Popen[str]":
    """Post a photo to /predict; it prints a summary at the end or on SIGINT."""
    (folder / "photo").write_bytes(photo)
    (folder / "post.lua").write_text(
        'wrk.method = "POST"\nwrk.headers["Content-Type"] = "image/png"\n'
        f'wrk.body = io.open("{folder / "photo"}", "rb"):read("*a")\n'
    )
    command = ["wrk", "--threads=1", f"--connections={connections}", "--timeout=30s"]
    command += [f"--duration={seconds}s", f"--script={folder / 'post.lua'}", f"{address}/predict"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
