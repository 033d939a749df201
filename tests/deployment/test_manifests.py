"""`make manifests`: what Kubernetes takes, and what the image and the service really have."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from deployment import kubernetes
from deployment.container import DeployError, values
from signs.serving import app

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "containers/Dockerfile").read_text()
IMAGE = "registry.example/traffic-signs:v1.2.0-abc"
MEASURED_MB = 347  # two workers; README, "Speed"
VALUES = values()
KINDS = {
    "Deployment",
    "HorizontalPodAutoscaler",
    "NetworkPolicy",
    "PodDisruptionBudget",
    "Service",
}


def written(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """The command, in a copy of what it needs."""
    if not (folder / "deployment").exists():
        shutil.copytree(ROOT / "deployment", folder / "deployment")
    return subprocess.run(
        [sys.executable, "-m", "deployment.kubernetes", *arguments],
        cwd=folder,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def error(folder: Path, *arguments: str) -> str:
    result = written(folder, *arguments)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("ERROR: ")
    assert not (folder / kubernetes.TARGET).exists()
    return line


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("project")
    made = written(folder, "--image", IMAGE)
    assert made.returncode == 0, made.stderr
    assert f"{IMAGE}, 2 to 6 pods" in made.stdout
    return (folder / kubernetes.TARGET).read_text()


@pytest.fixture
def found(text: str) -> dict[str, Any]:
    """Each manifest by its kind."""
    documents = list(yaml.safe_load_all(text))
    by_kind = {document["kind"]: document for document in documents}
    assert len(by_kind) == len(documents)
    return by_kind


@pytest.fixture
def pod(found: dict[str, Any]) -> dict[str, Any]:
    pod: dict[str, Any] = found["Deployment"]["spec"]["template"]["spec"]
    return pod


@pytest.fixture
def container(pod: dict[str, Any]) -> dict[str, Any]:
    (container,) = pod["containers"]
    assert isinstance(container, dict)
    return container


@pytest.mark.parametrize("version", ["1.27", kubernetes_validate.latest_version()])
def test_kubernetes_takes_it(found: dict[str, Any], version: str) -> None:
    assert found.keys() == KINDS
    for document in found.values():
        kubernetes_validate.validate(document, version, strict=True)
    found["Deployment"]["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="livenesProbe"):
        kubernetes_validate.validate(found["Deployment"], version, strict=True)


def test_all_speak_of_the_same_pods(found: dict[str, Any], text: str) -> None:
    labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert labels
    specs = {kind: document["spec"] for kind, document in found.items()}
    spread = specs["Deployment"]["template"]["spec"]["topologySpreadConstraints"][0]
    for selector in (
        specs["Deployment"]["selector"]["matchLabels"],
        specs["Service"]["selector"],
        specs["PodDisruptionBudget"]["selector"]["matchLabels"],
        specs["NetworkPolicy"]["podSelector"]["matchLabels"],
        spread["labelSelector"]["matchLabels"],
    ):
        assert selector == labels
    target = specs["HorizontalPodAutoscaler"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", VALUES.name)
    assert target["apiVersion"] == found["Deployment"]["apiVersion"]
    assert {document["metadata"]["name"] for document in found.values()} == {VALUES.name}
    assert "&id" not in text


def test_the_image_and_its_ports(found: dict[str, Any], container: dict[str, Any]) -> None:
    assert container["image"] == IMAGE
    (port,) = container["ports"]
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    assert port["containerPort"] == int(environment["BENTOML_PORT"]) == VALUES.container_port
    assert f"\nEXPOSE {VALUES.container_port}\n" in DOCKERFILE
    assert environment["SIGNS_WORKERS"] == str(VALUES.workers)
    (entry,) = found["Service"]["spec"]["ports"]
    assert (entry["port"], entry["targetPort"]) == (VALUES.port, port["name"])
    (rule,) = found["NetworkPolicy"]["spec"]["ingress"]
    assert rule == {"ports": [{"port": port["name"]}]}


def test_probes_ask_what_the_service_has(container: dict[str, Any]) -> None:
    probes = {kind: container[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness")}
    paths = {kind: probe["httpGet"]["path"] for kind, probe in probes.items()}
    assert paths == {"startup": "/readyz", "readiness": "/readyz", "liveness": "/livez"}
    assert set(paths.values()) <= app.BENTOML_PATHS
    assert {probe["httpGet"]["port"] for probe in probes.values()} == {"http"}
    startup = probes["startup"]
    assert startup["periodSeconds"] * startup["failureThreshold"] == VALUES.ready_seconds


def test_it_has_the_room_that_was_measured(
    found: dict[str, Any], container: dict[str, Any]
) -> None:
    resources = container["resources"]
    request, limit = (resources[kind] for kind in ("requests", "limits"))
    assert request["memory"] == f"{VALUES.memory_request_mb}Mi"
    assert limit["memory"] == f"{VALUES.memory_mb}Mi"
    # What all workers together may hold of requests' bodies comes on top.
    held = VALUES.workers * app.MAX_HELD / 2**20
    assert VALUES.memory_request_mb > MEASURED_MB
    assert VALUES.memory_mb > MEASURED_MB + held
    assert float(request["cpu"]) <= float(limit["cpu"]) == VALUES.workers
    scaler = found["HorizontalPodAutoscaler"]["spec"]
    assert 2 <= scaler["minReplicas"] == VALUES.replicas_min < scaler["maxReplicas"]
    (metric,) = scaler["metrics"]
    assert metric["resource"]["target"]["averageUtilization"] == VALUES.cpu_percent
    # The autoscaler's number must not be undone by the next `kubectl apply`.
    assert "replicas" not in found["Deployment"]["spec"]


def test_no_request_is_lost_in_an_update(
    found: dict[str, Any], pod: dict[str, Any], container: dict[str, Any]
) -> None:
    update = found["Deployment"]["spec"]["strategy"]["rollingUpdate"]
    assert (update["maxUnavailable"], update["maxSurge"]) == (0, 1)
    program, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
    assert (program, seconds) == ("sleep", str(VALUES.endpoint_seconds))
    # A body may take that long to arrive, and is answered then.
    assert pod["terminationGracePeriodSeconds"] >= VALUES.endpoint_seconds + app.BODY_TIMEOUT
    assert found["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1


def test_it_may_do_no_more_than_it_must(
    found: dict[str, Any], pod: dict[str, Any], container: dict[str, Any]
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
    assert found["NetworkPolicy"]["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert "egress" not in found["NetworkPolicy"]["spec"]
    # Both places where the image writes.
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts == {"tmp": "/" + "tmp", "monitoring": "/monitoring"}
    assert all(path in DOCKERFILE for path in mounts.values())
    assert [volume["name"] for volume in pod["volumes"]] == [*mounts]
    assert all(volume["emptyDir"]["sizeLimit"] for volume in pod["volumes"])


def test_the_image_that_was_built_is_taken(tmp_path: Path) -> None:
    assert "`make image` fills it" in error(tmp_path)
    (tmp_path / "build").mkdir()
    (tmp_path / "build/build.env").write_text("version=abc-123\nrevision=123\ndata=d1f\n")
    assert written(tmp_path).returncode == 0
    assert f"image: {VALUES.image}:abc-123\n" in (tmp_path / kubernetes.TARGET).read_text()


@pytest.mark.parametrize("image", ["signs", "signs:latest", "host:5000/signs", "a b:1", "signs:"])
def test_an_image_without_a_version_is_refused(image: str) -> None:
    with pytest.raises(DeployError, match="must end with a version"):
        kubernetes.manifests(VALUES, image)


def test_images_of_a_registry_and_by_digest_are_taken() -> None:
    for image in ("host:5000/a/signs:v1", "signs@sha256:" + 64 * "0"):
        deployment = kubernetes.manifests(VALUES, image)[0]
        assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == image


def test_a_name_that_kubernetes_refuses_is_refused_before() -> None:
    for name in ("Signs", "traffic_signs", "1signs", "a" * 64, "signs-"):
        with pytest.raises(DeployError, match=r"name is .* at most 63"):
            kubernetes.manifests(replace(VALUES, name=name), IMAGE)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("port = 80800", "port is 80800, but at most 65535"),
        ("container_port = 0", "container_port is 0, but must be above 0"),
        ("cpu_percent = 101", "cpu_percent is 101, but at most 100"),
        ("cpu_request = 2.5", "cpu_request is 2.5, but at most cpus, 2.0"),
        ("memory_request_mb = 2048", "memory_request_mb is 2048, but at most memory_mb, 1024"),
        ("replicas_min = 7", "replicas_min is 7, but at most replicas_max, 6"),
        ('replicas_max = "many"', "replicas_max is 'many', but must be a int"),
        ("endpoint_seconds = true", "endpoint_seconds is True, but must be a int"),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(tmp_path: Path, line: str, message: str) -> None:
    shutil.copytree(ROOT / "deployment", tmp_path / "deployment")
    path = tmp_path / "deployment/values.toml"
    key = line.split()[0]
    changed, count = re.subn(rf"(?m)^{key} = [^#]*", f"{line} ", path.read_text())
    assert count == 1
    path.write_text(changed)
    assert message in error(tmp_path, "--image", IMAGE)
