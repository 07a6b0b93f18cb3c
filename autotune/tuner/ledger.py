"""The rows of one job while it runs: committed first, then shown in the study people watch."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from autotune.errors import StoreError
from autotune.results import Evidence, FailureClass, Interrupted, Job, Trial, TrialResult
from autotune.store import Lease, Store
from autotune.study.persisted import PersistedStudy
from autotune.telemetry import get_logger
from autotune.tuner.owner import gone, owner, utc_now

log = get_logger()

Clock = Callable[[], float]


def not_judged(failure: FailureClass, cause: str) -> TrialResult:
    """The result of a trial that nobody saw the end of."""
    evidence = Evidence(failure=failure, signature=None, cause=cause, advice="The engine's log may tell more.")
    return TrialResult(outcome=Interrupted(evidence=evidence))


def cancelled_instead(outcome: Interrupted) -> Interrupted:
    """An interruption of a job that is being stopped: it would have been tried again, so it was not judged."""
    told = {"failure": FailureClass.CANCELLED, "advice": "The job was stopped, so it was not tried once more."}
    evidence = outcome.evidence.model_copy(update=told)
    return outcome.model_copy(update={"evidence": evidence})


@dataclass(frozen=True, slots=True)
class Books:
    """Where a job is written down: our database with the right to write to it, and the study people watch."""

    store: Store
    lease: Lease
    study: PersistedStudy


@contextmanager
def leased(store: Store, job_id: str) -> Iterator[Lease]:
    """The right to write to a job, as long as the block lasts. Raises JobTaken while another process runs it."""
    lease = store.claim(job_id, owner(), now=utc_now(), gone=gone)
    try:
        yield lease
    finally:
        with suppress(StoreError):  # it runs out by itself, and whatever happened before matters more
            store.release(lease)


class Ledger:
    """A job's trials in memory, in our rows and in the study.

    Our rows are the truth: whatever happens is committed there first. A study that cannot be written to is brought
    into line later and never holds up the job. Every method that writes raises LeaseLost once another process has
    taken the job over, and StoreError when the database does not come back. `is_searched` false: the search is over,
    and no time counts for it any more.
    """

    def __init__(self, job: Job, books: Books, clock: Clock = time.monotonic, *, is_searched: bool = True) -> None:
        self.job_id = job.id
        self._store, self._lease, self._study = books.store, books.lease, books.study
        self._clock = clock
        self._started_s = clock()
        self._search_ended_s = None if is_searched else self._started_s
        self._worked_before_s = job.worked_s
        self.read()
        self._study_is_behind = True  # until it was compared with the rows once

    def read(self) -> None:
        """Take the rows as they are in the database."""
        self._trials = {trial.number: trial for trial in self._store.trials(self.job_id)}

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Every row of the job so far, by number."""
        return tuple(self._trials[number] for number in sorted(self._trials))

    @property
    def searched(self) -> tuple[Trial, ...]:
        """The baseline and the search trials."""
        return tuple(trial for trial in self.trials if trial.is_searched)

    @property
    def next_number(self) -> int:
        """The number of the next trial."""
        return max(self._trials, default=-1) + 1

    @property
    def worked_s(self) -> float:
        """Seconds that the job has been searched, over all resumes."""
        until_s = self._clock() if self._search_ended_s is None else self._search_ended_s
        return self._worked_before_s + until_s - self._started_s

    def end_search(self) -> None:
        """From now on the time counts for nothing: confirmation and attribution have no budget."""
        if self._search_ended_s is None:
            self._search_ended_s = self._clock()

    def is_open(self, number: int) -> bool:
        """Whether the trial has no result yet."""
        return self._trials[number].result is None

    def cancel_requested(self) -> bool:
        """Say that this process still works on the job; returns whether somebody asked for its end."""
        return self._store.renew(self._lease, now=utc_now(), worked_s=self.worked_s)

    def begin(self, trial: Trial) -> None:
        """Write down that a trial is being launched for the first time."""
        self._store.start_trial(self._lease, trial)
        self._trials[trial.number] = trial
        self._show(trial, self._study.started)

    def begin_again(self, number: int, *, occupied_device_s: float = 0.0, failed: bool = False) -> Trial:
        """Write down that a running trial is being launched once more, and what the last launch has occupied.

        `failed` tells a launch that ended by itself, and counts for the verdict, from one that was lost with its tuner.
        """
        trial = self._trials[number]
        again = self._store.relaunch_trial(
            self._lease,
            number,
            attempts=trial.attempts + 1,
            failures=trial.failures + failed,
            earlier_device_s=trial.earlier_device_s + occupied_device_s,
        )
        self._trials[number] = again
        return again

    def finish(self, number: int, result: TrialResult) -> Trial:
        """Write down what came of a trial."""
        finished_at = utc_now()
        self._store.finish_trial(self._lease, number, result, finished_at)
        trial = self._trials[number].model_copy(update={"result": result, "finished_at": finished_at})
        self._trials[number] = trial
        self._show(trial, self._study.finished)
        return trial

    def close_open_trials(self) -> None:
        """Write down that the job was stopped during the trials that have no result."""
        self.read()
        for trial in self.trials:
            if trial.result is None:
                self.finish(trial.number, not_judged(FailureClass.CANCELLED, "The job was stopped."))

    def compare_study(self) -> None:
        """Bring the study into line with the rows if it may be behind."""
        if not self._study_is_behind:
            return
        try:
            self._study.sync(self.searched)
        except StoreError as exc:
            log.warning("study_behind", job=self.job_id, problem=str(exc))
        else:
            self._study_is_behind = False

    def _show(self, trial: Trial, tell: Callable[[Trial], None]) -> None:
        if not trial.is_searched:
            return
        if self._study_is_behind:
            self.compare_study()
            return
        try:
            tell(trial)
        except StoreError as exc:
            log.warning("study_behind", job=self.job_id, trial=trial.number, problem=str(exc))
            self._study_is_behind = True
