"""Transactions on trials. Each may be repeated: the answer to a commit can get lost on its way."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Select, select
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import set_committed_value

from autotune.errors import NotFound, StoreError
from autotune.results import LoadPoint, Trial, TrialResult
from autotune.store import events, rows
from autotune.store.lease import Lease, held
from autotune.store.schema import LoadPointRow, TrialRow


@dataclass(frozen=True, slots=True)
class Relaunch:
    """One more launch of a running trial."""

    attempts: int  # the launches with this one
    failures: int  # those that failed for what may not be the configuration's fault
    earlier_device_s: float  # device-seconds of the launches before it


def start(session: Session, lease: Lease, trial: Trial) -> None:
    """Add a running trial. Raises StoreError when the job has another one of that number."""
    held(session, lease)
    row = session.get(TrialRow, (lease.job_id, trial.number))
    if row is None:
        session.add(rows.trial_row(lease.job_id, trial))
        events.note(session, lease.job_id, "trial_started", events.beginning(trial), trial.number)
    elif rows.trial_record(row) != rows.as_stored(trial):
        raise StoreError(f"job {lease.job_id!r} has another trial {trial.number} already")


def relaunch(session: Session, lease: Lease, number: int, again: Relaunch) -> Trial:
    """Count one more launch of a running trial; its row as it is now."""
    row = _started(session, lease, number)
    if row.outcome is not None:
        raise StoreError(f"trial {number} of job {lease.job_id!r} is finished already; it is not launched again")
    if (row.attempts, row.failures, row.earlier_device_s) == (again.attempts, again.failures, again.earlier_device_s):
        return rows.trial_record(row)
    if row.attempts != again.attempts - 1:
        raise StoreError(
            f"trial {number} of job {lease.job_id!r} was launched {row.attempts} times, "
            f"so the next launch cannot be number {again.attempts}"
        )
    row.attempts, row.failures, row.earlier_device_s = again.attempts, again.failures, again.earlier_device_s
    trial = rows.trial_record(row)
    events.note(session, lease.job_id, "trial_relaunched", events.beginning(trial), number)
    return trial


def finish(session: Session, lease: Lease, number: int, result: TrialResult, finished_at: datetime) -> None:
    """Write what a trial brought home. Raises StoreError when it brought something else before."""
    row = _started(session, lease, number)
    if row.outcome is None:
        rows.set_trial_result(row, result, finished_at)
        events.note(session, lease.job_id, "trial_finished", events.ending(row.purpose, result), number)
    elif rows.trial_record(row).result != rows.as_stored(result):
        raise StoreError(f"trial {number} of job {lease.job_id!r} is finished already, with another result")


def of_job(session: Session, job_id: str) -> tuple[Trial, ...]:
    """The trials of a job by number."""
    return _records(session, job_id, select(TrialRow).where(TrialRow.job_id == job_id))


def page(session: Session, job_id: str, after: int, most: int) -> tuple[Trial, ...]:
    """At most `most` trials of a job with larger numbers, by number."""
    newer = select(TrialRow).where(TrialRow.job_id == job_id, TrialRow.number > after)
    return _records(session, job_id, newer.limit(most))


def _records(session: Session, job_id: str, wanted: Select[TrialRow]) -> tuple[Trial, ...]:
    """Trials of one job by number, with their load points: two queries in all."""
    found = session.scalars(wanted.order_by(TrialRow.number)).all()
    if not found:
        return ()
    points: dict[int, list[LoadPointRow]] = {row.number: [] for row in found}
    of_these = LoadPointRow.trial.between(found[0].number, found[-1].number)
    measured = select(LoadPointRow).where(LoadPointRow.job_id == job_id, of_these)
    for point in session.scalars(measured.order_by(LoadPointRow.trial, LoadPointRow.position)):
        points[point.trial].append(point)
    for row in found:
        set_committed_value(row, "points", points[row.number])
    return tuple(rows.trial_record(row) for row in found)


def one(session: Session, job_id: str, number: int) -> Trial | None:
    """One trial of a job."""
    row = session.get(TrialRow, (job_id, number))
    return None if row is None else rows.trial_record(row)


def load_points(session: Session, job_id: str) -> tuple[tuple[int, LoadPoint], ...]:
    """Every load point of a job with the number of its trial."""
    order = (LoadPointRow.trial, LoadPointRow.position)
    found = session.scalars(select(LoadPointRow).where(LoadPointRow.job_id == job_id).order_by(*order))
    return tuple((row.trial, rows.point_record(row)) for row in found)


def _started(session: Session, lease: Lease, number: int) -> TrialRow:
    held(session, lease)
    row = session.get(TrialRow, (lease.job_id, number))
    if row is None:
        raise NotFound(f"job {lease.job_id!r} has no trial {number}; it was never started")
    return row
