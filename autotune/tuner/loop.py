"""The loop of one job: launch, wait, write down, until a limit is reached."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from autotune.diagnosis import Verdict, outcome_of
from autotune.errors import EnvironmentProblem
from autotune.results import Evidence, FailureClass, Interrupted, LoadPoint, Measured, Trial, TrialOutcome, TrialResult
from autotune.telemetry import get_logger
from autotune.trial import TrialRequest
from autotune.tuner.budget import Spent, measured_any, occupied_s, stop_reason, was_interrupted
from autotune.tuner.candidates import Candidates
from autotune.tuner.context import JobContext
from autotune.tuner.events import Event, Observer, Phase
from autotune.tuner.ledger import Ledger, cancelled_instead, not_judged
from autotune.tuner.owner import utc_now
from autotune.tuner.requests import confirmation_request, search_request

log = get_logger()

POLL_S = 1.0  # between looks at the fleet, the cancel column and the clock
STOP_S = 60.0  # for engines that are being stopped; their supervisors go on without us
NOTHING_LEFT = ("exhausted", "infeasible")  # ends of a search that no line of the budget has named
MOST_LAUNCHES = 4  # of one trial, those that were lost with a killed tuner included
UP = frozenset({"warming up", "loading"})  # stages in which an engine surely works
IN_LINE = frozenset({"queued", "waiting for devices"})  # stages that occupy no device


class JobCancelled(Exception):
    """Somebody asked for the end of the job."""


class EnvironmentFailures(EnvironmentProblem):
    """Too many trials in a row ended without a verdict about their configuration."""


class Devices(Protocol):
    """The devices that trials run on: a Ray cluster, or a stand-in that plays trials in virtual time."""

    @property
    def busy(self) -> tuple[int, ...]:
        """Numbers of the running trials."""

    @property
    def most_devices(self) -> int:
        """The widest configuration that fits."""

    def check_fits(self, wanted: int) -> None:
        """Raise EnvironmentProblem when a trial of that width could never run."""

    def has_room(self, wanted: int) -> bool:
        """Whether a trial of that width could start now."""

    def start(self, request: TrialRequest) -> None:
        """Start a trial."""

    def finished(self, *, timeout_s: float) -> list[tuple[TrialRequest, TrialResult]]:
        """The trials that ended, waiting for one up to `timeout_s`."""

    def progress(self) -> Mapping[int, Mapping[str, Any]]:
        """What each running trial does now."""

    def cancel_all(self) -> None:
        """Ask every running trial to stop."""

    def kill_all(self) -> None:
        """Give every running trial up at once; the engines are ended behind our back."""


@dataclass(frozen=True, slots=True)
class Seats:
    """Where the loop works: the job's rows, and the devices."""

    ledger: Ledger
    fleet: Devices


@dataclass(frozen=True, slots=True)
class Turn:
    """Where a launch stands among those that come one at a time."""

    phase: Phase
    done: int  # when this one has ended too
    planned: int


