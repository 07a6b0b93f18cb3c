"""The Ray that trials run on: a cluster that exists, or a local one with only what a handful of actors needs."""

import os
import threading
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayError

from autotune.errors import EnvironmentProblem
from autotune.fleet.token import LocalToken
from autotune.spec import Devices

OBJECT_STORE_BYTES = 100 * 2**20  # only small records travel; Ray's default takes 30 % of the memory


def connect(devices: Devices, address: str | None, local_devices: int | None) -> Callable[[], None]:
    """Join the cluster at `address`, or start a local Ray that only we may use; returns how to leave it.

    Raises EnvironmentProblem when no cluster answers.
    """
    options: dict[str, Any] = {
        "include_dashboard": False,
        "log_to_driver": False,
        "logging_level": "ERROR",
        "namespace": "autotune",
    }
    if address is not None:
        try:
            ray.init(address=address, **options)
        except (ConnectionError, RayError, ValueError) as exc:
            raise EnvironmentProblem(
                f"no Ray cluster answers at {address!r}: {exc} (where it wants a token, set RAY_AUTH_MODE=token "
                "and RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN)"
            ) from exc
        return _leave
    for name, value in quiet_environment().items():
        os.environ.setdefault(name, value)
    options |= {"_node_ip_address": "127.0.0.1", "object_store_memory": OBJECT_STORE_BYTES}
    if local_devices is not None:
        options |= _local_resources(devices.resource, local_devices)
    elif devices.resource == "CPU":
        # Ray counts the machine's cores; trials find those that this process may use.
        options |= _local_resources("CPU", len(os.sched_getaffinity(0)))
    token = LocalToken()
    try:
        ray.init(address="local", **options)
    except BaseException:
        token.close()
        raise
    _wait_for_resource(devices.resource)

    def leave() -> None:
        _leave()
        token.close()

    return leave


def _leave() -> None:
    ray.shutdown()


def quiet_environment() -> dict[str, str]:
    """What Ray reads when a node starts: no usage report, no agents that a handful of actors does not need."""
    return {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_DEDUP_LOGS": "0",
        # Ray runs its workers, and so the engines, at niceness 15: whatever else the host does would spoil a
        # measurement.
        "RAY_worker_niceness": "0",
        # A local Ray whose head process died does not come back: everybody leaves after seconds, not after a minute.
        "RAY_gcs_rpc_server_reconnect_timeout_s": "10",
    }


def _local_resources(resource: str, count: int) -> dict[str, Any]:
    if resource == "CPU":
        return {"num_cpus": count}
    if resource == "GPU":
        return {"num_gpus": count}
    return {"resources": {resource: count}}


def _wait_for_resource(resource: str, timeout_s: float = 20.0) -> None:
    """The head node's own resources appear in the cluster's books a moment after `ray.init` returns."""
    deadline, pause = time.monotonic() + timeout_s, threading.Event()
    while not ray.cluster_resources().get(resource) and time.monotonic() < deadline:
        pause.wait(0.1)
