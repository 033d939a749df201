"""`make`'s set-up: each error is one sentence, and the next run repairs what failed.

The real Makefile runs in a copy whose path has a space in it. Nothing is downloaded: a stand-in
for uv, locked by its own hash, notes what it is asked to install.
"""

import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
run = functools.partial(subprocess.run, capture_output=True, text=True, check=False)
TOOLS = (
    "awk cat cmp cp cut date dirname env find git grep head make mkdir mv realpath rm sed sh tail "
    "tee touch"
)
FAKE_UV = """#!/bin/sh
if [ "$1" = --version ]; then echo "uv 0.0.1 (stand-in)"; exit; fi
if [ "$1" = venv ]; then exit; fi
echo "$@" >> asked.txt
if [ -e broken ]; then echo "error: No space left on device (os error 28)"; exit 2; fi
echo "Installed 0 packages in 1ms"
"""
OLD_PYTHON = "#!/bin/sh\necho 3.9.18\n"
WITHOUT_VENV = "#!/bin/sh\ncase $* in *ensurepip*) exit 1;; esac\necho 3.11.2\n"


class Checkout:
    """A copy of the files that set-up needs, and an environment under control."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "a clone"
        self.bin = folder / "bin"
        self.bin.mkdir()
        for tool in TOOLS.split():
            if found := shutil.which(tool):
                (self.bin / tool).symlink_to(found)
        self.add_tool("python3", f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        (self.folder / "requirements").mkdir(parents=True)
        shutil.copy(ROOT / "Makefile", self.folder)
        for file in ("setup.sh", "uv.txt", "pipeline.txt", "ray.txt", "development.txt", "gpu.txt"):
            shutil.copy(ROOT / "requirements" / file, self.folder / "requirements")
        subprocess.run(["git", "init", "--quiet", self.folder], check=True)
        indexes = ("PIP_INDEX_URL", "UV_INDEX_URL", "UV_DEFAULT_INDEX")
        self.environment = dict.fromkeys(indexes, "http://127.0.0.1:9/simple")
        self.environment |= {"PATH": str(self.bin), "HOME": str(folder)}
        self.environment |= {"PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "0"}

    def add_tool(self, name: str, content: str) -> None:
        """Put an executable in place of the one in the PATH; none if it has no content."""
        (self.bin / name).unlink(missing_ok=True)
        if content:
            (self.bin / name).write_text(content)
            (self.bin / name).chmod(0o755)

    def make(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the real make."""
        return run(["make", *arguments], cwd=self.folder, env=self.environment, timeout=180)

    def error(self, *arguments: str) -> str:
        """The one sentence with which make fails."""
        result = self.make(*arguments)
        assert result.returncode != 0, result.stdout
        lines = [line for line in result.stderr.splitlines() if not line.startswith("make:")]
        (sentence,) = lines
        assert re.fullmatch(r"ERROR: .*\.", sentence)
        return sentence

    def asked(self) -> str:
        """What the stand-in for uv was asked to install since the last call, a line each."""
        file = self.folder / "asked.txt"
        file.touch()
        text = file.read_text().strip()
        file.unlink()
        return text


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def _provide_fake_uv(checkout: Checkout) -> None:
    """Lock the stand-in in place of uv, and let pip find it in a folder."""
    wheels = checkout.folder.parent / "wheels"
    wheels.mkdir()
    wheel = wheels / "uv-0.0.1-py3-none-any.whl"
    files = {
        "data/scripts/uv": FAKE_UV,
        "dist-info/METADATA": "Metadata-Version: 2.1\nName: uv\nVersion: 0.0.1\n",
        "dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files["dist-info/RECORD"] = "".join(f"uv-0.0.1.{name},,\n" for name in files)
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(f"uv-0.0.1.{name}")
            entry.external_attr = 0o100755 << 16
            archive.writestr(entry, content)
    lock = f"uv==0.0.1 \\\n    --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"
    (checkout.folder / "requirements/uv.txt").write_text(lock)
    checkout.environment |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)}


