"""Photos that the service keeps, when that is switched on, wait for a label."""

from collections.abc import Callable
from pathlib import Path

from signs.labelling import tray
from tests.conftest import Server, photo


def test_unsure_photos_are_kept_to_be_labelled(
    own_server: Callable[..., Server], tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    server = own_server(SIGNS_KEEP_PHOTOS=str(kept), SIGNS_KEEP_BELOW="0.99")
    grey, green, small = photo("Grey"), photo("Green"), photo("Grey", side=20)
    for content in (grey, green, small, grey, b"no photo"):
        # One id for all: what was kept before must not be lost.
        server.ask("/predict", content, Content_Type="image/png", X_Request_ID="same")
    found = tray.find(kept)
    assert sorted(path.read_bytes() for path in found) == sorted([grey, small])
    assert all(path.name.startswith("same-") for path in found)


def test_all_are_kept_without_a_limit_and_none_without_a_folder(
    own_server: Callable[..., Server], tmp_path: Path
) -> None:
    own_server(SIGNS_KEEP_PHOTOS=str(tmp_path / "kept")).send(photo("Green"))
    assert [path.read_bytes() for path in tray.find(tmp_path / "kept")] == [photo("Green")]
    quiet = own_server()
    before = set(quiet.folder.rglob("*"))
    quiet.send(photo("Grey"))
    written = [path for path in set(quiet.folder.rglob("*")) - before if path.is_file()]
    assert not [path for path in written if photo("Grey") in path.read_bytes()]
