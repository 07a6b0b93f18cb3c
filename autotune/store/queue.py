"""Transactions on the queue: jobs that wait for a worker, and which one comes next. Each may be repeated."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from autotune.access import TenantLimits
from autotune.errors import Conflict, LimitReached, NotFound
from autotune.results import Job, JobStatus
from autotune.store import events, rows
from autotune.store.lease import LEASE_S, Lease, holder_of, locked
from autotune.store.schema import JobRow, TrialRow
from autotune.submission import JobProgress, Submission, SubmittedJob

DEVICE_HOURS_WINDOW = timedelta(days=30)
_QUEUE_LOCK = 0x71756575  # "queu": of PostgreSQL, so that two workers do not count the same running jobs
_TRIED = 10  # waiting jobs of a tenant, each of which may be gone before it is locked
_OPEN = (JobStatus.QUEUED.value, JobStatus.RUNNING.value)


@dataclass(frozen=True, slots=True)
class Claimant:
    """A worker that asks for a job."""

    token: str  # of the lease it will have
    owner: str
    now: datetime
    gone: Callable[[str], bool]
    limits: Callable[[str], TenantLimits]  # of a tenant


def submit(session: Session, job: Job, submission: Submission, limits: TenantLimits) -> tuple[str, bool]:
    """Put a job into the queue; its id and whether it is new.

    With an idempotency key that the tenant has used before, the job of that time is the answer. Raises Conflict when
    that was another job, LimitReached when the tenant has too many waiting.
    """
    _serialize(session)
    if submission.idempotency_key is not None:
        known = session.scalars(
            select(JobRow).where(
                JobRow.tenant == submission.tenant, JobRow.idempotency_key == submission.idempotency_key
            )
        ).first()
        if known is not None:
            if known.request_hash != submission.request_hash:
                raise Conflict(
                    f"the idempotency key {submission.idempotency_key!r} was used for another job ({known.id}); "
                    "use a new key for a new job"
                )
            return known.id, False
    _check_room(session, submission.tenant, limits)
    row = rows.job_row(job)
    rows.set_submission(row, submission)
    session.add(row)
    session.flush()
    events.note(session, row.id, "job_queued", {"submitted_by": submission.submitted_by})
    return row.id, True


def _check_room(session: Session, tenant: str, limits: TenantLimits) -> None:
    waiting = session.scalar(
        select(func.count()).where(JobRow.tenant == tenant, JobRow.status == JobStatus.QUEUED.value)
    )
    if (waiting or 0) >= limits.queued_jobs:
        raise LimitReached(
            f"tenant {tenant!r} has {waiting} jobs in the queue already, its limit is {limits.queued_jobs}; "
            "wait until some have run, or cancel some"
        )


def requeue(session: Session, job_id: str, now: datetime, limits: Callable[[str], TenantLimits]) -> None:
    """Put a job that failed or was cancelled into the queue again; its measured trials are kept.

    Raises Conflict for others, LimitReached when the tenant has too many waiting.
    """
    _serialize(session)
    row = locked(session, job_id)
    if row.status == JobStatus.QUEUED.value:
        return  # done before, and the answer was lost
    if row.status not in (JobStatus.FAILED.value, JobStatus.CANCELLED.value) or holder_of(row, now) is not None:
        raise Conflict(f"job {job_id!r} is {row.status}; only a failed or cancelled job can be resumed")
    _check_room(session, row.tenant, limits(row.tenant))
    row.finished_at, row.cancel_requested, row.queued_at = None, False, now
    rows.set_status(row, JobStatus.QUEUED, "")
    events.note(session, row.id, "job_queued", {"resumed": True})


def request_cancel(session: Session, job_id: str, now: datetime) -> JobStatus:
    """Cancel a job that waits, at once; ask the worker of one that runs to stop. Its status after that.

    Raises Conflict when it has ended and nobody works on it.
    """
    row = locked(session, job_id)
    if row.status == JobStatus.QUEUED.value and row.queued_at is not None and holder_of(row, now) is None:
        row.finished_at = now
        rows.set_status(row, JobStatus.CANCELLED, "cancelled before it began")
        events.note(session, row.id, "job_finished", {"status": row.status, "stopped_by": "cancelled"})
    elif row.status in _OPEN or holder_of(row, now) is not None:
        if not row.cancel_requested:
            row.cancel_requested = True
            events.note(session, row.id, "cancel_requested")
    else:
        raise Conflict(f"job {job_id!r} has ended already ({row.status}); there is nothing to cancel")
    return JobStatus(row.status)


def claim_next(session: Session, claimant: Claimant) -> tuple[SubmittedJob, Lease] | None:
    """Give the next job to a worker: one whose worker was lost, else one of the tenant whose turn it is.

    Tenants with the fewest running jobs come first, then those who have waited longest since their last start; within
    a tenant the highest priority, then the oldest. Tenants at a limit are passed over.
    """
    _serialize(session)
    claimed = session.scalars(select(JobRow).where(JobRow.lease_token == claimant.token)).first()
    row = claimed or _lost(session, claimant) or _waiting(session, claimant)
    if row is None:
        return None
    if claimed is None:
        began = row.status == JobStatus.QUEUED.value
        row.lease_token, row.lease_owner = claimant.token, claimant.owner
        row.lease_expires_at = claimant.now + timedelta(seconds=LEASE_S)
        row.started_at = claimant.now if began else row.started_at
        rows.set_status(row, JobStatus.RUNNING, "")
        events.note(session, row.id, "job_started" if began else "job_resumed", {"worker": claimant.owner})
    return rows.submitted_record(row, claimant.now), Lease(row.id, claimant.token)


def report(session: Session, lease: Lease, progress: JobProgress) -> None:
    """Write what a running job does now; nothing happens when the lease was lost."""
    row = locked(session, lease.job_id)
    if row.lease_token == lease.token:
        row.progress = progress.model_dump(mode="json")


def device_s_since(session: Session, tenant: str, since: datetime) -> float:
    """Device-seconds of a tenant's trials that ended after a moment."""
    used = (
        select(func.sum(TrialRow.device_s))
        .join(JobRow, JobRow.id == TrialRow.job_id)
        .where(JobRow.tenant == tenant, TrialRow.finished_at >= since)
    )
    return session.scalar(used) or 0.0


