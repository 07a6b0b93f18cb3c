"""What came of a job: its Pareto front, its recommendation, and exports of a configuration."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Response

from autotune.choice import RECOMMENDED, price_of, result_of, source_of
from autotune.engine_config import EngineConfig
from autotune.export import FORMATS, export, file_name, format_of, points_csv
from autotune.records import Record
from autotune.results import Confirmation, Job, JobStatus, ParetoFront, Recommendation, Trial
from autotune.selection import pareto_front
from autotune.service.api.common import Service, ShownJob
from autotune.service.problems import Refused

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["results"], responses={404: {}})

CSV = "text/csv"
_FRONT: dict[int | str, dict[str, Any]] = {
    200: {"content": {CSV: {"schema": {"type": "string"}}}, "description": "The front"}
}
_EXPORT: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {
            media: {"schema": {"type": "string"}} for media in sorted({f.media_type for f in FORMATS.values()})
        },
        "description": "The configuration, as a file to save",
    },
    409: {},
}

ExportFormat = Literal["vllm", "command", "env", "compose", "kubernetes", "json", "csv"]


class Front(Record):
    """The non-dominated feasible load points of a job, by rising throughput."""

    job: str
    status: JobStatus
    is_final: bool  # False: the job has not ended, and the front is that of its trials so far
    front: ParetoFront


class JobRecommendation(Record):
    """The recommended configuration with its reason, or why there is none."""

    job: str
    status: JobStatus
    recommendation: Recommendation
    confirmation: Confirmation | None = None  # the re-runs that it was judged by
    config: EngineConfig | None = None  # what is launched; None: nothing is recommended


@router.get("/pareto", response_model=Front, responses=_FRONT)
def show_front(
    state: Service,
    shown: ShownJob,
    format: Annotated[Literal["json", "csv"] | None, Query(description="Wins over the header Accept.")] = None,
    accept: Annotated[str, Header(include_in_schema=False)] = "",
) -> Front | Response:
    """The Pareto front of throughput versus P99 TTFT as JSON or CSV; of a running job that of its trials so far."""
    job = shown.job
    is_csv = format == "csv" or (format is None and _prefers_csv(accept))
    trials = state.store.trials(job.id) if is_csv or job.result is None else ()
    front = job.result.front if job.result else pareto_front(trials)
    if is_csv:
        return Response(points_csv(front, trials), media_type=CSV)
    return Front(job=job.id, status=job.status, is_final=job.result is not None, front=front)


@router.get("/recommendation", responses={409: {}})
def show_recommendation(state: Service, shown: ShownJob) -> JobRecommendation:
    """What the job recommends; that nothing meets the SLA is an answer too."""
    job, result = shown.job, result_of(shown.job)
    choice = result.recommendation
    trial = state.store.trial(job.id, choice.trial) if choice.trial is not None else None
    return JobRecommendation(
        job=job.id,
        status=job.status,
        recommendation=choice,
        confirmation=next((c for c in result.confirmations if c.trial == choice.trial), None),
        config=trial.config if trial else None,
    )


@router.get("/export", response_class=Response, responses=_EXPORT)
def export_configuration(
    state: Service,
    shown: ShownJob,
    select: Annotated[
        str,
        Query(
            pattern=r"^(recommended|max-throughput|min-latency|knee|trial=[0-9]{1,9}(:[0-9]{1,9})?)$",
            description="recommended, max-throughput, min-latency, knee, or trial=N[:LEVEL].",
        ),
    ] = RECOMMENDED,
    format: ExportFormat = "vllm",
) -> Response:
    """A configuration of the front as a file, with its evidence inside."""
    job: Job = shown.job
    trials: tuple[Trial, ...] = state.store.trials(job.id)
    source = source_of(job, trials, select, price_of(job, state.settings))
    if source is None:
        raise Refused(404, "Nothing meets the SLA", result_of(job).recommendation.reason)
    name = file_name(source, format)
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(export(source, format), media_type=format_of(format).media_type, headers=headers)


def _prefers_csv(accept: str) -> bool:
    """Whether CSV is asked for before JSON; weights are not read, the first of the two that is named counts."""
    names = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    return next((name == CSV for name in names if name in (CSV, "application/json")), False)
