"""The database as the rest of the program sees it: records in, records out, one transaction per call."""

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from types import TracebackType
from typing import Self

from sqlalchemy import Engine, delete, func, select
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.orm import Session, sessionmaker

from autotune.errors import InputError, NotFound, StoreError
from autotune.results import Job, JobResult, JobStatus, LoadPoint, Trial, TrialResult
from autotune.store import engine, migrate, rows
from autotune.store.schema import JobRow, LoadPointRow, TrialRow

_ENDED = frozenset({JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED})
_SHOWN_JOBS = 5  # names in a message


class Store:
    """Jobs, trials and load points in one database. Threads may share it; processes open one each."""

    def __init__(self, opened: Engine) -> None:
        self._engine = opened
        self._shown = opened.url.render_as_string(hide_password=True)
        self._reads = sessionmaker(opened)
        self._writes = sessionmaker(opened.execution_options(**{engine.WRITES: True}))

    @classmethod
    def open(cls, url: str) -> Self:
        """Connect and bring the schema up to date.

        `url` is `sqlite:///FILE` (missing folders are made) or `postgresql://…`. Raises InputError for another URL
        and StoreError when the database cannot be reached or is newer than this version.
        """
        parsed = engine.parse_url(url)
        opened = engine.connect(parsed)
        try:
            migrate.upgrade(opened)
        except DBAPIError as exc:
            opened.dispose()
            shown = parsed.render_as_string(hide_password=True)
            raise StoreError(
                f"the database {shown} cannot be opened: {exc.orig}; check the URL and the server"
            ) from exc
        except StoreError:
            opened.dispose()
            raise
        return cls(opened)

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
        """Add a job that has no result yet. Raises StoreError when its id is taken."""
        if job.result is not None:
            raise ValueError(f"job {job.id!r} has a result already; a job starts without one")
        with self._session(self._writes) as session:
            if session.get(JobRow, job.id) is not None:
                raise StoreError(f"a job with the id {job.id!r} exists already; submit the job again for a new id")
            session.add(rows.job_row(job))

    def job(self, key: str) -> Job:
        """The job with this id, else the newest with this name, else the only one whose id starts so.

        Raises NotFound, and InputError when several ids start so.
        """
        with self._session(self._reads) as session:
            return rows.job_record(_find(session, key))

    def jobs(self) -> tuple[Job, ...]:
        """All jobs, newest first."""
        with self._session(self._reads) as session:
            found = session.scalars(select(JobRow).order_by(JobRow.created_at.desc(), JobRow.id))
            return tuple(rows.job_record(row) for row in found)

    def set_status(self, job_id: str, status: JobStatus, message: str = "") -> None:
        """Move a job on. An ended job that runs again is open again: its end and its cancel request are forgotten."""
        with self._session(self._writes) as session:
            row = _job_row(session, job_id)
            if row.status in _ENDED and status not in _ENDED:
                row.finished_at = None
                row.cancel_requested = False
            rows.set_status(row, status, message)

    def finish_job(
        self, job_id: str, status: JobStatus, result: JobResult | None, *, finished_at: datetime, message: str = ""
    ) -> None:
        """End a job: its status, its result (None: it failed before there was any) and its front, all or nothing."""
        with self._session(self._writes) as session:
            row = _job_row(session, job_id)
            row.finished_at = finished_at
            rows.set_status(row, status, message)
            rows.set_job_result(row, result)

    def request_cancel(self, job_id: str) -> None:
        """Ask whoever runs the job to stop. Raises InputError when it has ended."""
        with self._session(self._writes) as session:
            row = _job_row(session, job_id)
            if row.status in _ENDED:
                raise InputError(f"job {job_id!r} has ended already ({row.status}); there is nothing to cancel")
            row.cancel_requested = True

    def cancel_requested(self, job_id: str) -> bool:
        """Whether someone asked the job to stop."""
        with self._session(self._reads) as session:
            return _job_row(session, job_id).cancel_requested

    def start_trial(self, job_id: str, trial: Trial) -> None:
        """Record that a trial is being launched. Raises StoreError when the job has a trial of that number."""
        if trial.result is not None:
            raise ValueError(f"trial {trial.number} has a result already; a trial starts without one")
        with self._session(self._writes) as session:
            _job_row(session, job_id)
            if session.get(TrialRow, (job_id, trial.number)) is not None:
                raise StoreError(
                    f"job {job_id!r} has a trial {trial.number} already; is another process running this job?"
                )
            session.add(rows.trial_row(job_id, trial))

    def finish_trial(self, job_id: str, number: int, result: TrialResult, finished_at: datetime) -> None:
        """Record what a trial brought home, its load points included, all or nothing.

        Raises NotFound for a trial that was never started and StoreError for one that is finished.
        """
        with self._session(self._writes) as session:
            row = session.get(TrialRow, (job_id, number), with_for_update=True)
            if row is None:
                raise NotFound(f"job {job_id!r} has no trial {number}; it was never started, or discarded")
            if row.outcome is not None:
                raise StoreError(
                    f"trial {number} of job {job_id!r} is finished already; is another process running this job?"
                )
            rows.set_trial_result(row, result, finished_at)

    def discard_running(self, job_id: str) -> tuple[int, ...]:
        """Forget the trials that have no result, as a crash leaves them; their numbers."""
        running = (TrialRow.job_id == job_id) & TrialRow.outcome.is_(None)
        with self._session(self._writes) as session:
            numbers = session.scalars(select(TrialRow.number).where(running).order_by(TrialRow.number)).all()
            session.execute(delete(TrialRow).where(running))
            return tuple(numbers)

    def trials(self, job_id: str) -> tuple[Trial, ...]:
        """The trials of a job by number, those that still run included."""
        with self._session(self._reads) as session:
            found = session.scalars(select(TrialRow).where(TrialRow.job_id == job_id).order_by(TrialRow.number))
            return tuple(rows.trial_record(row) for row in found)

    def load_points(self, job_id: str) -> tuple[tuple[int, LoadPoint], ...]:
        """Every load point of a job with the number of its trial, by trial and then as measured."""
        order = (LoadPointRow.trial, LoadPointRow.position)
        with self._session(self._reads) as session:
            found = session.scalars(select(LoadPointRow).where(LoadPointRow.job_id == job_id).order_by(*order))
            return tuple((row.trial, rows.point_record(row)) for row in found)

    @contextmanager
    def _session(self, sessions: sessionmaker[Session]) -> Iterator[Session]:
        try:
            with sessions.begin() as session:
                yield session
        except IntegrityError as exc:
            raise StoreError(f"the database {self._shown} refuses the rows, nothing was written: {exc.orig}") from exc
        except (OperationalError, InterfaceError) as exc:
            raise StoreError(f"the database {self._shown} fails: {exc.orig}; check the disk and the server") from exc


