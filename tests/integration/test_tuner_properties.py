"""Whatever trials bring home and whenever the tuner is killed, interrupted or cut off, a job keeps its promises.

The loop, the database, the study people watch and the proposer are the real ones. Only the devices are played: trials
end as a drawn script says, and time passes by polls. A disturbance strikes at the n-th call that leaves the loop,
before or after that call has done its work. Then the job is resumed from its rows, until it ends.
"""

import dataclasses
import logging
import runpy
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count, cycle
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
import structlog
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage

from autotune.engine_config import EngineConfig
from autotune.errors import AutotuneError, EnvironmentProblem, LeaseLost, StoreError
from autotune.results import (
    Evidence,
    FailureClass,
    Infeasible,
    Interrupted,
    Job,
    JobResult,
    JobStatus,
    LoadPoint,
    Measured,
    Timings,
    Trial,
    TrialResult,
)
from autotune.store import Store
from autotune.study.grid import Grid
from autotune.study.persisted import PersistedStudy
from autotune.trial import TrialRequest
from autotune.tuner.budget import occupied_s, was_interrupted
from autotune.tuner.context import JobContext
from autotune.tuner.events import Event
from autotune.tuner.job import run_job
from autotune.tuner.ledger import Books, utc_now
from autotune.tuner.loop import MOST_LAUNCHES, JobCancelled

MakePoint = Callable[..., LoadPoint]

JUDGED_BADLY = (
    FailureClass.OOM,
    FailureClass.CONFIG,
    FailureClass.GRAPH,
    FailureClass.OPERATOR,
    FailureClass.UNKNOWN,
)
TRIED_AGAIN = (
    FailureClass.PORT,
    FailureClass.BUSY,
    FailureClass.NODE,
    FailureClass.SHARED_MEMORY,
    FailureClass.HARDWARE,
    FailureClass.COMMUNICATION,
    FailureClass.HANG,
)
BAD_AT_SECOND = (FailureClass.COMMUNICATION, FailureClass.HANG)

LIMITS = {"trials", "wall_clock_s", "device_hours", "failures", "patience"}
ENDED = {JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED}
REASONS = {
    JobStatus.SUCCEEDED: LIMITS | {"exhausted", "infeasible"},
    JobStatus.FAILED: {"failed", "environment_failures"},
    JobStatus.CANCELLED: {"cancelled"},
}

TINY = runpy.run_path(str(Path(__file__).parents[1] / "data" / "tiny_job.py"))
DEFAULTS = TINY["DEFAULTS"]
RUNS_AS = {("block_size", 16): 128}  # an engine that overrides a value, as on Ascend


# What is drawn


@dataclasses.dataclass(frozen=True)
class Play:
    """One launch: how it ends, after how many polls, and with what numbers if it is measured."""

    failure: FailureClass | None = None
    polls: int = 0
    throughput: float = 500.0
    p99_ttft_ms: float = 100.0  # of the upper level; the SLA allows 200


@dataclasses.dataclass(frozen=True)
class Disturbance:
    """What strikes at the n-th call, before or after the call has done its work."""

    kind: str
    at: int
    late: bool


def plays() -> st.SearchStrategy[Play]:
    numbers = {
        "polls": st.integers(0, 3),
        "throughput": st.sampled_from([300.0, 500.0, 503.0, 900.0]),
        "p99_ttft_ms": st.sampled_from([100.0, 205.0, 600.0]),
    }
    good = st.builds(Play, failure=st.none(), **numbers)
    bad = st.builds(Play, failure=st.sampled_from(JUDGED_BADLY), polls=numbers["polls"])
    lost = st.builds(Play, failure=st.sampled_from(TRIED_AGAIN), polls=numbers["polls"])
    broken = st.builds(Play, failure=st.sampled_from([FailureClass.ENVIRONMENT, FailureClass.DEFECT]))
    return st.one_of(good, good, good, good, bad, bad, lost, broken)


KINDS = ("kill", "kill", "interrupt", "database", "study", "cancel", "steal")


def disturbances(most: int = 2) -> st.SearchStrategy[list[Disturbance]]:
    one = st.builds(Disturbance, kind=st.sampled_from(KINDS), at=st.integers(1, 60), late=st.booleans())
    return st.lists(one, min_size=1, max_size=most)


