"""The command `signs`, and its sub-commands predict and info."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from signs import cli, paths
from tests.conftest import ROOT, copy_service, photo
from tests.harness import heed_ctrl_c

ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "100"}
SIGNS = [sys.executable, "-m", "signs"]
HEAVY = {"tensorflow", "keras", "pandas", "bentoml", "matplotlib", "scipy", "dvc", "ray", "pyarrow"}
# The modules that were imported, after whatever the command printed.
IMPORTS = (
    "import sys; sys.argv = ['signs', *sys.argv[1:]]; from signs.__main__ import main\n"
    "try: main()\n"
    "finally: print(*sorted({name.partition('.')[0] for name in sys.modules}))"
)
Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Photos, and beside them the classifier that tells red, green and blue apart."""
    copy_service(tmp_path / "app")
    photos = tmp_path / "photos"
    (photos / "deeper").mkdir(parents=True)
    for name, color in {"2.png": "Green", "10.PNG": "Blue", "deeper/1.jpg": "Red"}.items():
        (photos / name).write_bytes(photo(color, Path(name).suffix.lower()))
    (photos / "notes.txt").write_text("no photo")
    return photos


def with_classifier(folder: Path, *arguments: str) -> list[str]:
    model = str(folder.parent / "app" / paths.CLASSIFIER)
    return [arguments[0], "--classifier", model, *arguments[1:]]


@pytest.fixture
def run(folder: Path) -> Run:
    def run(
        *arguments: str, program: Any = SIGNS, **options: Any
    ) -> "subprocess.CompletedProcess[bytes]":
        command = [*program, *with_classifier(folder, *arguments)]
        options = {"env": ENVIRONMENT} | options
        return subprocess.run(command, cwd=folder, capture_output=True, **options)

    return run


def rows(output: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(output.decode())))


