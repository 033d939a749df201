"""Bad input: each kind ends with one clear message, or is listed and left out."""

import csv
import io
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
    """The folder of another photo set: a copy of the tiny one, to be spoiled."""
    folder = project.path("data/mine")
    shutil.copytree(project.path("data/tiny"), folder)
    project.set(dataset="mine")
    return folder


def refused(project, *parts: str, by: Callable | None = None) -> None:
    """The input is refused with a message, and nothing half-written is left."""
    outcome = by() if by else project.stage("preprocess")
    outcome.fails_with(*parts)
    assert outcome.text.count("ERROR: ") <= 2  # the stage's, and DVC's that a stage failed
    assert not project.path("data/prepared").exists()
    assert not project.path("data/prepared.tmp").exists()


def refused_by_dvc(project, *parts: str) -> None:
    refused(project, *parts, by=lambda: project.dvc("repro", "preprocess"))


def problems(project) -> dict[str, str]:
    """What the audit lists: file → what is wrong."""
    with project.path("metrics/preprocess/problems.csv").open(newline="") as file:
        return {row["file"]: row["problem"] for row in csv.DictReader(file)}


def audited(project, *names: str) -> list[int]:
    audit = project.json("metrics/preprocess/audit.json")
    return [audit[name] for name in names]


# Folders


@pytest.mark.parametrize(
    ("dataset", "by_dvc", "by_stage"),
    [
        # DVC itself stops before the stage starts.
        ("mine", ["data/mine"], ["one sub-folder for each class into data/mine"]),
        ("signs", ["data.dvc", "data/signs"], ["make data", "dvc pull data.dvc"]),
    ],
)
def test_a_missing_data_folder_is_named(project, dataset, by_dvc, by_stage):
    project.set(dataset=dataset)
    refused_by_dvc(project, *by_dvc)
    refused(project, f"data/{dataset} is missing", *by_stage)


def test_an_empty_data_folder_is_refused(project):
    project.path("data/mine").mkdir()
    project.set(dataset="mine")
    refused_by_dvc(project, "data/mine holds no images", "one sub-folder for each class")


def leave_one_photo(folder: Path) -> None:
    for file in sorted(folder.iterdir())[1:]:
        file.unlink()


def test_a_class_with_one_photo_is_used_and_named_as_not_tested(project, photos):
    leave_one_photo(photos / "2")
    assert "1 with too few groups to be tested" in project.stage("preprocess").succeeds()
    with project.path("metrics/preprocess/classes.csv").open(newline="") as file:
        row = next(row for row in csv.DictReader(file) if row["class_id"] == "2")
    assert (row["train"], row["test"]) == ("1", "0")
    assert "not tested" in row["note"]


def test_a_photo_set_with_one_photo_a_class_is_refused(project, photos):
    for folder in photos.iterdir():
        leave_one_photo(folder)
    refused(project, "No image is left for validation", "metrics/preprocess/classes.csv")


# Images


@pytest.fixture
def spoiled(photos) -> dict[str, str]:
    """Photos that cannot be used: file → what the audit has to say."""

    def png(side: int) -> bytes:
        return cv2.imencode(".png", np.zeros((side, side), np.uint8))[1].tobytes()

    whole = (photos / "0/000.png").read_bytes()
    bad = {
        "0/truncated.png": (whole[: len(whole) // 2], "the PNG file is"),  # truncated or damaged
        "1/text.png": (b"This is no image.\n", "not an image"),
        "2/empty.png": (b"", "empty"),
        "2/one.png": (png(1), "too small"),
        "3/huge.png": (png(10_000), "million pixels"),
    }
    for file, (content, _) in bad.items():
        (photos / file).write_bytes(content)
    return {file: problem for file, (_, problem) in bad.items()}


def test_too_many_unusable_images_are_refused_and_all_listed(project, spoiled):
    refused_by_dvc(
        project,
        "5 of 53 files (9.4%) cannot be used",
        "preprocess.max_problems",
        "metrics/preprocess/problems.csv",
        *spoiled,
    )
    found = problems(project)
    assert set(found) == set(spoiled)
    for file, what in spoiled.items():
        assert what in found[file]


def test_tolerated_unusable_images_are_listed_and_left_out(project, spoiled):
    project.set(**{"preprocess.max_problems": 0.2})
    assert "5 problems" in project.stage("preprocess").succeeds()
    assert set(problems(project)) == set(spoiled)
    assert audited(project, "files", "unusable", "distinct") == [53, 5, 48]


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
    assert audited(project, "files", "distinct") == [52, 52]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"ClassId,Name\n0,a\n1,b\n1,c\n2,d\n3,e\n", "line 4: class 1 is named twice"),
        ("ClassId,Name\n0,Größe\n".encode("cp1252"), "UTF-8"),
    ],
)
def test_bad_labels_are_refused(project, photos, content, message):
    (photos / "labels.csv").write_bytes(content)
    refused(project, "data/mine/labels.csv", message)


