"""Whether a running service is the one that was built, and names photos as it should.

    make smoke                                        the image that was built: runs it for that
    make smoke ARGS=--deployed                        what `make deploy` put into service
    make smoke ARGS='--url http://127.0.0.1:8080'     a service at that address

It asks for the photos of build/smoke and compares. Exits with 1 if anything differs.
"""

import argparse
import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deployment.container import BUILD, Engine, built, read_values, run_command
from signs.errors import UserError

PHOTOS = BUILD / "smoke"
CONFIDENCE_DIFFERENCE = 0.02  # processors differ in the last digits of a sum
TIMEOUT_SECONDS = 20
# HTTP_PROXY is meant for the internet, not for services on this host.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def smoke() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Check a service with photos of known answers.")
    parser.add_argument("--url", help="of a running service; default: run the image")
    parser.add_argument("--deployed", action="store_true", help="check the deployed service")
    arguments = parser.parse_args()
    values = read_values()
    if url := values.url if arguments.deployed else arguments.url:
        check(url.rstrip("/"), PHOTOS)
        return
    engine, name = Engine(), f"{values.name}-smoke"
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    try:
        engine.start(name, f"{values.image}:{built()['version']}", port, values)
        wait(url, values.ready_seconds, lambda: engine.runs(name))
        check(url, PHOTOS)
    except UserError as error:
        raise UserError(f"{error}\n{engine.logs(name)}") from error
    finally:
        engine.remove(name)


def wait(url: str, seconds: float, alive: Callable[[], bool]) -> float:
    """Wait until `/readyz` says yes; the seconds that took.

    Raises UserError if it does not within `seconds`, or if `alive` is no longer true.
    """
    started = time.monotonic()
    while (waited := time.monotonic() - started) < seconds:
        try:
            DIRECT.open(f"{url}/readyz", timeout=TIMEOUT_SECONDS).close()
            return waited
        except OSError:
            if not alive():
                raise UserError("The service ended while it started.") from None
            time.sleep(0.1)
    raise UserError(f"{url} is not ready after {seconds:g} s.")


def check(url: str, photos: Path) -> None:
    """Compare a service's predictions with those recorded in the folder `photos`.

    Raises UserError if the service cannot be reached, serves another model or predicts otherwise.
    """
    try:
        recorded = json.loads((photos / "predictions.json").read_bytes())
    except FileNotFoundError as error:
        raise UserError(
            f"{photos} holds no photos to check with. `make bento` puts test photos there if they "
            "are here (`dvc pull`, or `make`)."
        ) from error
    model = _ask(f"{url}/model")["version"]
    if model != recorded["model"]:
        raise UserError(f"{url} serves the model {model}, not {recorded['model']}.")
    wrong = []
    for expected in recorded["photos"]:
        served = _ask(f"{url}/predict", (photos / expected["photo"]).read_bytes())
        same = all(served[key] == expected[key] for key in ("prediction", "known"))
        if not same or abs(served["confidence"] - expected["confidence"]) > CONFIDENCE_DIFFERENCE:
            wrong.append(
                f"{expected['photo']} is {expected['name']} ({expected['confidence']:.3f}), "
                f"but the service says {served['name']} ({served['confidence']:.3f})"
            )
    count = len(recorded["photos"])
    if wrong:
        few = "; ".join(wrong[:3])
        raise UserError(f"{url} names {len(wrong)} of {count} photos wrong: {few}.")
    print(f"{url} serves {model} and names all {count} photos as expected.")


def _ask(url: str, photo: bytes | None = None) -> Any:
    request = urllib.request.Request(url, photo, {"Content-Type": "image/png"} if photo else {})
    try:
        with DIRECT.open(request, timeout=TIMEOUT_SECONDS) as response:
            return json.loads(response.read())
    except (OSError, ValueError) as error:
        said = error.read().decode() if isinstance(error, urllib.error.HTTPError) else ""
        raise UserError(f"{url} does not answer: {error} {said}".strip()) from error


if __name__ == "__main__":
    run_command(smoke)
