"""`make wheel`: the package for those who have no clone of this repository."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from signs import cli
from signs.inference.classifier import METADATA, MODEL, released
from tests.harness import copy_checkout
from tests.operations.test_pretrained import rendered
from tests.repository.test_dependencies import closure, imported

ROOT = Path(__file__).parents[2]
UV = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
DISTRIBUTIONS = {"cv2": "opencv-python-headless", "yaml": "pyyaml"}
WITHOUT_A_CLONE = ("cli", "__main__", "operations/predict", "operations/info")
ARGUMENTS = {"bulk": ["predict", "photo.png", "--output", "predictions"]}


def build(folder: Path) -> Path:
    """The wheel of a copy of this repository, as `make wheel` builds it."""
    copy_checkout(folder / "clone")
    command = [str(UV), "build", "--quiet", "--wheel", "--no-build-isolation", "--out-dir", ".."]
    subprocess.run([*command, "--python", sys.executable], cwd=folder / "clone", check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("wheel"))


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return HeaderParser().parsestr(archive.read(name).decode())


def needed() -> set[str]:
    """All code of this project that runs without a clone."""
    return set().union(*(closure(ROOT / "signs" / f"{name}.py") for name in WITHOUT_A_CLONE))


def test_it_has_the_code_and_the_released_classifiers_and_is_small(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert names >= needed() | {"signs/py.typed"}
    assert len(released()) >= 3
    for name in released():
        assert {f"signs/pretrained/{name}/{part}" for part in (METADATA, MODEL)} <= names
    assert not [name for name in names if name.endswith((".npz", ".svg", ".pyc"))]
    assert {name.partition("/")[0] for name in names} == {"signs", wheel.name[:19] + ".dist-info"}
    assert wheel.stat().st_size < 3_000_000


def test_the_same_commit_gives_the_same_bytes(wheel: Path, tmp_path: Path) -> None:
    assert build(tmp_path).read_bytes() == wheel.read_bytes()


def test_it_requires_what_it_imports_in_the_versions_that_are_tested(wheel: Path) -> None:
    code = [ast.parse((ROOT / name).read_text()) for name in needed() if name.endswith(".py")]
    packages = {name.partition(".")[0] for tree in code for name in imported(tree)}
    packages -= {"signs", *sys.stdlib_module_names}
    required = [Requirement(text) for text in metadata(wheel).get_all("Requires-Dist", [])]
    assert {item.name for item in required} == {DISTRIBUTIONS.get(name, name) for name in packages}
    lock = (ROOT / "requirements/pipeline.txt").read_text(encoding="utf-8")
    locked = re.findall(r"^([a-z-]+)==(\S+)", lock, re.MULTILINE)
    for item in required:
        versions = [version for name, version in locked if name == item.name]
        assert versions
        assert all(map(item.specifier.contains, versions)), item


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of an environment that has the wheel and what it requires."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([str(UV), "venv", "--quiet", "--python", sys.executable, folder], check=True)
    install = [str(UV), "pip", "install", "--quiet", "--python", folder, wheel]
    subprocess.run(install, check=True)
    return folder / "bin"


@pytest.mark.network
@pytest.mark.timeout(600)
def test_it_reads_a_photo_where_nothing_else_is_installed(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(rendered(14))

    def run(*command: str) -> "subprocess.CompletedProcess[str]":
        (program, *arguments), environment = command, {"PATH": "", "HOME": str(tmp_path)}
        return subprocess.run(
            [installed / program, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    done = run("signs", "predict", "--format", "json", "photo.png")
    assert json.loads(done.stdout)["name"] == "Stop", done.stderr
    assert "so the released gtsrb reads" in done.stderr
    done = run("signs", "info", "--classifier", "synthetic")
    assert "Speed limit (20 km/h)" in done.stdout, done.stderr
    code = "from signs import Classifier; print(Classifier('gtsrb').predict('photo.png')['name'])"
    assert run("python", "-c", code).stdout == "Stop\n"
    for name in cli.COMMANDS.keys() - {"predict", "info"}:
        done = run("signs", name, *ARGUMENTS.get(name, []))
        assert done.returncode, name
        assert re.fullmatch(r"ERROR: .*\.\n", done.stderr), done.stderr
