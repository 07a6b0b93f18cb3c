"""The loop of a worker: claim the next job, run it to its end, claim the next one."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from autotune import __version__
from autotune.errors import AutotuneError, StoreError
from autotune.results import ENDED, Job, JobStatus
from autotune.settings import Settings
from autotune.store import Lease, SharedStore
from autotune.submission import SubmittedJob, WorkerSign
from autotune.telemetry import get_logger
from autotune.trial import sweep_host
from autotune.tuner.context import JobContext, check_same_engine, restore
from autotune.tuner.job import HandOver, close_job, fail_job
from autotune.tuner.ledger import Books
from autotune.tuner.loop import JobCancelled
from autotune.tuner.owner import gone, owner, utc_now
from autotune.tuner.work import open_fleet, open_study, tune
from autotune.worker.reporting import reporter

log = get_logger()

POLL_S = 1.0  # between two looks at an empty queue
SIGN_S = 10.0  # between two signs of life
TROUBLE_PAUSE_S = 5.0  # after a failure that was not the job's
PREPARATION_S = 900.0  # a job's lease is kept so long while its engine is probed and Ray starts


@dataclass(frozen=True, slots=True)
class Duty:
    """A job that this worker has."""

    job: Job
    lease: Lease


class Worker:
    """Runs the queue's jobs one after the other until it is asked to stop.

    One that is stopped hands its job over: engines are ended, the lease is given back, and another worker launches the
    trials that ran again. One that is killed loses its lease, with the same outcome.
    """

    def __init__(self, store: SharedStore, settings: Settings, stop: threading.Event) -> None:
        self._store, self._settings, self._stop = store, settings, stop
        self._owner = owner()
        self._started_at = utc_now()
        self._job: str | None = None
        self._preparing: tuple[Lease, float] | None = None  # a lease to keep, and until when on the monotonic clock

    def run(self, *, once: bool = False) -> None:
        """Work until asked to stop; `once`: until the queue is empty."""
        over = threading.Event()
        signs = threading.Thread(target=self._give_signs, args=(over,), daemon=True)
        signs.start()
        try:
            while not self._stop.is_set():
                if not self._work() and (once or self._stop.wait(POLL_S)):
                    return
        finally:
            over.set()
            signs.join()
            self._quietly(lambda: self._store.leave(self._owner))

    def _work(self) -> bool:
        """Run the next job; whether there was one."""
        try:
            found = self._store.claim_next(
                self._owner, now=utc_now(), limits=self._settings.service.limits_of, gone=gone
            )
        except StoreError as exc:
            log.warning("queue_unreachable", problem=str(exc))
            self._stop.wait(TROUBLE_PAUSE_S)
            return True
        if found is None:
            return False
        submitted, lease = found
        self._job = submitted.job.id
        log.info("job_claimed", job=self._job)
        try:
            self._run(submitted, Duty(submitted.job, lease))
        except Exception as exc:  # the worker's boundary: whatever one job does, the next one is run
            log.exception("job_run_failed", job=self._job)
            message = f"{type(exc).__name__}: {exc}"
            self._quietly(lambda: self._give_up(lease, message))
            self._stop.wait(TROUBLE_PAUSE_S)
        finally:
            self._job, self._preparing = None, None
            self._quietly(lambda: self._store.release(lease))
        return True

    def _run(self, submitted: SubmittedJob, duty: Duty) -> None:
        if submitted.cancel_requested:  # of a worker that was lost before it could obey
            close_job(duty.job, self._books(duty))
            return
        self._preparing = (duty.lease, time.monotonic() + PREPARATION_S)
        try:
            context = self._context(duty.job)
            self._tune(context, duty)
        except HandOver:
            log.info("job_handed_over", job=duty.job.id)
        except JobCancelled:
            log.info("job_cancelled", job=duty.job.id)
        except StoreError as exc:  # lost to another worker, or the database is away: somebody goes on with it later
            log.warning("job_lost", job=duty.job.id, problem=str(exc))
            self._stop.wait(TROUBLE_PAUSE_S)
        except AutotuneError as exc:
            log.warning("job_failed", job=duty.job.id, problem=str(exc))
            self._fail(duty, str(exc))

    def _context(self, job: Job) -> JobContext:
        context = restore(job, self._settings)
        check_same_engine(context, self._store.trials(job.id))
        ended = sweep_host()
        if ended:
            log.warning("engines_swept", processes=len(ended))
        return context

    def _tune(self, context: JobContext, duty: Duty) -> None:
        observe = reporter(self._store, duty.lease, self._stop)
        with open_fleet(context, self._settings, on_sigterm=lambda *_: self._stop.set()) as fleet:
            fleet.check_fits(context.baseline.devices)
            self._preparing = None
            tune(context, self._settings, self._store, duty.lease, fleet, observe)

    def _fail(self, duty: Duty, message: str) -> None:
        """End a job as failed, unless whatever ran it has done so."""
        stored = self._store.submitted(duty.job.id, tenant=None, now=utc_now())
        if stored.owner == self._owner:
            fail_job(stored.job, self._books(duty), message)

    def _give_up(self, lease: Lease, message: str) -> None:
        """End a job as failed that every worker would stumble over, without reading its documents once more."""
        if self._store.status_of(lease.job_id, tenant=None) not in ENDED:
            self._store.finish_job(lease, JobStatus.FAILED, None, finished_at=utc_now(), message=message)

    def _books(self, duty: Duty) -> Books:
        return Books(self._store, duty.lease, open_study(duty.job, self._settings))

    def _give_signs(self, over: threading.Event) -> None:
        while True:
            self._quietly(self._sign)
            if over.wait(SIGN_S):
                return

    def _sign(self) -> None:
        now: datetime = utc_now()
        self._store.sign(
            WorkerSign(owner=self._owner, started_at=self._started_at, seen_at=now, version=__version__, job=self._job)
        )
        preparing = self._preparing
        if preparing is not None and time.monotonic() < preparing[1]:
            self._store.extend(preparing[0], now=now)

    def _quietly(self, call: Callable[[], None]) -> None:
        try:
            call()
        except StoreError as exc:
            log.warning("worker_unheard", problem=str(exc))
