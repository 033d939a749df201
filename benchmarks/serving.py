"""The service beside other ways to serve: requests/s, p99, start, processor time, memory.

    make benchmark-serving                      all of them, some minutes
    make benchmark-serving ARGS='ours bare'     some of them

original  Flask and `model.predict`, the original project's network
rival     BentoML's image parameter and a call of the Keras model, the compact network
bare      uvicorn, Starlette and ONNX Runtime, the compact network in floats, as many workers
ours      `bentoml serve`, photos as bodies
form      the same, photos as fields of a form
api       the same through BentoML's own API, /api/predict

Needs what `make` leaves in models/ and data/synthetic, and wrk (Debian: apt install wrk). All
take turns in each round; figures are medians of the rounds. wrk runs on the same cores.
"""

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks import photos
from signs.errors import UserError, run_stage
from signs.inference.classifier import METADATA, MODEL
from signs.machine import cores
from signs.paths import CLASSIFIER, DATA, FLOAT_MODEL

PHOTOS = DATA / "synthetic/images.zip"
PHOTO_COUNT = 200
# Of medium size, as a camera's photo of a sign is: neither the smallest nor the largest.
SIDES = range(40, 100)
CONCURRENCIES = (1, 8, 32)
ROUNDS = 3
# Chance decides which worker gets a connection. Several short runs with new ones average it.
RUNS, SECONDS = 3, 2
# A slow server would hardly answer once in a short run.
SLOW_RUNS, SLOW_SECONDS = 1, 10
WARM_UP_SECONDS = 2
START_SECONDS = 120
ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
BOUNDARY = "frontier"
FLOATS = "floats"  # the folder of the float classifier
SCRIPT = """
local bodies = {}
for i = 1, %(count)d do
    -- wrk has no room for sockets beside many open files.
    local file = io.open("%(folder)s/" .. i, "rb")
    bodies[i] = file:read("*a")
    file:close()
end
local i = 0
function request()
    i = i %% %(count)d + 1
    return wrk.format("POST", wrk.path, {["Content-Type"] = "%(kind)s"}, bodies[i])
end
function done(summary, latency, requests)
    local e = summary.errors
    local failed = e.connect + e.read + e.write + e.status + e.timeout
    io.write(string.format('{"requests": %%d, "seconds": %%f, "failed": %%d, "p99_ms": %%f}\\n',
        summary.requests, summary.duration / 1e6, failed, latency:percentile(99) / 1e3))
end
"""


@dataclass(frozen=True)
class Contender:
    """One way to serve."""

    command: tuple[str, ...]
    form: bool = False
    slow: bool = False
    path: str = "/predict"


def _bentoml(service: str) -> tuple[str, ...]:
    return (str(BIN / "bentoml"), "serve", service, "--host", "127.0.0.1", "--port", "{port}")


CONTENDERS = {
    "original": Contender(
        (sys.executable, "-m", "benchmarks.servers.original"), form=True, slow=True
    ),
    "rival": Contender(_bentoml("benchmarks.servers.rival:Rival"), form=True, slow=True),
    "bare": Contender(
        (
            *(sys.executable, "-m", "uvicorn", "benchmarks.servers.bare:app", "--no-access-log"),
            *("--host", "127.0.0.1", "--port", "{port}", "--workers", str(cores())),
        )
    ),
    "ours": Contender(_bentoml("service:TrafficSigns")),
    "form": Contender(_bentoml("service:TrafficSigns"), form=True),
    "api": Contender(_bentoml("service:TrafficSigns"), path="/api/predict"),
}


def serving() -> None:
    """Measure and print as JSON."""
    parser = argparse.ArgumentParser(description="The service beside other ways to serve.")
    parser.add_argument("which", nargs="*", default="all", choices=["all", *CONTENDERS])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    chosen = list(CONTENDERS) if "all" in arguments.which else arguments.which
    figures: dict[str, list[dict[str, Any]]] = {name: [] for name in chosen}
    with tempfile.TemporaryDirectory() as folder:
        sent = _photos()
        for form in (False, True):
            _write_requests(Path(folder), sent, form)
        _write_floats(Path(folder) / FLOATS)
        for number in range(arguments.rounds):
            for name in chosen:
                print(f"round {number + 1} of {arguments.rounds}: {name}", file=sys.stderr)
                figures[name].append(_measure(CONTENDERS[name], Path(folder)))
    medians = {
        name: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for name, runs in figures.items()
    }
    print(json.dumps({"photos": len(sent), "cores": cores(), **medians}, indent=2))
    if "ours" in medians:
        print(json.dumps({"ours against": _ratios(medians)}, indent=2))


