"""The right to write to a job: one owner at a time, for a minute after the last renewal.

Each function is the body of one transaction that has the job's row locked until it ends.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from autotune.errors import JobTaken, LeaseLost, NotFound
from autotune.results import ENDED
from autotune.store.schema import JobRow

LEASE_S = 60.0  # after the last renewal; several renewals may be missed


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write to one job."""

    job_id: str
    token: str


def never(_owner: str) -> bool:
    """Nobody is known to be gone."""
    return False


def locked(session: Session, job_id: str) -> JobRow:
    """A job's row that nobody else can change or lock before this transaction ends. Raises NotFound."""
    # Afresh: what this transaction has read of it before the lock may hold no more.
    row = session.get(JobRow, job_id, with_for_update=True, populate_existing=True)
    if row is None:
        raise NotFound(f"no job has the id {job_id!r}")
    return row


def held(session: Session, lease: Lease) -> JobRow:
    """The locked row of a job whose lease this is. Raises LeaseLost, and NotFound for an unknown job."""
    row = locked(session, lease.job_id)
    if row.lease_token != lease.token:
        now_with = f"{row.lease_owner} has taken it over" if row.lease_owner else "it was given back"
        raise LeaseLost(f"this process may not write to job {lease.job_id!r} any more: {now_with}; nothing was written")
    return row


def claim(session: Session, wanted: Lease, owner: str, now: datetime, gone: Callable[[str], bool]) -> None:
    """Give the job to `owner` unless somebody else has it. Raises JobTaken."""
    row = locked(session, wanted.job_id)
    if row.lease_token == wanted.token:
        return  # this claim was committed before, and the answer was lost
    holder = holder_of(row, now)
    if holder is not None and not gone(holder):
        raise JobTaken(
            f"job {wanted.job_id!r} is run by {holder}; its lease ends at {row.lease_expires_at:%Y-%m-%d %H:%M:%S} UTC "
            "unless it is renewed; wait for that, or cancel the job"
        )
    if row.status in ENDED:
        row.cancel_requested = False  # it was meant for whoever worked on the ended job before
    row.lease_token, row.lease_owner = wanted.token, owner
    row.lease_expires_at = now + timedelta(seconds=LEASE_S)


def renew(session: Session, lease: Lease, now: datetime, worked_s: float) -> bool:
    """Extend the lease and note the work so far; whether somebody asked the job to stop."""
    row = held(session, lease)
    row.lease_expires_at = now + timedelta(seconds=LEASE_S)
    row.worked_s = worked_s
    return row.cancel_requested


def extend(session: Session, lease: Lease, now: datetime) -> None:
    """Extend the lease and note nothing else."""
    held(session, lease).lease_expires_at = now + timedelta(seconds=LEASE_S)


def release(session: Session, lease: Lease) -> None:
    """Give the job back; nothing happens when it was lost already."""
    row = locked(session, lease.job_id)
    if row.lease_token == lease.token:
        let_go(row)


def let_go(row: JobRow) -> None:
    """Leave the job to whoever claims it next."""
    row.lease_token = row.lease_owner = row.lease_expires_at = None


def holder_of(row: JobRow, now: datetime) -> str | None:
    """The owner whose lease has not run out."""
    if row.lease_expires_at is None or row.lease_expires_at <= now:
        return None
    return row.lease_owner
