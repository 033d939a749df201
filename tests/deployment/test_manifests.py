"""deployment/kubernetes: Kubernetes accepts it, and it suits the image and the service."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from deployment.container import read_values
from signs.serving import app
from tests.deployment.conftest import ROOT

KUBERNETES = ROOT / "deployment/kubernetes"
DOCKERFILE = (ROOT / "containers/Dockerfile").read_text()
IMAGE = "registry.example:5000/team/traffic-signs"
MEASURED_MB = 347  # two workers
VALUES = read_values()
NAME = "traffic-signs"
KINDS = {
    "Deployment",
    "HorizontalPodAutoscaler",
    "NetworkPolicy",
    "PodDisruptionBudget",
    "Service",
}


@pytest.fixture
def manifests() -> dict[str, Any]:
    """The resources that kustomization.yaml lists, by kind."""
    listed = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["resources"]
    assert {*listed, "kustomization.yaml"} == {path.name for path in KUBERNETES.iterdir()}
    documents = [yaml.safe_load((KUBERNETES / name).read_text()) for name in listed]
    return {document["kind"]: document for document in documents}


@pytest.fixture
def specs(manifests: dict[str, Any]) -> dict[str, Any]:
    return {kind: manifest["spec"] for kind, manifest in manifests.items()}


@pytest.fixture
def pod(specs: dict[str, Any]) -> Any:
    return specs["Deployment"]["template"]["spec"]


@pytest.fixture
def container(pod: dict[str, Any]) -> Any:
    (container,) = pod["containers"]
    return container


@pytest.mark.parametrize("version", ["1.27", kubernetes_validate.latest_version()])
def test_kubernetes_accepts_them(manifests: dict[str, Any], version: str) -> None:
    assert manifests.keys() == KINDS
    for document in manifests.values():
        kubernetes_validate.validate(document, version, strict=True)
    manifests["Deployment"]["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="livenesProbe"):
        kubernetes_validate.validate(manifests["Deployment"], version, strict=True)


def test_all_select_the_same_pods(manifests: dict[str, Any], specs: dict[str, Any]) -> None:
    labels = {"app.kubernetes.io/name": NAME}
    (spread,) = specs["Deployment"]["template"]["spec"]["topologySpreadConstraints"]
    for selector in (
        specs["Deployment"]["template"]["metadata"]["labels"],
        specs["Deployment"]["selector"]["matchLabels"],
        specs["Service"]["selector"],
        specs["PodDisruptionBudget"]["selector"]["matchLabels"],
        specs["NetworkPolicy"]["podSelector"]["matchLabels"],
        spread["labelSelector"]["matchLabels"],
    ):
        assert selector == labels
    for manifest in manifests.values():
        assert manifest["metadata"] == {"name": NAME, "labels": labels}
    target = specs["HorizontalPodAutoscaler"]["scaleTargetRef"]
    api = manifests["Deployment"]["apiVersion"]
    assert target == {"apiVersion": api, "kind": "Deployment", "name": NAME}


def test_ports_lead_to_the_service(specs: dict[str, Any], container: dict[str, Any]) -> None:
    (port,) = container["ports"]
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    assert environment == {
        "BENTOML_PORT": str(port["containerPort"]),
        "SIGNS_WORKERS": str(VALUES.workers),
    }
    assert f"\nEXPOSE {port['containerPort']}\n" in DOCKERFILE
    (entry,) = specs["Service"]["ports"]
    assert entry == {"port": VALUES.port, "targetPort": port["name"]}
    (rule,) = specs["NetworkPolicy"]["ingress"]
    assert rule == {"ports": [{"port": port["name"]}]}


def test_probes_ask_for_paths_of_the_service(container: dict[str, Any]) -> None:
    probes = {kind: container[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness")}
    paths = {kind: probe["httpGet"]["path"] for kind, probe in probes.items()}
    assert paths == {"startup": "/readyz", "readiness": "/readyz", "liveness": "/livez"}
    assert set(paths.values()) <= app.BENTOML_PATHS
    assert {probe["httpGet"]["port"] for probe in probes.values()} == {"http"}
    startup = probes["startup"]
    assert startup["periodSeconds"] * startup["failureThreshold"] == VALUES.ready_seconds


def test_resources_suffice_for_what_was_measured(
    specs: dict[str, Any], container: dict[str, Any]
) -> None:
    request, limit = (container["resources"][kind] for kind in ("requests", "limits"))
    assert limit["memory"] == f"{VALUES.memory_mb}Mi"
    assert int(request["memory"].removesuffix("Mi")) > MEASURED_MB
    # All workers together may hold that much of requests' bodies in addition.
    assert VALUES.memory_mb > MEASURED_MB + VALUES.workers * app.MAX_HELD / 2**20
    assert float(request["cpu"]) <= float(limit["cpu"]) == VALUES.cpus == VALUES.workers
    scaler = specs["HorizontalPodAutoscaler"]
    assert 2 <= scaler["minReplicas"] < scaler["maxReplicas"]
    (metric,) = scaler["metrics"]
    assert metric["resource"]["target"]["averageUtilization"] < 100
    # `kubectl apply` must not undo the autoscaler's number.
    assert "replicas" not in specs["Deployment"]


def test_an_update_loses_no_request(
    specs: dict[str, Any], pod: dict[str, Any], container: dict[str, Any]
) -> None:
    update = specs["Deployment"]["strategy"]["rollingUpdate"]
    assert update == {"maxUnavailable": 0, "maxSurge": 1}
    program, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
    assert program == "sleep"
    grace = pod["terminationGracePeriodSeconds"] - int(seconds)
    # A body may take BODY_TIMEOUT to arrive, and is answered then.
    assert grace == VALUES.stop_seconds > app.BODY_TIMEOUT
    assert specs["PodDisruptionBudget"]["maxUnavailable"] == 1


def test_pod_has_no_more_rights_than_it_needs(
    specs: dict[str, Any], pod: dict[str, Any], container: dict[str, Any]
) -> None:
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    user = {pod["securityContext"][key] for key in ("runAsUser", "runAsGroup", "fsGroup")}
    assert user == {int(re.search(r"^USER (\d+):\1$", DOCKERFILE, re.M)[1])}  # type: ignore[index]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    assert specs["NetworkPolicy"]["policyTypes"] == ["Ingress", "Egress"]
    assert "egress" not in specs["NetworkPolicy"]
    # The two folders to which the image writes.
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts == {"tmp": "/" + "tmp", "monitoring": "/monitoring"}
    assert all(path in DOCKERFILE for path in mounts.values())
    assert [volume["name"] for volume in pod["volumes"]] == [*mounts]
    assert all(volume["emptyDir"]["sizeLimit"] for volume in pod["volumes"])


def make_manifests(folder: Path, *image: str) -> "subprocess.CompletedProcess[str]":
    """manifests.sh, in a copy of what it needs."""
    shutil.copytree(ROOT / "deployment", folder / "deployment", dirs_exist_ok=True)
    command = ["sh", "deployment/manifests.sh", *image]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def render(folder: Path) -> str:
    """What `kubectl apply -k` would send; the image alone where there is no kustomize."""
    for command in (["kustomize", "build"], ["kubectl", "kustomize"]):
        if shutil.which(command[0]):
            return subprocess.check_output([*command, folder / "build/kubernetes"], text=True)
    overlay = yaml.safe_load((folder / "build/kubernetes/kustomization.yaml").read_text())
    (image,) = overlay["images"]
    version = f":{image['newTag']}" if "newTag" in image else f"@{image['digest']}"
    return f"image: {image['newName']}{version}\n"


@pytest.mark.parametrize("image", [f"{IMAGE}:v1.2.0-abc", "signs:1", f"{IMAGE}@sha256:{64 * '0'}"])
def test_overlay_names_the_image(tmp_path: Path, image: str) -> None:
    made = make_manifests(tmp_path, image)
    assert made.returncode == 0, made.stderr
    assert f"deploys {image}:" in made.stdout
    assert f"image: {image}\n" in render(tmp_path)


def test_overlay_names_the_image_that_was_built(tmp_path: Path) -> None:
    made = make_manifests(tmp_path)
    assert (made.returncode, "'make image' builds one" in made.stderr) == (1, True)
    (tmp_path / "build").mkdir()
    (tmp_path / "build/build.env").write_text("version=abc-123\nrevision=123\ndata=d1f\n")
    assert make_manifests(tmp_path).returncode == 0
    assert f"image: {NAME}:abc-123\n" in render(tmp_path)


@pytest.mark.parametrize("image", ["signs", "signs:latest", "host:5000/signs", "a b:1", "signs:"])
def test_image_without_a_version_is_refused(tmp_path: Path, image: str) -> None:
    made = make_manifests(tmp_path, image)
    assert made.returncode == 1
    assert made.stderr == (
        f"ERROR: The image is '{image}', but must end with a version, as in traffic-signs:v1.\n"
    )
    assert not (tmp_path / "build").exists()
