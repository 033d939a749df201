"""Rules of the house that no linter knows: what is long is divided."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRODUCT = [*ROOT.glob("signs/**/*.py"), *ROOT.glob("stages/*.py"), *ROOT.glob("deployment/*.py")]
PRODUCT.append(ROOT / "service.py")
Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions() -> Iterator[tuple[str, Function]]:
    for path in PRODUCT:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, Function):
                yield f"{path.relative_to(ROOT)}: {node.name}", node


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_no_function_is_longer_than_50_lines() -> None:
    lengths = {name: (node.end_lineno or 0) - node.lineno + 1 for name, node in functions()}
    assert not {name: length for name, length in lengths.items() if length > 50}


def test_no_function_has_more_than_6_parameters() -> None:
    def count(node: Function) -> int:
        named = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        return len([argument for argument in named if argument.arg not in ("self", "cls")])

    assert not {name for name, node in functions() if count(node) > 6}


@pytest.mark.parametrize("path", sorted(ROOT.glob("stages/*.py")), ids=lambda path: path.name)
def test_a_stage_is_read_at_a_glance(path: Path) -> None:
    assert lines(path) <= 120


def test_the_readme_is_short() -> None:
    assert lines(ROOT / "README.md") <= 150


def test_every_room_says_what_it_is_for() -> None:
    for path in ROOT.glob("signs/*/__init__.py"):
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        assert text, path
        assert text.count("\n") < 2, path
