"""What dvc.yaml declares, and the fingerprint of a stage."""

from pathlib import Path

import pytest

from signs import pipeline

STAGE = (
    "stages:\n  train: {cmd: x, deps: [requirements/pipeline.txt, signs/room, signs/a.py, data/x]}"
)
CONTENT = {
    "dvc.yaml": STAGE,
    "requirements/pipeline.txt": "keras==3",
    "signs/a.py": "A = 1",
    "signs/room/b.py": "B = 1",
    "signs/room/sign.svg": "<svg/>",
    "data/x": "photos",
    "notes.md": "Notes",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project with one stage; nothing here is a git repository."""
    for name, text in CONTENT.items():
        write(tmp_path / name, text)
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def fingerprint(root: Path, *determinants: object) -> str:
    return pipeline.fingerprint("train", *determinants, root=root)


def test_what_determines_no_result_leaves_the_fingerprint(root: Path, tmp_path: Path) -> None:
    before = fingerprint(root, {"epochs": 3, "batch": 2}, "digest")
    # The data count by their digest, so that their files need not be read.
    for name in ("notes.md", "data/x", "signs/other.py", "signs/room/__pycache__/b.pyc"):
        write(root / name, "other")
    assert fingerprint(root, {"batch": 2, "epochs": 3}, "digest") == before
    root.rename(tmp_path.with_name("elsewhere"))
    assert (
        fingerprint(tmp_path.with_name("elsewhere"), {"batch": 2, "epochs": 3}, "digest") == before
    )


@pytest.mark.parametrize(
    "name",
    ["requirements/pipeline.txt", "signs/a.py", "signs/room/b.py", "signs/room/sign.svg"],
)
def test_declared_code_and_packages_change_the_fingerprint(root: Path, name: str) -> None:
    before = fingerprint(root)
    write(root / name, "changed")
    assert fingerprint(root) != before


def test_a_renamed_file_and_other_determinants_change_the_fingerprint(root: Path) -> None:
    found = {
        fingerprint(root, "digest"),
        fingerprint(root, "other"),
        fingerprint(root, "digest", 1),
    }
    (root / "signs/room/b.py").rename(root / "signs/room/c.py")
    assert len(found | {fingerprint(root, "digest")}) == 4
