"""The trials of a job, and every load point that they measured."""

from typing import Annotated

from fastapi import APIRouter, Query

from autotune.records import Record
from autotune.results import LoadPoint, Trial
from autotune.service.api.common import MOST_TRIALS, SeenId, Service, ShownTrial

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["trials"], responses={404: {}})

MOST_OF_A_PAGE = 500


class TrialPage(Record):
    """Trials by number, those that still run (without a result) included."""

    trials: tuple[Trial, ...]
    next_after: int | None = None  # pass it on as `after` for the next page; None: there are no more


class MeasuredPoint(Record):
    """A load point with what is computed from it, and the trial that measured it."""

    trial: int
    feasible: bool  # every line of the SLA is met, and the measurement can be believed
    output_throughput_per_device: float
    p99_ttft_ms: float | None  # None: more than one request in a hundred failed
    point: LoadPoint


class LoadPoints(Record):
    """Every load point of a job, by trial and then as measured."""

    load_points: tuple[MeasuredPoint, ...]


@router.get("/trials")
def list_trials(
    state: Service,
    job_id: SeenId,
    after: Annotated[int, Query(ge=-1, le=MOST_TRIALS, description="Only trials of larger numbers.")] = -1,
    limit: Annotated[int, Query(ge=1, le=MOST_OF_A_PAGE)] = MOST_OF_A_PAGE,
) -> TrialPage:
    """The trials of a job by number, with their load points; those that still run have no result."""
    trials = state.store.trials_after(job_id, after, most=limit + 1)
    more = len(trials) > limit
    return TrialPage(trials=trials[:limit], next_after=trials[limit - 1].number if more else None)


@router.get("/trials/{number}")
def show_trial(trial: ShownTrial) -> Trial:
    """One trial: its knobs and configuration, what it measured, or why it failed."""
    return trial


@router.get("/load-points")
def list_load_points(state: Service, job_id: SeenId) -> LoadPoints:
    """Every load level that was measured in a job, with the verdict on it."""
    found = state.store.load_points(job_id)
    return LoadPoints(load_points=tuple(_measured(trial, point) for trial, point in found))


def _measured(trial: int, point: LoadPoint) -> MeasuredPoint:
    return MeasuredPoint(
        trial=trial,
        feasible=point.feasible,
        output_throughput_per_device=point.output_throughput_per_device,
        p99_ttft_ms=point.p99_ttft_ms,
        point=point,
    )