def write_archive(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


@pytest.mark.parametrize("name", ["", *cli.COMMANDS])
def test_every_command_has_help(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["signs", *name.split(), "--help"])
    with pytest.raises(SystemExit, match="0"):
        cli.main()
    usage, _, explanation = capsys.readouterr().out.partition("\n\n")
    assert usage.startswith(f"usage: signs {name}")
    assert len(explanation) > 200


@pytest.mark.parametrize(
    ("arguments", "needed"),
    [(["predict", "2.png"], {"onnxruntime"}), (["--help"], {"argparse"})],
)
def test_imports_nothing_heavy(run: Run, arguments: list[str], needed: set[str]) -> None:
    done = run(*arguments, program=[sys.executable, "-c", IMPORTS], check=True)
    modules = set(done.stdout.decode().splitlines()[-1].split())
    assert needed <= modules
    assert not modules & HEAVY


def test_the_command_works_from_any_folder(run: Run) -> None:
    wrapper = ROOT / ".venv/bin/signs"
    if not wrapper.exists():
        pytest.skip("the environment was not made by make")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = run("predict", "2.png", program=[wrapper], env=environment)
    assert [r["name"] for r in rows(done.stdout)] == ["Green"], done.stderr


def test_reads_a_folder_in_natural_order(run: Run) -> None:
    done = run("predict", ".")
    assert done.returncode == 0
    read = rows(done.stdout)
    assert [(r["file"], r["name"], r["prediction"]) for r in read] == [
        ("2.png", "Green", "14"),
        ("10.PNG", "Blue", "20"),
        ("deeper/1.jpg", "Red", "3"),
    ]
    assert all(float(r["confidence"]) > 0.99 and r["known"] == "True" for r in read)
    assert b"3 photos: 3 known, 0 unknown, 0 not readable" in done.stderr


def test_predicts_as_the_service_does(run: Run, folder: Path, server: str) -> None:
    mine = json.loads(run("predict", "2.png", "--format", "json").stdout)
    assert mine.pop("file") == "2.png"
    request = urllib.request.Request(
        f"{server}/predict", (folder / "2.png").read_bytes(), {"Content-Type": "image/png"}
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        assert mine == json.loads(response.read())


def test_reads_archives_files_and_standard_input(run: Run, folder: Path) -> None:
    photos = {f"x/{i}.png": photo(("Red", "Blue")[i % 2]) for i in range(200)}
    others = dict.fromkeys(["x/readme.txt", "__MACOSX/x/._1.png"], b"no photo")
    write_archive(folder / "a.zip", photos | others)
    done = run("predict", "a.zip", "2.png", "-", input=photo("Blue"))
    read = rows(done.stdout)
    assert done.returncode == 0
    assert [r["name"] for r in read] == ["Red", "Blue"] * 100 + ["Green", "Blue"]
    assert [r["file"] for r in read[:2]] == ["a.zip/x/0.png", "a.zip/x/1.png"]
    assert read[-1]["file"] == "-"
    assert len(rows(run("predict", ".").stdout)) == 203  # the folder's archive is read, too


def test_an_unreadable_photo_has_an_error_beside_the_others(run: Run, folder: Path) -> None:
    (folder / "3.png").write_bytes(photo()[:-12])
    (folder / "4.png").write_bytes(b"")
    (folder / "5.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(21 * 2**20))
    done = run("predict", "2.png", "3.png", "4.png", "5.png")
    assert done.returncode == 1
    expected = ["", "the PNG file is truncated", "the file is empty", "more than 20 MB"]
    assert [r["error"] for r in rows(done.stdout)] == expected
    table = run("predict", ".", "--format", "table").stdout.decode()
    assert "error: the PNG file is truncated" in table
    assert "Green" in table


def test_damaged_archives(run: Run, folder: Path) -> None:
    path = folder / "a.zip"
    write_archive(path, {"1.png": photo(), "2.png": photo("Red")})
    content = bytearray(path.read_bytes())
    content[60] ^= 255
    path.write_bytes(content)
    done = run("predict", "a.zip")
    damaged, whole = rows(done.stdout)
    assert done.returncode == 1
    assert "checksum" in damaged["error"]
    assert whole["name"] == "Red"
    path.write_bytes(content[:100])
    done = run("predict", "a.zip")
    assert done.returncode == 1
    assert b"ERROR: a.zip cannot be read as a zip archive" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        ("predict nowhere", 1, "ERROR: nowhere does not exist."),
        ("predict empty", 1, "ERROR: empty holds neither photos (avif, bmp, "),
        ("predict empty.zip", 1, "ERROR: empty.zip holds no photos (avif, bmp, "),
        ("predict 2.png --output no/a.csv", 1, "ERROR: no/a.csv cannot be written: No"),
        ("predict s3://bucket", 1, "ERROR: s3://bucket: only `signs bulk` reads addresses"),
        ("predict", 2, "the following arguments are required: PATH"),
        ("predict 2.png --format xml", 2, "invalid choice: 'xml'"),
        ("prdict .", 2, "invalid choice: 'prdict' (choose from"),
    ],
)
def test_says_what_is_wrong(
    run: Run, folder: Path, arguments: str, status: int, sentence: str
) -> None:
    (folder / "empty").mkdir()
    write_archive(folder / "empty.zip", {"readme.txt": b"no photo"})
    done = run(*arguments.split())
    assert done.returncode == status, done.stderr
    assert sentence in done.stderr.decode()
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["predict", "."], ["info"]])
def test_without_a_classifier(run: Run, folder: Path, arguments: list[str]) -> None:
    shutil.rmtree(folder.parent / "app" / "models")
    done = run(*arguments)
    assert done.returncode == 1
    assert b"ERROR: There is no classifier in" in done.stderr


def test_writes_the_format_of_the_suffix_and_no_other_file(run: Run, folder: Path) -> None:
    for name, style in (("a.csv", "csv"), ("a.jsonl", "json"), ("a.txt", "table")):
        done = run("predict", "2.png", "--output", name)
        assert (done.returncode, done.stdout) == (0, b"")
        expected = run("predict", "2.png", "--format", style).stdout
        assert (folder / name).read_bytes() == expected
    assert not list(folder.glob(".*"))


def test_ctrl_c_and_a_closed_pipe_end_quietly(folder: Path) -> None:
    red = photo("Red")
    write_archive(folder / "many.zip", {f"{i}.png": red for i in range(20_000)})
    # Ten times the same, so that a busy machine sends the signal before all is read.
    command = [*SIGNS, *with_classifier(folder, "predict", *["many.zip"] * 10)]
    options: Any = {"cwd": folder, "env": ENVIRONMENT, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, stdout=subprocess.PIPE, **options) as process:
        assert process.stdout.readline().startswith(b"file,")
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141
    options["preexec_fn"] = heed_ctrl_c
    with subprocess.Popen([*command, "--output", "many.csv"], **options) as process:
        while not list(folder.glob(".many.csv*")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        complaint = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert complaint.decode().strip() == "Stopped."
    assert not [p for p in folder.iterdir() if "many.csv" in p.name]


def test_info(run: Run) -> None:
    text = run("info").stdout.decode()
    assert "data set     colors (md5 d1f)" in text
    assert "100.00% of 3 photos" in text
    assert "       14   Green" in text
    assert json.loads(run("info", "--json").stdout)["class_ids"] == [3, 14, 20]
