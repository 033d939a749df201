"""Small repositories to share."""

import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import harness
from tests.harness import ROOT, nobody_listens, running_s3, s3  # noqa: F401

Page = Callable[[str], list[str]]


class Repository(harness.Repository):
    """A repository that follows docs/remote.md."""

    def clone(self, name: str) -> "Repository":
        """A fresh `git clone` beside it: no cache, no keys."""
        clone = Repository(self.folder.with_name(name))
        self.run("git", "clone", "--quiet", str(self.folder), str(clone.folder)).succeeds()
        assert not clone.path(".dvc/config.local").exists()
        assert not clone.path(".dvc/cache").exists()
        return clone

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
def page() -> Page:
    """The commands below a heading of docs/remote.md."""
    text = (ROOT / "docs/remote.md").read_text(encoding="utf-8")

    def commands(heading: str) -> list[str]:
        section = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
        blocks = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
        lines = [line.split("  #")[0].strip() for line in "".join(blocks).splitlines()]
        return [line for line in lines if line]

    return commands
