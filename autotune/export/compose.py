"""The configuration as a Docker Compose file."""

from typing import Any

from autotune.export.container import (
    ASCEND_DRIVER,
    ASCEND_NODES,
    ASCEND_TOOLS,
    HEALTH,
    KEY,
    MODEL_FOLDER,
    PORT,
    SHARED_MEMORY_GIB,
    START_S,
    cpu_cores,
    environment_of,
    literal,
    mount_of,
    words_of,
)
from autotune.export.evidence import comment_lines, comments
from autotune.export.images import image_of
from autotune.export.source import ExportSource
from autotune.export.yaml_text import Quoted, dump

# Every image has Python, not every one has curl.
_PROBE = f"import urllib.request; urllib.request.urlopen('http://127.0.0.1:{PORT}{HEALTH}', timeout=5)"


def compose(source: ExportSource) -> str:
    """A file for `docker compose up`; the API key comes from the environment or from `.env` beside it."""
    notes = [f"set {KEY} in the environment or in a file .env beside this one, then: docker compose -f THIS_FILE up -d"]
    image = image_of(source)
    service: dict[str, Any] = {
        "image": image.name,
        "entrypoint": ["vllm", "serve"],
        "command": words_of(source),
        "environment": {
            **environment_of(source),
            KEY: Quoted(f"${{{KEY}:?set the API key of the engine in {KEY}}}"),
        },
        "volumes": [_bind(literal(mount_of(source).host), MODEL_FOLDER)],
        "shm_size": f"{SHARED_MEMORY_GIB[source.devices.resource]}g",
        **_network(source),
        **_devices(source),
        "healthcheck": _health(),
        "restart": "unless-stopped",
    }
    service["volumes"] += [_bind(path, path) for path in _driver(source)]
    if source.devices.resource == "NPU":
        notes.append("the first NPUs of the host are used; name others under devices")
    return f"{comments(source)}{comment_lines([*image.notes, *notes])}{dump({'services': {'vllm': service}})}"


def _bind(host: str, target: str) -> dict[str, Any]:
    return {"type": "bind", "source": host, "target": target, "read_only": True}


def _network(source: ExportSource) -> dict[str, Any]:
    """Several NPUs talk over the host's network, as vllm-ascend's guide starts them."""
    is_host = source.devices.resource == "NPU" and source.trial.config.devices > 1
    return {"network_mode": "host"} if is_host else {"ports": [f"{PORT}:{PORT}"]}


def _driver(source: ExportSource) -> tuple[str, ...]:
    if source.devices.resource != "NPU":
        return ()
    return (*ASCEND_DRIVER, ASCEND_TOOLS) if source.trial.config.devices > 1 else ASCEND_DRIVER


def _devices(source: ExportSource) -> dict[str, Any]:
    count = source.trial.config.devices
    match source.devices.resource:
        case "NPU":
            return {"devices": [*(f"/dev/davinci{number}" for number in range(count)), *ASCEND_NODES]}
        case "GPU":
            reserved = [{"driver": "nvidia", "count": count, "capabilities": ["gpu"]}]
            return {"deploy": {"resources": {"reservations": {"devices": reserved}}}}
        case "CPU":
            cores = cpu_cores(source)
            # vLLM binds threads and memory to NUMA nodes, which Docker allows with this capability only.
            return {"cap_add": ["SYS_NICE"], **({} if cores is None else {"cpus": cores})}


def _health() -> dict[str, Any]:
    return {
        "test": ["CMD", "python3", "-c", _PROBE],
        "interval": "10s",
        "timeout": "10s",
        "retries": 3,
        "start_period": f"{START_S}s",
    }