# Archives


@pytest.fixture
def archive(project) -> Path:
    """The place of the one archive of a photo set."""
    project.path("data/mine").mkdir()
    project.set(dataset="mine")
    return project.path("data/mine/photos.zip")


def zipped(project, compression: int = zipfile.ZIP_STORED) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as target:
        for file in sorted(project.path("data/tiny").rglob("*.png")):
            target.write(file, file.relative_to(project.path("data/tiny")))
    return content.getvalue()


def test_a_truncated_archive_is_refused(project, archive):
    archive.write_bytes(zipped(project)[:-500])
    refused(project, "data/mine/photos.zip", "truncated", "fetch it again")


def test_an_archive_with_a_path_that_leaves_it_is_refused(project, archive):
    archive.write_bytes(zipped(project))
    with zipfile.ZipFile(archive, "a") as target:
        target.writestr("0/../../evil.png", b"evil")
    refused(project, "data/mine/photos.zip", "0/../../evil.png", "leaves the archive")
    assert not list(project.folder.parent.rglob("evil.png"))


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_damaged_member_of_an_archive_is_listed(project, archive, compression):
    content = bytearray(zipped(project, compression))
    with zipfile.ZipFile(io.BytesIO(content)) as source:
        damaged = source.infolist()[20]
    start = damaged.header_offset + 30 + len(damaged.filename)
    content[start : start + 20] = bytes(20)
    archive.write_bytes(content)
    refused(project, "1 of 48 files (2.1%) cannot be used")
    assert set(problems(project)) == {f"photos.zip/{damaged.filename}"}


# Parameters


def test_all_bad_parameters_are_listed_at_once(project):
    project.set(
        **{
            "train.momentum": 0.9,
            "train.compact.epochs": "many",
            "preprocess.split.validation": 0.95,
            "dataset": "../secrets",
        }
    )
    refused(
        project,
        *["params.yaml", "train.momentum: unknown key", "train.compact.epochs = 'many'"],
        *["validation (0.95)", "dataset = '../secrets'"],
    )


def test_an_unknown_network_is_refused(project):
    project.set(**{"train.network": "huge"})
    # DVC looks for the network's block and stops before the stage starts.
    refused_by_dvc(project, "huge", "params.yaml")
    refused(project, "train.network = 'huge'", "'compact' or 'classic'")


def test_params_that_are_no_yaml_are_refused(project):
    project.path("params.yaml").write_text("train: [1, 2\n")
    refused_by_dvc(project, "params.yaml")
    refused(project, "params.yaml is not valid YAML")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.momentum=0.9", "train.momentum"),
        ("preprocess.split.validation=0.95", "validation (0.95)"),
    ],
)
def test_bad_parameters_of_an_experiment_are_refused(project, setting, message):
    refused(project, message, by=lambda: project.dvc("exp", "run", "preprocess", "-S", setting))


def test_a_loss_that_is_no_number_ends_the_training(fresh):
    # The learning rates that params.yaml may hold do not get there on so few photos.
    networks = fresh.path("signs/training/networks.py")
    code = networks.read_text(encoding="utf-8")
    assert "Rescaling(1 / 127.5" in code
    networks.write_text(code.replace("Rescaling(1 / 127.5", "Rescaling(1e38"), encoding="utf-8")
    fresh.dvc("repro", "train").fails_with(
        "The loss is not a number any more in epoch 1", "Lower train.compact.learning_rate"
    )
    for path in (".resume", "models/classifier", "models/model.keras"):
        assert not fresh.path(path).exists()


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


def test_a_full_disk_is_named_and_keeps_nothing_half_written(project, small_disk):
    project.set(**{"preprocess.images.compact.size": 128})  # 2.3 MB
    refused_by_dvc(project, "the disk is full", "nothing half-written was kept")
    project.set(**{"preprocess.images.compact.size": 16})
    project.stage("preprocess").succeeds()
