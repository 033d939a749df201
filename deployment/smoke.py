"""Whether a running service is the one that was built, and names photos as it should.

    make smoke                                        of the image: runs it for that
    make smoke ARGS=--deployed                        of what `make deploy` put into service
    make smoke ARGS='--url http://127.0.0.1:8080'     of what answers there

It asks for the photos of build/smoke. Prints what it found; exits with 1 if that is wrong.
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

from deployment.container import BUILD, DeployError, Engine, built, exit_with_sentence, values

PHOTOS = BUILD / "smoke"
# Vector units differ: another processor's sums differ in the last digits.
CONFIDENCE_DIFFERENCE = 0.02
TIMEOUT_SECONDS = 20


def smoke() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Whether the service answers as it should.")
    parser.add_argument("--url", help="of a running service; without it, the image is run")
    parser.add_argument("--deployed", action="store_true", help="of the stable port")
    arguments = parser.parse_args()
    about = values()
    if url := about.url if arguments.deployed else arguments.url:
        check(url.rstrip("/"), PHOTOS)
        return
    engine = Engine()
    name = f"{about.name}-smoke"
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    image = f"{about.image}:{built()['version']}"
    try:
        engine.start(name, image, port, about)
        wait(f"http://127.0.0.1:{port}", about.ready_seconds, lambda: engine.runs(name))
        check(f"http://127.0.0.1:{port}", PHOTOS)
    except DeployError as error:
        raise DeployError(f"{error}\n{engine.logs(name)}") from error
    finally:
        engine.remove(name)


def wait(url: str, seconds: float, alive: Callable[[], bool]) -> float:
    """Wait until `/readyz` says yes.

    Returns:
        The seconds that took.

    Raises:
        DeployError: it does not, or `alive` does not hold any more.
    """
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        try:
            urllib.request.urlopen(f"{url}/readyz", timeout=TIMEOUT_SECONDS).close()
            return time.monotonic() - started
        except OSError:
            if not alive():
                raise DeployError("The service ended while it started.") from None
            time.sleep(0.1)
    raise DeployError(f"{url} is not ready after {seconds:g} s.")


def check(url: str, photos: Path) -> None:
    """Compare answers with those in `photos`.

    Raises:
        DeployError: the service cannot be reached, is of another model, or answers otherwise.
    """
    try:
        expected = json.loads((photos / "answers.json").read_bytes())
    except FileNotFoundError as error:
        raise DeployError(
            f"{photos} has no photos to ask for: `make bento` puts test photos there if they are "
            "here (`dvc pull`, or `make`)."
        ) from error
    model = _ask(f"{url}/model")["version"]
    if model != expected["model"]:
        raise DeployError(f"{url} serves the model {model}, not {expected['model']}.")
    wrong = []
    for photo in expected["photos"]:
        answer = _ask(f"{url}/predict", (photos / photo["photo"]).read_bytes())
        if (
            answer["prediction"] != photo["prediction"]
            or answer["known"] != photo["known"]
            or abs(answer["confidence"] - photo["confidence"]) > CONFIDENCE_DIFFERENCE
        ):
            wrong.append(
                f"{photo['photo']} is {photo['name']} ({photo['confidence']:.3f}), "
                f"answered was {answer['name']} ({answer['confidence']:.3f})"
            )
    if wrong:
        raise DeployError(
            f"{url} answers {len(wrong)} of {len(expected['photos'])} photos wrongly: "
            + "; ".join(wrong[:3])
        )
    print(f"{url} serves {model}; {len(expected['photos'])} photos answered as expected.")


def _ask(url: str, photo: bytes | None = None) -> Any:
    request = urllib.request.Request(url, photo, {"Content-Type": "image/png"} if photo else {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
            return json.loads(answer.read())
    except (OSError, ValueError) as error:
        said = error.read().decode() if isinstance(error, urllib.error.HTTPError) else ""
        raise DeployError(f"{url} does not answer: {error} {said}".strip()) from error


if __name__ == "__main__":
    exit_with_sentence(smoke)