@pytest.mark.parametrize(
    ("tools", "arguments", "message"),
    [
        ({"git": ""}, [], "git is not installed"),
        ({"python3": ""}, [], "there is no Python on the PATH"),
        ({}, ["PYTHON=python9"], "'python9' does not run as a Python"),
        ({"python3": OLD_PYTHON}, [], "python3 is Python 3.9.18, .*make PYTHON=python3.12"),
        ({"python3": WITHOUT_VENV}, [], "apt install python3-venv"),
        ({"python3": OLD_PYTHON, "python3.12": WITHOUT_VENV}, [], "python3.12 cannot make virtual"),
    ],
)
def test_what_the_machine_lacks_is_named(
    checkout: Checkout, tools: dict[str, str], arguments: list[str], message: str
) -> None:
    for name, content in tools.items():
        checkout.add_tool(name, content)
    assert re.search(message, checkout.error(*arguments))
    assert not (checkout.folder / ".venv").exists()


def test_outside_a_git_repository(checkout: Checkout) -> None:
    shutil.rmtree(checkout.folder / ".git")
    message = r"git refuses this folder \(fatal: not a git repository.*DVC needs a git clone"
    assert re.search(message, checkout.error())


def test_without_network_then_healed(checkout: Checkout) -> None:
    assert "the package index cannot be reached" in checkout.error("setup")
    assert "uv" in (checkout.folder / ".venv" / "setup.log").read_text()

    _provide_fake_uv(checkout)
    (checkout.folder / "broken").touch()
    assert "the disk is full" in checkout.error("setup")
    assert len(checkout.asked().splitlines()) == 1

    (checkout.folder / "broken").unlink()
    healed = checkout.make("setup")
    assert healed.returncode == 0, healed.stderr
    assert "The environment is complete" in healed.stdout
    options = "--require-hashes --compile-bytecode"
    assert checkout.asked().endswith(f"{options} --reinstall -r requirements/pipeline.txt")

    again = checkout.make("setup")
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")

    # Each environment has the packages of the one before it, so no later set-up goes back.
    for target, lock in {"setup-ray": "ray", "setup-dev": "development"}.items():
        assert checkout.make(target).returncode == 0
        assert checkout.asked().endswith(f"{options} -r requirements/{lock}.txt")
        for smaller in ("setup", target):
            assert checkout.make(smaller).stdout == ""
    assert checkout.make("setup-ray").stdout == checkout.asked() == ""

    with (checkout.folder / "requirements" / "development.txt").open("a") as lock_file:
        lock_file.write("# changed\n")
    assert checkout.make("setup").returncode == 0
    assert checkout.asked().endswith("-r requirements/development.txt")


def test_tensorflow_for_gpus_takes_the_place_of_the_other(checkout: Checkout) -> None:
    _provide_fake_uv(checkout)
    said = checkout.make("setup", "GPU=yes")
    assert said.returncode == 0, said.stderr
    asked = checkout.asked().splitlines()
    assert [line.split()[1] for line in asked] == ["install", "uninstall", "install"]
    assert asked[0].endswith("-r requirements/pipeline.txt")
    assert asked[1].endswith(" tensorflow-cpu")
    assert asked[2].endswith("-r requirements/gpu.txt")
    for again in ("GPU=yes", "GPU="):
        assert checkout.make("setup", again).stdout == checkout.asked() == ""
    # Other packages bring the other TensorFlow back, unless GPU=yes is given again.
    with (checkout.folder / "requirements" / "pipeline.txt").open("a") as lock_file:
        lock_file.write("# changed\n")
    assert checkout.make("setup").returncode == 0
    asked = checkout.asked().splitlines()
    assert asked[0].endswith(" tensorflow")
    assert asked[1].endswith("-r requirements/pipeline.txt")


def test_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE)
    declared = " ".join(re.findall(r"^\.PHONY: (.*)", makefile, re.MULTILINE)).split()
    printed = run(["make", "help"], cwd=ROOT).stdout
    assert targets
    assert sorted(declared) == sorted(targets)
    for target in targets:
        assert re.search(rf"^  {target} +\S", printed, re.MULTILINE), target


def test_locks_share_versions() -> None:
    def read(name: str) -> set[str]:
        text = (ROOT / f"requirements/{name}.txt").read_text()
        return set(re.findall(r"^([\w.-]+==[^\\\n]*)", text, re.M))

    assert read("pipeline") < read("ray") < read("development") > read("uv")
    names = {line.split("==")[0]: line for line in read("service")}
    assert "tensorflow" not in names
    for line in read("pipeline"):
        name, _, version = line.partition("==")
        if ";" not in line and name in names:
            assert names[name].partition("==")[2].split(" ;")[0].strip() == version.strip(), name
