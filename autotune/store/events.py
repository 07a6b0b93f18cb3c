"""What happened to jobs, in the order of the commits: written in the transaction of the change itself."""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from autotune.results import Measured, Trial, TrialResult
from autotune.store.schema import EventRow, JobRow
from autotune.submission import EventKind, JobEvent, JobProgress, News

MOST_EVENTS = 1000  # of one answer


def note(
    session: Session, job_id: str, kind: EventKind, data: Mapping[str, Any] | None = None, trial: int | None = None
) -> None:
    """Add an event. The caller has the job's row locked, so that ids within a job grow in the order of commits."""
    session.add(EventRow(job_id=job_id, at=datetime.now(UTC), kind=kind, trial=trial, data=dict(data or {})))


def since(session: Session, job_id: str, after: int) -> tuple[JobEvent, ...]:
    """The events of a job with larger ids, at most `MOST_EVENTS`, by id."""
    newer = select(EventRow).where(EventRow.job_id == job_id, EventRow.id > after)
    return tuple(_record(row) for row in session.scalars(newer.order_by(EventRow.id).limit(MOST_EVENTS)))


def news(session: Session, job_ids: Collection[str]) -> dict[str, News]:
    """The newest event of each of these jobs, and what it does now."""
    newest = select(func.max(EventRow.id)).where(EventRow.job_id == JobRow.id).scalar_subquery()
    found = session.execute(select(JobRow.id, newest, JobRow.progress).where(JobRow.id.in_(job_ids)))
    return {
        job_id: News(last_event=last or 0, progress=JobProgress.model_validate(progress or {}))
        for job_id, last, progress in found
    }


def beginning(trial: Trial) -> dict[str, Any]:
    """What is told of a trial that begins."""
    return {"purpose": trial.purpose, "origin": trial.origin, "attempt": trial.attempts}


def ending(purpose: str, result: TrialResult) -> dict[str, Any]:
    """What is told of a trial that ended: its outcome, and its operating point or the cause of its failure."""
    outcome = result.outcome
    told: dict[str, Any] = {"purpose": purpose, "outcome": outcome.kind}
    if not isinstance(outcome, Measured):
        return told | {"failure": outcome.evidence.failure.value, "cause": outcome.evidence.cause}
    if not outcome.points:
        return told
    point = outcome.closest_point
    p99 = [quantile.value_ms for quantile in point.ttft.quantiles if quantile.percent == 99]
    return told | {
        "meets_sla": outcome.operating_point is not None,
        "load": point.load.model_dump(mode="json"),
        "output_throughput_per_device": point.output_throughput_per_device,
        "p99_ttft_ms": p99[0] if p99 else None,
    }


def _record(row: EventRow) -> JobEvent:
    return JobEvent(id=row.id, job=row.job_id, at=row.at, kind=row.kind, trial=row.trial, data=row.data)