def _job_row(session: Session, job_id: str) -> JobRow:
    row = session.get(JobRow, job_id)
    if row is None:
        raise NotFound(f"no job has the id {job_id!r}")
    return row


def _find(session: Session, key: str) -> JobRow:
    newest = select(JobRow).order_by(JobRow.created_at.desc(), JobRow.id)
    row = session.get(JobRow, key) or session.scalars(newest.where(JobRow.name == key).limit(1)).first()
    if row is not None:
        return row
    prefixed = newest.where(func.substr(JobRow.id, 1, len(key)) == key).limit(_SHOWN_JOBS)
    matches = session.scalars(prefixed).all()
    if len(matches) == 1:
        return matches[0]
    if matches:
        ids = ", ".join(row.id for row in matches)
        raise InputError(f"several jobs have ids that start with {key!r}: {ids}; give more of the id")
    raise NotFound(_no_such_job(session, key))


def _no_such_job(session: Session, key: str) -> str:
    known = session.execute(select(JobRow.id, JobRow.name).order_by(JobRow.created_at.desc())).all()
    if not known:
        return f"no job has the id or name {key!r}; this database holds no jobs"
    close = difflib.get_close_matches(key, {word for pair in known for word in pair}, n=1)
    if close:
        return f"no job has the id or name {key!r}; did you mean {close[0]!r}?"
    newest = ", ".join(f"{job_id} ({name})" for job_id, name in known[:_SHOWN_JOBS])
    return f"no job has the id or name {key!r}; the newest are {newest}"