class Tuning:
    """The search of one job, and the launches of its confirmation and its attribution.

    Rows that are still running when it begins were lost with another tuner: they are launched again, under their own
    numbers, before anything new.
    """

    def __init__(self, context: JobContext, seats: Seats, observe: Observer) -> None:
        self.context = context
        self._ledger, self._fleet = seats.ledger, seats.fleet
        self._observe = observe
        self._candidates = Candidates(context)
        self._proven = measured_any(self._ledger.trials)
        self._without_verdict = 0  # trials in a row
        self._arrived: list[tuple[TrialRequest, TrialResult]] = []  # ended, and not written down yet
        self._occupies_since_s: dict[int, float] = {}  # running trial -> the job's time when it was first seen at work
        self._lost = [trial.number for trial in self.searched if trial.result is None]

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Every row of the job so far, by number."""
        return self._ledger.trials

    @property
    def searched(self) -> tuple[Trial, ...]:
        """The baseline and the search trials."""
        return self._ledger.searched

    @property
    def next_number(self) -> int:
        """The number of the next row."""
        return self._ledger.next_number

    @property
    def most_devices(self) -> int:
        """The widest configuration that fits."""
        return self._fleet.most_devices

    def search(self) -> str:
        """Launch the baseline and what the proposer asks for until a limit is reached; returns the limit's name."""
        reason: str | None = None
        while True:
            self._relaunch_lost()
            if reason is None or not self._fleet.busy:
                found = self._launch_new()
                # What was still running may have given it the lie; a limit that still holds keeps its name.
                reason = found if found is None or reason in (None, *NOTHING_LEFT) else reason
            if not self._fleet.busy:
                if reason is not None and not self._lost:
                    self._ledger.end_search()
                    return reason
                self._fleet.check_fits(1)  # all free and still no room: the devices have left the cluster
            self._wait("baseline and search", len(self.searched), self.context.spec.budget.trials + 1)

    def measure_again(self, trial: Trial, *, point: LoadPoint, planned: tuple[int, int]) -> Trial:
        """Launch a finished trial's configuration alone, and measure one level with fresh seeds.

        A confirmation that is written down already is not repeated, unless it was interrupted.
        """
        row = next((t for t in self.trials if t.confirms == trial.number and not was_interrupted(t)), None)
        return self.launch_alone(
            row or self._confirmation(trial),
            lambda launched: confirmation_request(self.context, launched, point),
            Turn("confirmation", *planned),
        )

    def launch_alone(self, row: Trial, ask: Callable[[Trial], TrialRequest], turn: Turn) -> Trial:
        """Launch a row that is no part of the search while nothing else runs, and wait for its end.

        One that is written down and finished is not repeated; one that was lost with its tuner is launched again.
        """
        known = next((t for t in self.trials if t.number == row.number), None)
        if known is None or known.result is None:
            self._fleet.check_fits(row.config.devices)  # devices may have left since its configuration ran
        if known is None:
            self._ledger.begin(row)
            self._start(ask(row))
        elif known.result is None and self._may_launch_again(known):
            self._start(ask(self._ledger.begin_again(row.number)))
        while self._fleet.busy:
            self._wait(turn.phase, turn.done, turn.planned)
        return next(t for t in self.trials if t.number == row.number)

    def stop_engines(self, *, within_s: float) -> None:
        """Cancel what runs, without writing anything down; what does not end in time is given up."""
        for _ in range(max(1, int(within_s / POLL_S))):
            if not self._fleet.busy:
                return
            self._fleet.cancel_all()
            self._fleet.finished(timeout_s=POLL_S)
        self._fleet.kill_all()

    def abandon(self, *, within_s: float) -> None:
        """Cancel what runs and write down how it ended, so that no trial of an ended job stays open.

        What does not end in time, or when the user does not wait for it (a second Ctrl-C), is given up at once. Trials
        without a verdict count as cancelled: they would have been tried again.
        """
        self._observe(Event("stopping", 0, len(self._fleet.busy)))
        try:
            self._ledger.read()  # an interrupt may have come between a commit and our noting it
            for _ in range(max(1, int(within_s / POLL_S))):
                self._write_down_arrived()
                if not self._fleet.busy:
                    break
                self._ledger.cancel_requested()  # it is still ours, and nobody should take it over meanwhile
                self._fleet.cancel_all()  # again and again: a trial that is just beginning may have missed it
                self._arrived += self._fleet.finished(timeout_s=POLL_S)
            self._write_down_arrived()
        except KeyboardInterrupt:
            log.warning("stop_not_waited_for", running=self._fleet.busy)
        self._fleet.kill_all()
        self._ledger.close_open_trials()

    def _write_down_arrived(self) -> None:
        while self._arrived:
            request, result = self._arrived[0]
            if isinstance(result.outcome, Interrupted):
                result = result.model_copy(update={"outcome": cancelled_instead(result.outcome)})
            if self._ledger.is_open(request.number):
                self._ledger.finish(request.number, result)
            self._arrived.pop(0)

    def _start(self, request: TrialRequest) -> None:
        self._occupies_since_s.pop(request.number, None)
        self._fleet.start(request)

    def _relaunch_lost(self) -> None:
        while self._lost and self._may_start():
            number = self._lost.pop(0)
            trial = next(trial for trial in self.trials if trial.number == number)
            if self._may_launch_again(trial):
                self._start(search_request(self.context, self._ledger.begin_again(number)))
                log.info("trial_relaunched", job=self.context.job.id, trial=number)

    def _may_launch_again(self, trial: Trial) -> bool:
        """Whether a trial that was lost with its tuner gets another launch.

        One that was lost too often, or is too wide for the devices there are now, is closed.
        """
        cause = f"This trial was launched {trial.attempts} times, and the tuner was lost with the last one."
        if trial.attempts < MOST_LAUNCHES:
            try:
                self._fleet.check_fits(trial.config.devices)
            except EnvironmentProblem as exc:
                cause = f"The tuner was lost during this trial, and it cannot be launched again: {exc}."
            else:
                return True
        self._ledger.finish(trial.number, not_judged(FailureClass.NODE, cause))
        return False

    def _launch_new(self) -> str | None:
        """Fill the free devices; returns why no further trial will be launched, None when there may be some later."""
        while (reason := self._stop_reason()) is None and not self._lost and self._may_start():
            self._hear_cancel()  # every question to the sampler may take seconds
            trial = self._next()
            if trial is None:
                return NOTHING_LEFT[0] if measured_any(self.searched) else NOTHING_LEFT[1]
            self._fleet.check_fits(trial.config.devices)
            self._hear_cancel()
            self._ledger.begin(trial)
            self._start(search_request(self.context, trial))
            log.info("trial_started", job=self.context.job.id, trial=trial.number, origin=trial.origin)
        return reason

    def _next(self) -> Trial | None:
        if self._candidates.lack_baseline(self.searched):
            return self._candidates.baseline(self._ledger.next_number)
        return self._candidates.proposed(self.searched, self._ledger.next_number, self._fleet.most_devices)

    def _may_start(self) -> bool:
        """Room for a trial; until an engine has come up once, one launch at a time finds out whether any can."""
        return self._fleet.has_room(1) and (self._proven or not self._fleet.busy)

    def _stop_reason(self) -> str | None:
        spent = Spent(self._ledger.worked_s, occupied_s(self.searched) + self._occupied_now_s())
        return stop_reason(self.context.spec.budget, self.searched, spent)

    def _occupied_now_s(self) -> float:
        """Device-seconds of the launches that run, without those that are still in line for their devices."""
        since_s, now_s = self._occupies_since_s, self._ledger.worked_s
        at_work = [trial for trial in self.searched if trial.number in since_s and trial.number in self._fleet.busy]
        return sum((now_s - since_s[trial.number]) * trial.config.devices for trial in at_work)

    def _hear_cancel(self) -> None:
        if self._ledger.cancel_requested():
            raise JobCancelled

    def _confirmation(self, trial: Trial) -> Trial:
        return Trial(
            number=self._ledger.next_number,
            purpose="confirmation",
            origin=f"trial {trial.number}",
            knobs=trial.knobs,
            config=trial.config,
            confirms=trial.number,
            started_at=utc_now(),
        )

    def _wait(self, phase: Phase, done: int, planned: int) -> None:
        self._hear_cancel()
        self._ledger.compare_study()
        self._arrived += self._fleet.finished(timeout_s=POLL_S)
        finished = []
        while self._arrived:  # what has arrived stays there until it is written down, whatever comes between
            request, result = self._arrived[0]
            finished.append(self._absorb(request, result))
            self._arrived.pop(0)
            if finished[-1] is not None:
                self._weigh(request, result.outcome)
        self._check_running_fit()
        running = self._fleet.progress()
        self._proven = self._proven or any(facts.get("stage") in UP for facts in running.values())
        for number, facts in running.items():
            if facts.get("stage") not in IN_LINE:
                self._occupies_since_s.setdefault(number, self._ledger.worked_s)
        for trial in finished or [None]:
            self._observe(Event(phase, done - len(self._fleet.busy), planned, finished=trial, running=running))

    def _check_running_fit(self) -> None:
        """A trial that is in line for devices which have left the cluster would wait for ever."""
        running = self._fleet.busy
        widths = [trial.config.devices for trial in self.trials if trial.number in running]
        if widths:
            self._fleet.check_fits(max(widths))

    def _absorb(self, request: TrialRequest, result: TrialResult) -> Trial | None:
        """Write down an outcome; or launch again what failed for no fault of its own (returns None)."""
        if _verdict(request, result.outcome) == "retry" and self._still_fits(request):
            self._ledger.begin_again(request.number, occupied_device_s=result.device_s, failed=True)
            self._start(request.next_attempt())
            return None
        trial = self._ledger.finish(request.number, self._judged(request, result))
        log.info("trial_finished", job=self.context.job.id, trial=trial.number, outcome=result.outcome.kind)
        return trial

    def _judged(self, request: TrialRequest, result: TrialResult) -> TrialResult:
        """The result as it is written down; one that would have been tried again, if there were devices, is open."""
        if _verdict(request, result.outcome) != "retry":
            return result
        assert isinstance(result.outcome, Interrupted)
        return result.model_copy(update={"outcome": cancelled_instead(result.outcome)})

    def _weigh(self, request: TrialRequest, outcome: TrialOutcome) -> None:
        """What a written outcome means for the job: it proves the engine, or that the machine is not fit."""
        if not isinstance(outcome, Interrupted):
            self._without_verdict = 0
            self._proven = self._proven or isinstance(outcome, Measured)
            return
        if _verdict(request, outcome) == "abort":
            raise EnvironmentProblem(_abort_message(outcome.evidence))
        self._fleet.check_fits(request.config.devices)
        self._count_without_verdict(outcome.evidence)

    def _still_fits(self, request: TrialRequest) -> bool:
        """Whether there are devices left for another attempt: unwell ones have left the pool."""
        try:
            self._fleet.check_fits(request.config.devices)
        except EnvironmentProblem:
            return False
        return True

    def _count_without_verdict(self, evidence: Evidence) -> None:
        self._without_verdict += 1
        if self._without_verdict >= self.context.spec.budget.environment_failures:
            raise EnvironmentFailures(
                f"{self._without_verdict} trials in a row ended for reasons that are not their configuration's; the "
                f"last: {evidence.cause} {evidence.advice} (log: {evidence.log_path or '-'}). What was measured is "
                f"kept; mend the machine, then: autotune resume {self.context.job.id}"
            )


def _verdict(request: TrialRequest, outcome: TrialOutcome) -> Verdict | None:
    """What an interruption means; None for an outcome that is a verdict itself."""
    if not isinstance(outcome, Interrupted):
        return None
    return outcome_of(outcome.evidence.failure, attempt=request.failures + 1)


def _abort_message(evidence: Evidence) -> str:
    what = "the tuner has a defect" if evidence.failure is FailureClass.DEFECT else "the engine's environment is broken"
    return (
        f"{what}, every trial would fail: {evidence.cause} {evidence.advice} "
        f"(line: {evidence.line or '-'}; log: {evidence.log_path or '-'})"
        + (f"\n{evidence.log_tail}" if evidence.failure is FailureClass.DEFECT else "")
    )
