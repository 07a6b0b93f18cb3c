"""The devices of one kind that a cluster has, and the trials that run on them."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from autotune.errors import EnvironmentProblem
from autotune.fleet.actor import pinned_actor
from autotune.fleet.cluster import connect
from autotune.fleet.quarantine import Quarantine
from autotune.results import Evidence, FailureClass, Interrupted, Measured, Timings, TrialResult
from autotune.spec import Devices
from autotune.telemetry import get_logger
from autotune.trial import TrialRequest

log = get_logger()

MOST_STARTS = 4  # of a trial whose actors are lost before they answer: Ray still gives away the devices of a lost node
CANCEL_TIMEOUT_S = 60.0  # an actor that does not end its engine by then is ended itself; its supervisor ends the engine


@dataclass(frozen=True, slots=True)
class _Running:
    request: TrialRequest
    width: int  # devices of its actor
    actor: Any
    result: Any
    started_s: float  # on the monotonic clock
    starts: int  # actors that were asked so far, this one included


class Fleet:
    """The cluster's devices of one kind. A context manager; leaving it ends what still runs."""

    def __init__(self, devices: Devices, *, address: str | None, local_devices: int | None = None) -> None:
        self._devices = devices
        self._running: dict[int, _Running] = {}
        self._heard: set[int] = set()  # running trials whose actor has answered
        self._resting: list[tuple[int, Any]] = []  # (width, actor) between two trials
        self._stopping = False  # then a trial whose actor is lost is not given another one
        self._leaving: list[Any] = []  # actors that end once the next trial has found its devices elsewhere
        self._quarantine = Quarantine(devices.resource)
        self._told: set[tuple[str, str, str]] = set()  # node, device and health that were warned of
        self._leave_ray = None if ray.is_initialized() else connect(devices, address, local_devices)

    def __enter__(self) -> "Fleet":
        return self

    def __exit__(self, *_: object) -> None:
        deadline = time.monotonic() + CANCEL_TIMEOUT_S
        while self._running and time.monotonic() < deadline:
            self.cancel_all()
            self.finished(timeout_s=0.5)
        self.kill_all()
        self._quarantine.release()
        if self._leave_ray is not None:
            self._leave_ray()

    @property
    def devices_per_node(self) -> int:
        """Well devices of the largest node; a trial never spans nodes."""
        unwell = self._quarantine.lost()
        counts = [
            node["Resources"].get(self._devices.resource, 0) - unwell[node["NodeID"]]
            for node in ray.nodes()
            if node["Alive"]
        ]
        return int(max(counts, default=0))

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
            unwell = self._quarantine.lost().total()
            lost = f" (without {unwell} that were taken out: {self._quarantine.why})" if unwell else ""
            raise EnvironmentProblem(
                f"a trial needs {needed} {self._devices.resource} on one node, the largest node of the Ray cluster has "
                f"{largest}{lost}; lower devices.max_per_trial or add a node"
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
        mine += self._quarantine.lost().total() + self._quarantine.withheld()
        total = ray.cluster_resources().get(self._devices.resource, 0)
        return bool(needed > 0 and total - mine >= needed)

    @property
    def busy(self) -> tuple[int, ...]:
        """Numbers of the running trials."""
        return tuple(self._running)

    def start(self, request: TrialRequest) -> None:
        """Start a trial in an actor pinned to as many devices as its configuration needs."""
        self._stopping = False
        self._start(request, starts=1)

    def _start(self, request: TrialRequest, starts: int) -> None:
        width = self.devices_for(request.config.devices)
        actor = self._actor(width)
        self._heard.discard(request.number)
        self._running[request.number] = _Running(
            request, width, actor, actor.run.remote(request, width), time.monotonic(), starts
        )
        self._let_go()

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
        return pinned_actor(self._devices.resource, width)

    def finished(self, *, timeout_s: float) -> list[tuple[TrialRequest, TrialResult]]:
        """The trial that ended, if one did within `timeout_s`; a lost actor or node is an interrupted trial."""
        self._let_go()
        self._quarantine.settle()
        if not self._running:
            time.sleep(timeout_s)  # nothing can end, and callers ask in a loop
            return []
        refs = {running.result: number for number, running in self._running.items()}
        ready, _ = ray.wait(list(refs), num_returns=1, timeout=timeout_s)
        done = []
        for ref in ready:
            running = self._running.pop(refs[ref])
            has_begun = running.request.number in self._heard
            result = _result_of(ref, running, has_begun=has_begun, given_up=self._stopping and not has_begun)
            self._dismiss(running, result)
            if self._never_began(running, result):
                log.info("trial_moved", trial=running.request.number, starts=running.starts)
                self._start(running.request, running.starts + 1)
            else:
                done.append((running.request, result))
        return done

    def _never_began(self, running: _Running, result: TrialResult) -> bool:
        """Whether a trial was lost with an actor that never answered, and there are devices to ask another one.

        Until Ray has noticed the loss of a node it places actors there, and actors that rest there look well. Such a
        trial was not tried at all.
        """
        was_lost = isinstance(result.outcome, Interrupted) and result.outcome.evidence.failure is FailureClass.NODE
        never_heard = was_lost and not result.node and running.request.number not in self._heard
        if self._stopping:
            return False
        return never_heard and running.starts < MOST_STARTS and 0 < running.width <= self.devices_per_node

    def _dismiss(self, running: _Running, result: TrialResult) -> None:
        """Keep the actor for the next trial of its width, unless it was interrupted or its devices are waited for.

        After an interruption the next trial gets a fresh process, on other devices where some are free; devices that
        are not well leave the pool, without the others of the trial. A trial whose actor is not scheduled yet would
        wait for ever for devices that resting actors hold.
        """
        self._warn(result)
        evidence = None if isinstance(result.outcome, Measured) else result.outcome.evidence
        if result.unwell or (evidence is not None and evidence.failure is FailureClass.HARDWARE):
            why = evidence.cause if evidence else "The engine could not be ended."
            self._quarantine.admit(running.actor, running.width, result, why)
        elif isinstance(result.outcome, Interrupted):
            self._leaving.append(running.actor)
        elif self._running.keys() - self.progress().keys():
            ray.kill(running.actor)
        else:
            self._resting.append((running.width, running.actor))

    def _warn(self, result: TrialResult) -> None:
        """Of devices that are not OK, once for each; the trial's process has no terminal."""
        for device, health in result.device_health.items():
            seen = (result.node, device, health)
            if seen not in self._told:
                self._told.add(seen)
                log.warning("device_not_ok", node=result.node, device=device, health=health)

    def _let_go(self) -> None:
        for actor in self._leaving:
            ray.kill(actor)
        self._leaving.clear()

    def progress(self) -> dict[int, Mapping[str, Any]]:
        """What each running trial does now; a trial whose actor does not answer at once is left out."""
        asked = {number: running.actor.progress.remote() for number, running in self._running.items()}
        ready, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=1.0) if asked else ([], [])
        answers = {}
        for number, ref in asked.items():
            if ref in ready:
                try:
                    answers[number] = ray.get(ref)
                    self._heard.add(number)
                except RayError:
                    continue  # it just ended; `finished` tells how
        return answers

    def cancel_all(self) -> None:
        """Ask every running trial to stop; one whose actor still waits for devices is given up."""
        self._stopping = True
        for number, running in self._running.items():
            if number in self._heard:
                running.actor.cancel.remote()
            else:
                ray.kill(running.actor)

    def kill_all(self) -> None:
        """End every actor at once. Their supervisors notice, end the engines and free the devices, without us."""
        self._let_go()
        for actor in [running.actor for running in self._running.values()] + [actor for _, actor in self._resting]:
            ray.kill(actor)
        self._running.clear()
        self._resting.clear()


_GIVEN_UP = Evidence(
    failure=FailureClass.CANCELLED,
    signature=None,
    cause="The job was stopped before this trial had begun.",
    advice="",
)


def _lost(exc: RayError) -> Evidence:
    log.warning("trial_actor_lost", error=str(exc))
    return Evidence(
        failure=FailureClass.NODE,
        signature=None,
        cause="The Ray actor of this trial was lost with its process or node.",
        advice="Look at the node's memory and at the Ray logs; the trial is tried once more.",
        line=str(exc).splitlines()[0] if str(exc) else type(exc).__name__,
    )


def _result_of(ref: Any, running: _Running, *, has_begun: bool, given_up: bool) -> TrialResult:
    try:
        result: TrialResult = ray.get(ref)
    except RayError as exc:
        evidence = _GIVEN_UP if given_up else _lost(exc)
        total_s = time.monotonic() - running.started_s
        timings = Timings(total_s=total_s, wait_s=0.0 if has_begun else total_s)  # an actor in line occupies nothing
        # Which devices it had, it told nobody; how many is enough to count what they cost.
        return TrialResult(
            outcome=Interrupted(evidence=evidence), timings=timings, devices=("unknown",) * running.width
        )
    return result