def _ratios(medians: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Of `ours` to each other: below 1 is good for times and memory, above 1 for requests/s."""
    ours = medians["ours"]
    return {
        name: {key: round(ours[key] / value, 3) for key, value in other.items() if value}
        for name, other in medians.items()
        if name != "ours"
    }


def _photos() -> list[bytes]:
    """Synthetic photos, as the synthesize stage wrote them."""
    if not PHOTOS.exists() or not (CLASSIFIER / MODEL).exists():
        raise UserError(f"{PHOTOS} or {CLASSIFIER} is missing; `make` makes both.")
    return photos.of_sides(PHOTOS, SIDES, PHOTO_COUNT)


def _write_floats(folder: Path) -> None:
    """The classifier as it was before its numbers became integers, for those who serve without."""
    folder.mkdir()
    shutil.copy(FLOAT_MODEL, folder / MODEL)
    digest = hashlib.sha256(FLOAT_MODEL.read_bytes()).hexdigest()
    metadata = json.loads((CLASSIFIER / METADATA).read_bytes())
    metadata |= {"sha256": digest, "version": digest[:12]}
    (folder / METADATA).write_text(json.dumps(metadata), encoding="utf-8")


def _write_requests(folder: Path, sent: list[bytes], form: bool) -> None:
    """The bodies to send, one file each, and the script that makes wrk send them in turn."""
    bodies = folder / f"bodies-{form}"
    bodies.mkdir()
    head = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="sign.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    ).encode()
    for number, photo in enumerate(sent, 1):
        body = head + photo + f"\r\n--{BOUNDARY}--\r\n".encode() if form else photo
        (bodies / str(number)).write_bytes(body)
    kind = f"multipart/form-data; boundary={BOUNDARY}" if form else "image/jpeg"
    script = SCRIPT % {"count": len(sent), "folder": bodies, "kind": kind}
    (folder / f"{form}.lua").write_text(script, encoding="utf-8")


def _measure(contender: Contender, folder: Path) -> dict[str, float]:
    """Start it, ask it at each concurrency, stop it."""
    started = time.perf_counter()
    with running(contender, folder) as (address, process):
        _wait_for_answer(address, process, contender, folder)
        figures = {"start_seconds": round(time.perf_counter() - started, 2)}
        script = folder / f"{contender.form}.lua"
        count, seconds = (SLOW_RUNS, SLOW_SECONDS) if contender.slow else (RUNS, SECONDS)
        address += contender.path
        _wrk(address, script, 8, WARM_UP_SECONDS)
        for concurrency in CONCURRENCIES:
            runs = []
            for _ in range(count):
                before = _processor_seconds(process)
                run = _wrk(address, script, concurrency, seconds)
                if run["failed"] or not run["requests"]:
                    raise UserError(f"{run['failed']} of {run['requests']} requests failed.")
                spent = _processor_seconds(process) - before
                runs.append(run | {"processor": spent / run["requests"]})
            rate = statistics.median(run["requests"] / run["seconds"] for run in runs)
            p99 = statistics.median(run["p99_ms"] for run in runs)
            processor = statistics.median(run["processor"] for run in runs)
            figures |= {
                f"requests_per_second_c{concurrency}": round(rate, 1),
                f"p99_ms_c{concurrency}": round(p99, 1),
                f"processor_ms_c{concurrency}": round(1000 * processor, 3),
            }
        figures["memory_mb"] = round(_memory(process) / 2**20)
    return figures


@contextlib.contextmanager
def running(contender: Contender, folder: Path) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """Its address and its process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "BENTOML_HOME": str(folder / "bentoml"),
        "CLASSIFIER": str(folder / FLOATS),
        "PORT": str(port),
        "PYTHONPATH": str(ROOT),
    }
    command = [part.format(port=port) for part in contender.command]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=ROOT)
    try:
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait_for_answer(
    address: str, process: "subprocess.Popen[bytes]", contender: Contender, folder: Path
) -> None:
    body = (folder / f"bodies-{contender.form}" / "1").read_bytes()
    kind = f"multipart/form-data; boundary={BOUNDARY}" if contender.form else "image/jpeg"
    request = urllib.request.Request(f"{address}/predict", body, {"Content-Type": kind})
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), direct.open(request, timeout=30):
            return
        time.sleep(0.05)
    log = (folder / "server.log").read_text(encoding="utf-8", errors="replace")
    raise UserError(f"{' '.join(contender.command)} does not answer:\n{log[-2000:]}")


def _wrk(address: str, script: Path, concurrency: int, seconds: int) -> dict[str, float]:
    command = ["wrk", "--threads", "1", "--connections", str(concurrency)]
    command += ["--duration", f"{seconds}s", "--timeout", "30s", "--script", str(script), address]
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise UserError("wrk is missing; on Debian and Ubuntu: apt install wrk.") from error
    run: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return run


def _family(process: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    parent = psutil.Process(process.pid)
    return [parent, *parent.children(recursive=True)]


def _processor_seconds(process: "subprocess.Popen[bytes]") -> float:
    return sum(sum(p.cpu_times()[:2]) for p in _family(process))


def _memory(process: "subprocess.Popen[bytes]") -> float:
    """Bytes of memory; pages that processes share count once (PSS)."""
    return float(sum(p.memory_full_info().pss for p in _family(process)))


if __name__ == "__main__":
    run_stage(serving)
