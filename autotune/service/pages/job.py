"""The page of a job: where it stands, what was measured, and what can be taken from it."""

from datetime import datetime
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from autotune.access import Role
from autotune.choice import as_it_stands
from autotune.errors import InputError
from autotune.results import ENDED, JobStatus
from autotune.service.api.common import JobId
from autotune.service.api.health import WORKER_SILENCE
from autotune.service.pages.scatter import scatter
from autotune.service.pages.shown import chosen, front_of, trial_lines
from autotune.service.pages.visit import Sender, Visit, Visitor
from autotune.service.pages.web import PageRoute, see_other
from autotune.service.state import State
from autotune.spec import JobSpec
from autotune.submission import SubmittedJob

router = APIRouter(prefix="/jobs", route_class=PageRoute, include_in_schema=False)


@router.get("/{job_id}")
def job_page(visit: Visitor, job_id: JobId, select: str = "") -> Response:
    """The job with its trials, its front, and the selected point."""
    shown = _submitted(visit, job_id)
    job, trials = as_it_stands(shown.job), visit.state.store.trials(job_id)
    spec = JobSpec.model_validate(job.spec)
    choice = job.result.recommendation if job.result else None
    front = front_of(job, trials)
    selected, problem = None, ""
    try:
        selected = chosen(job, trials, select, visit.state.settings)
    except InputError as exc:
        problem = str(exc)
    return visit.page(
        "job.html",
        job=job,
        spec=spec,
        submission=shown.submission,
        choice=choice,
        front=front,
        plot=scatter(trials, front, spec.sla, job.result),
        selected=selected,
        problem=problem,
        lines=trial_lines(trials),
        dashboard=f"/dashboard/jobs/{job.id}",
        **_live(visit.state, shown),
    )


@router.get("/{job_id}/progress")
def progress_part(visit: Visitor, job_id: JobId) -> Response:
    """The part of the page that changes while the job runs."""
    shown = _submitted(visit, job_id)
    return visit.page("progress.html", job=shown.job, submission=shown.submission, **_live(visit.state, shown))


@router.post("/{job_id}/cancel")
def cancel(visit: Sender, job_id: JobId) -> Response:
    """Ask for the end of a job."""
    visit.need(Role.SUBMITTER)
    job = _submitted(visit, job_id).job
    visit.state.store.cancel(job.id, now=visit.state.now())
    return see_other(f"/jobs/{job.id}")


@router.post("/{job_id}/resume")
def resume(visit: Sender, job_id: JobId) -> Response:
    """Put a failed or cancelled job into the queue again."""
    visit.need(Role.SUBMITTER)
    job = _submitted(visit, job_id).job
    state = visit.state
    state.store.requeue(job.id, now=state.now(), limits=state.settings.service.limits_of)
    return see_other(f"/jobs/{job.id}")


def _submitted(visit: Visit, job_id: str) -> SubmittedJob:
    return visit.state.store.submitted(job_id, tenant=visit.principal.scope, now=visit.state.now())


def _live(state: State, shown: SubmittedJob) -> dict[str, Any]:
    """What changes while a job runs, and a mark that changes when the rest of the page does."""
    summary = state.store.summary(shown.job.id)
    ended = summary.trials if summary else 0
    status, progress = shown.job.status, shown.progress
    return {
        "progress": progress,
        "owner": shown.owner,
        "is_stopping": shown.cancel_requested and status not in ENDED,
        "elapsed_s": _elapsed_s(shown, state.now()),
        "hint": _hint(state) if status is JobStatus.QUEUED and shown.submission.queued_at else "",
        "is_open": status not in ENDED,
        "mark": f"{status}:{shown.cancel_requested}:{ended}:{progress.phase}:{progress.done}",
    }


def _elapsed_s(shown: SubmittedJob, now: datetime) -> float | None:
    if shown.started_at is None:
        return None
    return ((shown.job.finished_at or now) - shown.started_at).total_seconds()


def _hint(state: State) -> str:
    """Why a job still waits."""
    alive = [sign for sign in state.store.workers() if state.now() - sign.seen_at < WORKER_SILENCE]
    if not alive:
        return "It waits: no worker is running. Start one with: autotune worker"
    if all(sign.job for sign in alive):
        workers = "the worker is" if len(alive) == 1 else f"all {len(alive)} workers are"
        return f"It waits for its turn: {workers} busy."
    return "It waits for its turn."
