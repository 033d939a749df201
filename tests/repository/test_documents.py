"""What the documents point to is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_targets_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    assert [link for link in links if not (path.parent / link).exists()] == []
    phony = re.findall(r"^\.PHONY: (.*)", (ROOT / "Makefile").read_text(), re.M)
    targets = " ".join(phony).split()
    if path.name != "CHANGELOG.md":  # it names what is gone
        named = re.findall(r"(?:^|`)make ([a-z][a-z-]+)", text, re.M)
        assert [name for name in named if name not in targets] == []


def test_each_fault_names_tests_that_exist() -> None:
    table = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:-1] for line in table.splitlines() if line.startswith("| ")][1:]
    faults = [row for row in rows if not row[0].startswith(" **")]
    assert len(faults) > 30
    for fault, seen, shown in faults:
        assert seen.strip(), fault
        file, *names = re.findall(r"`([\w/.]+)`", shown) or [""]
        code = (ROOT / file).read_text(encoding="utf-8") if names else ""
        assert [name for name in names if f"def {name}(" not in code] == [], fault
        assert names or shown == " no test ", fault
