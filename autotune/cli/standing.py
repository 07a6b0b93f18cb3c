"""How a job stands, read at its place: for `status` and `watch`."""

from collections.abc import Sequence

from autotune.cli.outcome import DONE, FAILED, INTERRUPTED, NOTHING_MEETS_SLA
from autotune.cli.place import Place
from autotune.report.course import Course
from autotune.results import ENDED, Job, JobStatus, Trial
from autotune.selection import pareto_front
from autotune.spec import JobSpec
from autotune.submission import JobFilter, SubmittedJob
from autotune.tuner.remaining import confirmation_left_s, time_left

_MOST_WAITING = 500


def course_of(there: Place, submitted: SubmittedJob, trials: Sequence[Trial]) -> Course:
    """Everything that is shown of a job at one moment."""
    job = submitted.job
    spec = JobSpec.model_validate(job.spec)
    front = job.result.front if job.result else pareto_front(trials)
    return Course(
        submitted=submitted,
        trials=trials,
        budget_trials=spec.budget.trials,
        sla=spec.sla.text,
        front_size=len(front.points),
        time_left_s=_time_left_s(submitted, spec, trials),
        note=_note(there, submitted),
    )


def _time_left_s(submitted: SubmittedJob, spec: JobSpec, trials: Sequence[Trial]) -> dict[str, float]:
    job, progress = submitted.job, submitted.progress
    if job.status is not JobStatus.RUNNING or progress.phase == "stopping":
        return {}
    if any(trial.confirms is not None for trial in trials):
        left_s = confirmation_left_s(trials, progress.planned - progress.done) if progress.planned else None
        return {} if left_s is None else {"confirmation at its mean pace": left_s}
    return dict(time_left(spec.budget, trials, job.worked_s))


def _note(there: Place, submitted: SubmittedJob) -> str:
    """What the job waits for; nothing while it runs or has ended."""
    job = submitted.job
    if job.status in ENDED:
        return job.message
    if job.status is JobStatus.QUEUED:
        return _waiting(there, submitted)
    if submitted.owner is None:
        onward = "another one goes on with it" if there.options else f"go on with: autotune resume {job.id}"
        return f"nobody runs it any more; {onward}"
    return ""


def _waiting(there: Place, submitted: SubmittedJob) -> str:
    workers = there.workers()
    who = f"{workers} workers are there" if workers != 1 else "1 worker is there"
    if workers == 0:
        who = "no worker is there; start one with: autotune worker"
    return f"waits for a worker, {jobs_before(there, submitted)} of the waiting jobs come before it; {who}"


def jobs_before(there: Place, submitted: SubmittedJob) -> int:
    """Waiting jobs of the same tenant that are taken before this one; other tenants have turns of their own."""
    own = submitted.submission
    waiting = there.jobs(JobFilter(status=(JobStatus.QUEUED,)), most=_MOST_WAITING)
    return sum(
        other.tenant == own.tenant
        and other.id != submitted.job.id
        and other.queued_at is not None
        and own.queued_at is not None
        and (-other.priority, other.queued_at) < (-own.priority, own.queued_at)
        for other in waiting
    )


def code_of(job: Job) -> int:
    """The exit code for what became of a job that has ended."""
    match job.status:
        case JobStatus.SUCCEEDED if job.result is not None and job.result.recommendation.trial is not None:
            return DONE
        case JobStatus.SUCCEEDED:
            return NOTHING_MEETS_SLA
        case JobStatus.FAILED:
            return FAILED
        case _:
            return INTERRUPTED
