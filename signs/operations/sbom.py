"""List what the service's image contains, as a CycloneDX 1.6 document: build/sbom.cdx.json.

    signs sbom

Contains the packages of requirements/service.txt, with licences and the hashes of their files, and
the classifier in models/, if there is one. A scanner of images lists what the base image brings.
The same lock and classifier make the same bytes, on any machine and without a download.
"""

# Not by cyclonedx-py: of a lock, it lists the packages for other systems too, without licences and
# without what needs what; of an environment, it lists no hashes, and this machine's Python.

import argparse
import re
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from signs import files, paths
from signs.errors import UserError
from signs.inference.classifier import Classifier

LOCK = Path("requirements/service.txt")
TARGET = Path("build/sbom.cdx.json")
# What containers/Dockerfile builds on; no lock tells processors apart.
IMAGE = {"python_version": "3.11", "python_full_version": "3.11.0", "os_name": "posix"}
IMAGE |= {"implementation_name": "cpython", "platform_python_implementation": "CPython"}
IMAGE |= {"sys_platform": "linux", "platform_system": "Linux"}
SERVICE = "traffic-signs"
HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
NEEDED_BY = re.compile(r"^    # (?:via|  ) *(\S.*)$", re.MULTILINE)

Component = dict[str, Any]


def run(arguments: argparse.Namespace) -> int:
    """Write the document; `UserError` without a lock, or if the classifier is damaged."""
    if not LOCK.exists():
        raise UserError(f"{LOCK} is missing; run from the root of the repository.")
    lock = LOCK.read_text(encoding="utf-8")
    # For each package the lines of the lock with its version, its files and what needs it.
    entries = {
        requirement.name: (requirement, entry)
        for entry in re.findall(r"^[a-z0-9].*(?:\n .*)*", lock, re.MULTILINE)
        if (requirement := Requirement(entry.partition("\\")[0])).marker is None
        or requirement.marker.evaluate(IMAGE)
    }
    components = [_package(*entry) for entry in entries.values()]
    depends: dict[str, list[str]] = {name: [] for name in (SERVICE, *entries)}
    for name, (_, entry) in entries.items():
        for user in NEEDED_BY.findall(entry):
            if (parent := SERVICE if user == f"-r {LOCK.stem}.in" else user) in depends:
                depends[parent].append(name)
    service: Component = {"type": "application", "bom-ref": SERVICE, "name": SERVICE}
    what = f"no classifier in {paths.CLASSIFIER}"
    if paths.CLASSIFIER.exists():
        components.append(model := _model())
        service["version"] = model["version"]  # that of the image begins with it
        depends[SERVICE].append(model["bom-ref"])
        depends[model["bom-ref"]] = []
        what = f"the classifier {model['version']}"
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
    files.write_json(TARGET, document)
    print(f"{TARGET}: {len(entries)} packages and {what}.")
    return 0


def _package(requirement: Requirement, entry: str) -> Component:
    (version,) = (pin.version for pin in requirement.specifier)
    purl = f"pkg:pypi/{requirement.name}@{version}"
    wheels: Component = {"type": "distribution", "url": purl, "comment": "one of these files"}
    wheels["hashes"] = [{"alg": "SHA-256", "content": sha} for sha in HASH.findall(entry)]
    return {
        "type": "library",
        "bom-ref": requirement.name,
        "name": requirement.name,
        "version": version,
        "purl": purl,
        "licenses": _licences(requirement.name),
        "externalReferences": [wheels],
    }


def _licences(name: str) -> list[Component]:
    """What the package declares; the pipeline's environment has it in the same version."""
    try:
        declared = metadata.metadata(name)
    except metadata.PackageNotFoundError:  # needed by the image's Python, not by this one
        return []
    if expression := declared["License-Expression"]:
        return [{"expression": expression}]
    classifiers = declared.get_all("Classifier", [])
    names = [c.split(" :: ")[-1] for c in classifiers if c.startswith("License :: ")]
    text = declared["License"] or ""
    if not names and text and "\n" not in text:  # else it is the whole licence
        names = [text]
    return [{"license": {"name": name}} for name in names]


def _model() -> Component:
    model = Classifier().metadata
    data: Component = {"type": "dataset", "name": model.provenance["dataset"]}
    data["contents"] = {"properties": [{"name": "digest", "value": model.provenance["data"]}]}
    return {
        "type": "machine-learning-model",
        "bom-ref": f"{SERVICE}-classifier",
        "name": f"{SERVICE}-classifier",
        "version": model.version,
        "description": f"Names {len(model.names)} classes of traffic signs; ONNX",
        "hashes": [{"alg": "SHA-256", "content": model.sha256}],
        "modelCard": {"modelParameters": {"task": "image classification", "datasets": [data]}},
        "properties": [{"name": "fingerprint", "value": model.provenance["fingerprint"]}],
    }
