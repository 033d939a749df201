"""Bad input: each kind ends with one clear message, or is listed and left out."""

import csv
import io
import json
import os
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def workshop(blank, tmp_path_factory):
    """One project for all tests here: none of them gets as far as changing its outputs."""
    return blank.copy(tmp_path_factory.mktemp("bad") / "clone")


@pytest.fixture
def project(workshop):
    yield workshop
    workshop.run("git", "checkout", "--quiet", "params.yaml").succeeds()
    for leftover in ("data/mine", "data/prepared", "metrics"):
        shutil.rmtree(workshop.path(leftover), ignore_errors=True)


@pytest.fixture
def photos(project) -> Path:
    """The folder of a photo set of one's own: the tiny one, to be spoiled."""
    folder = project.path("data/mine")
    shutil.copytree(project.path("data/tiny"), folder)
    project.set(dataset="mine")
    return folder


def refused(project, *parts: str, by: Callable | None = None) -> None:
    """The photo set is refused with a message, and nothing half-written is left."""
    outcome = by() if by else project.stage("preprocess")
    outcome.fails_with(*parts)
    assert outcome.text.count("ERROR: ") <= 2  # the stage's, and DVC's that a stage failed
    assert not project.path("data/prepared").exists()
    assert not project.path("data/prepared.tmp").exists()


def problems(project) -> dict[str, str]:
    """What the audit lists: file → what is wrong."""
    with project.path("metrics/preprocess/problems.csv").open(newline="") as file:
        return {row["file"]: row["problem"] for row in csv.DictReader(file)}


# Folders


def test_missing_data_folder(project):
    project.set(dataset="mine")
    # DVC itself stops before the stage starts.
    refused(project, "data/mine", by=lambda: project.dvc("repro", "preprocess"))
    refused(project, "data/mine is missing", "one sub-folder for each class into data/mine")


def test_photos_that_were_not_fetched(project):
    project.set(dataset="signs")
    refused(project, "data.dvc", "data/signs", by=lambda: project.dvc("repro", "preprocess"))
    refused(project, "data/signs is missing", "make data", "dvc pull data.dvc")


def test_empty_data_folder(project):
    project.path("data/mine").mkdir()
    project.set(dataset="mine")
    refused(
        project,
        "data/mine holds no images",
        "one sub-folder for each class",
        by=lambda: project.dvc("repro", "preprocess"),
    )


def test_a_class_with_one_photo_is_used_and_named_as_not_tested(project, photos):
    for file in sorted((photos / "2").iterdir())[1:]:
        file.unlink()
    assert "1 with too few groups to be tested" in project.stage("preprocess").succeeds()
    with project.path("metrics/preprocess/classes.csv").open(newline="") as file:
        row = next(row for row in csv.DictReader(file) if row["class_id"] == "2")
    assert (row["train"], row["test"]) == ("1", "0")
    assert "not tested" in row["note"]


def test_only_classes_with_one_photo(project, photos):
    for folder in photos.iterdir():
        for file in sorted(folder.iterdir())[1:]:
            file.unlink()
    refused(project, "No image is left for validation", "metrics/preprocess/classes.csv")


# Images


