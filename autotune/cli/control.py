"""Commands that act on a job's engines: cancel, and launching one trial again."""

import time

from autotune.choice import trial_of
from autotune.cli.console import console as open_console
from autotune.cli.evidence import print_evidence
from autotune.cli.outcome import DONE, INTERRUPTED, TRIAL_FAILED
from autotune.cli.progress import progress_bar, trial_line
from autotune.errors import EnvironmentProblem
from autotune.results import ENDED, JobStatus, Measured
from autotune.settings import load_settings
from autotune.store import Store
from autotune.tuner.context import restore
from autotune.tuner.job import close_job
from autotune.tuner.ledger import Books, leased
from autotune.tuner.loop import STOP_S
from autotune.tuner.owner import runner
from autotune.tuner.rerun import rerun, rerun_request
from autotune.tuner.work import open_fleet, open_study

_POLL_S = 0.5
_MARGIN_S = 30.0  # beyond the time for stopping engines: the loop may be asking the sampler, or storing the result


def cancel_job(key: str) -> None:
    """Ask whoever runs the job to stop and wait for it; a job that nobody runs is closed here."""
    console, settings = open_console(), load_settings()
    with Store.open(settings.database) as store:
        job = store.job(key)
        store.request_cancel(job.id)
        holder = runner(store, job.id)
        if holder is not None:
            console.print(f"asked {holder} to stop", highlight=False)
            _wait_for_end(store, job.id)
        ended = store.job(job.id)
        if ended.status not in ENDED and runner(store, job.id) is None:
            with leased(store, job.id) as lease:
                close_job(job, Books(store, lease, open_study(job, settings)))
            ended = store.job(job.id)
    if ended.status not in ENDED:
        raise EnvironmentProblem(f"{job.id} has not stopped yet, {holder} is still at it; look again: autotune list")
    onward = "" if ended.status is JobStatus.SUCCEEDED else f"; to go on: autotune resume {job.id}"
    console.print(f"{job.id} is {ended.status}{onward}", highlight=False)


def _wait_for_end(store: Store, job_id: str) -> None:
    """Until nobody works on the job any more, or the time for stopping engines is over."""
    deadline = time.monotonic() + STOP_S + _MARGIN_S
    while time.monotonic() < deadline:
        if runner(store, job_id) is None:
            return
        time.sleep(_POLL_S)


def rerun_trial(key: str, number: int, *, debug: bool) -> int:
    """Launch a trial's configuration once more and show what came of it; returns the exit code."""
    console, settings = open_console(), load_settings()
    with Store.open(settings.database) as store:
        job = store.job(key)
        trials = store.trials(job.id)
        trial = trial_of(job, trials, number)
    context = restore(job, settings)
    request = rerun_request(context, trial, trials, debug=debug)
    console.print(f"launching trial {number} of {job.id} again; its files: {request.artifacts}", markup=False)
    try:
        with open_fleet(context, settings) as fleet, progress_bar(console) as observe:
            result = rerun(request, fleet, observe)
    except KeyboardInterrupt:
        return INTERRUPTED
    console.print(trial_line(trial.model_copy(update={"result": result}), {}), highlight=False)
    if isinstance(result.outcome, Measured):
        return DONE
    print_evidence(console, result.outcome.evidence)
    return TRIAL_FAILED