def budgets() -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            "trials": st.integers(1, 8) | st.just(40),
            "failures": st.sampled_from([1, 3, 20]),
            "environment_failures": st.sampled_from([1, 2, 5]),
            "device_hours": st.sampled_from([None, None, 0.012]),
            "start_points": st.sampled_from([1, 3]),
            "confirm_top": st.integers(0, 2),
            "confirm_runs": st.integers(1, 2),
        }
    )


# The devices


class Stage:
    """Devices that play trials: `autotune.tuner.loop.Devices` in virtual time.

    It looks at every launch with suspicion: the row must have been written before, and nothing may be launched that is
    known already.
    """

    def __init__(self, world: "World", devices: int) -> None:
        self._world, self._devices = world, devices
        self._running: dict[int, tuple[TrialRequest, Play]] = {}
        self._left: dict[int, int] = {}  # polls
        self._idle_polls = 0
        self._cancelled = False

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
        return self._devices - sum(request.config.devices for request, _ in self._running.values()) >= wanted

    def start(self, request: TrialRequest) -> None:
        assert request.number not in self._running
        assert all(request.config.hash != other.config.hash for other, _ in self._running.values())
        if request.confirm_seeds:
            assert not self._running, "a confirmation runs alone"
        self._world.look_at_launch(request)
        play = next(self._world.script)
        self._running[request.number], self._left[request.number] = (request, play), play.polls
        if self._world.fatal is not None and self._world.fatal(request):
            raise Killed

    def finished(self, *, timeout_s: float) -> list[tuple[TrialRequest, TrialResult]]:
        self._world.count_poll()
        placed = list(self._placed())
        self._idle_polls = 0 if placed or not self._running else self._idle_polls + 1
        assert self._idle_polls < 3 or self._cancelled, f"trials wait for ever for devices: {self.busy}"
        for number in placed:
            self._left[number] -= 1
        ended = [number for number in placed if self._left[number] < 0]
        results = [self._end(number) for number in ended]
        if self._world.leave_after == len(self._world.launched) and not self._running:
            self._devices, self._world.leave_after = self._devices - 1, None
        return results

    def progress(self) -> Mapping[int, Mapping[str, Any]]:
        return {
            number: {"stage": "loading" if self._left[number] < play.polls else "starting the engine"}
            for number, (_, play) in self._running.items()
        }

    def cancel_all(self) -> None:
        self._cancelled = True

    def kill_all(self) -> None:
        self._running.clear()

    def _placed(self) -> Iterator[int]:
        """The trials that have their devices; those that came later wait."""
        free = self._devices
        for number, (request, _) in self._running.items():
            free -= request.config.devices
            if free >= 0:
                yield number

    def _end(self, number: int) -> tuple[TrialRequest, TrialResult]:
        request, play = self._running.pop(number)
        if self._cancelled and play.polls:
            play = Play(FailureClass.CANCELLED)
        result = self._world.brought_home(request, play)
        if isinstance(result.outcome, Interrupted) and play.failure is FailureClass.HARDWARE:
            self._devices -= request.config.devices  # they leave the pool
        return request, result


def truly(config: EngineConfig) -> tuple[int, ...]:
    """What the engine makes of a configuration."""
    asked = {name: config.arguments.get(name, default) for name, default in DEFAULTS.items()}
    return tuple(RUNS_AS.get((name, value), value) for name, value in asked.items())


def may_come_again(trial: Trial) -> bool:
    """Whether nothing was learnt about the configuration: it was cancelled, or it is the baseline, which is needed."""
    outcome = trial.result.outcome if trial.result else None
    return isinstance(outcome, Interrupted) and (
        trial.purpose == "baseline" or outcome.evidence.failure is FailureClass.CANCELLED
    )


# The disturbances


class Killed(BaseException):
    """The process is no more."""


