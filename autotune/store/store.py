"""The database as the rest of the program sees it: records in, records out, one transaction per call."""

import secrets
import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.orm import Session, sessionmaker

from autotune.errors import StoreError
from autotune.results import Job, JobResult, JobStatus, LoadPoint, Trial, TrialResult
from autotune.store import engine, jobs, migrate, trials
from autotune.store import lease as leases
from autotune.store.lease import Lease
from autotune.store.retry import RETRY_S, Patience, is_away, keep_trying, was_cut

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class Store:
    """Jobs, trials and load points in one database. Threads may share it; processes open one each.

    Every call is tried again for `retry_s` while the database is away, and may be repeated by the caller: what is
    written already is not written twice. Writes to a job need its lease, else they raise LeaseLost and write nothing.
    """

    def __init__(
        self,
        opened: Engine,
        pause: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        retry_s: float = RETRY_S,
    ) -> None:
        self._engine = opened
        self._patience = Patience(pause, clock, retry_s)
        self._shown = opened.url.render_as_string(hide_password=True)
        self._reads = sessionmaker(opened)
        self._writes = sessionmaker(opened.execution_options(**{engine.WRITES: True}))

    @classmethod
    def open(
        cls,
        url: str,
        pause: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        retry_s: float = RETRY_S,
    ) -> Self:
        """Connect and bring the schema up to date.

        `url` is `sqlite:///FILE` (missing folders are made) or `postgresql://…`. Raises InputError for another URL
        and StoreError when the database cannot be reached or is newer than this version. A server that cannot be
        reached is told at once: the address may be wrong.
        """
        parsed = engine.parse_url(url)
        opened = engine.connect(parsed)
        shown = parsed.render_as_string(hide_password=True)
        try:
            keep_trying(partial(migrate.upgrade, opened), was_cut, Patience(pause, clock, retry_s), shown)
        except DBAPIError as exc:
            opened.dispose()
            raise StoreError(
                f"the database {shown} cannot be opened: {exc.orig}; check the URL and the server"
            ) from exc
        except StoreError:
            opened.dispose()
            raise
        return cls(opened, pause, clock, retry_s)

    def close(self) -> None:
        """Give every connection back."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _exc: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.close()

    def create_job(self, job: Job) -> None:
        """Add a job that has no result yet. Raises StoreError when another job has its id."""
        if job.result is not None:
            raise ValueError(f"job {job.id!r} has a result already; a job starts without one")
        self._write(jobs.create, job)

    def job(self, key: str) -> Job:
        """The job with this id, else the newest with this name, else the only one whose id starts so.

        Raises NotFound, and InputError when several ids start so.
        """
        return self._read(jobs.named, key)

    def jobs(self) -> tuple[Job, ...]:
        """All jobs, newest first."""
        return self._read(jobs.every)

    def claim(self, job_id: str, owner: str, *, now: datetime, gone: Callable[[str], bool] = leases.never) -> Lease:
        """Take a job that nobody has, whose lease has run out, or whose holder is `gone`; changes no status.

        Raises JobTaken, which names the holder and the end of its lease, and NotFound.
        """
        wanted = Lease(job_id, secrets.token_hex(16))
        self._write(leases.claim, wanted, owner, now, gone)
        return wanted

    def renew(self, lease: Lease, *, now: datetime, worked_s: float) -> bool:
        """Keep the job until `LEASE_S` after `now`, note the seconds worked; whether somebody asked for its end."""
        return self._write(leases.renew, lease, now, worked_s)

    def release(self, lease: Lease) -> None:
        """Give the job back; fine when it was lost."""
        self._write(leases.release, lease)

    def owner(self, job_id: str, *, now: datetime) -> str | None:
        """Who has the job, with a lease that has not run out."""
        return self._read(lambda session: leases.holder_of(jobs.by_id(session, job_id), now))

    def set_status(self, lease: Lease, status: JobStatus, message: str = "") -> None:
        """Move a job on. An ended job that runs again is open again: its end and its cancel request are forgotten."""
        self._write(jobs.set_status, lease, status, message)

    def set_space(self, lease: Lease, space: dict[str, Any]) -> None:
        """Replace the search space of a job; one from which something was launched stays as it is."""
        self._write(jobs.set_space, lease, space)

    def reopen(self, lease: Lease) -> None:
        """Let a job run again: its end and whatever cancel was asked for before are forgotten."""
        self._write(jobs.reopen, lease)

    def finish_job(
        self, lease: Lease, status: JobStatus, result: JobResult | None, *, finished_at: datetime, message: str = ""
    ) -> None:
        """End a job and give its lease back: status, result (None: there is none) and front, all or nothing."""
        self._write(jobs.finish, lease, jobs.Ending(status, result, finished_at, message))

    def request_cancel(self, job_id: str) -> None:
        """Ask whoever works on the job to stop, on its explanation too. Raises InputError when nobody does any more."""
        self._write(jobs.request_cancel, job_id)

    def cancel_requested(self, job_id: str) -> bool:
        """Whether someone asked the job to stop."""
        return self._read(lambda session: jobs.by_id(session, job_id).cancel_requested)

    def start_trial(self, lease: Lease, trial: Trial) -> None:
        """Record that a trial is being launched. Raises StoreError when the job has another one of that number."""
        if trial.result is not None:
            raise ValueError(f"trial {trial.number} has a result already; a trial starts without one")
        self._write(trials.start, lease, trial)

    def relaunch_trial(
        self, lease: Lease, number: int, *, attempts: int, earlier_device_s: float, failures: int = 0
    ) -> Trial:
        """Record that a running trial is being launched once more, for the `attempts`-th time; its row.

        `earlier_device_s` is the device-seconds of all launches before this one. Raises NotFound for a trial that was
        never started, and StoreError for one that is finished or was launched another number of times.
        """
        return self._write(trials.relaunch, lease, number, trials.Relaunch(attempts, failures, earlier_device_s))

    def finish_trial(self, lease: Lease, number: int, result: TrialResult, finished_at: datetime) -> None:
        """Record what a trial brought home, its load points included, all or nothing.

        Raises NotFound for a trial that was never started and StoreError for one that has another result.
        """
        self._write(trials.finish, lease, number, result, finished_at)

    def trials(self, job_id: str) -> tuple[Trial, ...]:
        """The trials of a job by number, those that still run included."""
        return self._read(trials.of_job, job_id)

    def load_points(self, job_id: str) -> tuple[tuple[int, LoadPoint], ...]:
        """Every load point of a job with the number of its trial, by trial and then as measured."""
        return self._read(trials.load_points, job_id)

    def _read(
        self,
        work: Callable[Concatenate[Session, Arguments], Result],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Result:
        return self._transaction(self._reads, lambda session: work(session, *args, **kwargs))

    def _write(
        self,
        work: Callable[Concatenate[Session, Arguments], Result],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Result:
        return self._transaction(self._writes, lambda session: work(session, *args, **kwargs))

    def _transaction(self, sessions: sessionmaker[Session], work: Callable[[Session], Result]) -> Result:
        def once() -> Result:
            with sessions.begin() as session:
                return work(session)

        try:
            return keep_trying(once, is_away, self._patience, self._shown)
        except IntegrityError as exc:
            raise StoreError(f"the database {self._shown} refuses the rows, nothing was written: {exc.orig}") from exc
        except DBAPIError as exc:
            if not (isinstance(exc, OperationalError | InterfaceError) or is_away(exc)):
                raise
            raise StoreError(f"the database {self._shown} fails: {exc.orig}; check the disk and the server") from exc
