"""A job whose trials are played: the loop, the rows, the study and the proposer are the real ones, the devices are not.

played = SimpleNamespace(**runpy.run_path(str(DATA / "played_job.py")))
"""

import contextlib
import dataclasses
import runpy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.errors import EnvironmentProblem
from autotune.results import (
    Evidence,
    FailureClass,
    Infeasible,
    Interrupted,
    Job,
    LoadPoint,
    Measured,
    Timings,
    Trial,
    TrialOutcome,
    TrialResult,
)
from autotune.store import Store
from autotune.study.grid import Grid
from autotune.study.persisted import PersistedStudy, open_storage
from autotune.trial import TrialRequest
from autotune.tuner.context import JobContext
from autotune.tuner.events import Event
from autotune.tuner.job import run_job
from autotune.tuner.ledger import Books, Ledger
from autotune.tuner.loop import Seats, Tuning
from autotune.tuner.owner import utc_now

TINY = runpy.run_path(str(Path(__file__).parent / "tiny_job.py"))
POLL_TAKES_S = 10.0
MOST_POLLS = 300

# Twelve configurations, each of one device; the first search trial is the recipe.
SPACE = {
    "version": 1,
    "name": "narrow",
    "parameters": {
        "max_num_seqs": {"type": "int", "values": [2, 4, 8, 16]},
        "block_size": {"type": "int", "values": [16, 64, 128]},
    },
    "starting_points": {
        "baseline": {"max_num_seqs": 16, "block_size": 128},
        "queues": {"max_num_seqs": 4, "block_size": 128},
    },
}
# The first search trial needs two devices.
WIDE_SPACE = {**TINY["SPACE"], "starting_points": {"baseline": TINY["DEFAULTS"], "wide": {"tensor_parallel_size": 2}}}

MakePoint = Callable[..., LoadPoint]


class Killed(BaseException):
    """The process of the tuner is no more."""


class Clock:
    """Shows the seconds that it is set to."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@dataclass(frozen=True)
class Play:
    """How a launch ends, after how many polls, and what it has cost then."""

    outcome: TrialOutcome
    polls: int = 1
    device_s: float = 0.0
    stage: str = "loading"


Script = Callable[[TrialRequest], Play]


def evidence(failure: FailureClass) -> Evidence:
    return Evidence(failure=failure, signature=None, cause="It failed.", advice="Mend it.")


def interrupted(failure: FailureClass, **fields: Any) -> Play:
    """A launch after which nothing is known about the configuration."""
    return Play(Interrupted(evidence=evidence(failure)), **fields)


def infeasible(failure: FailureClass, **fields: Any) -> Play:
    """A launch that tells that the configuration cannot run."""
    return Play(Infeasible(evidence=evidence(failure)), **fields)


def measured(make_point: MakePoint, request: TrialRequest, **fields: Any) -> Play:
    """A launch that keeps the SLA at every level that was asked for; later trials are faster."""
    levels = request.levels * max(1, len(request.confirm_seeds))
    throughput = 500.0 + 10 * request.number
    points = tuple(
        make_point(100.0, throughput, level=level.number, value=4.0 * (level.number + 1)) for level in levels
    )
    return Play(Measured(points=points, operating_level=points[-1].level), **fields)


class Stage:
    """Devices that play trials: `autotune.tuner.loop.Devices`. Each poll ends what is due; a clock goes on with it."""

    def __init__(
        self, script: Script, *, devices: int = 1, stopped: Play | None = None, clock: Clock | None = None
    ) -> None:
        self._script, self._devices, self._clock = script, devices, clock
        self._stopped = stopped or interrupted(FailureClass.CANCELLED)  # what a trial comes to after a cancel
        self._running: dict[int, tuple[TrialRequest, Play, int]] = {}  # with the polls that are left
        self._is_cancelled = False
        self._polls = 0
        self.launched: list[TrialRequest] = []

    @property
    def numbers(self) -> list[int]:
        """The trials of all launches so far."""
        return [request.number for request in self.launched]

    @property
    def busy(self) -> tuple[int, ...]:
        return tuple(self._running)

    @property
    def most_devices(self) -> int:
        return self._devices

    def check_fits(self, wanted: int) -> None:
        if wanted > self._devices:
            raise EnvironmentProblem(f"a trial needs {wanted} devices, there are {self._devices}")

    def has_room(self, wanted: int) -> bool:
        return self._devices - sum(request.config.devices for request, _, _ in self._running.values()) >= wanted

    def start(self, request: TrialRequest) -> None:
        self.launched.append(request)
        play = self._script(request)
        self._running[request.number] = (request, play, play.polls)

    def finished(self, *, timeout_s: float) -> list[tuple[TrialRequest, TrialResult]]:
        self._polls += 1
        assert self._polls < MOST_POLLS, "the loop does not end"
        if self._clock is not None:
            self._clock.now_s += POLL_TAKES_S
        self._running = {number: (asked, play, left - 1) for number, (asked, play, left) in self._running.items()}
        due = [number for number, (_, _, left) in self._running.items() if left <= 0]
        return [self._end(number) for number in due]

    def progress(self) -> Mapping[int, Mapping[str, Any]]:
        return {number: {"stage": play.stage} for number, (_, play, _) in self._running.items()}

    def cancel_all(self) -> None:
        if not self._is_cancelled:
            stopped = self._stopped
            self._running = {number: (asked, stopped, stopped.polls) for number, (asked, _, _) in self._running.items()}
        self._is_cancelled = True

    def kill_all(self) -> None:
        self._running.clear()

    def _end(self, number: int) -> tuple[TrialRequest, TrialResult]:
        request, play, _ = self._running.pop(number)
        width = request.config.devices
        return request, TrialResult(
            outcome=play.outcome, timings=Timings(total_s=play.device_s / width), devices=("0",) * width
        )


@dataclass(frozen=True)
class Played:
    """A job in a database of its own, and the study people watch."""

    context: JobContext
    store: Store
    study: PersistedStudy

    @property
    def job(self) -> Job:
        return self.store.job(self.context.job.id)

    @property
    def trials(self) -> tuple[Trial, ...]:
        return self.store.trials(self.context.job.id)

    def books(self) -> Books:
        """Take the job over, from whoever has it."""
        lease = self.store.claim(self.context.job.id, "somebody", now=utc_now(), gone=lambda _: True)
        return Books(self.store, lease, self.study)

    def run(self, stage: Stage) -> Job:
        """One process that works on the job until it ends."""
        return run_job(dataclasses.replace(self.context, job=self.job), self.books(), stage, ignore)

    def tuning(self, stage: Stage, clock: Clock) -> Tuning:
        """The loop alone, by a clock that is set."""
        return Tuning(self.context, Seats(Ledger(self.job, self.books(), clock), stage), ignore)


def ignore(_: Event) -> None:
    """Nobody watches."""


@contextlib.contextmanager
def played(
    home: Path,
    budget: Mapping[str, Any],
    *,
    space: Mapping[str, Any] = SPACE,
    store_of: type[Store] = Store,
) -> Iterator[Played]:
    """A new job; `store_of` is the class of its store."""
    url = f"sqlite:///{home / 'autotune.db'}"
    context = TINY["job_context"](home, {"start_points": 1, "confirm_top": 0, **budget}, space=space)
    with store_of.open(url) as store:
        store.create_job(context.job)
        storage = open_storage(url)
        yield Played(context, store, PersistedStudy(storage, context.job.id, context.spec.sla, Grid.of(context.space)))
        storage.engine.dispose()
