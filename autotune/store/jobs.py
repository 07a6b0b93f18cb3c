"""Transactions on jobs. Each may be repeated: the answer to a commit can get lost on its way."""

import difflib
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from autotune.errors import InputError, NotFound, StoreError
from autotune.results import ENDED, Job, JobResult, JobStatus
from autotune.store import events, rows
from autotune.store.lease import Lease, held, let_go, locked
from autotune.store.schema import JobRow, TrialRow

_FIXED = {"id", "name", "spec", "space", "workload", "model_path", "folder", "created_at"}  # for a job's whole life
_SHOWN_JOBS = 5  # names in a message


@dataclass(frozen=True, slots=True)
class Ending:
    """How a job ended."""

    status: JobStatus
    result: JobResult | None
    finished_at: datetime
    message: str


def create(session: Session, job: Job) -> None:
    """Add a job. Raises StoreError when another one has its id."""
    row = session.get(JobRow, job.id)
    if row is None:
        session.add(rows.job_row(job))
    elif rows.job_record(row).model_dump(include=_FIXED) != rows.as_stored(job).model_dump(include=_FIXED):
        raise StoreError(f"another job with the id {job.id!r} exists already; submit the job again for a new id")


def named(session: Session, key: str) -> Job:
    """The job that `key` names: see `Store.job`."""
    return rows.job_record(_find(session, key))


def every(session: Session) -> tuple[Job, ...]:
    """All jobs, newest first."""
    found = session.scalars(select(JobRow).order_by(JobRow.created_at.desc(), JobRow.id))
    return tuple(rows.job_record(row) for row in found)


def by_id(session: Session, job_id: str) -> JobRow:
    """The row of a job, to be read only. Raises NotFound."""
    row = session.get(JobRow, job_id)
    if row is None:
        raise NotFound(f"no job has the id {job_id!r}")
    return row


def set_status(session: Session, lease: Lease, status: JobStatus, message: str) -> None:
    """Move a job on; one that runs again is open again."""
    row = held(session, lease)
    if row.status in ENDED and status not in ENDED:
        _open(row)
    if row.status != status.value and status is JobStatus.RUNNING:
        events.note(session, row.id, "job_started")
    rows.set_status(row, status, message)


def set_space(session: Session, lease: Lease, space: dict[str, Any]) -> None:
    """Replace the search space of a job, as long as nothing was launched from it."""
    row = held(session, lease)
    if session.scalar(select(TrialRow.number).where(TrialRow.job_id == row.id).limit(1)) is None:
        row.space = space


def reopen(session: Session, lease: Lease) -> None:
    """Let a job run again, also one whose runner was killed before it could obey a cancel."""
    row = held(session, lease)
    if row.status != JobStatus.RUNNING.value:
        events.note(session, row.id, "job_resumed")
    _open(row)
    rows.set_status(row, JobStatus.RUNNING, "")


def _open(row: JobRow) -> None:
    row.finished_at = None
    row.cancel_requested = False


def finish(session: Session, lease: Lease, ending: Ending) -> None:
    """End a job and give it back."""
    row = locked(session, lease.job_id)
    if row.lease_token is None and _ended_so(row, ending):
        return
    held(session, lease)
    row.finished_at = ending.finished_at
    rows.set_status(row, ending.status, ending.message)
    rows.set_job_result(row, ending.result)
    row.progress = None
    stopped_by = ending.result.stopped_by if ending.result else None
    events.note(session, row.id, "job_finished", {"status": ending.status.value, "stopped_by": stopped_by})
    let_go(row)


def _ended_so(row: JobRow, ending: Ending) -> bool:
    kept = rows.job_record(row)
    result = None if ending.result is None else rows.as_stored(ending.result)
    return (kept.status, kept.result, kept.finished_at, kept.message) == (
        ending.status,
        result,
        ending.finished_at,
        rows.plain(ending.message),
    )


def request_cancel(session: Session, job_id: str) -> None:
    """Ask whoever works on the job to stop. Raises InputError when it has ended and nobody does."""
    row = locked(session, job_id)
    if row.status in ENDED and row.lease_token is None:
        raise InputError(f"job {job_id!r} has ended already ({row.status}); there is nothing to cancel")
    if not row.cancel_requested:
        row.cancel_requested = True
        events.note(session, row.id, "cancel_requested")


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
