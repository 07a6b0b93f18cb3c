"""Commands that act on a job's engines: cancel, and launching one trial again."""

import time

from autotune.cli.console import console as open_console
from autotune.cli.outcome import DONE, INTERRUPTED, TRIAL_FAILED
from autotune.cli.progress import progress_bar, trial_line
from autotune.cli.work import open_fleet, open_study
from autotune.errors import NotFound
from autotune.results import Job, JobStatus, Measured, Trial
from autotune.settings import load_settings
from autotune.store import Store
from autotune.tuner.context import restore
from autotune.tuner.job import STOP_S, close_job
from autotune.tuner.ledger import Books, leased
from autotune.tuner.owner import runner
from autotune.tuner.rerun import rerun, rerun_request

_POLL_S = 0.5
_MARGIN_S = 30.0  # beyond the time for stopping engines: the loop may be asking the sampler, or storing the result


def cancel_job(key: str) -> None:
    """Ask whoever runs the job to stop and wait for it; a job that nobody runs is closed here."""
    console, settings = open_console(), load_settings()
    with Store.open(settings.database) as store:
        job = store.job(key)
        store.request_cancel(job.id)
        holder = runner(store, job.id)
        if holder is None:
            with leased(store, job.id) as lease:
                close_job(job, Books(store, lease, open_study(job, settings)))
        else:
            console.print(f"asked {holder} to stop", highlight=False)
        ended = _wait_for_end(store, job.id)
    if ended.status in (JobStatus.QUEUED, JobStatus.RUNNING):
        console.print(f"{job.id} has not stopped yet; see: autotune jobs", highlight=False)
    else:
        console.print(f"{job.id} is {ended.status}; to go on: autotune resume {job.id}", highlight=False)


def _wait_for_end(store: Store, job_id: str) -> Job:
    deadline = time.monotonic() + STOP_S + _MARGIN_S
    while True:
        job = store.job(job_id)
        if job.status not in (JobStatus.QUEUED, JobStatus.RUNNING) or time.monotonic() >= deadline:
            return job
        time.sleep(_POLL_S)


def rerun_trial(key: str, number: int, *, debug: bool) -> int:
    """Launch a trial's configuration once more and show what came of it; returns the exit code."""
    console, settings = open_console(), load_settings()
    with Store.open(settings.database) as store:
        job = store.job(key)
        trial = _trial(job, store.trials(job.id), number)
    context = restore(job, settings)
    request = rerun_request(context, trial, debug=debug)
    console.print(f"launching trial {number} of {job.id} again; its files: {request.artifacts}", markup=False)
    try:
        with open_fleet(context, settings) as fleet, progress_bar(console) as observe:
            result = rerun(request, fleet, observe)
    except KeyboardInterrupt:
        return INTERRUPTED
    console.print(trial_line(trial.model_copy(update={"result": result}), {}), highlight=False)
    if isinstance(result.outcome, Measured):
        return DONE
    evidence = result.outcome.evidence
    console.print(evidence.advice, markup=False, highlight=False)
    console.print(f"    {evidence.line}\n    log: {evidence.log_path}", markup=False, highlight=False)
    return TRIAL_FAILED


def _trial(job: Job, trials: tuple[Trial, ...], number: int) -> Trial:
    for trial in trials:
        if trial.number == number:
            return trial
    known = f"its trials are 0 to {len(trials) - 1}" if trials else "it has no trials yet"
    raise NotFound(f"job {job.id!r} has no trial {number}; {known}")
