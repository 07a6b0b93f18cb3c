"""The loop of one job. Our rows come first: an outcome is committed, then told to the study."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from autotune.diagnosis import outcome_of
from autotune.engine_config import EngineConfig, Value
from autotune.errors import EnvironmentProblem
from autotune.fleet import Fleet
from autotune.results import Evidence, FailureClass, Interrupted, Trial, TrialResult
from autotune.search_space import BASELINE, active, broken_rules, starting_point
from autotune.store import Store
from autotune.study.grid import Grid
from autotune.study.persisted import PersistedStudy
from autotune.study.proposer import Plan, propose
from autotune.telemetry import get_logger
from autotune.trial import TrialRequest
from autotune.tuner.budget import stop_reason
from autotune.tuner.context import JobContext
from autotune.tuner.events import Event, Observer, Phase

log = get_logger()

POLL_S = 1.0  # between looks at the fleet, the cancel column and the clock
MOST_START_POINTS = 10
ABANDON_TIMEOUT_S = 180.0  # for engines that are being stopped; their supervisors go on without us


class JobCancelled(Exception):
    """Somebody asked for the end of the job."""


@dataclass(frozen=True, slots=True)
class Seats:
    """Where the loop works: our database, the study people watch, the devices."""

    store: Store
    study: PersistedStudy
    fleet: Fleet


class Tuning:
    """The search of one job, and the launches of its confirmation; holds the rows and the attempts in flight."""

    def __init__(
        self, context: JobContext, seats: Seats, observe: Observer, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.context = context
        self._store, self._study, self._fleet = seats.store, seats.study, seats.fleet
        self._observe = observe
        self._clock = clock
        self._started_s = clock()
        self._plan = proposer_plan(context)
        self._trials: dict[int, Trial] = {}
        self._seen: set[str] = set()

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Every row of the job so far, by number."""
        return tuple(self._trials[number] for number in sorted(self._trials))

    @property
    def searched(self) -> tuple[Trial, ...]:
        """The baseline and the search trials."""
        return tuple(trial for trial in self.trials if trial.purpose != "confirmation")

    def search(self) -> str:
        """Launch the baseline and what the proposer asks for until a limit is reached; returns the limit's name."""
        reason: str | None = None
        while True:
            reason = reason or self._launch_while_there_is_room()
            if not self._fleet.busy:
                if reason is not None:
                    return reason
                self._fleet.check_fits(1)  # all free and still no room: the devices have left the cluster
            self._wait("baseline and search", len(self.searched), self.context.spec.budget.trials + 1)

    def _launch_while_there_is_room(self) -> str | None:
        """Fill the free devices; returns why no further trial will be launched, None when there may be some later."""
        while (reason := self._stop_reason()) is None and self._fleet.has_room(1):
            trial = self._baseline() if not self._trials else self._proposed()
            if trial is None:
                return "exhausted"
            self._begin(trial, self._search_request(trial))
        return reason

    def _stop_reason(self) -> str | None:
        elapsed_s = self._clock() - self._started_s
        return stop_reason(self.context.spec.budget, self.searched, elapsed_s=elapsed_s)

    def measure_again(self, trial: Trial, *, level: int, planned: tuple[int, int]) -> Trial:
        """Launch a finished trial's configuration alone, and measure one level with fresh seeds."""
        again = Trial(
            number=len(self._trials),
            purpose="confirmation",
            origin=f"trial {trial.number}",
            knobs=trial.knobs,
            config=trial.config,
            confirms=trial.number,
            started_at=datetime.now(UTC),
        )
        spec = self.context.spec
        seeds = tuple(spec.seed + run + 1 for run in range(spec.budget.confirm_runs))
        self._begin(again, self._request(again, levels=(level,), seeds=seeds))
        while self._fleet.busy:
            self._wait("confirmation", *planned)
        return self._trials[again.number]

    def abandon(self) -> None:
        """Cancel what runs and record how it ended, so that no trial of an ended job stays open."""
        deadline_s = self._clock() + ABANDON_TIMEOUT_S
        while self._fleet.busy and self._clock() < deadline_s:
            self._fleet.cancel_all()  # again and again: a trial that is just beginning may have missed it
            for request, result in self._fleet.finished(timeout_s=POLL_S):
                self._finish(request.number, result)

    def _wait(self, phase: Phase, done: int, planned: int) -> None:
        if self._store.cancel_requested(self.context.job.id):
            raise JobCancelled
        ended = self._fleet.finished(timeout_s=POLL_S)
        running = self._fleet.progress()
        if not ended:
            self._observe(Event(phase, done - len(self._fleet.busy), planned, running=running))
        for request, result in ended:
            trial = self._absorb(request, result)
            self._observe(Event(phase, done - len(self._fleet.busy), planned, finished=trial, running=running))

    def _baseline(self) -> Trial:
        knobs = starting_point(self.context.space, BASELINE)
        return self._row("baseline", dict(knobs), self.context.baseline)

    def _proposed(self) -> Trial | None:
        most = self._fleet.most_devices
        proposal = propose(self._plan, self.searched, lambda knobs: self._accept(knobs, most))
        if proposal is None:
            return None
        return self._row(proposal.origin, proposal.knobs, self.context.configuration(proposal.knobs))

    def _row(self, origin: str, knobs: Mapping[str, Value], config: EngineConfig) -> Trial:
        return Trial(
            number=len(self._trials),
            purpose="baseline" if origin == "baseline" else "search",
            origin=origin,
            knobs=active(self.context.space, knobs),
            config=config,
            started_at=datetime.now(UTC),
        )

    def _accept(self, knobs: dict[str, Value], most_devices: int) -> bool:
        """Whether a configuration keeps the rules, fits the devices and was not launched before in this job."""
        config = self.context.configuration(knobs)
        given = {name: value for name, value in config.arguments.items() if isinstance(value, bool | int | float | str)}
        derived = {**given, **self.context.derived, "devices": config.devices}
        return (
            not broken_rules(self.context.space, knobs, derived)
            and config.devices <= most_devices
            and config.hash not in self._seen
        )

    def _begin(self, trial: Trial, request: TrialRequest) -> None:
        self._fleet.check_fits(trial.config.devices)
        self._store.start_trial(self.context.job.id, trial)
        self._trials[trial.number] = trial
        self._seen.add(self.context.configuration({**self._plan.placement, **trial.knobs}).hash)
        self._seen.add(trial.config.hash)
        if trial.purpose != "confirmation":
            self._study.started(trial)
        self._fleet.start(request)
        log.info("trial_started", job=self.context.job.id, trial=trial.number, origin=trial.origin)

    def _absorb(self, request: TrialRequest, result: TrialResult) -> Trial | None:
        """Commit an outcome and tell it; or launch again what failed for no fault of its own (returns None)."""
        outcome = result.outcome
        if isinstance(outcome, Interrupted):
            verdict = outcome_of(outcome.evidence.failure, attempt=request.attempt)
            if verdict == "retry":
                self._fleet.start(request.next_attempt())
                return None
            if verdict == "abort":
                self._finish(request.number, result)
                raise EnvironmentProblem(_abort_message(outcome.evidence))
            self._seen.discard(request.config.hash)  # nothing was learnt about it
        return self._finish(request.number, result)

    def _finish(self, number: int, result: TrialResult) -> Trial:
        finished_at = datetime.now(UTC)
        self._store.finish_trial(self.context.job.id, number, result, finished_at)
        trial = self._trials[number].model_copy(update={"result": result, "finished_at": finished_at})
        self._trials[number] = trial
        if trial.purpose != "confirmation":
            self._study.finished(trial)
        log.info("trial_finished", job=self.context.job.id, trial=number, outcome=result.outcome.kind)
        return trial

    def _search_request(self, trial: Trial) -> TrialRequest:
        return self._request(trial, levels=tuple(range(len(self.context.workload.levels))), seeds=())

    def _request(self, trial: Trial, *, levels: tuple[int, ...], seeds: tuple[int, ...]) -> TrialRequest:
        context = self.context
        return TrialRequest(
            job=context.job.id,
            number=trial.number,
            config=trial.config,
            profile=context.profile,
            resource=context.spec.devices.resource,
            model=context.model,
            engine_version=context.engine.version,
            workload=context.workload,
            sla=context.spec.sla,
            levels=levels,
            search_seed=context.spec.seed,
            confirm_seeds=seeds,
            folder=context.folder,
        )


def proposer_plan(context: JobContext) -> Plan:
    """What the proposer needs of a job."""
    spec, space = context.spec, context.space
    start = spec.budget.start_points
    return Plan(
        grid=Grid.of(space),
        sla=spec.sla,
        placement=starting_point(space, BASELINE),
        recipes={name: starting_point(space, name) for name in space.starting_points if name != BASELINE},
        start_points=start if start is not None else min(MOST_START_POINTS, max(1, spec.budget.trials // 3)),
        sampler=spec.sampler,
        objectives=spec.objectives,
        seed=spec.seed,
    )


def _abort_message(evidence: Evidence) -> str:
    what = "the tuner has a defect" if evidence.failure is FailureClass.DEFECT else "the engine's environment is broken"
    return (
        f"{what}, every trial would fail: {evidence.cause} {evidence.advice} "
        f"(line: {evidence.line or '-'}; log: {evidence.log_path or '-'})"
    )
