"""Jobs: submit, check, list, show, cancel, resume."""

from typing import Annotated

from fastapi import APIRouter, Header, Query, Response

from autotune.access import TenantName
from autotune.records import Record
from autotune.results import JobStatus
from autotune.service.admission import check, submit
from autotune.service.api.body import JOB_BODY, SentJob
from autotune.service.api.common import JobId, SearchText, Service, ShownJob
from autotune.service.api.paging import cursor_of, cursor_text
from autotune.service.auth import Submitter, Viewer
from autotune.service.state import State
from autotune.spec import Name
from autotune.submission import Cursor, IdempotencyKey, JobFilter, JobSummary, SubmittedJob

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

MOST_JOBS = 200  # of one page


class JobReference(Record):
    """A job that was submitted, or that its status changed."""

    id: str
    status: JobStatus
    href: str  # where it is shown


class JobPage(Record):
    """A page of the job list, newest first."""

    jobs: tuple[JobSummary, ...]
    next_cursor: str | None = None  # None: there are no more


class CheckedJob(Record):
    """A job that could be submitted as it is."""

    name: str
    model_path: str  # where the model was found
    search_space: str
    workload: str
    sla: str


@router.post("", status_code=202, openapi_extra=JOB_BODY, responses={409: {}, 413: {}, 415: {}, 422: {}})
def submit_job(
    state: Service,
    principal: Submitter,
    asked: SentJob,
    response: Response,
    idempotency_key: Annotated[IdempotencyKey | None, Header()] = None,
) -> JobReference:
    """Put a job into the queue. With an `Idempotency-Key` the same request may be sent again and makes one job."""
    admitted = submit(state, principal, asked, idempotency_key)
    response.headers["Location"] = f"/v1/jobs/{admitted.id}"
    return reference(state, admitted.id, principal.scope)


@router.post("/validate", openapi_extra=JOB_BODY, responses={413: {}, 415: {}, 422: {}})
def validate_job(state: Service, _principal: Submitter, asked: SentJob) -> CheckedJob:
    """Check a job as its submission would, and put nothing into the queue."""
    job = check(state, asked)
    return CheckedJob(
        name=job.name,
        model_path=job.model_path,
        search_space=job.space["name"],
        workload=job.workload["name"],
        sla=asked.job.sla.text,
    )


@router.get("")
def list_jobs(
    state: Service,
    principal: Viewer,
    status: Annotated[list[JobStatus] | None, Query()] = None,
    name: Name | None = None,
    search: SearchText | None = None,
    tenant: Annotated[TenantName | None, Query(description="For admins: only this tenant's.")] = None,
    cursor: Annotated[str | None, Query(max_length=500)] = None,
    limit: Annotated[int, Query(ge=1, le=MOST_JOBS)] = 50,
) -> JobPage:
    """The jobs of the caller's tenant (for admins of all), newest first."""
    wanted = JobFilter(tenant=principal.scope or tenant, status=tuple(status or ()), name=name, search=search)
    jobs, more = state.store.page(wanted, after=cursor_of(cursor) if cursor else None, most=limit)
    last = Cursor(created_at=jobs[-1].created_at, id=jobs[-1].id) if jobs and more else None
    return JobPage(jobs=jobs, next_cursor=cursor_text(last) if last else None)


@router.get("/{job_id}", responses={404: {}})
def show_job(shown: ShownJob) -> SubmittedJob:
    """A job with its documents, its place in the queue, what it does now, and its result."""
    return shown


@router.post("/{job_id}/cancel", status_code=202, responses={404: {}, 409: {}})
def cancel_job(state: Service, principal: Submitter, job_id: JobId) -> JobReference:
    """Cancel a waiting job at once; ask a running one to stop, which it does within seconds and keeps its results."""
    reference(state, job_id, principal.scope)
    state.store.cancel(job_id, now=state.now())
    return reference(state, job_id, principal.scope)


@router.post("/{job_id}/resume", status_code=202, responses={404: {}, 409: {}})
def resume_job(state: Service, principal: Submitter, job_id: JobId) -> JobReference:
    """Put a failed or cancelled job into the queue again; measured trials are kept."""
    reference(state, job_id, principal.scope)
    state.store.requeue(job_id, now=state.now(), limits=state.settings.service.limits_of)
    return reference(state, job_id, principal.scope)


def reference(state: State, job_id: str, tenant: str | None) -> JobReference:
    """The job's id and status. Raises NotFound, also for a job of another tenant."""
    status = state.store.status_of(job_id, tenant=tenant)
    return JobReference(id=job_id, status=status, href=f"/v1/jobs/{job_id}")
