"""Bad input: each kind ends with one clear message, or is listed and left out."""

import os
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def workshop(blank, tmp_path_factory):
    """One project for all tests here: none of them gets as far as changing its outputs."""
    project = blank.copy(tmp_path_factory.mktemp("bad") / "clone")
    project.stage("synthesize").succeeds()
    return project


@pytest.fixture
def project(workshop):
    yield workshop
    workshop.run("git", "checkout", "--quiet", ".").succeeds()
    for leftover in ("data/mine", "data/prepared", "metrics"):
        shutil.rmtree(workshop.path(leftover), ignore_errors=True)


@pytest.fixture
def photos(project) -> Path:
    """The folder of another data set: a copy of the tiny one, to be spoiled."""
    folder = project.path("data/mine")
    shutil.copytree(project.path("data/tiny"), folder)
    project.set(dataset="mine")
    return folder


def refused(project, *parts: str, command: tuple[str, ...] = ()) -> None:
    """The stage refuses the input with a message and leaves nothing half-written.

    With a command for DVC, DVC runs the stage or refuses the input itself.
    """
    outcome = project.dvc(*command) if command else project.stage("preprocess")
    outcome.fails_with(*parts)
    assert outcome.text.count("ERROR: ") <= 2  # the stage's, and DVC's that a stage failed
    assert not project.path("data/prepared").exists()
    assert not project.path("data/prepared.tmp").exists()


REPRO = ("repro", "preprocess")


def problems(project) -> dict[str, str]:
    """What the audit lists: file → what is wrong."""
    table = pd.read_csv(project.path("metrics/preprocess/problems.csv"))
    return dict(zip(table["file"], table["problem"], strict=True))


# Data sets


@pytest.mark.parametrize(
    ("dataset", "by_dvc", "by_stage"),
    [
        # DVC itself stops before the stage starts.
        ("mine", ["data/mine"], ["one sub-folder for each class into data/mine"]),
        ("signs", ["data.dvc", "data/signs"], ["make data", "dvc pull data.dvc"]),
    ],
)
def test_a_missing_photo_set_is_named(project, dataset, by_dvc, by_stage):
    project.set(dataset=dataset)
    refused(project, *by_dvc, command=REPRO)
    refused(project, f"data/{dataset} is missing", *by_stage)


def keep_one(folder: Path) -> None:
    """Delete all but one photo of each class."""
    for one in folder.iterdir():
        for file in sorted(one.iterdir())[1:]:
            file.unlink()


def damage_an_archive(folder: Path) -> None:
    """Make one archive of the photos, with other bytes in one of them."""
    shutil.make_archive(str(folder), "zip", folder)
    shutil.rmtree(folder)
    folder.mkdir()
    archive = folder.with_suffix(".zip").rename(folder / "photos.zip")
    with zipfile.ZipFile(archive) as opened:
        file = opened.getinfo("2/003.png")
    content = bytearray(archive.read_bytes())
    start = file.header_offset + 30 + len(file.filename)
    content[start : start + 20] = bytes(20)
    archive.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "parts"),
    [
        (keep_one, ["No image is left for validation", "metrics/preprocess/classes.csv"]),
        (damage_an_archive, ["1 of 48 files (2.1%) cannot be used"]),
        (
            lambda folder: (folder / "labels.csv").write_text("ClassId,Name\n0,a\n0,b\n"),
            ["data/mine/labels.csv, line 3: class 0 is named twice"],
        ),
    ],
)
def test_an_unusable_photo_set_is_refused(project, photos, spoil, parts):
    spoil(photos)
    refused(project, *parts)


def test_a_class_with_one_photo_is_used_and_named_as_not_tested(project, photos):
    for file in sorted((photos / "2").iterdir())[1:]:
        file.unlink()
    assert "1 with too few groups to be tested" in project.stage("preprocess").succeeds()
    row = pd.read_csv(project.path("metrics/preprocess/classes.csv")).set_index("class_id").loc[2]
    assert (row["train"], row["test"]) == (1, 0)
    assert "not tested" in row["note"]


def test_unusable_photos_are_listed_and_left_out_or_refused_if_too_many(project, photos):
    def png(side: int) -> bytes:
        return cv2.imencode(".png", np.zeros((side, side), np.uint8))[1].tobytes()

    bad = {
        "0/truncated.png": ((photos / "0/000.png").read_bytes()[:200], "the PNG file is"),
        "1/text.png": (b"This is no image.\n", "not an image"),
        "2/empty.png": (b"", "empty"),
        "2/one.png": (png(1), "too small"),
        "3/huge.png": (png(10_000), "million pixels"),
    }
    for file, (content, _) in bad.items():
        (photos / file).write_bytes(content)
    limit, table = "preprocess.max_problems", "metrics/preprocess/problems.csv"
    refused(project, "5 of 53 files (9.4%) cannot be used", limit, table, *bad, command=REPRO)
    found = problems(project)
    assert set(found) == set(bad)
    assert all(problem in found[file] for file, (_, problem) in bad.items())

    project.set(**{limit: 0.2})
    assert "5 problems" in project.stage("preprocess").succeeds()
    assert problems(project) == found
    audit = project.json("metrics/preprocess/audit.json")
    assert [audit[name] for name in ("files", "unusable", "distinct")] == [53, 5, 48]


# Parameters


def test_bad_parameters_are_refused(project):
    project.set(**{"train.momentum": 0.9, "train.compact.epochs": -1})
    refused(project, "params.yaml", "train.momentum: unknown key", "train.compact.epochs = -1")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.momentum=0.9", "train.momentum"),
        ("preprocess.split.validation=0.95", "validation (0.95)"),
        ("train.network=huge", "huge"),  # DVC itself misses the network's block
    ],
)
def test_bad_parameters_of_an_experiment_are_refused(project, setting, message):
    refused(project, message, command=("exp", "run", "preprocess", "-S", setting))


def test_a_loss_that_is_no_number_ends_the_training(project):
    # The learning rates that params.yaml may hold do not get there on so few photos.
    networks = project.path("signs/training/networks.py")
    code = networks.read_text(encoding="utf-8")
    assert "Rescaling(1 / 127.5" in code
    networks.write_text(code.replace("Rescaling(1 / 127.5", "Rescaling(1e38"), encoding="utf-8")
    for stage in ("synthesize", "preprocess"):
        project.stage(stage).succeeds()
    project.stage("train").fails_with(
        "The loss is not a number any more in epoch 1", "Lower train.compact.learning_rate"
    )
    for path in (".resume", "models/classifier", "models/model.keras"):
        assert not project.path(path).exists()


# The disk


@pytest.fixture
def small_disk(project, tmp_path) -> Iterator[None]:
    """A disk of 1 MB in place of data/, with the tiny data set on it."""
    data = project.path("data")
    shutil.copytree(data / "tiny", tmp_path / "tiny")
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(data)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        shutil.copytree(tmp_path / "tiny", data / "tiny")
        yield
    finally:
        subprocess.run(["umount", data], check=True)


def test_a_full_disk_is_named_and_keeps_nothing_half_written(project, small_disk):
    project.set(**{"preprocess.images.compact.size": 128})  # 2.3 MB
    refused(project, "the disk is full", "starts this stage anew", command=REPRO)
    project.set(**{"preprocess.images.compact.size": 16})
    project.stage("preprocess").succeeds()
