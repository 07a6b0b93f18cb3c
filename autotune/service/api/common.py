"""What the routers share: names in addresses, and the job that a request is about."""

from typing import Annotated

from fastapi import Depends, Path, Query

from autotune.choice import as_it_stands
from autotune.errors import NotFound
from autotune.results import Trial
from autotune.service.auth import Viewer
from autotune.service.state import State, state_of
from autotune.submission import SubmittedJob

_NO_NUL = r"^[^\x00]*$"  # PostgreSQL's text cannot hold one
MOST_TRIALS = 2**31 - 1  # what a column of the database holds

Service = Annotated[State, Depends(state_of)]
JobId = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100, description="A job's id.")]
SearchText = Annotated[str, Query(max_length=100, pattern=_NO_NUL, description="In the id or the name.")]
TrialNumber = Annotated[int, Path(ge=0, le=MOST_TRIALS, description="A trial's number within its job.")]


def shown_job(state: Service, principal: Viewer, job_id: JobId) -> SubmittedJob:
    """The job of the address. Raises NotFound, also for a job of another tenant."""
    shown = state.store.submitted(job_id, tenant=principal.scope, now=state.now())
    return shown.model_copy(update={"job": as_it_stands(shown.job)})


ShownJob = Annotated[SubmittedJob, Depends(shown_job)]


def seen_id(state: Service, principal: Viewer, job_id: JobId) -> str:
    """The id in the address, of a job that the caller may see; its documents are not read. Raises NotFound."""
    state.store.status_of(job_id, tenant=principal.scope)
    return job_id


SeenId = Annotated[str, Depends(seen_id)]


def shown_trial(state: Service, job_id: SeenId, number: TrialNumber) -> Trial:
    """The trial of the address. Raises NotFound."""
    trial = state.store.trial(job_id, number)
    if trial is None:
        raise NotFound(f"job {job_id!r} has no trial {number}")
    return trial


ShownTrial = Annotated[Trial, Depends(shown_trial)]
