"""Small repositories to share, and the steps that both kinds of remote have in common."""

import hashlib
import os
import random
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.harness import (  # noqa: F401
    IDENTITY,
    ROOT,
    S3,
    SEARCHED,
    SSH,
    Outcome,
    nobody_listens,
    object_hash,
    running_s3,
    s3,
)


class Repository:
    """A git and DVC repository."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = home = folder.with_name(folder.name + ".home")
        home.mkdir(exist_ok=True)
        # The keys, agents, proxies and settings of this machine must not matter.
        foreign = re.compile(r"(AWS|BOTO|DVC|GIT|SSH)_|(?i:\w+_proxy$)|COLUMNS$")
        self.environment = {k: v for k, v in os.environ.items() if not foreign.match(k)} | {
            **IDENTITY,
            "PATH": SEARCHED,
            "HOME": str(home),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(home / "site"),
            "DVC_GLOBAL_CONFIG_DIR": str(home),
            "DVC_SYSTEM_CONFIG_DIR": str(home),
            "COLUMNS": "200",
        }

    def path(self, name: str) -> Path:
        return self.folder / name

    def start(self, *command: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def run(self, *command: str) -> Outcome:
        begun = time.monotonic()
        process = self.start(*command)
        text = process.communicate()[0].decode(errors="replace")
        return Outcome(process.returncode, text, time.monotonic() - begun)

    def dvc(self, *arguments: str) -> Outcome:
        return self.run("dvc", *arguments)

    def commit(self, message: str) -> None:
        self.run("git", "add", "--all").succeeds()
        self.run("git", "commit", "--quiet", "-m", message).succeeds()

    def clone(self, name: str) -> "Repository":
        """A fresh `git clone` beside it: no cache, no keys."""
        clone = Repository(self.folder.with_name(name))
        self.run("git", "clone", "--quiet", str(self.folder), str(clone.folder)).succeeds()
        assert not clone.path(".dvc/config.local").exists()
        assert not clone.path(".dvc/cache").exists()
        return clone

    def copy(self, folder: Path) -> "Repository":
        shutil.copytree(self.folder, folder, symlinks=True)
        return Repository(folder)

    def files(self) -> dict[str, bytes]:
        """The content of all visible files."""
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and not {".git", ".dvc"} & set(path.relative_to(self.folder).parts)
        }

    def follow(self, commands: list[str], *replacements: tuple[str, str]) -> None:
        """Run commands of docs/remote.md with a test's values in place of the examples."""
        for command in commands:
            for example, value in replacements:
                command = command.replace(example, value)
            self.run("sh", "-c", command).succeeds()

    def take_keys(self, other: "Repository") -> None:
        shutil.copy(other.path(".dvc/config.local"), self.path(".dvc"))

    def is_in_sync(self) -> bool:
        return "are in sync" in self.dvc("status", "--cloud").succeeds()


