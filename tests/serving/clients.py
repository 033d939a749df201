"""Clients that behave badly: requests byte by byte, and wrk, which posts a photo over and over."""

import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Server

needs_wrk = pytest.mark.skipif(shutil.which("wrk") is None, reason="needs wrk (apt install wrk)")


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=60)


def head(length: int, path: str = "/predict", kind: str = "image/png") -> bytes:
    """What precedes a raw body of so many bytes."""
    headers = f"Host: x\r\nContent-Type: {kind}\r\nContent-Length: {length}"
    return f"POST {path} HTTP/1.1\r\n{headers}\r\n\r\n".encode()


def wrk(
    server: Server, photo: bytes, folder: Path, connections: int, seconds: float
) -> "subprocess.Popen[str]":
    """Post a photo to /predict on open connections; it prints a summary at the end or on SIGINT."""
    (folder / "photo").write_bytes(photo)
    (folder / "post.lua").write_text(
        'wrk.method = "POST"\nwrk.headers["Content-Type"] = "image/png"\n'
        f'wrk.body = io.open("{folder / "photo"}", "rb"):read("*a")\n'
    )
    command = ["wrk", "--threads=1", f"--connections={connections}", "--timeout=30s"]
    command += [f"--duration={seconds}s", f"--script={folder / 'post.lua'}"]
    command.append(f"{server.address}/predict")
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
