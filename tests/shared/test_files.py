"""Files are written whole or not at all."""

import hashlib
import json

import pytest

from signs import files


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_failure_leaves_the_old_file_and_nothing_beside_it(error, tmp_path):
    target = tmp_path / "images.zip"
    target.write_text("before")
    with pytest.raises(error), files.replaced(target) as path:  # noqa: PT012
        path.write_text("half")
        raise error
    assert [path.name for path in tmp_path.iterdir()] == ["images.zip"]
    assert target.read_text() == "before"


def test_what_is_written_replaces_the_old_file(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text("before")
    files.write_json(path, {"name": "Größe"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"name": "Größe"}
    assert files.md5(path) == hashlib.md5(path.read_bytes()).hexdigest()
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_made_empty_or_the_reason_is_raised(tmp_path):
    folder = tmp_path / "metrics" / "report"
    for _ in range(2):
        files.make_empty(folder)
        assert list(folder.iterdir()) == []
        (folder / "old").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        files.make_empty(tmp_path / "file")
