"""State of an unfinished training: whole or not at all, and never of another training."""

from collections.abc import Callable
from pathlib import Path

import pytest

from signs.training import checkpoint


@pytest.fixture
def code(tmp_path: Path) -> list[Path]:
    files = [tmp_path / "a.py", tmp_path / "b.py"]
    for file in files:
        file.write_text(f"# {file.name}\n")
    return files


def note(text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "state.txt").write_text(text)

    return write


def test_same_training_same_folder(code: list[Path]) -> None:
    first = checkpoint.folder("compact", 1, {"epochs": 3, "batch": 2}, "digest", code=code)
    assert first == checkpoint.folder(
        "compact", 1, {"batch": 2, "epochs": 3}, "digest", code=code[::-1]
    )
    assert first.parent == checkpoint.ROOT


def test_other_training_other_folder(code: list[Path]) -> None:
    names = {
        checkpoint.folder(*determinants, code=code)
        for determinants in [
            ("compact", 1, {"epochs": 3}, "digest"),
            ("classic", 1, {"epochs": 3}, "digest"),
            ("compact", 2, {"epochs": 3}, "digest"),
            ("compact", 1, {"epochs": 4}, "digest"),
            ("compact", 1, {"epochs": 3}, "other"),
        ]
    }
    assert len(names) == 5
    code[1].write_text("# changed\n")
    names.add(checkpoint.folder("compact", 1, {"epochs": 3}, "digest", code=code))
    assert len(names) == 6


def test_nothing_yet(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path / "never") is None
    assert checkpoint.finished(tmp_path / "never") == []


def test_only_the_newest_state_is_kept(tmp_path: Path) -> None:
    for epoch in (1, 2, 9, 10, 11):
        checkpoint.save(tmp_path / "s", epoch, note(f"after {epoch}"))
        found = checkpoint.latest(tmp_path / "s")
        assert found is not None
        assert found[0] == epoch
        assert (found[1] / "state.txt").read_text() == f"after {epoch}"
        assert len(list((tmp_path / "s").iterdir())) == 1


def test_killed_while_writing(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 3, note("three"))

    def half(folder: Path) -> None:
        (folder / "state.txt").write_text("fo")
        (folder / "more.txt").write_text("")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path, 4, half)
    epoch, folder = checkpoint.latest(tmp_path) or (0, tmp_path)
    assert epoch == 3
    assert (folder / "state.txt").read_text() == "three"
    # What the killed one left behind does not get into the next state.
    checkpoint.save(tmp_path, 4, note("four"))
    epoch, folder = checkpoint.latest(tmp_path) or (0, tmp_path)
    assert epoch == 4
    assert [path.name for path in folder.iterdir()] == ["state.txt"]


def test_the_old_state_lives_until_the_new_one_is_whole(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, note("one"))

    def write(folder: Path) -> None:
        before = checkpoint.latest(tmp_path)
        assert before is not None
        (folder / "state.txt").write_text((before[1] / "state.txt").read_text() + " and two")

    checkpoint.save(tmp_path, 2, write)
    epoch, folder = checkpoint.latest(tmp_path) or (0, tmp_path)
    assert (epoch, (folder / "state.txt").read_text()) == (2, "one and two")


def test_killed_before_the_old_state_was_removed(tmp_path: Path) -> None:
    for epoch in (9, 10):
        (tmp_path / f"{epoch:05d}").mkdir()
    (tmp_path / "unfinished").mkdir()
    found = checkpoint.latest(tmp_path)
    assert found == (10, tmp_path / "00010")
    checkpoint.save(tmp_path, 11, note("eleven"))
    assert [path.name for path in tmp_path.iterdir()] == ["00011"]
