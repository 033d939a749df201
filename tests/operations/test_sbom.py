"""`make sbom`: valid, of what the image holds, and of nothing on this machine."""

import argparse
import contextlib
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from signs.errors import UserError
from signs.inference.classifier import METADATA, MODEL
from signs.operations import sbom
from signs.paths import CLASSIFIER
from tests.conftest import ROOT, tiny_model, write_classifier

LOCK = (ROOT / sbom.LOCK).read_text()


def write(folder: Path, with_classifier: bool = True) -> str:
    """The document for a project in that folder."""
    (folder / "requirements").mkdir(parents=True)
    shutil.copy(ROOT / sbom.LOCK, folder / sbom.LOCK)
    if with_classifier:
        write_classifier(folder / CLASSIFIER)
    return run(folder)


def run(folder: Path) -> str:
    with contextlib.chdir(folder):
        assert sbom.run(argparse.Namespace()) == 0
        return sbom.TARGET.read_text()


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(tmp_path_factory.mktemp("project"))


@pytest.fixture
def document(text: str) -> Any:
    return json.loads(text)


def components(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found = {component["name"]: component for component in document["components"]}
    assert len(found) == len(document["components"])
    return found


def test_is_valid(text: str, document: dict[str, Any]) -> None:
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    assert validator.validate_str(text) is None
    document["components"][0]["type"] = "wheel"
    assert validator.validate_str(json.dumps(document)) is not None


def test_lists_what_is_installed_in_the_image(document: dict[str, Any]) -> None:
    found = components(document)
    dockerfile = (ROOT / "containers/Dockerfile").read_text()
    base = f"FROM python:{sbom.IMAGE['python_version']}-slim"
    assert dockerfile.count(base) == dockerfile.count("FROM") == 2
    locked = re.findall(r"^([\w.-]+)==([^ ]+) (?:; (.*) )?\\$", LOCK, re.MULTILINE)
    everywhere = {name for name, _, marker in locked if not marker}
    assert set(found) == everywhere | {"numpy", "uvloop", "traffic-signs-classifier"}
    (numpy,) = (version for name, version, marker in locked if name == "numpy" and "<" in marker)
    assert found["numpy"]["version"] == numpy
    del found["traffic-signs-classifier"]
    for name, component in found.items():
        assert component["purl"] == f"pkg:pypi/{name}@{component['version']}"
        assert component["licenses"], name
        (files,) = component["externalReferences"]
        entry = LOCK.split(f"\n{name}=={component['version']}")[1].split("# via")[0]
        hashes = re.findall(r"sha256:(\w{64})", entry)
        assert files["hashes"] == [{"alg": "SHA-256", "content": sha} for sha in hashes]


def test_says_what_each_package_is_for(document: dict[str, Any]) -> None:
    needs = {entry["ref"]: entry["dependsOn"] for entry in document["dependencies"]}
    assert needs["httpcore"] == ["certifi", "h11"]
    chosen = (ROOT / "requirements/service.in").read_text()
    names = re.findall(r"^([\w-]+)(?: ;.*)?$", chosen, re.MULTILINE)
    assert sorted(needs["traffic-signs"]) == sorted([*names, "traffic-signs-classifier"])
    reached, ahead = set(), ["traffic-signs"]
    while ahead:
        reached.add(name := ahead.pop())
        ahead += set(needs[name]) - reached
    assert reached == set(components(document)) | {"traffic-signs"}


def test_the_classifier_is_a_component(document: dict[str, Any]) -> None:
    model = components(document)["traffic-signs-classifier"]
    sha256 = hashlib.sha256(tiny_model()).hexdigest()
    assert model["type"] == "machine-learning-model"
    assert model["version"] == document["metadata"]["component"]["version"] == sha256[:12]
    assert model["hashes"] == [{"alg": "SHA-256", "content": sha256}]
    (data,) = model["modelCard"]["modelParameters"]["datasets"]
    assert data["name"] == "colors"
    assert data["contents"]["properties"] == [{"name": "digest", "value": "d1f"}]
    assert model["properties"] == [{"name": "fingerprint", "value": "c0ffee"}]


def test_without_a_classifier_it_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = json.loads(write(tmp_path, with_classifier=False))
    assert "no classifier in models/classifier" in capsys.readouterr().out
    assert {component["type"] for component in document["components"]} == {"library"}


def test_a_damaged_classifier_is_refused(tmp_path: Path) -> None:
    text = write(tmp_path)
    for name, message in ((MODEL, r"model\.onnx is truncated"), (METADATA, "cannot be used")):
        (tmp_path / CLASSIFIER / name).write_text("{}")
        with pytest.raises(UserError, match=message):
            run(tmp_path)
    assert (tmp_path / sbom.TARGET).read_text() == text


def test_same_bytes_in_another_folder_and_nothing_of_this_machine(
    text: str, tmp_path: Path
) -> None:
    assert write(tmp_path / "another") == text
    assert re.findall(r"\w+://[^\"]*", text) == ["http://cyclonedx.org/schema/bom-1.6.schema.json"]
    assert '"/' not in text
    assert str(Path.home()) not in text