def _serialize(session: Session) -> None:
    """One at a time changes who has how many jobs; SQLite has only one writer anyway."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.pg_advisory_xact_lock(_QUEUE_LOCK)))


def _lost(session: Session, claimant: Claimant) -> JobRow | None:
    """The oldest running job of the queue that nobody has any more."""
    running = select(JobRow).where(JobRow.status == JobStatus.RUNNING.value, JobRow.queued_at.is_not(None))
    for row in session.scalars(running.order_by(JobRow.queued_at, JobRow.id)).all():
        if _is_free(row, claimant):
            ours = locked(session, row.id)  # its worker may have renewed the lease, or ended the job, meanwhile
            if ours.status == JobStatus.RUNNING.value and _is_free(ours, claimant):
                return ours
    return None


def _is_free(row: JobRow, claimant: Claimant) -> bool:
    holder = holder_of(row, claimant.now)
    return holder is None or claimant.gone(holder)


def _waiting(session: Session, claimant: Claimant) -> JobRow | None:
    running = _running(session)
    for tenant in _turns(session, running):
        if running[tenant] < claimant.limits(tenant).running_jobs and _has_hours(session, tenant, claimant):
            waiting = select(JobRow.id).where(
                JobRow.status == JobStatus.QUEUED.value, JobRow.queued_at.is_not(None), JobRow.tenant == tenant
            )
            # A job that was explained while it waited, or that its own command has resumed, has a holder.
            unowned = waiting.where(or_(JobRow.lease_token.is_(None), JobRow.lease_expires_at <= claimant.now))
            order = (JobRow.priority.desc(), JobRow.queued_at, JobRow.id)
            for found in session.scalars(unowned.order_by(*order).limit(_TRIED)).all():
                row = locked(session, found)  # it may have been cancelled or claimed meanwhile
                if row.status == JobStatus.QUEUED.value and holder_of(row, claimant.now) is None:
                    return row
    return None


def waiting_since(session: Session) -> dict[str, datetime]:
    """Since when each tenant's oldest job waits."""
    waiting = (
        select(JobRow.tenant, func.min(JobRow.queued_at))
        .where(JobRow.status == JobStatus.QUEUED.value, JobRow.queued_at.is_not(None))
        .group_by(JobRow.tenant)
    )
    return {tenant: since for tenant, since in session.execute(waiting) if since is not None}


def _turns(session: Session, running: Counter[str]) -> Sequence[str]:
    """Tenants with waiting jobs, in the order of their turns."""
    oldest = waiting_since(session)
    last = {tenant: _last_start(session, tenant) for tenant in oldest}

    def turn(tenant: str) -> tuple[int, bool, datetime]:
        started_at = last[tenant]
        return running[tenant], started_at is not None, started_at or oldest[tenant]

    return sorted(oldest, key=turn)


def _last_start(session: Session, tenant: str) -> datetime | None:
    """For one tenant the index answers at once; for several together all their jobs are read."""
    return session.scalar(select(func.max(JobRow.started_at)).where(JobRow.tenant == tenant))


def _running(session: Session) -> Counter[str]:
    counted = (
        select(JobRow.tenant, func.count())
        .where(JobRow.status == JobStatus.RUNNING.value, JobRow.queued_at.is_not(None))
        .group_by(JobRow.tenant)
    )
    return Counter(dict(session.execute(counted).all()))


def _has_hours(session: Session, tenant: str, claimant: Claimant) -> bool:
    limit = claimant.limits(tenant).device_hours
    if limit is None:
        return True
    return device_s_since(session, tenant, claimant.now - DEVICE_HOURS_WINDOW) < limit * 3600


def status_of(session: Session, job_id: str, tenant: str | None) -> JobStatus:
    """A job's status, without reading its documents; one of another tenant is as in `detail`. Raises NotFound."""
    found = session.execute(select(JobRow.tenant, JobRow.status).where(JobRow.id == job_id)).first()
    if found is None or tenant not in (None, found.tenant):
        raise NotFound(_no_job(job_id))
    return JobStatus(found.status)


def detail(session: Session, job_id: str, tenant: str | None, now: datetime) -> SubmittedJob:
    """A job as the queue sees it; one of another tenant is as if it did not exist. Raises NotFound."""
    row = session.get(JobRow, job_id)
    if row is None or tenant not in (None, row.tenant):
        raise NotFound(_no_job(job_id))
    return rows.submitted_record(row, now)


def _no_job(job_id: str) -> str:
    return f"no job has the id {job_id!r}"
