"""The fleet: trials as Ray actors pinned to devices. The only importer of ray."""

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from autotune.errors import EnvironmentProblem
from autotune.results import Evidence, FailureClass, Interrupted, TrialResult
from autotune.spec import Devices
from autotune.telemetry import get_logger
from autotune.trial import Control, Grant, TrialRequest, run_trial

log = get_logger()

CANCEL_TIMEOUT_S = 60.0  # an actor that does not end its engine by then is ended itself; its supervisor ends the engine
OBJECT_STORE_BYTES = 100 * 2**20  # only small records travel; Ray's default takes 30 % of the memory


class TrialActor:
    """A process pinned to devices that runs one trial at a time; threaded: `progress` and `cancel` always answer."""

    def __init__(self) -> None:
        self._control = Control()

    def run(self, request: TrialRequest, count: int) -> TrialResult:
        """Run one trial on the `count` devices Ray gave this actor."""
        self._control = Control()
        # Ray counts CPUs but does not say which: there the trial takes free cores itself.
        assigned = ray.get_runtime_context().get_accelerator_ids().get(request.resource, [])
        return run_trial(request, Grant(tuple(assigned), count), self._control)

    def progress(self) -> Mapping[str, Any]:
        """The phase the trial is in, and how far it is."""
        return self._control.progress

    def cancel(self) -> None:
        """Ask the trial to stop; it is heard in every phase."""
        self._control.cancel()


@dataclass(frozen=True, slots=True)
class _Running:
    request: TrialRequest
    width: int  # devices of its actor
    actor: Any
    result: Any


class Fleet:
    """The cluster's devices of one kind. A context manager; leaving it ends what still runs."""

    def __init__(self, devices: Devices, *, address: str | None, local_devices: int | None = None) -> None:
        self._devices = devices
        self._running: dict[int, _Running] = {}
        self._resting: list[tuple[int, Any]] = []  # (width, actor) between two trials
        self._owns_ray = not ray.is_initialized()
        if self._owns_ray:
            _connect(devices, address, local_devices)

    def __enter__(self) -> "Fleet":
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel_all()
        deadline = time.monotonic() + CANCEL_TIMEOUT_S
        while self._running and time.monotonic() < deadline:
            self.finished(timeout_s=0.5)
        for actor in [running.actor for running in self._running.values()] + [actor for _, actor in self._resting]:
            ray.kill(actor)
        if self._owns_ray:
            ray.shutdown()

    @property
    def devices_per_node(self) -> int:
        """Devices of the largest node; a trial never spans nodes."""
        nodes = [node["Resources"].get(self._devices.resource, 0) for node in ray.nodes() if node["Alive"]]
        return int(max(nodes, default=0))

    def devices_for(self, wanted: int) -> int:
        """How many Ray devices a trial of width `wanted` takes: on CPU, where a device is a core, all that it may."""
        most = self.devices_per_node if self._devices.max_per_trial == "all" else self._devices.max_per_trial
        return most if self._devices.resource == "CPU" else wanted

    @property
    def most_devices(self) -> int:
        """The widest configuration (tp x pp x dp) a trial may have; on CPU every rank needs a core of its own."""
        per_node, most = self.devices_per_node, self._devices.max_per_trial
        return per_node if most == "all" else min(most, per_node)

    def check_fits(self, wanted: int) -> None:
        """Raise EnvironmentProblem when no node could ever run a trial of that width; it would wait for ever."""
        needed, largest = max(1, wanted, self.devices_for(wanted)), self.devices_per_node
        if needed > largest:
            raise EnvironmentProblem(
                f"a trial needs {needed} {self._devices.resource} on one node, the largest node of the Ray cluster has "
                f"{largest}; lower devices.max_per_trial or add a node"
            )
        if wanted > self.most_devices:
            raise EnvironmentProblem(
                f"a trial needs {wanted} {self._devices.resource} (tp x pp x dp), devices.max_per_trial allows "
                f"{self.most_devices}; raise it or use a smaller parallel size"
            )

    def has_room(self, wanted: int) -> bool:
        """Whether a trial of that width could start now on some node."""
        needed = self.devices_for(wanted)
        # What was submitted but is not scheduled yet does not show in Ray's books: count our own.
        mine = sum(running.width for running in self._running.values())
        total = ray.cluster_resources().get(self._devices.resource, 0)
        return bool(total - mine >= needed)

    @property
    def busy(self) -> tuple[int, ...]:
        """Numbers of the running trials."""
        return tuple(self._running)

    def start(self, request: TrialRequest) -> None:
        """Start a trial in an actor pinned to as many devices as its configuration needs."""
        width = self.devices_for(request.config.devices)
        actor = self._actor(width)
        self._running[request.number] = _Running(request, width, actor, actor.run.remote(request, width))

    def _actor(self, width: int) -> Any:
        """An actor that rests after a trial of that width (a new one costs seconds), else a new one.

        Resting actors hold their devices, so those of other widths give way.
        """
        for place, (known, actor) in enumerate(self._resting):
            if known == width:
                del self._resting[place]
                return actor
        for _, actor in self._resting:
            ray.kill(actor)
        self._resting.clear()
        return ray.remote(TrialActor).options(**_actor_options(self._devices.resource, width)).remote()

    def finished(self, *, timeout_s: float) -> list[tuple[TrialRequest, TrialResult]]:
        """The trials that ended, waiting for one up to `timeout_s`; a lost actor or node is an interrupted trial."""
        if not self._running:
            time.sleep(timeout_s)  # nothing can end, and callers ask in a loop
            return []
        refs = {running.result: number for number, running in self._running.items()}
        ready, _ = ray.wait(list(refs), num_returns=1, timeout=timeout_s)
        done = []
        for ref in ready:
            running = self._running.pop(refs[ref])
            result = _result_of(ref)
            done.append((running.request, result))
            self._rest_or_end(running, result)
        return done

    def _rest_or_end(self, running: _Running, result: TrialResult) -> None:
        """Keep the actor for the next trial of its width, unless it was interrupted or its devices are waited for.

        After an interruption the next trial gets a fresh process, and perhaps another device. A trial whose actor is
        not scheduled yet would wait for ever for devices that resting actors hold.
        """
        waiting = self._running.keys() - self.progress().keys()
        if waiting or isinstance(result.outcome, Interrupted):
            ray.kill(running.actor)
        else:
            self._resting.append((running.width, running.actor))

    def progress(self) -> dict[int, Mapping[str, Any]]:
        """What each running trial does now; a trial whose actor does not answer at once is left out."""
        asked = {number: running.actor.progress.remote() for number, running in self._running.items()}
        ready, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=1.0) if asked else ([], [])
        answers = {}
        for number, ref in asked.items():
            if ref in ready:
                try:
                    answers[number] = ray.get(ref)
                except RayError:
                    continue  # it just ended; `finished` tells how
        return answers

    def cancel_all(self) -> None:
        """Ask every running trial to stop."""
        for running in self._running.values():
            running.actor.cancel.remote()


