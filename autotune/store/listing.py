"""Reading jobs by the page: only columns, never a job's documents."""

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from pydantic import ValidationError
from sqlalchemy import ColumnElement, Row, and_, func, or_, select
from sqlalchemy.orm import Session

from autotune.results import FailureClass, JobStatus
from autotune.spec import Sla
from autotune.store.schema import FrontPointRow, JobRow, LoadPointRow, TrialRow
from autotune.submission import Cursor, JobFilter, JobSummary

_SEARCHED = ("baseline", "search")
_PLAIN = ("id", "name", "tenant", "status", "message", "priority", "submitted_by", "cancel_requested")
_TIMES = ("created_at", "queued_at", "started_at", "finished_at")
_COLUMNS = (*(getattr(JobRow, name) for name in (*_PLAIN, *_TIMES)), JobRow.spec)


def page(session: Session, wanted: JobFilter, after: Cursor | None, most: int) -> tuple[tuple[JobSummary, ...], bool]:
    """At most `most` jobs, newest first, and whether there are more."""
    query = select(*_COLUMNS).where(*_conditions(wanted))
    if after is not None:
        same = and_(JobRow.created_at == after.created_at, JobRow.id < after.id)
        query = query.where(or_(JobRow.created_at < after.created_at, same))
    found = session.execute(query.order_by(JobRow.created_at.desc(), JobRow.id.desc()).limit(most + 1)).all()
    return _summaries(session, found[:most]), len(found) > most


def ids(session: Session, tenant: str) -> frozenset[str]:
    """The ids of a tenant's jobs."""
    return frozenset(session.scalars(select(JobRow.id).where(JobRow.tenant == tenant)))


def summary(session: Session, job_id: str) -> JobSummary | None:
    """One line of the list."""
    found = session.execute(select(*_COLUMNS).where(JobRow.id == job_id)).all()
    return _summaries(session, found)[0] if found else None


def counts(session: Session, tenant: str | None) -> dict[tuple[str, JobStatus], int]:
    """How many jobs of each tenant (None: of all) are in each status."""
    counted = select(JobRow.tenant, JobRow.status, func.count()).where(*_of(tenant))
    found = session.execute(counted.group_by(JobRow.tenant, JobRow.status))
    return {(name, JobStatus(status)): number for name, status, number in found}


def trial_counts(session: Session, tenant: str | None) -> dict[tuple[str, str], int]:
    """How many trials of each tenant (None: of all) came to which outcome; `running` is one of them."""
    outcome = func.coalesce(TrialRow.outcome, "running")
    counted = select(JobRow.tenant, outcome, func.count()).join(JobRow, JobRow.id == TrialRow.job_id)
    found = session.execute(counted.where(*_of(tenant)).group_by(JobRow.tenant, outcome))
    return {(name, told): number for name, told, number in found}


def _of(tenant: str | None) -> list[ColumnElement[bool]]:
    return [] if tenant is None else [JobRow.tenant == tenant]


def _conditions(wanted: JobFilter) -> list[ColumnElement[bool]]:
    conditions = _of(wanted.tenant)
    if wanted.status:
        conditions.append(JobRow.status.in_([status.value for status in wanted.status]))
    if wanted.name is not None:
        conditions.append(JobRow.name == wanted.name)
    if wanted.search is not None:
        conditions.append(
            or_(*(column.contains(wanted.search, autoescape=True) for column in (JobRow.id, JobRow.name)))
        )
    return conditions


def _summaries(session: Session, found: Sequence[Row[Any]]) -> tuple[JobSummary, ...]:
    ids = [row.id for row in found]
    ended = select(TrialRow.job_id, func.count()).where(
        TrialRow.job_id.in_(ids),
        TrialRow.outcome.is_not(None),
        TrialRow.purpose.in_(_SEARCHED),
        or_(TrialRow.failure.is_(None), TrialRow.failure != FailureClass.CANCELLED.value),
    )
    best = (
        select(LoadPointRow.job_id, func.max(LoadPointRow.output_throughput_per_device))
        .join(TrialRow, and_(TrialRow.job_id == LoadPointRow.job_id, TrialRow.number == LoadPointRow.trial))
        .where(LoadPointRow.job_id.in_(ids), LoadPointRow.feasible, TrialRow.purpose.in_(_SEARCHED))
    )
    front = select(FrontPointRow.job_id, func.count()).where(FrontPointRow.job_id.in_(ids))
    trials = dict(session.execute(ended.group_by(TrialRow.job_id)).all())
    throughputs = dict(session.execute(best.group_by(LoadPointRow.job_id)).all())
    sizes = dict(session.execute(front.group_by(FrontPointRow.job_id)).all())
    return tuple(
        JobSummary(
            **{name: getattr(row, name) for name in (*_PLAIN, *_TIMES)},
            **_of_spec(row.spec),
            trials=trials.get(row.id, 0),
            best_output_throughput_per_device=throughputs.get(row.id),
            front_size=sizes.get(row.id, 0),
        )
        for row in found
    )


def _of_spec(spec: dict[str, Any]) -> dict[str, Any]:
    texts = {name: str(spec.get(name, "")) for name in ("model", "engine", "workload", "search_space")}
    sla = _sla_text(json.dumps(spec.get("sla")))
    return {**texts, "sla": sla, "budget_trials": (spec.get("budget") or {}).get("trials", 0)}


@lru_cache(maxsize=1000)
def _sla_text(document: str) -> str:
    try:
        return Sla.model_validate_json(document).text
    except ValidationError:  # a job of an earlier version
        return ""