@pytest.fixture
def spoiled(photos) -> dict[str, str]:
    """Photos that cannot be used: file → what the audit has to say."""
    whole = (photos / "0/000.png").read_bytes()
    (photos / "0/truncated.png").write_bytes(whole[: len(whole) // 2])
    (photos / "1/text.png").write_text("This is no image.\n")
    (photos / "2/empty.png").touch()
    (photos / "2/one.png").write_bytes(
        cv2.imencode(".png", np.zeros((1, 1, 3), np.uint8))[1].tobytes()
    )
    (photos / "3/huge.png").write_bytes(
        cv2.imencode(".png", np.zeros((10_000, 10_000), np.uint8))[1].tobytes()
    )
    return {
        "0/truncated.png": "the PNG file is",  # damaged or, if it is larger, truncated
        "1/text.png": "not an image",
        "2/empty.png": "empty",
        "2/one.png": "too small",
        "3/huge.png": "million pixels",
    }


def test_too_many_unusable_images_are_refused_and_all_listed(project, spoiled):
    refused(
        project,
        "5 of 53 files (9.4%) cannot be used",
        "preprocess.max_problems",
        "metrics/preprocess/problems.csv",
        *spoiled,
        by=lambda: project.dvc("repro", "preprocess"),
    )
    found = problems(project)
    assert set(found) == set(spoiled)
    for file, what in spoiled.items():
        assert what in found[file]


def test_tolerated_unusable_images_are_listed_and_left_out(project, spoiled):
    project.set(**{"preprocess.max_problems": 0.2})
    assert "5 problems" in project.stage("preprocess").succeeds()
    assert set(problems(project)) == set(spoiled)
    audit = json.loads(project.path("metrics/preprocess/audit.json").read_text())
    assert (audit["files"], audit["unusable"], audit["distinct"]) == (53, 5, 48)


def test_grey_alpha_16_bit_and_cmyk_photos_are_used(project, photos):
    rng = np.random.default_rng(0)

    def patches(channels: int) -> np.ndarray:
        blocks = rng.integers(0, 256, (6, 6, channels), np.uint8)
        return blocks.repeat(4, axis=0).repeat(4, axis=1)

    Image.fromarray(patches(1)[:, :, 0]).save(photos / "0/grey.png")
    Image.fromarray(patches(4)).save(photos / "1/alpha.png")
    deep = patches(3).astype(np.uint16) * 257
    (photos / "2/deep.png").write_bytes(cv2.imencode(".png", deep)[1].tobytes())
    Image.fromarray(patches(4), mode="CMYK").save(photos / "3/cmyk.jpg")
    project.stage("preprocess").succeeds()
    assert problems(project) == {}
    audit = json.loads(project.path("metrics/preprocess/audit.json").read_text())
    assert (audit["files"], audit["distinct"]) == (52, 52)


# Labels


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("ClassId,Name\n0,a\n1,b\n2,c\n", "has no name for class 3"),
        ("ClassId,Name\n0,a\n1,b\n1,c\n2,d\n3,e\n", "names class 1 twice"),
        ("Number,Sign\n0,a\n1,b\n2,c\n3,d\n", "must have the columns ClassId,Name"),
        ("ClassId,Name\nzero,a\n", "line 2: a class id or name is wrong"),
        ("", "must have the columns ClassId,Name"),
    ],
    ids=["class without name", "duplicate id", "wrong header", "no number", "empty"],
)
def test_bad_labels(project, photos, content, message):
    (photos / "labels.csv").write_text(content)
    refused(project, "data/mine/labels.csv", message)


def test_labels_that_are_no_utf_8(project, photos):
    (photos / "labels.csv").write_bytes("ClassId,Name\n0,Größe\n".encode("cp1252"))
    refused(project, "data/mine/labels.csv", "UTF-8")


# Archives


@pytest.fixture
def archive(project) -> Path:
    """Where a photo set of one archive belongs."""
    project.path("data/mine").mkdir()
    project.set(dataset="mine")
    return project.path("data/mine/photos.zip")


def zipped(project, compression: int = zipfile.ZIP_STORED) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as target:
        for file in sorted(project.path("data/tiny").rglob("*.png")):
            target.write(file, file.relative_to(project.path("data/tiny")))
    return content.getvalue()


def test_truncated_archive(project, archive):
    archive.write_bytes(zipped(project)[:-500])
    refused(project, "data/mine/photos.zip", "truncated", "fetch it again")


@pytest.mark.parametrize("path", ["../0/evil.png", "/0/evil.png", "0/../../evil.png"])
def test_archive_that_climbs_out(project, archive, path):
    archive.write_bytes(zipped(project))
    with zipfile.ZipFile(archive, "a") as target:
        target.writestr(path, b"evil")
    refused(project, "data/mine/photos.zip", path, "leaves the archive")
    assert not list(project.folder.parent.rglob("evil.png"))


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_archive_with_a_damaged_member(project, archive, compression):
    content = bytearray(zipped(project, compression))
    with zipfile.ZipFile(io.BytesIO(content)) as source:
        damaged = source.infolist()[20]
    start = damaged.header_offset + 30 + len(damaged.filename)
    content[start : start + 20] = bytes(20)
    archive.write_bytes(content)
    refused(project, "1 of 48 files (2.1%) cannot be used")
    assert set(problems(project)) == {f"photos.zip/{damaged.filename}"}


