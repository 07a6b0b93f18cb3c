"""The configuration as a Kubernetes Deployment with its Service."""

import re
from typing import Any

from autotune.export.container import (
    ASCEND_DRIVER,
    ASCEND_TOOLS,
    HEALTH,
    KEY,
    MODEL_FOLDER,
    PORT,
    SHARED_MEMORY_GIB,
    START_S,
    cpu_cores,
    environment_of,
    mount_of,
    words_of,
)
from autotune.export.evidence import comment_lines, comments
from autotune.export.images import image_of
from autotune.export.source import ExportSource
from autotune.export.yaml_text import Quoted, dump

RESOURCES = {"NPU": "huawei.com/Ascend910", "GPU": "nvidia.com/gpu"}
_KEY_IN_SECRET = "api-key"  # noqa: S105 - its name, not its value
_PERIOD_S = 10
_LONGEST_NAME = 53  # of 63 characters, so that the names of pods and of the secret fit
_NEVER_PLAIN = re.compile(r"[^a-z0-9]+")


def kubernetes(source: ExportSource) -> str:
    """Two documents for `kubectl apply`; the API key comes from a Secret that the comments say how to make."""
    name, image = object_name(source), image_of(source)
    notes = [
        *image.notes,
        f"make the secret first: kubectl create secret generic {name}-key --from-literal={_KEY_IN_SECRET}=YOUR_KEY",
        "the model's folder is taken from the node; replace the volume `model` where models lie elsewhere",
    ]
    if source.devices.resource == "NPU":
        notes.append("the resource's name is that of the Ascend device plugin for A2 and A3; 310P has another one")
    documents = [_deployment(source, name, image.name), _service(name)]
    return f"{comments(source)}{comment_lines(notes)}" + "---\n".join(dump(document) for document in documents)


def object_name(source: ExportSource) -> str:
    """A name for the objects: a DNS label that starts with a letter, such as `vllm-demo-b6a482da`."""
    plain = _NEVER_PLAIN.sub("-", source.job_id.lower())
    room = _LONGEST_NAME - len("vllm-")
    return f"vllm-{plain[-room:].strip('-')}".strip("-")  # the end of an id is what tells jobs of one name apart


def _deployment(source: ExportSource, name: str, image: str) -> dict[str, Any]:
    labels = {"app.kubernetes.io/name": Quoted(name)}
    pod = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,  # the variables of a Service whose name begins with vllm look like vLLM's own
        "terminationGracePeriodSeconds": 60,
        "containers": [_container(source, name, image)],
        "volumes": _volumes(source),
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": Quoted(name), "labels": labels, "annotations": _annotations(source)},
        "spec": {
            "replicas": 1,
            "strategy": {"type": "Recreate"},  # a second one would wait for devices that the first one holds
            "selector": {"matchLabels": dict(labels)},
            "template": {"metadata": {"labels": dict(labels)}, "spec": pod},
        },
    }


def _service(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": Quoted(name), "labels": {"app.kubernetes.io/name": Quoted(name)}},
        "spec": {
            "selector": {"app.kubernetes.io/name": Quoted(name)},
            "ports": [{"name": "http", "port": PORT, "targetPort": "http"}],
        },
    }


def _annotations(source: ExportSource) -> dict[str, Quoted]:
    """Where the objects come from, which comments do not tell any more once they are in the cluster."""
    return {
        "vllm-autotune/job": Quoted(source.job_id),
        "vllm-autotune/trial": Quoted(str(source.trial.number)),
        "vllm-autotune/sla": Quoted(source.sla.text),
    }


def _container(source: ExportSource, name: str, image: str) -> dict[str, Any]:
    key = {"name": KEY, "valueFrom": {"secretKeyRef": {"name": Quoted(f"{name}-key"), "key": _KEY_IN_SECRET}}}
    given = [{"name": variable, "value": value} for variable, value in environment_of(source).items()]
    mounts = [
        {"name": "model", "mountPath": MODEL_FOLDER, "readOnly": True},
        {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 - of the container
        *({"name": label, "mountPath": path, "readOnly": True} for label, path in _driver(source)),
    ]
    return {
        "name": "vllm",
        "image": image,
        "command": ["vllm", "serve"],
        "args": words_of(source),
        "env": [*given, key],
        "ports": [{"name": "http", "containerPort": PORT}],
        **_resources(source),
        "startupProbe": {**_probe(), "failureThreshold": START_S // _PERIOD_S},
        "readinessProbe": {**_probe(), "failureThreshold": 3},
        "livenessProbe": {**_probe(), "failureThreshold": 6},
        "volumeMounts": mounts,
    }


def _probe() -> dict[str, Any]:
    return {"httpGet": {"path": HEALTH, "port": "http"}, "periodSeconds": _PERIOD_S, "timeoutSeconds": 10}


def _resources(source: ExportSource) -> dict[str, Any]:
    resource, cores = RESOURCES.get(source.devices.resource), cpu_cores(source)
    if resource is not None:
        amount: dict[str, Any] = {resource: source.trial.config.devices}
    elif cores is not None:
        amount = {"cpu": cores}
    else:
        return {}
    return {"resources": {"limits": amount, "requests": dict(amount)}}


def _volumes(source: ExportSource) -> list[dict[str, Any]]:
    size = f"{SHARED_MEMORY_GIB[source.devices.resource]}Gi"
    return [
        {"name": "model", "hostPath": {"path": Quoted(mount_of(source).host), "type": "Directory"}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": size}},
        *({"name": label, "hostPath": {"path": path}} for label, path in _driver(source)),
    ]


def _driver(source: ExportSource) -> list[tuple[str, str]]:
    """Volume names and paths of the Ascend driver's part on the node."""
    if source.devices.resource != "NPU":
        return []
    paths = (*ASCEND_DRIVER, ASCEND_TOOLS) if source.trial.config.devices > 1 else ASCEND_DRIVER
    return [(f"ascend-{number}", path) for number, path in enumerate(paths)]
