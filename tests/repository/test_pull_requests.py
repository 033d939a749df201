"""What runs in other people's pull requests is valid by the published schemas."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs/judging.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```yaml\n# (\S+)\n(.*?)```", DOCUMENT, re.DOTALL)
SCHEMAS = {
    "action.yml": "vendor.github-actions",
    ".github/workflows/photos.yml": "vendor.github-workflows",
    ".gitlab-ci.yml": "vendor.gitlab-ci",
}


def check(path: Path, schema: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_action_is_valid_and_takes_a_command_that_there_is() -> None:
    done = check(ROOT / "action.yml", SCHEMAS["action.yml"])
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("name", "content"), SNIPPETS)
def test_the_documented_pipelines_are_valid(name: str, content: str, tmp_path: Path) -> None:
    path = tmp_path / Path(name).name
    path.write_text(content)
    done = check(path, SCHEMAS[name])
    assert done.returncode == 0, done.stdout
    path.write_text(content.replace("script:", "skript:").replace("steps:", "stepz:"))
    assert check(path, SCHEMAS[name]).returncode == 1


def test_each_pipeline_is_documented() -> None:
    assert {name for name, _ in SNIPPETS} == SCHEMAS.keys() - {"action.yml"}
