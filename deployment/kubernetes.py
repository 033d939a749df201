"""The deployment of values.toml for Kubernetes: build/kubernetes.yaml.

    make manifests                                               of the image that was built last
    make manifests ARGS='--image REGISTRY/traffic-signs:VERSION' of one in your registry
    kubectl apply -f build/kubernetes.yaml

An update starts each new pod before an old one ends, and an old one answers until nobody is sent
there any more. The log of predictions for `make drift` ends with its pod: give `monitoring` a
volume that stays, if you want to keep it.
"""

import argparse
import re
from typing import Any

import yaml

from deployment.container import BUILD, DeployError, Values, built, exit_with_sentence, values

TARGET = BUILD / "kubernetes.yaml"
NAME = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
# `latest` would be another image tomorrow.
IMAGE = re.compile(r"[\w./:-]+(:(?!latest$)[\w][\w.-]*|@sha256:[0-9a-f]{64})")
USER = 10001  # as in containers/Dockerfile

Manifest = dict[str, Any]


class Plain(yaml.SafeDumper):
    """What is used twice is written twice, not referred to."""

    def ignore_aliases(self, data: object) -> bool:
        """Always."""
        return True


def kubernetes() -> None:
    """Write the manifests."""
    parser = argparse.ArgumentParser(description="Write manifests for Kubernetes.")
    parser.add_argument("--image", metavar="REGISTRY/NAME:VERSION", help="default: what was built")
    about = values()
    image = parser.parse_args().image or f"{about.image}:{built()['version']}"
    TARGET.parent.mkdir(exist_ok=True)
    text = yaml.dump_all(manifests(about, image), Dumper=Plain, sort_keys=False)
    TARGET.write_text(text, encoding="utf-8")
    print(f"{TARGET}: {image}, {about.replicas_min} to {about.replicas_max} pods.")


def manifests(about: Values, image: str) -> list[Manifest]:
    """What Kubernetes is to make.

    Args:
        about: the content of values.toml.
        image: with its version.

    Raises:
        DeployError: the name or the image is none that Kubernetes takes.
    """
    if not NAME.fullmatch(about.name):
        raise DeployError(
            f"name is {about.name!r}, but must be at most 63 of a-z, 0-9 and -, a letter first."
        )
    if not IMAGE.fullmatch(image):
        raise DeployError(f"--image is {image!r}, but must end with a version, as in name:v1.")
    labels = {"app.kubernetes.io/name": about.name}
    selector = {"matchLabels": labels}

    def manifest(api: str, kind: str, spec: Manifest) -> Manifest:
        head = {"name": about.name, "labels": labels}
        return {"apiVersion": api, "kind": kind, "metadata": head, "spec": spec}

    # No number of replicas: to apply this again would undo the autoscaler's.
    deployment = {
        "selector": selector,
        "strategy": {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
        },
        "template": {"metadata": {"labels": labels}, "spec": _pod(about, image, selector)},
    }
    service = {"selector": labels, "ports": [{"port": about.port, "targetPort": "http"}]}
    utilization = {"type": "Utilization", "averageUtilization": about.cpu_percent}
    autoscaler = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": about.name},
        "minReplicas": about.replicas_min,
        "maxReplicas": about.replicas_max,
        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": utilization}}],
    }
    # The service calls nobody: nothing may leave but its answers.
    policy = {
        "podSelector": selector,
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"ports": [{"port": "http"}]}],
    }
    return [
        manifest("apps/v1", "Deployment", deployment),
        manifest("v1", "Service", service),
        manifest("autoscaling/v2", "HorizontalPodAutoscaler", autoscaler),
        # Nodes that are emptied end one pod after another.
        manifest("policy/v1", "PodDisruptionBudget", {"selector": selector, "maxUnavailable": 1}),
        manifest("networking.k8s.io/v1", "NetworkPolicy", policy),
    ]


def _pod(about: Values, image: str, selector: Manifest) -> Manifest:
    ready = {"httpGet": {"path": "/readyz", "port": "http"}, "timeoutSeconds": 5}
    container = {
        "name": "service",
        "image": image,
        "ports": [{"name": "http", "containerPort": about.container_port}],
        "env": [
            {"name": "BENTOML_PORT", "value": str(about.container_port)},
            {"name": "SIGNS_WORKERS", "value": str(about.workers)},
        ],
        "resources": {
            "requests": {"cpu": f"{about.cpu_request:g}", "memory": f"{about.memory_request_mb}Mi"},
            "limits": {"cpu": f"{about.cpus:g}", "memory": f"{about.memory_mb}Mi"},
        },
        "startupProbe": ready | {"periodSeconds": 1, "failureThreshold": about.ready_seconds},
        "readinessProbe": ready | {"periodSeconds": 5},
        "livenessProbe": ready | {"httpGet": {"path": "/livez", "port": "http"}},
        # Requests are sent on until all nodes know that this pod ends; SIGTERM comes after it.
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", str(about.endpoint_seconds)]}}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "monitoring", "mountPath": "/monitoring"},
        ],
    }
    return {
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationGracePeriodSeconds": about.endpoint_seconds + about.stop_seconds,
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": selector,
            }
        ],
        "containers": [container],
        "volumes": [
            {"name": "tmp", "emptyDir": {"sizeLimit": "256Mi"}},
            {"name": "monitoring", "emptyDir": {"sizeLimit": "1Gi"}},
        ],
    }


if __name__ == "__main__":
    exit_with_sentence(kubernetes)
