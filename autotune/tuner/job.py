"""A job from wherever it stands to its stored result."""

import dataclasses

from autotune.errors import AutotuneError, StoreError
from autotune.results import ENDED, Job, JobStatus
from autotune.spec import JobSpec
from autotune.telemetry import get_logger
from autotune.tuner.confirm import concluded, confirm
from autotune.tuner.context import JobContext
from autotune.tuner.events import Observer
from autotune.tuner.explain import explain_job, nothing_to_explain
from autotune.tuner.ledger import Books, Ledger, leased
from autotune.tuner.loop import STOP_S, Devices, EnvironmentFailures, JobCancelled, Seats, Tuning
from autotune.tuner.owner import utc_now

log = get_logger()


class HandOver(Exception):
    """Whoever runs the job shall leave it to another process: nothing is judged, and its trials are launched again."""


def run_job(context: JobContext, books: Books, fleet: Devices, observe: Observer) -> Job:
    """Run a job that is already in the store and leased, from wherever it stands to its end.

    Its status, result and front are stored however it ends, unless the database is lost or another process has taken
    the job over: then only the engines are ended. Its explanation, where the job asks for one, begins after its success
    was stored, and changes nothing about that. Raises JobCancelled or KeyboardInterrupt when somebody asked for the
    end, HandOver when an observer did, AutotuneError when the job failed.
    """
    ledger = Ledger(context.job, books)
    books.store.set_status(books.lease, JobStatus.RUNNING)
    ledger.compare_study()
    tuning = Tuning(context, Seats(ledger, fleet), observe)
    try:
        stopped_by = tuning.search()
        confirm(tuning)
    except (JobCancelled, KeyboardInterrupt, SystemExit):  # the last is Ray's answer to SIGTERM
        tuning.abandon(within_s=STOP_S)
        _finish(context.spec, ledger, books, JobStatus.CANCELLED, "cancelled")
        raise
    except HandOver:
        tuning.stop_engines(within_s=STOP_S)
        raise
    except StoreError:  # nothing can be written any more, and whoever has the job now would not want it
        tuning.stop_engines(within_s=STOP_S)
        raise
    except AutotuneError as exc:
        tuning.abandon(within_s=STOP_S)
        limit = "environment_failures" if isinstance(exc, EnvironmentFailures) else "failed"
        _finish(context.spec, ledger, books, JobStatus.FAILED, limit, str(exc))
        raise
    except Exception as exc:  # the job's boundary: a defect is a traceback for us and a failed job for the user
        log.exception("job_crashed", job=context.job.id)
        tuning.abandon(within_s=STOP_S)
        _finish(context.spec, ledger, books, JobStatus.FAILED, "failed", f"{type(exc).__name__}: {exc}")
        raise
    _finish(context.spec, ledger, books, JobStatus.SUCCEEDED, stopped_by)
    # Too late for the job, in time for its explanation; none is taken from here until that claims the job.
    asked_to_stop = books.store.cancel_requested(context.job.id)
    if context.spec.attribution and not asked_to_stop:
        _explain(context, books, fleet, observe)
    return books.store.job(context.job.id)


def _explain(context: JobContext, books: Books, fleet: Devices, observe: Observer) -> None:
    job, trials = books.store.job(context.job.id), books.store.trials(context.job.id)
    problem = nothing_to_explain(job, trials)
    if problem:
        log.info("job_not_explained", job=job.id, reason=problem)
        return
    with leased(books.store, job.id) as lease:
        explain_job(context, dataclasses.replace(books, lease=lease), fleet, observe)


def close_job(job: Job, books: Books) -> None:
    """End a job that nobody runs any more as cancelled, with what was measured."""
    if books.store.job(job.id).status in ENDED:
        return  # whoever ran it was faster
    ledger = Ledger(job, books)
    ledger.close_open_trials()
    _finish(JobSpec.model_validate(job.spec), ledger, books, JobStatus.CANCELLED, "cancelled")


def fail_job(job: Job, books: Books, message: str) -> None:
    """End a leased job that cannot be run here as failed, with what was measured before."""
    ledger = Ledger(job, books)
    ledger.close_open_trials()
    _finish(JobSpec.model_validate(job.spec), ledger, books, JobStatus.FAILED, "failed", message)


def _finish(spec: JobSpec, ledger: Ledger, books: Books, status: JobStatus, stopped_by: str, message: str = "") -> None:
    ledger.compare_study()
    result = concluded(ledger.trials, spec.sla, stopped_by)
    books.store.finish_job(books.lease, status, result, finished_at=utc_now(), message=message)
    ledger.compare_study()  # once more where it could not be written to just now: nobody looks after an ended job's
