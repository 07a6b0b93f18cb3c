"""Records to rows and back; a record that comes back equals the one that went in."""

from datetime import datetime
from typing import Any, TypeVar

from autotune.records import Record
from autotune.results import FrontPoint, Job, JobResult, JobStatus, LoadPoint, Measured, Trial, TrialResult
from autotune.store.lease import holder_of
from autotune.store.schema import FrontPointRow, JobRow, LoadPointRow, TrialRow
from autotune.submission import JobProgress, Submission, SubmittedJob

AnyRecord = TypeVar("AnyRecord", bound=Record)

_PLAIN_JOB = (
    "id",
    "name",
    "status",
    "message",
    "model_path",
    "folder",
    "spec",
    "space",
    "workload",
    "worked_s",
    "created_at",
    "finished_at",
)
_SUBMISSION = ("tenant", "submitted_by", "priority", "queued_at", "idempotency_key", "request_hash")
_NEW_TRIAL = {"number", "purpose", "origin", "knobs", "config", "confirms", "attempts", "failures", "earlier_device_s"}
_PLAIN_TRIAL = (*_NEW_TRIAL, "started_at", "finished_at")
_PLAIN_FRONT_POINT = ("trial", "level", "output_throughput_per_device", "p99_ttft_ms", "request_throughput")


def job_row(job: Job) -> JobRow:
    """A new row for a job that has no result yet."""
    row = JobRow(
        id=job.id,
        name=job.name,
        model_path=job.model_path,
        folder=job.folder,
        worked_s=job.worked_s,
        created_at=job.created_at,
        finished_at=job.finished_at,
        **job.model_dump(mode="json", include={"spec", "space", "workload"}),
    )
    set_status(row, job.status, job.message)
    return row


def set_status(row: JobRow, status: JobStatus, message: str) -> None:
    """Write a job's status and the message that explains it."""
    row.status = status.value
    row.message = plain(message)


def plain(message: str) -> str:
    """A message as it is stored: it may quote a log, and PostgreSQL's text has no NUL."""
    return message.replace("\0", "\N{REPLACEMENT CHARACTER}")


def as_stored(record: AnyRecord) -> AnyRecord:
    """A record as it would come back: what pydantic leaves alone in Python, such as tuples in knobs, JSON changes."""
    return type(record).model_validate(record.model_dump(mode="json"))


def set_job_result(row: JobRow, result: JobResult | None) -> None:
    """Write a job's result, its front in place of an earlier one."""
    row.result = result.model_dump(mode="json", exclude={"front"}) if result else None
    points = result.front.points if result else ()
    row.front = [_front_point_row(row.id, position, point) for position, point in enumerate(points)]


def job_record(row: JobRow) -> Job:
    """The job of a row."""
    result = row.result and {**row.result, "front": {"points": [_front_point(point) for point in row.front]}}
    return Job.model_validate({**_columns(row, _PLAIN_JOB), "result": result})


def set_submission(row: JobRow, submission: Submission) -> None:
    """Write where a job comes from and where it stands in the queue."""
    for name in _SUBMISSION:
        setattr(row, name, getattr(submission, name))


def submitted_record(row: JobRow, now: datetime) -> SubmittedJob:
    """The job of a row with its place in the queue."""
    return SubmittedJob(
        job=job_record(row),
        submission=Submission.model_validate(_columns(row, _SUBMISSION)),
        progress=JobProgress.model_validate(row.progress or {}),
        cancel_requested=row.cancel_requested,
        started_at=row.started_at,
        owner=holder_of(row, now),
    )


def trial_row(job_id: str, trial: Trial) -> TrialRow:
    """A new row for a trial that has no result yet."""
    return TrialRow(
        job_id=job_id,
        config_hash=trial.config.hash,
        started_at=trial.started_at,
        **trial.model_dump(mode="json", include=_NEW_TRIAL),
    )


def set_trial_result(row: TrialRow, result: TrialResult, finished_at: datetime) -> None:
    """Write what a trial brought home, one row per load point."""
    outcome = result.outcome
    row.finished_at = finished_at
    row.outcome = outcome.kind
    row.failure = None if isinstance(outcome, Measured) else outcome.evidence.failure.value
    row.result = result.model_dump(mode="json", exclude={"outcome": {"points"}})
    row.device_s = row.earlier_device_s + result.device_s
    points = outcome.points if isinstance(outcome, Measured) else ()
    row.points = [_point_row(row, position, point) for position, point in enumerate(points)]


def trial_record(row: TrialRow) -> Trial:
    """The trial of a row."""
    return Trial.model_validate(
        {**_columns(row, _PLAIN_TRIAL), "result": row.result and _trial_result(row, row.result)}
    )


def point_record(row: LoadPointRow) -> LoadPoint:
    """The load point of a row."""
    return LoadPoint.model_validate(row.document)


def _trial_result(row: TrialRow, document: dict[str, Any]) -> dict[str, Any]:
    if not row.points:
        return document
    points = [point.document for point in row.points]
    return {**document, "outcome": {**document["outcome"], "points": points}}


def _point_row(trial: TrialRow, position: int, point: LoadPoint) -> LoadPointRow:
    return LoadPointRow(
        job_id=trial.job_id,
        trial=trial.number,
        position=position,
        level=point.level,
        load_kind=point.load.kind,
        load_value=point.load.value,
        devices=point.devices,
        feasible=point.feasible,
        output_throughput_per_device=point.output_throughput_per_device,
        request_throughput=point.request_throughput,
        request_goodput=point.request_goodput,
        completed=point.completed,
        failed=point.failed,
        document=point.model_dump(mode="json"),
        **{f"p99_{metric}_ms": _p99_ms(point, metric) for metric in ("ttft", "tpot", "itl", "e2el")},
    )


def _p99_ms(point: LoadPoint, metric: str) -> float | None:
    quantiles = getattr(point, metric).quantiles
    return next((quantile.value_ms for quantile in quantiles if quantile.percent == 99), None)


def _front_point_row(job_id: str, position: int, point: FrontPoint) -> FrontPointRow:
    return FrontPointRow(
        job_id=job_id,
        position=position,
        load_kind=point.load.kind,
        load_value=point.load.value,
        **point.model_dump(mode="json", include=set(_PLAIN_FRONT_POINT)),
    )


def _front_point(row: FrontPointRow) -> dict[str, Any]:
    return {**_columns(row, _PLAIN_FRONT_POINT), "load": {"kind": row.load_kind, "value": row.load_value}}


def _columns(row: object, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(row, name) for name in names}
