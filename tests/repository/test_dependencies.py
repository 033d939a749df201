"""What dvc.yaml and bentofile.yaml declare is what the code imports: no more, no less."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from signs import pipeline

ROOT = Path(__file__).parents[2]
# What a module reads beside the Python that it imports.
FILES_OF = {
    "signs/data/layouts/names.py": ["signs/data/labels"],
    "signs/synthesis/svg.py": ["signs/synthesis/templates"],
    "signs/reporting/pages.py": ["signs/reporting/templates"],
    "signs/serving/app.py": ["signs/serving/openapi.yaml", "signs/serving/page"],
}


def imported(tree: ast.AST) -> Iterator[str]:
    """Dotted names that code imports, inside functions too, but not for type hints alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        yield from imported(node)


def modules(name: str) -> Iterator[Path]:
    """Files of this project that run when `name` is imported."""
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        place = ROOT.joinpath(*parts[:end])
        for path in (place.with_suffix(".py"), place / "__init__.py"):
            if path.is_file() and parts[0] in ("signs", "stages"):
                yield path


def closure(start: Path) -> set[str]:
    """All code that a file runs, and the files that this code reads, below the root."""
    found: set[str] = set()
    todo = [start]
    while todo:
        path = todo.pop()
        tree = ast.parse(path.read_text(encoding="utf-8"))
        name = path.relative_to(ROOT).as_posix()
        # A package with nothing but a docstring determines nothing.
        if name in found or (path.name == "__init__.py" and len(tree.body) <= 1):
            continue
        found |= {name, *FILES_OF.get(name, [])}
        todo += [module for dotted in imported(tree) for module in modules(dotted)]
    return found


def missing_and_superfluous(declared: set[str], needed: set[str]) -> tuple[set[str], set[str]]:
    """What no entry covers, and entries that nothing needs or that cover more than is needed."""
    files = {name: {name} for name in declared if (ROOT / name).is_file()}
    for name in declared - files.keys():
        folder = ROOT / name
        code = {path for path in folder.rglob("*.py") if len(ast.parse(path.read_text()).body) > 1}
        files[name] = {path.relative_to(ROOT).as_posix() for path in code} or {name}
    within = {name for name in needed for folder in declared if name.startswith(f"{folder}/")}
    superfluous = {name for name, parts in files.items() if not parts <= needed}
    return needed - within - {part for parts in files.values() for part in parts}, superfluous


@pytest.mark.parametrize("stage", pipeline.STAGES)
def test_a_stage_declares_the_code_that_it_runs(stage: str) -> None:
    declared = {path.as_posix() for path in pipeline.code(stage, root=ROOT)}
    needed = {"requirements/pipeline.txt", "stages/__init__.py"}
    needed |= closure(ROOT / "stages" / f"{stage}.py")
    assert missing_and_superfluous(declared, needed) == (set(), set())


def test_the_bento_holds_the_code_that_the_service_runs() -> None:
    bento = yaml.safe_load((ROOT / "bentofile.yaml").read_text(encoding="utf-8"))
    declared = {name.rstrip("/") for name in bento["include"]}
    declared -= {"models/classifier", "requirements/service.txt"}
    needed = closure(ROOT / "service.py")
    assert missing_and_superfluous(declared, needed) == (set(), set())


def test_every_stage_is_declared_and_has_a_file_and_a_function_of_its_name() -> None:
    stages = pipeline.stages(ROOT / "dvc.yaml")
    assert tuple(stages) == pipeline.STAGES
    for name in stages:
        tree = ast.parse((ROOT / f"stages/{name}.py").read_text(encoding="utf-8"))
        functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
        assert [function for function in functions if function[0] != "_"] == [name]
        assert stages[name]["cmd"] == f"python -m stages.{name}"


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ({"signs/files.py", "signs/paths.py"}, (set(), set())),
        ({"signs/files.py"}, ({"signs/paths.py"}, set())),
        ({"signs/files.py", "signs/paths.py", "signs/cli.py"}, (set(), {"signs/cli.py"})),
        ({"signs"}, (set(), {"signs"})),
    ],
)
def test_what_is_missing_or_superfluous_is_found(
    declared: set[str], expected: tuple[set[str], set[str]]
) -> None:
    assert missing_and_superfluous(declared, {"signs/files.py", "signs/paths.py"}) == expected
