"""`signs inspect` and `signs audit`: what they say of small sets whose faults are known."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.data.test_layouts import lay, pack

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def photo(number: int) -> bytes:
    """A photo that resembles no other."""
    small = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
    large = cv2.resize(small, (40, 32), interpolation=cv2.INTER_NEAREST)
    return cv2.imencode(".png", large)[1].tobytes()


def signs(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "signs", *arguments]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(Path.home())}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def whole(folder: Path, count: int = 6) -> None:
    """Two classes with a split that leaks nothing."""
    parts = ["train", "train", "train", "train", "valid", "test"]
    for label, name in enumerate(("stop", "yield")):
        for number, part in zip(range(count), parts, strict=True):
            lay(folder, {f"{part}/{name}/{number}.png": photo(100 * label + number)})


def audit(tmp_path: Path) -> tuple[int, str, dict[str, str]]:
    """Exit code, text, and what was found with its number."""
    done = signs(tmp_path, "audit", "own", "--json", "a.json", "--summary", "a.md")
    assert "Traceback" not in done.stderr, done.stderr
    text = (tmp_path / "a.md").read_text()
    assert text in done.stdout
    found = {
        each["what"]: each["number"]
        for each in json.loads((tmp_path / "a.json").read_text())["findings"]
    }
    page = (tmp_path / "audit.html").read_text()
    assert all(what in page for what in found)
    return done.returncode, text, found


def test_a_sound_set_passes(tmp_path: Path) -> None:
    whole(tmp_path / "own")
    code, text, found = audit(tmp_path)
    assert (code, found) == (0, {})
    assert "### Audit of own: no fault" in text
    assert "a given split (8 for train, 2 for validation, 2 for test)" in text


def test_each_fault_is_found_and_fails(tmp_path: Path) -> None:
    own = tmp_path / "own"
    whole(own)
    lay(own, {"train/stop/copy.png": photo(5)})  # of test/stop/5.png
    near = cv2.imdecode(np.frombuffer(photo(104), np.uint8), cv2.IMREAD_COLOR)
    changed = cv2.imencode(".png", cv2.convertScaleAbs(near, alpha=0.8, beta=9))[1].tobytes()
    lay(own, {"train/yield/near.png": changed})  # of valid/yield/4.png
    lay(own, {"train/yield/wrong.png": photo(0)})  # is train/stop/0.png
    lay(own, {"train/yield/broken.png": photo(7)[:-40]})
    code, text, found = audit(tmp_path)
    assert code == 1
    assert "own: 4 faults" in text
    assert found["held-out photos with an exact duplicate in training"] == "1"
    assert found["held-out photos of a sign, photo or track that training has, too"] == "2"
    assert found["photos that are filed under two classes"] == "2"
    assert found["unreadable photos"] == "1"


def test_duplicates_are_no_fault_of_a_set_without_split(tmp_path: Path) -> None:
    for label, name in enumerate(("stop", "yield")):
        for number in range(4):
            lay(tmp_path / "own", {f"{name}/{number}.png": photo(10 * label + number)})
            lay(tmp_path / "own", {f"{name}/{number} copy.png": photo(10 * label + number)})
    code, text, found = audit(tmp_path)
    assert code == 0
    assert found == {"exact duplicates": "8"}
    assert "of the test photos would have a copy in training" in text


def test_a_photo_that_is_in_two_classes_in_other_pixels_is_noted(tmp_path: Path) -> None:
    own = tmp_path / "own"
    for label, name in enumerate(("stop", "yield")):
        lay(own, {f"{name}/{number}.png": photo(10 * label + number) for number in range(4)})
    sign = cv2.imdecode(np.frombuffer(photo(2), np.uint8), cv2.IMREAD_COLOR)
    lay(own, {"yield/2.jpg": cv2.imencode(".jpg", sign)[1].tobytes()})
    code, _, found = audit(tmp_path)
    assert (code, found) == (0, {"photos that look the same as one of another class": "2"})
    page = (tmp_path / "audit.html").read_text()
    assert "looks the same in several classes: stop, yield" in page


def test_a_class_that_a_part_lacks_is_named(tmp_path: Path) -> None:
    whole(tmp_path / "own")
    (tmp_path / "own/test/yield/5.png").unlink()
    assert audit(tmp_path)[2]["classes that a part of the split lacks"] == "test: yield"


def test_inspect_says_what_is_understood(tmp_path: Path) -> None:
    whole(tmp_path / "own")
    lay(tmp_path / "own", {"loose.png": photo(1), "Thumbs.db": b"x"})
    done = signs(tmp_path, "inspect", "own")
    assert done.returncode == 0, done.stderr
    for part in (
        "own: split folders; 12 photos, 2 classes, a given split (8 for train",
        "    0  stop        6  ██████",
        "sides of the photos: 32 to 40 pixels",
        "  1 x is in no class folder",
        "To train on it, put it below data/NAME",
    ):
        assert part in done.stdout
    page = (tmp_path / "inspect.html").read_text()
    assert "data:image/jpeg;base64," in page
    assert "<td>loose.png</td>" in page


def test_an_archive_is_read_in_place(tmp_path: Path) -> None:
    pack(
        tmp_path / "photos.zip",
        {f"{c}/{n}.png": photo(10 * c + n) for c in (0, 1) for n in range(3)},
    )
    done = signs(tmp_path, "inspect", "photos.zip", "--page", "seen.html")
    assert "class folders; 6 photos, 2 classes" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos.zip", "seen.html"]


@pytest.mark.parametrize("command", ["inspect", "audit"])
@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("absent", "is no folder and no zip archive"),
        ("notes.txt", "is no folder"),
        ("empty", "holds no images"),
    ],
)
def test_what_holds_no_photos_is_named(command: str, path: str, words: str, tmp_path: Path) -> None:
    lay(tmp_path, {"notes.txt": "x"})
    (tmp_path / "empty").mkdir()
    done = signs(tmp_path, command, path)
    assert done.returncode == 1
    assert "ERROR: " in done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
