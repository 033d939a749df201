"""`signs synthesize`: drawings anywhere on disk become an ordinary data set, or one sentence."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from signs.data import images, layouts
from signs.errors import UserError
from signs.operations.synthesize import read
from signs.synthesis import svg
from tests.conftest import ROOT

DRAWINGS = ROOT / "docs/sweden"


@pytest.fixture
def drawings(tmp_path: Path) -> Path:
    """The documentation's example, outside of the repository."""
    shutil.copytree(DRAWINGS, tmp_path / "my signs")
    (tmp_path / "my signs/._0.svg").write_bytes(b"\0\5\26\7")  # as macOS adds them
    return tmp_path / "my signs"


def synthesize(folder: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "signs", "synthesize", str(folder)]
    output = ["--output", str(folder.parent / "made")]
    return subprocess.run(
        [*command, *output, *options], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_the_drawings_of_the_example_are_whole_and_named() -> None:
    names = layouts.read_labels(DRAWINGS / "labels.csv")
    templates = svg.templates_of(str(DRAWINGS))
    assert sorted(names) == list(templates)
    for class_id, paths in templates.items():
        text = paths[0].read_text(encoding="utf-8")
        assert f"<title>{names[class_id]}</title>" in text
        assert svg.rasterize(paths[0]).shape == (svg.SIDE, svg.SIDE, 4)


def test_drawings_become_a_data_set(drawings: Path) -> None:
    shutil.copy(drawings / "3.svg", drawings / "3b.svg")  # a second design
    done = synthesize(drawings, "--images-per-class", "3")
    assert done.returncode == 0, done.stderr
    made = drawings.parent / "made"
    assert f"{made}: 24 photos of 8 classes.\nTo train on it, put it below data/" in done.stdout
    assert sorted(path.name for path in made.iterdir()) == ["images.zip", "labels.csv"]
    dataset = layouts.identify(made)
    assert dataset.names == layouts.read_labels(DRAWINGS / "labels.csv")
    assert dataset.problems + dataset.notes == []
    reader = layouts.Reader(made)
    colours = [images.decode(reader.read(file)).mean() for file in dataset.table["file"]]
    assert len(colours) == len(set(colours)) == 24
    # Nothing is written over.
    again = synthesize(drawings)
    assert (again.returncode, again.stdout) == (1, "")
    assert (
        again.stderr
        == f"ERROR: {made} exists and is not empty. Name another folder, or remove it.\n"
    )


SQUARE = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><path d="M1 1h7v7z"/></svg>'


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (dict.fromkeys(f"{i}.svg" for i in range(8)), "has no SVG files. Put 0.svg, 1.svg"),
        ({"stop.svg": SQUARE}, "has stop.svg, which names no class: call a file by its class id"),
        ({"labels.csv": None}, "has no labels.csv. Give it the columns ClassId,Name."),
        ({"labels.csv": "a,b\n0,Stop\n"}, "must have the columns ClassId,Name"),
        (
            {"4.svg": None},
            "has no SVG file for class 4 (Dangerous curve to the right) of labels.csv",
        ),
        ({"14.svg": SQUARE}, "labels.csv has no name for class 14."),
        ({"5.svg": SQUARE.replace("9 9", "9 5")}, "5.svg must be square"),
        ({"5.svg": "no drawing"}, "5.svg cannot be rasterized"),
        ({"5.svg": SQUARE.replace("path", "g")}, "5.svg is empty"),
        ({"5.svg": SQUARE.replace("</svg>", "<text>STOP</text></svg>")}, "5.svg has text, which"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_sentence(
    files: dict[str, str | None], words: str, drawings: Path
) -> None:
    for name, content in files.items():
        if content is None:
            (drawings / name).unlink()
        else:
            (drawings / name).write_text(content)
    with pytest.raises(UserError) as error:
        read(drawings)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--images-per-class", "0"], "--images-per-class must be 1 or more."),
        (["--output", str(ROOT / "params.yaml")], "params.yaml exists and is not empty."),
    ],
)
def test_a_wrong_option_is_said(options: list[str], words: str, drawings: Path) -> None:
    done = synthesize(drawings, *options)
    assert done.returncode == 1
    assert done.stderr.startswith("ERROR: ")
    assert words in done.stderr


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    assert "nowhere is no folder." in synthesize(tmp_path / "nowhere").stderr
