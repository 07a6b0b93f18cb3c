"""From a stored job and a selection to what an export is made of; for the command line and the service alike."""

from datetime import UTC, datetime

from autotune.errors import Conflict, NotFound
from autotune.export import ExportSource
from autotune.report.rows import baseline_point, baseline_trial
from autotune.results import (
    ENDED,
    Attribution,
    Comparison,
    Confirmation,
    FrontPoint,
    Job,
    JobResult,
    LoadPoint,
    Measured,
    Recommendation,
    Trial,
)
from autotune.selection import Pick, choose, parse_policy
from autotune.settings import Settings
from autotune.spec import JobSpec
from autotune.workload import document_digest

RECOMMENDED = "recommended"


def as_it_stands(job: Job) -> Job:
    """A job that was resumed has the result of its last run: what that said may hold no more."""
    return job if job.status in ENDED else job.model_copy(update={"result": None})


def result_of(job: Job) -> JobResult:
    """The job's result. Raises Conflict while there is none."""
    if job.result is None:
        raise Conflict(f"job {job.id!r} is {job.status} and has no result yet")
    return job.result


def trial_of(job: Job, trials: tuple[Trial, ...], number: int) -> Trial:
    """The job's trial of that number. Raises NotFound."""
    for trial in trials:
        if trial.number == number:
            return trial
    known = f"its trials are 0 to {len(trials) - 1}" if trials else "it has no trials yet"
    raise NotFound(f"job {job.id!r} has no trial {number}; {known}")


def price_of(job: Job, settings: Settings) -> float | None:
    """What a device-hour of the job's engine profile costs by today's settings; None when they do not say."""
    profile = settings.profiles.get(JobSpec.model_validate(job.spec).engine)
    return profile.price_per_device_hour if profile else None


def source_of(
    job: Job, trials: tuple[Trial, ...], select: str, price_per_device_hour: float | None = None
) -> ExportSource | None:
    """The selected configuration with its evidence; None when nothing meets the SLA. The cost is told with a price."""
    result = result_of(job)
    chosen = _chosen(result, trials, select)
    if chosen is None:
        return None
    number, level = chosen
    spec = JobSpec.model_validate(job.spec)
    first, base = baseline_trial(trials), baseline_point(trials)
    point = _point(next(t for t in trials if t.number == number), level)
    confirmation = _confirmation(result, number, point)
    trial = next(t for t in trials if t.number == number)
    return ExportSource(
        job_id=job.id,
        job_name=job.name,
        model=job.model_path,
        workload=spec.workload,
        workload_digest=document_digest(job.workload),
        sla=spec.sla,
        engine=spec.engine,
        engine_version=trial.result.engine_version if trial.result else "",
        devices=spec.devices,
        instrument=spec.instrument,
        confirm_runs=spec.budget.confirm_runs,
        trial=trial,
        point=point,
        baseline=base if base is not None and base.feasible else None,
        baseline_confirmation=_confirmation(result, first.number) if first and confirmation else None,
        confirmation=confirmation,
        comparison=_comparison(result, number, point),
        attribution=_attribution(result, number),
        front=result.front,
        trials=trials,
        exported_at=datetime.now(UTC),
        price_per_device_hour=price_per_device_hour,
    )


def _chosen(result: JobResult, trials: tuple[Trial, ...], select: str) -> tuple[int, int] | None:
    if select == RECOMMENDED:
        choice = result.recommendation
        return None if choice.trial is None or choice.level is None else (choice.trial, choice.level)
    policy = parse_policy(select)
    if isinstance(policy, Pick) and _names(policy, result.recommendation):  # a reset trial is in no front
        return _chosen(result, trials, RECOMMENDED)
    if not result.front.points:
        return None
    point: FrontPoint = choose(result.front, policy, trials)
    return point.trial, point.level


def _names(pick: Pick, choice: Recommendation) -> bool:
    return pick.trial == choice.trial and pick.level in (None, choice.level)


def _comparison(result: JobResult, trial: int, point: LoadPoint) -> Comparison | None:
    """The recommendation against the baseline; it was measured at one level and says nothing about another."""
    choice = result.recommendation
    return choice.versus_baseline if (trial, point.level) == (choice.trial, choice.level) else None


def _attribution(result: JobResult, trial: int) -> Attribution | None:
    """What was found out about the gain of this trial, or of the one whose inert knobs it is without."""
    found = result.attribution
    return found if found is not None and trial in (found.winner, found.trial) else None


def _confirmation(result: JobResult, trial: int, point: LoadPoint | None = None) -> Confirmation | None:
    """The re-runs of a trial; with a point only those at its load, for they say nothing about another level."""
    found = next((c for c in result.confirmations if c.trial == trial), None)
    return None if found and point and found.load != point.load else found


def _point(trial: Trial, level: int) -> LoadPoint:
    """What was measured at a level; of several runs the first that meets the SLA, or else that is valid."""
    assert trial.result is not None
    assert isinstance(trial.result.outcome, Measured)
    points = [point for point in trial.result.outcome.points if point.level == level]
    return min(points, key=lambda point: (bool(point.invalid), not point.feasible))