def random_bytes(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A large file, a folder of small ones and a stage; everything is in the cache."""
    repository = Repository(tmp_path_factory.mktemp("template") / "repository")
    repository.folder.mkdir()
    repository.run("git", "init", "--quiet", "-b", "main").succeeds()
    repository.dvc("init", "--quiet").succeeds()
    repository.path("large.bin").write_bytes(random_bytes(0, 5_000_000))
    repository.path("photos").mkdir()
    for number in range(30):
        repository.path(f"photos/{number:02d}.png").write_bytes(random_bytes(number + 1, 3000))
    repository.path("dvc.yaml").write_text(
        "stages:\n"
        "  count:\n"
        "    cmd: ls photos | wc -l > count.csv\n"
        "    deps: [photos]\n"
        "    outs: [count.csv]\n"
    )
    repository.dvc("add", "--quiet", "large.bin", "photos").succeeds()
    repository.dvc("repro", "--quiet").succeeds()
    repository.commit("Start")
    return repository


@pytest.fixture
def blank(template: Repository, tmp_path: Path) -> Iterator[Repository]:
    """A copy of the template for one test, without a remote."""
    yield template.copy(tmp_path / "repository")
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.fixture(scope="session")
def page() -> Callable[[str], list[str]]:
    """The commands below a heading of docs/remote.md."""
    text = (ROOT / "docs/remote.md").read_text(encoding="utf-8")

    def commands(heading: str) -> list[str]:
        section = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
        blocks = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
        lines = [line.split("  #")[0].strip() for line in "".join(blocks).splitlines()]
        return [line for line in lines if line]

    return commands


class SSHStore(SSH):
    """An SSH server with a folder `store` for DVC."""

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def names(self) -> list[str]:
        return [path.as_posix() for path in self.store.rglob("*") if object_hash(path.as_posix())]

    def read(self, name: str) -> bytes:
        return Path(name).read_bytes()

    def empty(self) -> None:
        shutil.rmtree(self.store, ignore_errors=True)
        self.store.mkdir()


@pytest.fixture(scope="session")
def running_ssh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SSHStore]:
    server = SSHStore(tmp_path_factory.mktemp("ssh"))
    server.empty()
    server.start()
    yield server
    server.kill()


@pytest.fixture
def ssh(running_ssh: SSHStore) -> Iterator[SSHStore]:
    """An SSH server with an empty folder `store`."""
    yield running_ssh
    running_ssh.empty()


@dataclass
class Steps:
    """Checks that both kinds of remote have in common."""

    repository: Repository
    server: S3 | SSHStore

    def objects(self) -> dict[str, bytes]:
        """What is stored, by the hash in its name."""
        return {str(object_hash(name)): self.server.read(name) for name in self.server.names()}

    def has_only_complete_objects(self) -> bool:
        """DVC trusts the name: it would pull half a file as the file."""
        return all(
            hashlib.md5(content).hexdigest() == name.removesuffix(".dir")
            for name, content in self.objects().items()
        )

    def push(self) -> None:
        self.repository.dvc("push").succeeds()
        assert self.repository.is_in_sync()
        assert self.has_only_complete_objects()

    def pull_into_a_fresh_clone(self) -> None:
        """The clone gets the same bytes, and DVC says so."""
        clone = self.repository.clone("clone")
        assert clone.files() != self.repository.files()
        clone.take_keys(self.repository)
        clone.dvc("pull").succeeds()
        assert clone.files() == self.repository.files()
        assert clone.is_in_sync()
        assert "up to date" in clone.dvc("status").succeeds()

    def share_everything(self) -> None:
        assert not self.repository.is_in_sync()
        self.push()
        assert len(self.server.names()) == 1 + 30 + 1 + 1
        self.pull_into_a_fresh_clone()

    def refuses_push_and_pull(self, *said: str) -> None:
        self.repository.dvc("push").fails_with(*said)
        assert not self.server.names()
        shutil.rmtree(self.repository.path(".dvc/cache"))
        self.repository.dvc("pull").fails_with(*said)

    def survive_a_kill_during_a_push(self, *said: str) -> None:
        """Some objects were stored and others not; the next push completes them."""
        number = 8
        self.repository.path("many").mkdir()
        for seed in range(number):
            content = random_bytes(1000 + seed, 5_000_000)
            self.repository.path(f"many/{seed}").write_bytes(content)
        self.repository.dvc("add", "--quiet", "many").succeeds()
        self.repository.commit("Much to push")

        begun = time.monotonic()
        push = self.repository.start("dvc", "push", "--jobs", "4", "many.dvc")
        while not self.server.names():
            assert push.poll() is None, push.communicate()[0].decode()
        self.server.kill()
        text = push.communicate()[0].decode()
        Outcome(push.returncode, text, time.monotonic() - begun).fails_with(*said)

        self.server.start()
        assert 0 < len(self.server.names()) < number
        # The list of the folder comes last: nobody pulls a folder that is incomplete.
        assert not any(name.endswith(".dir") for name in self.objects())
        assert self.has_only_complete_objects()
        assert not self.repository.is_in_sync()
        self.push()
        self.pull_into_a_fresh_clone()


@pytest.fixture(scope="session")
def steps() -> type[Steps]:
    return Steps
