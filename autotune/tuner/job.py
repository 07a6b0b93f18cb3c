"""A job from its first launch to its stored result."""

from collections.abc import Sequence
from datetime import UTC, datetime

from autotune.errors import AutotuneError
from autotune.results import Confirmation, Infeasible, Job, JobResult, JobStatus, LoadPoint, Measured, Trial
from autotune.selection import pareto_front, recommend
from autotune.telemetry import get_logger
from autotune.tuner.confirm import confirm
from autotune.tuner.context import JobContext
from autotune.tuner.events import Observer
from autotune.tuner.loop import JobCancelled, Seats, Tuning

log = get_logger()


def run_job(context: JobContext, seats: Seats, observe: Observer) -> Job:
    """Run a job that is already in the store; its status, result and front are stored however it ends.

    Raises JobCancelled or KeyboardInterrupt when somebody asked for the end, AutotuneError when the job failed.
    """
    tuning = Tuning(context, seats, observe)
    seats.store.set_status(context.job.id, JobStatus.RUNNING)
    confirmations: tuple[Confirmation, ...] = ()
    try:
        stopped_by = tuning.search()
        confirmations = confirm(tuning)
    except (JobCancelled, KeyboardInterrupt, SystemExit):  # the last is Ray's answer to SIGTERM
        tuning.abandon()
        _finish(tuning, seats, JobStatus.CANCELLED, "cancelled", confirmations)
        raise
    except AutotuneError as exc:
        tuning.abandon()
        _finish(tuning, seats, JobStatus.FAILED, "failed", confirmations, message=str(exc))
        raise
    except Exception as exc:  # the job's boundary: a defect is a traceback for us and a failed job for the user
        log.exception("job_crashed", job=context.job.id)
        tuning.abandon()
        _finish(tuning, seats, JobStatus.FAILED, "failed", confirmations, message=f"{type(exc).__name__}: {exc}")
        raise
    _finish(tuning, seats, JobStatus.SUCCEEDED, stopped_by, confirmations)
    return seats.store.job(context.job.id)


def _finish(
    tuning: Tuning,
    seats: Seats,
    status: JobStatus,
    stopped_by: str,
    confirmations: Sequence[Confirmation],
    *,
    message: str = "",
) -> None:
    trials = tuning.searched
    result = JobResult(
        stopped_by=stopped_by,
        front=pareto_front(trials, demoted=_demoted(tuning.trials, confirmations)),
        recommendation=recommend(trials, confirmations, tuning.context.spec.sla),
        confirmations=tuple(confirmations),
    )
    seats.store.finish_job(tuning.context.job.id, status, result, finished_at=datetime.now(UTC), message=message)


def _demoted(trials: Sequence[Trial], confirmations: Sequence[Confirmation]) -> frozenset[tuple[int, int]]:
    """The load points (trial, level) that leave the front: re-runs did not keep the SLA, or did not even launch."""
    missed = {(c.trial, c.runs[0].level) for c in confirmations if not c.holds}
    broken = {
        (trial.confirms, point.level)
        for trial in trials
        if trial.confirms is not None and trial.result and isinstance(trial.result.outcome, Infeasible)
        for point in _points(trials[trial.confirms])
    }
    return frozenset(missed | broken)


def _points(trial: Trial) -> tuple[LoadPoint, ...]:
    outcome = trial.result.outcome if trial.result else None
    return outcome.points if isinstance(outcome, Measured) else ()