def test_gtsrb_archive_without_tables(project, archive):
    archive.with_name("GTSRB_Final_Training_Images.zip").write_bytes(zipped(project))
    refused(project, "GTSRB_Final_Training_Images.zip holds no CSV table")


# Parameters


@pytest.mark.parametrize(
    ("key", "value", "parts"),
    [
        ("train.momentum", 0.9, ["train.momentum: unknown key", "network, seed, devices"]),
        ("train.compact.epochs", -1, ["train.compact.epochs = -1", "greater than or equal to 1"]),
        ("train.compact.epochs", "many", ["train.compact.epochs = 'many'", "integer"]),
        ("preprocess.split.validation", 0.95, ["validation (0.95)", "12 folds", "below 1"]),
        ("dataset", "../secrets", ["dataset = '../secrets'"]),
    ],
)
def test_bad_parameters(project, key, value, parts):
    project.set(**{key: value})
    refused(project, "params.yaml", *parts)


def test_unknown_network(project):
    project.set(**{"train.network": "huge"})
    # DVC looks for the network's block and stops before the stage starts.
    refused(project, "huge", "params.yaml", by=lambda: project.dvc("repro", "preprocess"))
    refused(project, "train.network = 'huge'", "'compact' or 'classic'")


def test_params_that_are_no_yaml(project):
    project.path("params.yaml").write_text("train: [1, 2\n")
    refused(project, "params.yaml", by=lambda: project.dvc("repro", "preprocess"))
    refused(project, "params.yaml is not valid YAML")


def test_bad_parameters_of_an_experiment(project):
    def run(setting: str) -> Callable:
        return lambda: project.dvc("exp", "run", "preprocess", "-S", setting)

    refused(project, "train.momentum", by=run("train.momentum=0.9"))
    refused(project, "validation (0.95)", "below 1", by=run("preprocess.split.validation=0.95"))


def test_a_loss_that_is_no_number(blank, tmp_path):
    project = blank.copy(tmp_path / "clone")
    # The learning rates that params.yaml may hold do not get there on so few photos.
    networks = project.path("signs/training/networks.py")
    code = networks.read_text(encoding="utf-8")
    assert "Rescaling(1 / 127.5" in code
    networks.write_text(code.replace("Rescaling(1 / 127.5", "Rescaling(1e38"), encoding="utf-8")
    outcome = project.dvc("repro", "train")
    outcome.fails_with(
        "The loss is not a number any more in epoch 1", "Lower train.compact.learning_rate"
    )
    assert not project.path(".resume").exists()
    assert not project.path("models/classifier").exists()
    assert not project.path("models/model.keras").exists()


def test_photos_too_small_for_the_classic_network(project):
    project.set(**{"train.network": "classic", "preprocess.images.classic.size": 16})
    refused(project, "preprocess.images", "at least 20")


# The disk


@pytest.fixture
def small_disk(project, tmp_path) -> Iterator[Path]:
    """A disk of 1 MB in place of data/, with the tiny photo set on it."""
    data = project.path("data")
    kept = tmp_path / "tiny"
    shutil.copytree(data / "tiny", kept)
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(data)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        shutil.copytree(kept, data / "tiny")
        yield data
    finally:
        subprocess.run(["umount", data], check=True)


def test_disk_full_while_writing_arrays(project, small_disk):
    project.set(**{"preprocess.images.compact.size": 128})  # 2.3 MB
    refused(
        project,
        "the disk is full",
        "nothing half-written was kept",
        by=lambda: project.dvc("repro", "preprocess"),
    )
    project.set(**{"preprocess.images.compact.size": 16})
    project.stage("preprocess").succeeds()