def _result_of(ref: Any) -> TrialResult:
    try:
        result: TrialResult = ray.get(ref)
    except RayError as exc:
        log.warning("trial_actor_lost", error=str(exc))
        evidence = Evidence(
            failure=FailureClass.NODE,
            signature=None,
            cause="The Ray actor of this trial was lost with its process or node.",
            advice="Look at the node's memory and at the Ray logs; the trial is tried once more.",
            line=str(exc).splitlines()[0] if str(exc) else type(exc).__name__,
        )
        return TrialResult(outcome=Interrupted(evidence=evidence))
    return result


def _actor_options(resource: str, count: int) -> dict[str, Any]:
    shared = {"max_concurrency": 4, "max_restarts": 0, "max_task_retries": 0}
    if resource == "CPU":
        return {**shared, "num_cpus": count}
    if resource == "GPU":
        return {**shared, "num_cpus": 0, "num_gpus": count}
    return {**shared, "num_cpus": 0, "resources": {resource: count}}


def _connect(devices: Devices, address: str | None, local_devices: int | None) -> None:
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
            raise EnvironmentProblem(f"no Ray cluster answers at {address!r}: {exc}") from exc
        return
    _quiet_environment()
    options |= {"_node_ip_address": "127.0.0.1", "object_store_memory": OBJECT_STORE_BYTES}
    if local_devices is not None:
        options |= _local_resources(devices.resource, local_devices)
    elif devices.resource == "CPU":
        # Ray counts the machine's cores; trials find those that this process may use.
        options |= _local_resources("CPU", len(os.sched_getaffinity(0)))
    ray.init(address="local", **options)
    _wait_for_resource(devices.resource)


def _quiet_environment() -> None:
    """Ray reads these when a local node starts: no usage report, no agents that a handful of actors does not need."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    # Ray runs its workers, and so the engines, at niceness 15: whatever else the host does would spoil a measurement.
    os.environ.setdefault("RAY_worker_niceness", "0")


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
