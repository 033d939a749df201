"""What the service's image holds, as a CycloneDX bill of materials: build/sbom.cdx.json.

    make sbom

Lists the packages that requirements/service.txt installs there, each with the hashes of the files
that it may come from and its licence, and the classifier in models/, if there is one. What the
base image brings, Python and Debian's packages, is for a scanner of images to say. The same lock
and classifier make the same bytes.

`cyclonedx-py requirements` would list packages of other systems, too, and a package index's address
for each, but no licence and no classifier.
"""

import hashlib
import json
import re
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from signs.errors import UserError, run_stage
from signs.inference.classifier import FOLDER, METADATA, MODEL, Metadata

LOCK = Path("requirements/service.txt")
TARGET = Path("build/sbom.cdx.json")
# What containers/Dockerfile builds on; no lock tells processors apart.
IMAGE = {
    "implementation_name": "cpython",
    "os_name": "posix",
    "platform_python_implementation": "CPython",
    "platform_system": "Linux",
    "python_full_version": "3.11.0",
    "python_version": "3.11",
    "sys_platform": "linux",
}
SERVICE = "traffic-signs"
HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
WANTED_BY = re.compile(r"^    # (?:via|  ) *(\S.*)$", re.MULTILINE)

Component = dict[str, Any]


def sbom() -> None:
    """Write the bill of materials."""
    lock = LOCK.read_text(encoding="utf-8")
    # For each package the lines of the lock that say which version, which files and what for.
    entries = {
        requirement.name: (requirement, entry)
        for entry in re.findall(r"^[a-z0-9].*(?:\n .*)*", lock, re.MULTILINE)
        if (requirement := Requirement(entry.partition("\\")[0])).marker is None
        or requirement.marker.evaluate(IMAGE)
    }
    components = [_package(*entry) for entry in entries.values()]
    depends: dict[str, list[str]] = {name: [] for name in (SERVICE, *entries)}
    for name, (_, entry) in entries.items():
        for wanted_by in WANTED_BY.findall(entry):
            if (parent := SERVICE if wanted_by == f"-r {LOCK.stem}.in" else wanted_by) in depends:
                depends[parent].append(name)
    service: Component = {"type": "application", "bom-ref": SERVICE, "name": SERVICE}
    if model := _model():
        service["version"] = model["version"]  # which the image's begins with
        components.append(model)
        depends[SERVICE].append(model["bom-ref"])
        depends[model["bom-ref"]] = []
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": service},
        "components": components,
        "dependencies": [{"ref": name, "dependsOn": on} for name, on in depends.items()],
    }
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    holds = f"the classifier {model['version']}" if model else f"no classifier: {FOLDER} has none"
    print(f"{TARGET}: {len(entries)} packages and {holds}.")


def _package(requirement: Requirement, entry: str) -> Component:
    (version,) = (pin.version for pin in requirement.specifier)
    purl = f"pkg:pypi/{requirement.name}@{version}"
    return {
        "type": "library",
        "bom-ref": requirement.name,
        "name": requirement.name,
        "version": version,
        "purl": purl,
        "licenses": _licences(requirement.name),
        "externalReferences": [
            {
                "type": "distribution",
                "url": purl,
                "comment": "one of these files",
                "hashes": [{"alg": "SHA-256", "content": sha} for sha in HASH.findall(entry)],
            }
        ],
    }


def _licences(name: str) -> list[dict[str, Any]]:
    """What the package itself declares, here where it is installed from a lock of same versions."""
    try:
        about = metadata.metadata(name)
    except metadata.PackageNotFoundError:  # needed by the image's Python, not by this one
        return []
    if expression := about["License-Expression"]:
        return [{"expression": expression}]
    head = "License :: "
    names = [c.split(" :: ")[-1] for c in about.get_all("Classifier", []) if c.startswith(head)]
    declared = about["License"] or ""
    if not names and declared and "\n" not in declared:  # else it is the whole text
        names = [declared]
    return [{"license": {"name": name}} for name in names]


def _model() -> Component | None:
    """The classifier, or None if there is none. Nobody stated a licence for it."""
    try:
        about = Metadata.model_validate_json((FOLDER / METADATA).read_bytes())
        digest = hashlib.sha256((FOLDER / MODEL).read_bytes()).hexdigest()
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"{FOLDER / METADATA} cannot be used: {error}") from error
    if digest != about.sha256:
        raise UserError(
            f"{FOLDER / MODEL} is not the one that {METADATA} tells of; run `dvc repro`."
        )
    return {
        "type": "machine-learning-model",
        "bom-ref": f"{SERVICE}-classifier",
        "name": f"{SERVICE}-classifier",
        "version": about.version,
        "description": f"Names {len(about.names)} classes of traffic signs; ONNX",
        "hashes": [{"alg": "SHA-256", "content": digest}],
        "modelCard": {
            "modelParameters": {
                "task": "image classification",
                "datasets": [
                    {
                        "type": "dataset",
                        "name": about.provenance["dataset"],
                        "contents": {
                            "properties": [{"name": "digest", "value": about.provenance["data"]}]
                        },
                    }
                ],
            }
        },
        "properties": [{"name": "commit", "value": about.provenance["commit"]}],
    }


if __name__ == "__main__":
    run_stage(sbom)
