"""Getting the photos from a git repository, made here and reached through file://."""

import os
import sys
from pathlib import Path

import pytest

from signs import cli
from signs.errors import UserError
from signs.operations import download as module
from signs.operations.download import download, folder_hash, recorded_hash
from tests.harness import Repository

FILES = {"0/a.png": b"zero", "0/b.png": b"\r\n", "2/c.png": b"two", "10/d.png": b"ten"}
# As `dvc add` records it for a folder with these files.
EXPECTED = "bdf449046f26fc8967104d5338a61d99.dir"


def _write(folder: Path) -> None:
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


@pytest.fixture(params=["", "DATA"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """URL and commit of a source; the commit is not its newest."""
    folder = tmp_path / "source"
    photos = folder / "traffic_Data" / request.param
    _write(photos)
    for other in (folder / "README.md", photos / "TEST" / "e.png"):
        other.parent.mkdir(exist_ok=True)
        other.write_text("not a photo of a class")
    repository = Repository(folder)
    repository.run("git", "init", "--quiet").succeeds()
    repository.commit("the one")
    commit = repository.run("git", "rev-parse", "HEAD").succeeds().strip()
    (photos / "0" / "later.png").write_bytes(b"later")
    repository.commit("later")
    return folder.as_uri(), commit


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "data" / "signs"


def _contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def test_gets_the_class_folders_of_the_commit_and_nothing_else(
    source: tuple[str, str], target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(target.with_name("of-a-hook")))  # must not mislead
    assert download(*source, target=target, expected=EXPECTED)
    assert _contents(target) == FILES
    assert os.listdir(target.parent) == ["signs"]
    assert not download("file:///absent", target=target, expected=EXPECTED)
    assert _contents(target) == FILES


def test_what_is_not_as_recorded_is_not_kept(source: tuple[str, str], target: Path) -> None:
    with pytest.raises(UserError, match=rf"expected hash 123\.dir, got {EXPECTED}"):
        download(*source, target=target, expected="123.dir")
    assert os.listdir(target.parent) == []


def test_unreachable_source_names_it_and_the_alternative(target: Path) -> None:
    url = target.with_name("absent").as_uri()
    with pytest.raises(UserError, match=r"dvc pull data\.dvc") as caught:
        download(url, "0" * 40, target=target, expected=EXPECTED)
    assert url in str(caught.value)
    assert "\n" not in str(caught.value)
    assert os.listdir(target.parent) == []


def test_stopped_before_the_rename_keeps_nothing(
    source: tuple[str, str], target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(folder: Path) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "folder_hash", stop)
    with pytest.raises(KeyboardInterrupt):
        download(*source, target=target, expected=EXPECTED)
    assert os.listdir(target.parent) == []


def test_folder_with_other_content_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.png").write_bytes(b"mine")
    with pytest.raises(UserError, match="exists with other content"):
        download("file:///absent", target=tmp_path, expected=EXPECTED)
    assert _contents(tmp_path) == {"mine.png": b"mine"}


def test_hashes_are_those_of_dvc(tmp_path: Path) -> None:
    _write(tmp_path / "photos")
    assert folder_hash(tmp_path / "photos") == EXPECTED
    file = tmp_path / "data.dvc"
    file.write_text("outs:\n- md5: abc.dir\n  path: data/signs\n")
    assert recorded_hash(file) == "abc.dir"


@pytest.mark.parametrize("text", [None, "", "outs: []", "a: [", "outs:\n- path: x\n"])
def test_without_a_recorded_hash_it_ends_with_one_sentence(
    text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["signs", "download"])
    if text is not None:
        module.TRACKED.write_text(text)
    with pytest.raises(SystemExit, match=r"^ERROR: no hash in data\.dvc"):
        cli.main()
