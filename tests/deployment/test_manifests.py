"""deployment/kubernetes: Kubernetes accepts it, and it suits the image and the service."""

import re
import shutil
import subprocess
from pathlib import Path

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
NAME, LABELS = "traffic-signs", {"app.kubernetes.io/name": "traffic-signs"}
LISTED = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["resources"]
MANIFESTS = [yaml.safe_load((KUBERNETES / name).read_text()) for name in LISTED]
SPECS = {manifest["kind"]: manifest["spec"] for manifest in MANIFESTS}
POD = SPECS["Deployment"]["template"]["spec"]
(CONTAINER,) = POD["containers"]

DRIFT = ROOT / "deployment/drift"
COMPONENT = yaml.safe_load((DRIFT / "kustomization.yaml").read_text())
VOLUME, JOB, LOG = (
    yaml.safe_load((DRIFT / name).read_text()) for name in ("volume.yaml", "job.yaml", "log.yaml")
)
JOB_POD = JOB["spec"]["jobTemplate"]["spec"]["template"]


@pytest.mark.parametrize("version", ["1.27", kubernetes_validate.latest_version()])
def test_kubernetes_accepts_them(version: str) -> None:
    assert {*LISTED, "kustomization.yaml"} == {path.name for path in KUBERNETES.iterdir()}
    for manifest in (*MANIFESTS, VOLUME, JOB):
        kubernetes_validate.validate(manifest, version, strict=True)
    wrong = MANIFESTS[0] | {"spec": SPECS["Deployment"] | {"replica": 2}}
    with pytest.raises(kubernetes_validate.ValidationError, match="replica"):
        kubernetes_validate.validate(wrong, version, strict=True)


def test_all_are_about_the_same_pods() -> None:
    (spread,) = POD["topologySpreadConstraints"]
    assert SPECS["Deployment"]["template"]["metadata"]["labels"] == LABELS
    assert SPECS["Service"]["selector"] == LABELS
    for selector in (
        *(SPECS[kind]["selector"] for kind in ("Deployment", "PodDisruptionBudget")),
        SPECS["NetworkPolicy"]["podSelector"],
        spread["labelSelector"],
    ):
        assert selector == {"matchLabels": LABELS}
    for manifest in MANIFESTS:
        assert manifest["metadata"] == {"name": NAME, "labels": LABELS}
    target = SPECS["HorizontalPodAutoscaler"]["scaleTargetRef"]
    assert target == {key: MANIFESTS[0][key] for key in ("apiVersion", "kind")} | {"name": NAME}


