"""Getting the photos from a git repository, made here and reached through file://."""

import os
import sys
from pathlib import Path

import pytest

from signs import cli, commands
from signs.errors import UserError
from signs.operations import download as module
from signs.operations.download import download, folder_hash, recorded_hash

FILES = {"0/a.png": b"zero", "0/b.png": b"\r\n", "2/c.png": b"two", "10/d.png": b"ten"}
# As `dvc add` records it for a folder with these files.
EXPECTED = "bdf449046f26fc8967104d5338a61d99.dir"


def _write(folder: Path) -> None:
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def _commit(folder: Path, message: str) -> str:
    # Nothing from the user's git: neither settings nor, in a hook, the surrounding repository.
    settings = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    identity = ("git", "-c", "user.name=Test", "-c", "user.email=test@example.org")
    for command in ("init --quiet", "add .", f"commit --quiet -m {message}"):
        commands.run(*identity, *command.split(), at=folder, environment=settings)
    return commands.git("rev-parse", "HEAD", at=folder)


@pytest.fixture(params=["", "DATA"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """URL and commit of a source whose wanted commit is not its newest."""
    folder = tmp_path / "source"
    photos = folder / "traffic_Data" / request.param
    _write(photos)
    for other in (folder / "README.md", photos / "TEST" / "e.png"):
        other.parent.mkdir(exist_ok=True)
        other.write_text("not a photo of a class")
    commit = _commit(folder, "wanted")
    (photos / "0" / "later.png").write_bytes(b"later")
    _commit(folder, "later")
    return folder.as_uri(), commit


def _contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def test_folder_hash_is_the_one_of_dvc(tmp_path: Path) -> None:
    _write(tmp_path)
    assert folder_hash(tmp_path) == EXPECTED


def test_gets_the_class_folders_of_the_commit_and_nothing_else(
    source: tuple[str, str], tmp_path: Path
) -> None:
    target = tmp_path / "data" / "signs"
    assert download(*source, target=target, expected=EXPECTED)
    assert _contents(target) == FILES
    assert os.listdir(target.parent) == ["signs"]


def test_wrong_hash_keeps_nothing(source: tuple[str, str], tmp_path: Path) -> None:
    target = tmp_path / "data" / "signs"
    with pytest.raises(UserError, match=rf"expected hash 123\.dir, got {EXPECTED}"):
        download(*source, target=target, expected="123.dir")
    assert os.listdir(target.parent) == []


def test_unreachable_source_names_it_and_the_alternative(tmp_path: Path) -> None:
    url = (tmp_path / "absent").as_uri()
    with pytest.raises(UserError, match=r"dvc pull data\.dvc") as caught:
        download(url, "0" * 40, target=tmp_path / "data" / "signs", expected=EXPECTED)
    assert url in str(caught.value)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path / "data") == []


def test_stopped_before_the_rename_keeps_nothing(
    source: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(folder: Path) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "folder_hash", stop)
    with pytest.raises(KeyboardInterrupt):
        download(*source, target=tmp_path / "data" / "signs", expected=EXPECTED)
    assert os.listdir(tmp_path / "data") == []


def test_complete_folder_is_left_alone(tmp_path: Path) -> None:
    _write(tmp_path / "signs")
    assert not download("file:///absent", target=tmp_path / "signs", expected=EXPECTED)
    assert _contents(tmp_path / "signs") == FILES


def test_folder_with_other_content_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "signs").mkdir()
    (tmp_path / "signs" / "mine.png").write_bytes(b"mine")
    with pytest.raises(UserError, match="exists with other content"):
        download("file:///absent", target=tmp_path / "signs", expected=EXPECTED)
    assert _contents(tmp_path) == {"signs/mine.png": b"mine"}


def test_git_variables_of_a_hook_do_not_mislead(
    source: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert download(*source, target=tmp_path / "data" / "signs", expected=EXPECTED)
    assert not (tmp_path / "elsewhere").exists()


def test_recorded_hash(tmp_path: Path) -> None:
    file = tmp_path / "data.dvc"
    file.write_text("outs:\n- md5: abc.dir\n  path: data/signs\n")
    assert recorded_hash(file) == "abc.dir"
    for text in ("", "outs: []", "a: [", "outs:\n- path: x\n"):
        file.write_text(text)
        with pytest.raises(UserError, match=r"no hash in .*data\.dvc"):
            recorded_hash(file)


def test_the_command_ends_with_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["signs", "download"])
    with pytest.raises(SystemExit, match=r"^ERROR: no hash in data\.dvc"):
        cli.main()
