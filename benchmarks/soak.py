"""Whether the service stays as it is under a load that lasts: memory, errors and p99 by the minute.

    make benchmark-soak                     30 minutes
    make benchmark-soak ARGS="--minutes 5"

A mix of what clients send goes to `bentoml serve` at a bounded rate: photos as bodies, in forms and
in JSON, batches, explanations, files that are no photo, and paths that do not exist. Prints a line
each minute and, at the end, the growth of the workers' resident memory after the first tenth.
"""

import argparse
import base64
import contextlib
import http.client
import json
import random
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from benchmarks import photos, serving
from signs.errors import UserError, run_stage

CLIENTS = 4
PAUSE = 0.02  # seconds between two requests of a client: a part of what the service can do
BOUNDARY = "frontier"
Request = tuple[str, str, bytes, dict[str, str], int]  # method, path, body, headers, status


def soak() -> None:
    """Ask, print, and fail if a response is not the expected one."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--minutes", type=int, default=30)
    minutes = parser.parse_args().minutes
    sent = photos.of_sides(serving.PHOTOS, serving.SIDES, 50)
    mix = requests(sent)
    memory: list[float] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        serving.running(serving.CONTENDERS["ours"], Path(folder)) as (address, process),
    ):
        wait(address)
        for minute in range(minutes):
            with ThreadPoolExecutor(CLIENTS) as pool:
                ends = time.monotonic() + 60
                seeds = [minute * CLIENTS + client for client in range(CLIENTS)]
                clients = [pool.submit(ask, address, mix, ends, seed) for seed in seeds]
                times = [seconds for client in clients for seconds in client.result()]
            workers = psutil.Process(process.pid).children(recursive=True)
            memory.append(sum(worker.memory_info().rss for worker in workers) / 2**20)
            p99 = sorted(times)[int(0.99 * len(times))] * 1000
            line = {"minute": minute + 1, "requests": len(times), "p99_ms": round(p99, 1)}
            print(json.dumps(line | {"memory_mb": round(memory[-1], 1)}), flush=True)
    settled = memory[min(len(memory) // 10, len(memory) - 1)]
    print(json.dumps({"growth_percent": round(100 * (memory[-1] / settled - 1), 2)}))


def wait(address: str) -> None:
    """Until the service is ready."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for _ in range(600):
        with contextlib.suppress(OSError), direct.open(f"{address}/readyz", timeout=5):
            return
        time.sleep(0.1)
    raise UserError("The service does not start; `bentoml serve` says why.")


def requests(sent: list[bytes]) -> list[Request]:
    """What clients send, and the status that each must get."""
    form = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}

    def parts(name: str, files: list[bytes]) -> bytes:
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="a"'
        all_parts = b"".join(f"{head}\r\n\r\n".encode() + file + b"\r\n" for file in files)
        return all_parts + f"--{BOUNDARY}--".encode()

    mix: list[Request] = []
    for number, photo in enumerate(sent):
        encoded = json.dumps({"image": base64.b64encode(photo).decode()}).encode()
        mix += [
            ("POST", "/predict", photo, {"Content-Type": "image/jpeg"}, 200),
            ("POST", "/predict?box=2,2,30,30", photo, {}, 200),
            ("POST", "/predict", parts("image", [photo]), form, 200),
            ("POST", "/api/predict", parts("image", [photo]), form, 200),
            ("POST", "/predict", encoded, {"Content-Type": "application/json"}, 200),
            ("POST", "/predict_batch", parts("images", sent[:8]), form, 200),
            ("POST", "/predict", photo[: len(photo) // 2], {"Content-Type": "image/jpeg"}, 400),
            ("GET", f"/nothing/{number}/{random.random()}", b"", {}, 404),
        ]
    mix += [("POST", "/explain", sent[0], {}, 200), ("GET", "/metrics", b"", {}, 200)] * 5
    return mix


def ask(address: str, mix: list[Request], ends: float, seed: int) -> list[float]:
    """One client's requests until then; the seconds that each took."""
    order, times = random.Random(seed), []
    connection = http.client.HTTPConnection(str(urlsplit(address).netloc), timeout=60)
    while time.monotonic() < ends:
        method, path, body, headers, expected = order.choice(mix)
        started = time.perf_counter()
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        response.read()
        times.append(time.perf_counter() - started)
        if response.status != expected:
            raise UserError(f"{method} {path}: {response.status} in place of {expected}.")
        time.sleep(PAUSE)
    connection.close()
    return times


if __name__ == "__main__":
    run_stage(soak)
