"""deployment/values.toml, and that a plain Python is enough."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from deployment.container import VALUES, built, read_values
from signs.errors import UserError
from tests.deployment.conftest import ROOT


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("port = 80800", "port is 80800, but must be at most 65535"),
        ("workers = 0", "workers is 0, but must be above 0"),
        ('workers = "1"', "workers is '1', but must be a whole number"),
        ("workers = 1.5", "workers is 1.5, but must be a whole number"),
        ("drain_seconds = true", "drain_seconds is True, but must be a whole number"),
        ('cpus = "two"', "cpus is 'two', but must be a number"),
        ("image = 1", "image is 1, but must be a text"),
        ("replica = 3", "has unknown keys: replica. Allowed are name, image,"),
        ("", "lacks keys: port"),
        ("port == 1", "values.toml cannot be read: "),
    ],
)
def test_bad_value_is_named_with_what_is_allowed(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "values.toml"
    key = line.split()[0] if line else "port"
    others = re.sub(rf"(?m)^{key} =.*\n", "", VALUES.read_text())
    path.write_text(f"{others}{line}\n")
    with pytest.raises(UserError) as caught:
        read_values(path)
    assert message in str(caught.value)


def test_whole_number_of_cores_and_all_addresses_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "values.toml"
    text = VALUES.read_text().replace("cpus = 2.0", "cpus = 2").replace("127.0.0.1", "0.0.0.0")
    path.write_text(text)
    values = read_values(path)
    assert (values.cpus, values.url) == (2, "http://127.0.0.1:8080")


def test_says_that_nothing_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="`make image` builds one"):
        built()


def test_name_of_a_tag_is_no_command(tmp_path: Path) -> None:
    show = tmp_path / "bin/gto"
    show.parent.mkdir()
    show.write_text("#!/bin/sh\nprintf '%s|' \"$@\"\n")
    show.chmod(0o755)
    tag = f"v1';touch${{IFS}}{tmp_path}/stolen;'$(touch${{IFS}}{tmp_path}/stolen)"
    environment = os.environ | {"VERSION": f"classifier@{tag}", "PYTHON": str(show)}
    for target, given in (("deploy", f"classifier@{tag}"), ("promote", tag)):
        # Without `setup`: there is nothing to install into that VENV.
        command = ["make", "--old-file=setup", target, f"VENV={tmp_path}"]
        printed = subprocess.check_output(command, cwd=ROOT, env=environment, text=True)
        assert f"|--version|{given}|" in printed
    assert not (tmp_path / "stolen").exists()


def test_needs_no_package() -> None:
    command = [sys.executable, "-S", "-c", "import deployment.deploy, deployment.smoke"]
    subprocess.run(command, cwd=ROOT, env={}, check=True)