def test_ports_and_probes_lead_to_the_service() -> None:
    (port,) = CONTAINER["ports"]
    environment = {entry["name"]: int(entry["value"]) for entry in CONTAINER["env"]}
    assert environment == {"BENTOML_PORT": port["containerPort"], "SIGNS_WORKERS": VALUES.workers}
    assert f"\nEXPOSE {port['containerPort']}\n" in DOCKERFILE
    assert SPECS["Service"]["ports"] == [{"port": VALUES.port, "targetPort": port["name"]}]
    assert SPECS["NetworkPolicy"]["ingress"] == [{"ports": [{"port": port["name"]}]}]
    for kind, path in (("startup", "/readyz"), ("readiness", "/readyz"), ("liveness", "/livez")):
        assert CONTAINER[f"{kind}Probe"]["httpGet"] == {"path": path, "port": port["name"]}
        assert path in app.HEALTH
    startup = CONTAINER["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] == VALUES.ready_seconds


def test_resources_suffice_for_what_was_measured() -> None:
    request, limit = (CONTAINER["resources"][kind] for kind in ("requests", "limits"))
    assert limit["memory"] == f"{VALUES.memory_mb}Mi"
    assert int(request["memory"].removesuffix("Mi")) > MEASURED_MB
    # All workers together may hold that much of requests' bodies in addition, with their copies
    # (tests/serving/test_load.py).
    assert VALUES.memory_mb > MEASURED_MB + VALUES.workers * 2.5 * app.MAX_HELD / 2**20
    assert float(request["cpu"]) <= float(limit["cpu"]) == VALUES.cpus == VALUES.workers
    scaler = SPECS["HorizontalPodAutoscaler"]
    assert 2 <= scaler["minReplicas"] < scaler["maxReplicas"]
    assert scaler["metrics"][0]["resource"]["target"]["averageUtilization"] < 100
    # `kubectl apply` must not undo the autoscaler's number.
    assert "replicas" not in SPECS["Deployment"]


def test_an_update_loses_no_request() -> None:
    strategy = SPECS["Deployment"]["strategy"]
    assert strategy["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    program, seconds = CONTAINER["lifecycle"]["preStop"]["exec"]["command"]
    assert program == "sleep"
    grace = POD["terminationGracePeriodSeconds"] - int(seconds)
    # A body may take BODY_TIMEOUT to arrive, and is answered then.
    assert grace == VALUES.stop_seconds > app.BODY_TIMEOUT
    assert SPECS["PodDisruptionBudget"]["maxUnavailable"] == 1


def test_pod_has_no_more_rights_than_it_needs() -> None:
    user = int(re.findall(r"(?m)^USER (\d+):\1$", DOCKERFILE)[0])
    assert POD["automountServiceAccountToken"] is False
    assert POD["securityContext"] == {
        "runAsNonRoot": True,
        **dict.fromkeys(("runAsUser", "runAsGroup", "fsGroup"), user),
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert CONTAINER["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    assert SPECS["NetworkPolicy"]["policyTypes"] == ["Ingress", "Egress"]
    assert "egress" not in SPECS["NetworkPolicy"]
    # The two folders to which the image writes.
    mounts = {mount["name"]: mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    assert mounts == {"tmp": "/" + "tmp", "monitoring": "/monitoring"}
    assert all(path in DOCKERFILE for path in mounts.values())
    assert [volume["name"] for volume in POD["volumes"]] == [*mounts]
    assert all(volume["emptyDir"]["sizeLimit"] for volume in POD["volumes"])


def test_drift_job_reads_what_the_pods_write() -> None:
    assert COMPONENT["resources"] == ["volume.yaml", "job.yaml"]
    assert COMPONENT["patches"] == [{"path": "log.yaml"}]
    assert VOLUME["spec"]["accessModes"] == ["ReadWriteMany"]
    claim = {"persistentVolumeClaim": {"claimName": VOLUME["metadata"]["name"]}}
    patched = LOG["spec"]["template"]["spec"]
    assert patched["volumes"] == [{"name": "monitoring", "emptyDir": None} | claim]
    pod, options, _ = patched["containers"][0]["env"]
    assert pod["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.name"
    # The same option as in the image, and a folder for each pod.
    (written,) = re.findall(r"BENTOML_CONFIG_OPTIONS=(\S+)", DOCKERFILE)
    assert options == {"name": "BENTOML_CONFIG_OPTIONS", "value": f"{written}/$({pod['name']})"}
    (container,) = JOB_POD["spec"]["containers"]
    assert JOB_POD["spec"]["volumes"][1] == {"name": "monitoring"} | claim
    assert container["volumeMounts"] == CONTAINER["volumeMounts"]


def test_drift_job_fails_once_and_gets_no_requests() -> None:
    spec, (container,) = JOB_POD["spec"], JOB_POD["spec"]["containers"]
    assert (spec["restartPolicy"], JOB["spec"]["jobTemplate"]["spec"]["backoffLimit"]) == (
        "Never",
        0,
    )
    assert "exec python -m signs drift --fail " in container["args"][0]
    assert JOB_POD["metadata"]["labels"].items().isdisjoint(LABELS.items())
    assert container["securityContext"] == CONTAINER["securityContext"]
    assert spec["securityContext"] == POD["securityContext"]
    assert spec["automountServiceAccountToken"] is False


def test_drift_is_deployed_if_asked_for(tmp_path: Path) -> None:
    assert make_manifests(tmp_path, f"{IMAGE}:v1", "drift").returncode == 0
    if shutil.which("kubectl") or shutil.which("kustomize"):
        manifests = {one["kind"]: one for one in yaml.safe_load_all(render(tmp_path))}
        for manifest in manifests.values():
            kubernetes_validate.validate(
                manifest, kubernetes_validate.latest_version(), strict=True
            )
        pod = manifests["Deployment"]["spec"]["template"]["spec"]
        names = [entry["name"] for entry in pod["containers"][0]["env"]]
        assert names.index("POD_NAME") < names.index("BENTOML_CONFIG_OPTIONS")  # which refers to it
        assert {"BENTOML_PORT", "SIGNS_WORKERS"} < set(names)
        assert [volume["name"] for volume in pod["volumes"] if "emptyDir" in volume] == ["tmp"]
        assert f"image: {IMAGE}-drift:v1\n" in render(tmp_path)
    assert make_manifests(tmp_path, f"{IMAGE}:v1").returncode == 0
    assert "drift" not in (tmp_path / "build/kubernetes/kustomization.yaml").read_text()
    for arguments, words in (
        ((f"{IMAGE}:v1", "drfit"), "there is 'drfit'"),
        ((f"{IMAGE}@sha256:{64 * '0'}", "drift"), "name a tag"),
        (("drift",), "There is no image in build/"),
    ):
        made = make_manifests(tmp_path, *arguments)
        assert (made.returncode, words in made.stderr) == (1, True), made.stderr


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
    assert f"deploys {image}:" in make_manifests(tmp_path, image).stdout
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
