"""`autotune explain`: whose effect the winner's gain is."""

from rich.console import Console

from autotune.choice import result_of
from autotune.cli.console import console as open_console
from autotune.cli.outcome import DONE, INTERRUPTED
from autotune.cli.progress import progress_bar
from autotune.cli.recommendation import print_recommendation
from autotune.errors import InputError
from autotune.results import Job
from autotune.settings import Settings, load_settings
from autotune.store import Store
from autotune.trial import sweep_host
from autotune.tuner.context import check_same_engine, restore
from autotune.tuner.explain import explain_job, nothing_to_explain
from autotune.tuner.ledger import Books, leased
from autotune.tuner.loop import JobCancelled
from autotune.tuner.work import open_fleet, open_study


def explain_here(key: str, *, as_json: bool) -> int:
    """Show a job's attribution; launch what is missing of it first. Returns the exit code."""
    settings = load_settings()
    # With --json the standard output is the document alone.
    console = Console(stderr=True) if as_json else open_console()
    with Store.open(settings.database) as store:
        job = store.job(key)
        if job.result is None or job.result.attribution is None:
            code = launch_explanation(console, job, settings, store)
            if code != DONE:
                return code
            job = store.job(job.id)
    result = result_of(job)
    assert result.attribution is not None
    if as_json:
        print(result.attribution.model_dump_json(indent=2))
        return DONE
    print_recommendation(console, result)
    return DONE


def launch_explanation(console: Console, job: Job, settings: Settings, store: Store) -> int:
    """Launch the ablation path, from wherever an earlier explanation of the job stands; returns the exit code."""
    trials = store.trials(job.id)
    problem = nothing_to_explain(job, trials)
    if problem:
        raise InputError(problem)
    context = restore(job, settings)
    check_same_engine(context, trials)
    swept = sweep_host()
    if swept:
        console.print(f"ended {len(swept)} processes of engines that were left behind")
    try:
        with (
            open_fleet(context, settings) as fleet,
            leased(store, job.id) as lease,
            progress_bar(console) as observe,
        ):
            explain_job(context, Books(store, lease, open_study(job, settings)), fleet, observe)
    except (JobCancelled, KeyboardInterrupt):
        print_stopped(console, job.id)
        return INTERRUPTED
    return DONE


def print_stopped(console: Console, job_id: str) -> None:
    """What a Ctrl-C or a cancel has left of an explanation."""
    console.print(
        "explanation stopped; the job has succeeded and its result is unchanged, what was measured is kept\n"
        f"to go on: autotune explain {job_id}",
        highlight=False,
        soft_wrap=True,
    )