class Wire:
    """Every call that leaves the loop goes through here; some are disturbed."""

    def __init__(self, world: "World", planned: Sequence[Disturbance]) -> None:
        self._world = world
        self._planned = {disturbance.at: disturbance for disturbance in planned}
        self._waiting: list[Disturbance] = []  # errors that only the database or the study can have
        self._calls = 0

    def through(self, of: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._calls += 1
        if self._calls in self._planned:
            self._waiting.append(self._planned[self._calls])
        due = next((d for d in self._waiting if d.kind not in ("database", "study") or d.kind == of), None)
        if due is None:
            return self._checked(call, *args, **kwargs)
        self._waiting.remove(due)
        if due.late:
            value = self._checked(call, *args, **kwargs)
            self._strike(due)
            return value
        self._strike(due)
        return self._checked(call, *args, **kwargs)

    def _checked(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The job must not take a rule that was broken for a defect that it handles."""
        try:
            return call(*args, **kwargs)
        except AssertionError as exc:
            self._world.broken = exc
            raise Killed from exc

    def _strike(self, due: Disturbance) -> None:
        match due.kind:
            case "kill":
                raise Killed
            case "interrupt":
                raise KeyboardInterrupt
            case "database":
                raise StoreError("the database is away")
            case "study":
                raise StorageInternalError("the study is away")
            case "cancel":
                self._world.cancel()
            case "steal":
                self._world.claim()


class Wired:
    """An object whose methods are called through the wire."""

    def __init__(self, of: str, target: Any, wire: Wire) -> None:
        self._of, self._target, self._wire = of, target, wire

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        return (lambda *a, **k: self._wire.through(self._of, value, *a, **k)) if callable(value) else value


class WiredStorage(RDBStorage):
    """Optuna's storage whose writes go through the wire: a study can be left half written."""

    wire: Wire | None = None

    def _through(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return call(*args, **kwargs) if self.wire is None else self.wire.through("study", call, *args, **kwargs)

    def create_new_trial(self, *args: Any, **kwargs: Any) -> int:
        return self._through(super().create_new_trial, *args, **kwargs)

    def set_trial_user_attr(self, *args: Any, **kwargs: Any) -> None:
        return self._through(super().set_trial_user_attr, *args, **kwargs)

    def set_trial_system_attr(self, *args: Any, **kwargs: Any) -> None:
        return self._through(super().set_trial_system_attr, *args, **kwargs)

    def set_trial_state_values(self, *args: Any, **kwargs: Any) -> bool:
        return self._through(super().set_trial_state_values, *args, **kwargs)


# The world around one job


@dataclasses.dataclass
class World:
    """One job's database, what was launched in it so far, and the rules that hold at every moment."""

    context: JobContext
    store: Store
    storage: WiredStorage
    script: Iterator[Play]
    make_point: MakePoint
    by_config: Callable[[EngineConfig], Play] | None = None  # instead of the script
    launched: list[TrialRequest] = dataclasses.field(default_factory=list)
    kept: dict[int, TrialResult] = dataclasses.field(default_factory=dict)  # committed results
    polls: int = 0
    broken: AssertionError | None = None  # a rule that did not hold
    fatal: Callable[[TrialRequest], bool] | None = None  # a launch that takes the tuner down
    leave_after: int | None = None  # a device leaves for good once so many launches were made

    @property
    def job(self) -> Job:
        return self.store.job(self.context.job.id)

    @property
    def trials(self) -> tuple[Trial, ...]:
        return self.store.trials(self.context.job.id)

    @property
    def result(self) -> JobResult:
        result = self.job.result
        assert result is not None
        return result

    @property
    def searched(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.purpose != "confirmation"]

    def run(self, planned: Sequence[Disturbance], devices: int) -> BaseException | None:
        """One process that works on the job until it ends, however it ends; returns what it died of."""
        context = dataclasses.replace(self.context, job=self.job)
        wire = Wire(self, planned)
        lease = self.claim()
        stage = Stage(self, devices)
        end: BaseException | None = None
        self.storage.wire = wire
        try:
            study = self.study()
            books = Books(Wired("database", self.store, wire), lease, study)  # type: ignore[arg-type]
            run_job(context, books, Wired("devices", stage, wire), ignore)  # type: ignore[arg-type]
        except (Killed, KeyboardInterrupt, JobCancelled, AutotuneError) as exc:
            end = exc
        self.storage.wire = None
        if self.broken is not None:
            raise self.broken
        self.look_at_rows()
        if self.job.status in ENDED and not isinstance(end, LeaseLost):
            self.look_at_end()
        return end

    def study(self) -> PersistedStudy:
        return PersistedStudy(self.storage, self.context.job.id, self.context.spec.sla, Grid.of(self.context.space))

    def claim(self) -> Any:
        return self.store.claim(self.context.job.id, "somebody", now=utc_now(), gone=lambda _: True)

    def cancel(self) -> None:
        if self.job.status not in ENDED:
            self.store.request_cancel(self.context.job.id)

    def count_poll(self) -> None:
        self.polls += 1
        assert self.polls < 3000, "the loop does not end"

    def brought_home(self, request: TrialRequest, play: Play) -> TrialResult:
        if self.by_config is not None and play.failure is not FailureClass.CANCELLED:
            play = self.by_config(request.config)
        width = request.config.devices
        timings = Timings(total_s=10.0)
        return TrialResult(outcome=self._outcome(request, play), timings=timings, devices=("0",) * width)

    def _outcome(self, request: TrialRequest, play: Play) -> Measured | Infeasible | Interrupted:
        if play.failure is None:
            return self._measured(request, play)
        evidence = Evidence(failure=play.failure, signature=None, cause="It failed.", advice="Mend it.")
        twice = play.failure in BAD_AT_SECOND and request.failures > 0
        bad = play.failure in JUDGED_BADLY or twice
        return Infeasible(evidence=evidence) if bad else Interrupted(evidence=evidence)

    def _measured(self, request: TrialRequest, play: Play) -> Measured:
        if request.confirm_seeds:
            points = tuple(
                self.make_point(play.p99_ttft_ms, play.throughput, level=request.levels[0].number)
                for _ in request.confirm_seeds
            )
        else:
            low = self.make_point(80.0 if play.p99_ttft_ms < 600 else 400.0, play.throughput / 2, level=0)
            points = (low, self.make_point(play.p99_ttft_ms, play.throughput, level=1, value=16.0))
        good = [point for point in points if point.feasible]
        runs = dict(zip(DEFAULTS, map(str, truly(request.config)), strict=True))
        return Measured(points=points, operating_level=good[-1].level if good else None, effective_config=runs)

    # The rules

    def look_at_launch(self, request: TrialRequest) -> None:
        """The row comes first; what is known already is not launched."""
        trials = self.trials
        row = next(trial for trial in trials if trial.number == request.number)
        assert (row.result, row.config, row.attempts) == (None, request.config, request.attempt)
        assert all(earlier.artifacts != request.artifacts for earlier in self.launched), "its files would be mixed"
        failed = [t.config.hash for t in trials if t.result and isinstance(t.result.outcome, Infeasible)]
        assert request.config.hash not in failed, "it is known that this configuration cannot run"
        if row.purpose != "confirmation":
            seen = self._read_back(trials)
            for other in trials[: row.number]:
                if other.purpose != "confirmation" and not may_come_again(other):
                    assert not self._known_to_be_alike(other, row, seen), (other.number, row.number)
        self.launched.append(request)

    def _read_back(self, trials: Sequence[Trial]) -> set[tuple[str, Any]]:
        """The values that were asked for, and of which is known what they run as."""
        measured = [trial for trial in trials if trial.result and isinstance(trial.result.outcome, Measured)]
        return {(name, trial.config.arguments.get(name)) for trial in measured for name in DEFAULTS}

    def _known_to_be_alike(self, one: Trial, other: Trial, seen: set[tuple[str, Any]]) -> bool:
        """Whether two configurations are the same, or were known to be so when the later one was chosen."""
        if one.config.hash == other.config.hash:
            return True
        if other.attempts > 1 or truly(one.config) != truly(other.config):
            return False
        pairs = [(name, one.config.arguments.get(name), other.config.arguments.get(name)) for name in DEFAULTS]
        return all(a == b or {(name, a), (name, b)} <= seen for name, a, b in pairs)

    def look_at_rows(self) -> None:
        """Nothing that was written is lost or changed."""
        trials, budget = self.trials, self.context.spec.budget
        assert [trial.number for trial in trials] == list(range(len(trials)))
        for number, result in self.kept.items():
            assert trials[number].result == result
        self.kept = {trial.number: trial.result for trial in trials if trial.result}
        counted = [t for t in trials if t.purpose == "search" and not may_come_again(t)]
        assert len(counted) <= budget.trials
        launches = [request.number for request in self.launched]
        assert all(launches.count(trial.number) <= MOST_LAUNCHES + 1 for trial in trials)
        again = [t.confirms for t in trials if t.purpose == "confirmation" and not was_interrupted(t)]
        assert len(again) == len(set(again)), "a confirmation that gave a verdict was repeated"

    def look_at_end(self) -> None:
        """An ended job has no open row, says why it ended, and recommends nothing that violates the SLA."""
        job = self.job
        assert job.result is not None
        assert job.result.stopped_by in REASONS[job.status]
        assert [trial.number for trial in self.trials if trial.result is None] == []
        by_number = {trial.number: trial for trial in self.trials}
        for on_front in job.result.front.points:
            outcome = by_number[on_front.trial].result.outcome  # type: ignore[union-attr]
            assert isinstance(outcome, Measured)
            assert any(point.level == on_front.level and point.feasible for point in outcome.points)
        if job.status is JobStatus.SUCCEEDED:
            self._look_at_reason(job.result)

    def _look_at_reason(self, result: JobResult) -> None:
        budget, reason = self.context.spec.budget, result.stopped_by
        outcomes = [trial.result.outcome for trial in self.searched if trial.result]
        is_measured = any(isinstance(outcome, Measured) for outcome in outcomes)
        counted = sum(t.purpose == "search" and not may_come_again(t) for t in self.searched)
        if reason == "trials":
            assert counted == budget.trials
        if reason == "device_hours":
            assert budget.device_hours is not None
            assert occupied_s(self.searched) >= budget.device_hours * 3600
        if reason == "infeasible":
            assert not is_measured
        if reason in ("failures", "exhausted"):
            assert is_measured

    def differences(self) -> list[str]:
        return self.study().differences(self.searched)


def ignore(_: Event) -> None:
    """Nobody watches."""


# One world for each example


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> Iterator[None]:
    """Disturbed jobs log a lot."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.configure(**before)


@pytest.fixture(scope="module")
def open_world(tmp_path_factory: pytest.TempPathFactory, make_point: MakePoint) -> Iterator[Callable[..., World]]:
    """Makes a job of its own for each example, all in one database."""
    home = tmp_path_factory.mktemp("home")
    url = f"sqlite:///{home / 'autotune.db'}"
    with Store.open(url) as store:
        storage = WiredStorage(url)
        # Optuna waits for the disk at every write; here nobody pulls the plug.
        sqlalchemy.event.listen(storage.engine, "connect", lambda to, _: to.execute("PRAGMA synchronous = OFF"))
        storage.engine.dispose()  # the connections from before that
        identities = (f"tiny-{number}" for number in count())

        def make(
            script: Sequence[Play], budget: Mapping[str, Any], space: Mapping[str, Any] = TINY["SPACE"], **spec: Any
        ) -> World:
            context = TINY["job_context"](home, budget, identity=next(identities), space=space, spec=spec)
            store.create_job(context.job)
            return World(context, store, storage, cycle(script), make_point)

        yield make
        storage.engine.dispose()


BUDGET = {"trials": 4, "start_points": 2, "confirm_top": 2, "confirm_runs": 2}
GOOD = Play(polls=1)
EVERYTHING = {**BUDGET, "trials": 40}  # more than the 18 points of the space
CHECKS = settings(
    deadline=None,
    max_examples=20,
    suppress_health_check=[HealthCheck.too_slow],
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # shrinking whole jobs takes longer than the suite may
)

OpenWorld = Callable[..., World]


@CHECKS
@given(
    script=st.lists(plays(), min_size=1, max_size=12),
    budget=budgets(),
    sessions=st.lists(st.tuples(disturbances(), st.integers(1, 4)), max_size=5),
    devices=st.integers(1, 4),
)
def test_a_job_keeps_its_promises_whatever_happens(
    script: list[Play],
    budget: dict[str, Any],
    sessions: list[tuple[list[Disturbance], int]],
    devices: int,
    open_world: OpenWorld,
):
    world = open_world(script, budget)
    for planned, many in sessions:
        if world.job.status is not JobStatus.SUCCEEDED:
            world.run(planned, many)
    if world.job.status is not JobStatus.SUCCEEDED:
        world.run([], devices)
    assert world.job.status in ENDED
    assert world.differences() == []


def by_its_knobs(config: EngineConfig) -> Play:
    """Devices that do the same whenever they are asked: some of the 18 points cannot launch, some miss the SLA."""
    seqs, block, width = truly(config)
    if (seqs, block) == (8, 64):
        return Play(FailureClass.OOM)
    return Play(throughput=100.0 * seqs + block + 300 * width, p99_ttft_ms=100.0 if seqs < 16 else 205.0)


def story(world: World) -> list[tuple[Any, ...]]:
    """What was launched and what came of it, trials that were cancelled left out."""
    return [
        (trial.purpose, trial.config.hash, trial.result and trial.result.outcome)
        for trial in world.trials
        if not may_come_again(trial)
    ]


@settings(CHECKS, max_examples=6)
@given(sessions=st.lists(disturbances(1), min_size=1, max_size=3), sampler=st.sampled_from(["random", "tpe", "qmc"]))
def test_a_disturbed_job_tells_the_same_story_as_one_that_was_left_alone(
    sessions: list[list[Disturbance]], sampler: str, open_world: OpenWorld
):
    """Exactly so where one trial runs at a time, a configuration always does the same, and no trial is lost so often
    that it is given up.
    """
    calm, disturbed = (open_world([Play(polls=1)], BUDGET, sampler=sampler) for _ in range(2))
    calm.by_config = disturbed.by_config = by_its_knobs
    assert calm.run([], 1) is None
    for planned in [*sessions, []]:
        if disturbed.job.status is not JobStatus.SUCCEEDED:
            disturbed.run(planned, 1)
    assert story(disturbed) == story(calm)
    assert disturbed.job.result is not None
    assert calm.job.result is not None
    assert disturbed.job.result.stopped_by == calm.job.result.stopped_by
    assert len(disturbed.job.result.front.points) == len(calm.job.result.front.points)


# How a search ends


@pytest.mark.parametrize("devices", [1, 4])
def test_a_space_of_which_everything_was_launched_is_exhausted(devices: int, open_world: OpenWorld):
    """Of the 18 points half are too wide for one device; one in three is known to run as another before it is tried.

    Both happen to be found by the recipe and by the Sobol points in turn, so some of those are launched all the same.
    """
    world = open_world([GOOD], EVERYTHING)
    world.by_config = by_its_knobs
    assert world.run([], devices) is None
    points = {truly(trial.config) for trial in world.searched}
    assert world.result.stopped_by == "exhausted"
    assert len(points) == (6 if devices == 1 else 12)
    assert len(world.searched) <= (9 if devices == 1 else 18)


def test_a_space_in_which_nothing_launches_is_infeasible(open_world: OpenWorld):
    world = open_world([Play(FailureClass.OOM)], EVERYTHING)
    assert world.run([], 4) is None
    assert world.result.stopped_by == "infeasible"
    assert len(world.launched) == 18  # each point once


def test_a_space_in_which_nothing_launches_is_given_up_early(open_world: OpenWorld):
    world = open_world([Play(FailureClass.CONFIG)], {**EVERYTHING, "failures": 3})
    assert world.run([], 4) is None
    assert (world.result.stopped_by, len(world.launched)) == ("infeasible", 3)


def test_a_trial_that_is_measured_after_all_others_failed_makes_the_space_exhausted(open_world: OpenWorld):
    """The baseline is still loading when the last point of the space has failed."""
    slow = Play(polls=40)
    world = open_world([slow, *[Play(FailureClass.OOM)] * 17], EVERYTHING)
    assert world.run([], 4) is None
    assert world.result.stopped_by == "exhausted"


def test_a_space_that_never_meets_the_sla_ends_by_its_budget_with_an_empty_front(open_world: OpenWorld):
    world = open_world([Play(p99_ttft_ms=600.0)], BUDGET)
    assert world.run([], 2) is None
    assert (world.result.stopped_by, world.result.front.points) == ("trials", ())
    assert world.result.recommendation.trial is None
    assert world.result.recommendation.closest_trial is not None


def test_interruptions_in_a_row_end_the_job_and_a_resume_goes_on(open_world: OpenWorld):
    """Each trial gets two launches; the second time the machine is well."""
    ill = [Play(FailureClass.NODE)] * 4
    world = open_world([*ill, *[GOOD] * 20], {**BUDGET, "environment_failures": 2})
    assert isinstance(world.run([], 1), EnvironmentProblem)
    assert (world.job.status, world.result.stopped_by) == (JobStatus.FAILED, "environment_failures")
    assert len(world.launched) == 4
    assert world.run([], 1) is None
    assert (world.job.status, world.result.stopped_by) == (JobStatus.SUCCEEDED, "trials")


@pytest.mark.parametrize("failure", [FailureClass.ENVIRONMENT, FailureClass.DEFECT])
def test_a_broken_environment_ends_the_job_after_one_launch(failure: FailureClass, open_world: OpenWorld):
    """Four devices are free, but nothing was measured yet."""
    world = open_world([Play(failure)], BUDGET)
    assert isinstance(world.run([], 4), EnvironmentProblem)
    assert (world.job.status, world.result.stopped_by, len(world.launched)) == (JobStatus.FAILED, "failed", 1)


# What a resume goes on with


@pytest.mark.parametrize("failure", [FailureClass.ENVIRONMENT, FailureClass.CANCELLED])
def test_a_job_that_lost_its_baseline_measures_it_when_it_goes_on(failure: FailureClass, open_world: OpenWorld):
    world = open_world([Play(failure), *[GOOD] * 20], {**BUDGET, "environment_failures": 1})
    world.run([], 2)
    assert world.job.status is JobStatus.FAILED
    assert world.run([], 2) is None
    baselines = [trial for trial in world.searched if trial.purpose == "baseline"]
    assert [isinstance(trial.result and trial.result.outcome, Measured) for trial in baselines] == [False, True]
    assert world.result.confirmations[0].trial == baselines[1].number
    assert world.result.recommendation.versus_baseline is not None


def test_a_trial_that_takes_its_tuner_down_is_given_up(open_world: OpenWorld):
    """Four times at most; then it counts as interrupted."""
    world = open_world([GOOD], BUDGET)
    world.fatal = lambda request: request.number == 1
    for _ in range(MOST_LAUNCHES):
        assert isinstance(world.run([], 1), Killed)
    assert world.run([], 1) is None
    assert [request.number for request in world.launched].count(1) == MOST_LAUNCHES
    assert isinstance(world.trials[1].result and world.trials[1].result.outcome, Interrupted)


def test_a_confirmation_that_no_device_is_left_for_ends_the_job_instead_of_waiting(open_world: OpenWorld):
    """The best configuration takes two devices; when it is to be confirmed, one of them has gone."""
    world = open_world([GOOD], EVERYTHING)
    world.by_config = by_its_knobs
    world.run([Disturbance("kill", 1000, late=False)], 2)
    searched = len(world.searched)
    assert world.result.stopped_by == "exhausted"
    assert any(trial.purpose == "confirmation" and trial.config.devices == 2 for trial in world.trials)
    smaller = open_world([GOOD], EVERYTHING)
    smaller.by_config = by_its_knobs
    smaller.leave_after = searched
    assert isinstance(smaller.run([], 2), EnvironmentProblem)
    assert smaller.job.status is JobStatus.FAILED
    assert smaller.run([], 2) is None


def test_a_confirmation_that_was_lost_is_finished_though_the_search_goes_on(open_world: OpenWorld):
    """Killed while it confirmed; then there are more devices, and wider configurations win."""
    world = open_world([GOOD], {**EVERYTHING, "confirm_top": 1})
    world.by_config = by_its_knobs
    world.fatal = lambda request: bool(request.confirm_seeds) and len(request.config.arguments) > 1
    assert isinstance(world.run([], 1), Killed)
    assert world.trials[-1].confirms not in (None, 0)
    assert world.trials[-1].result is None
    world.fatal = None
    assert world.run([], 2) is None
    assert max(trial.config.devices for trial in world.trials if trial.purpose == "confirmation") == 2


def test_a_trial_that_waits_for_devices_that_have_left_ends_the_job_instead_of_waiting(open_world: OpenWorld):
    """One of two devices becomes unwell while a trial that needs both is in line."""
    recipes = {"narrow": {"max_num_seqs": 4}, "wide": {"tensor_parallel_size": 2}}
    space = {**TINY["SPACE"], "starting_points": {"baseline": DEFAULTS, **recipes}}
    world = open_world([GOOD, Play(FailureClass.HARDWARE, polls=3), GOOD], EVERYTHING, space)
    assert isinstance(world.run([], 2), EnvironmentProblem)
    assert [request.config.devices for request in world.launched[:3]] == [1, 1, 2]


def test_the_model_of_the_search_may_be_a_gaussian_process(open_world: OpenWorld):
    world = open_world([GOOD], {**BUDGET, "trials": 3, "start_points": 1, "confirm_top": 0}, sampler="gp")
    world.by_config = by_its_knobs
    world.run([Disturbance("kill", 40, late=True)], 1)
    assert world.run([], 1) is None
    assert [trial.origin for trial in world.searched] == ["baseline", "recipe:queues", "gp", "gp"]
    assert world.differences() == []
