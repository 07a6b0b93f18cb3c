"""`autotune run` and `autotune resume`: a whole job in this process, with a progress bar."""

import os
import shlex
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape

from autotune.choice import RECOMMENDED, result_of, source_of
from autotune.cli.console import console as open_console
from autotune.cli.explain import launch_explanation, print_stopped
from autotune.cli.outcome import DONE, INTERRUPTED, NOTHING_MEETS_SLA, check_writable, write
from autotune.cli.progress import progress_bar
from autotune.cli.recommendation import print_recommendation
from autotune.errors import AutotuneError, InputError, JobTaken, StoreError
from autotune.export import ExportSource, export
from autotune.report.page import front_page
from autotune.report.plot import front_plot_text
from autotune.report.rows import baseline_point, searched_points
from autotune.report.tables import baseline_panel, front_table
from autotune.results import Job, JobStatus, Trial
from autotune.search_space import size
from autotune.settings import Settings, load_settings
from autotune.spec import JobSpec
from autotune.store import SharedStore
from autotune.study import note
from autotune.trial import sweep_host
from autotune.tuner.context import JobContext, check_same_engine, prepare, restore
from autotune.tuner.events import Event, Observer
from autotune.tuner.explain import is_unfinished
from autotune.tuner.ledger import leased
from autotune.tuner.loop import JobCancelled
from autotune.tuner.owner import runner
from autotune.tuner.sources import load_job
from autotune.tuner.work import open_fleet, open_study, tune
from autotune.worker.reporting import reporter


@dataclass(frozen=True, slots=True)
class Outputs:
    """The files a run writes, where asked for."""

    best: Path | None  # for `vllm serve --config`
    page: Path | None  # the front as HTML


def run_here(job_file: Path, overrides: list[str], outputs: Outputs, *, resume: bool) -> int:
    """Run a job file to its end and show the result; returns the exit code.

    An unfinished job of the same files is gone on with when `resume` says so or the user at the terminal does.
    """
    console = open_console()
    check_writable(outputs.best, outputs.page)
    settings = load_settings()
    context = prepare(load_job(job_file, overrides), settings)
    with SharedStore.open(settings.database) as store:
        earlier = _unfinished(store, context)
        if earlier is not None and (resume or _offered(console, earlier)):
            return _go_on(console, earlier, settings, store, outputs)
        return _work(console, context, settings, store, outputs)


def resume_here(key: str, outputs: Outputs) -> int:
    """Go on with a job that was stopped, or whose tuner is gone, to its end; returns the exit code."""
    console = open_console()
    check_writable(outputs.best, outputs.page)
    settings = load_settings()
    with SharedStore.open(settings.database) as store:
        return _go_on(console, store.job(key), settings, store, outputs)


def _go_on(console: Console, job: Job, settings: Settings, store: SharedStore, outputs: Outputs) -> int:
    if is_unfinished(job, store.trials(job.id)):
        if launch_explanation(console, job, settings, store) == INTERRUPTED:
            return INTERRUPTED
        return _show(console, restore(job, settings), store.job(job.id), store.trials(job.id), outputs)
    if job.status is JobStatus.SUCCEEDED:
        open_study(job, settings).sync([t for t in store.trials(job.id) if t.is_searched])
        raise InputError(f"job {job.id!r} has succeeded, nothing is left to do; see: autotune pareto {job.id}")
    holder = runner(store, job.id)
    if holder is not None:
        raise JobTaken(f"job {job.id!r} is being run by {holder}; stop it with: autotune cancel {job.id}")
    context = restore(job, settings)
    trials = store.trials(job.id)
    check_same_engine(context, trials)
    swept = sweep_host()
    if swept:
        console.print(f"ended {len(swept)} processes of engines that were left behind")
    running = sum(trial.result is None for trial in trials)
    console.print(
        f"going on with {job.id} ({job.status}): {len(trials) - running} trials are kept, "
        f"{running} that were running are launched again",
        highlight=False,
    )
    return _work(console, context, settings, store, outputs)


def _unfinished(store: SharedStore, context: JobContext) -> Job | None:
    """The newest job of the same name and content, when nobody runs it and it or its explanation has not ended."""
    for job in store.jobs():
        if _content(job) == _content(context.job):
            is_open = job.status is not JobStatus.SUCCEEDED or is_unfinished(job, store.trials(job.id))
            return job if is_open and runner(store, job.id) is None else None
    return None


def _content(job: Job) -> tuple[object, ...]:
    return (job.name, job.spec, job.space, job.workload, job.model_path)


def _offered(console: Console, job: Job) -> bool:
    """Ask at a terminal; elsewhere say what could be done, and start anew."""
    if console.is_terminal and sys.stdin.isatty():
        return typer.confirm(
            f"Job {job.id} of the same files is unfinished ({job.status}). Go on with it?", default=True
        )
    console.print(
        f"job {job.id} of the same files is unfinished ({job.status}); to go on with it instead of starting anew: "
        f"autotune resume {job.id}",
        highlight=False,
        soft_wrap=True,
    )
    return False


def _work(console: Console, context: JobContext, settings: Settings, store: SharedStore, outputs: Outputs) -> int:
    console.print(_introduction(context), highlight=False)
    try:
        with progress_bar(console) as observe:
            _tune(context, settings, store, observe)
    except (JobCancelled, KeyboardInterrupt):
        if context.job.id not in {job.id for job in store.jobs()}:
            return INTERRUPTED  # before anything was launched
        if store.job(context.job.id).status is JobStatus.SUCCEEDED:
            _show_stored(console, context, store, outputs)
            print_stopped(console, context.job.id)
            return INTERRUPTED
        console.print(
            f"cancelled; what was measured is kept: autotune pareto {context.job.id}\n"
            f"to go on: autotune resume {context.job.id}",
            highlight=False,
            soft_wrap=True,
        )
        return INTERRUPTED
    except StoreError:  # there is nothing to read the result from
        raise
    except AutotuneError:
        jobs = {job.id: job for job in store.jobs()}
        if context.job.id in jobs and jobs[context.job.id].status is JobStatus.SUCCEEDED:
            _show_stored(console, context, store, outputs)  # only its explanation has failed
        raise
    return _show_stored(console, context, store, outputs)


def _show_stored(console: Console, context: JobContext, store: SharedStore, outputs: Outputs) -> int:
    return _show(console, context, store.job(context.job.id), store.trials(context.job.id), outputs)


def _tune(context: JobContext, settings: Settings, store: SharedStore, observe: Observer) -> None:
    with open_fleet(context, settings) as fleet:
        fleet.check_fits(context.baseline.devices)
        if context.job.status is JobStatus.QUEUED:
            store.create_job(context.job)
        with leased(store, context.job.id) as lease:
            if context.job.status is not JobStatus.QUEUED:
                store.reopen(lease)
            report = reporter(store, lease, threading.Event())  # for who watches it from elsewhere

            def told(event: Event) -> None:
                observe(event)
                report(event)

            tune(context, settings, store, lease, fleet, told)


def _introduction(context: JobContext) -> str:
    spec = context.spec
    return (
        f"[bold]{context.job.id}[/bold]: {escape(context.model.path.name)} on {context.engine.version} "
        f"({context.profile.platform}), workload {escape(context.workload.name)}, SLA {note.sla_text(spec)}\n"
        f"space {escape(context.space.name)} ({size(context.space)} configurations); "
        f"budget: baseline + {spec.budget.trials} trials, then the top {spec.budget.confirm_top} confirmed"
        + "".join(f"\nnot searched: {escape(name)}, since {escape(why)}" for name, why in context.space.dropped.items())
    )


def _show(console: Console, context: JobContext, job: Job, trials: tuple[Trial, ...], outputs: Outputs) -> int:
    """The baseline, the front as table and plot, the recommendation; and the files that were asked for."""
    result, sla = result_of(job), JobSpec.model_validate(job.spec).sla
    console.print(baseline_panel(trials, sla, result.confirmations))
    console.print(front_table(result.front, trials, context.profile.price_per_device_hour))
    console.print(
        front_plot_text(result.front, searched_points(trials), baseline_point(trials), sla),
        markup=False,
        highlight=False,
    )
    print_recommendation(console, result)
    console.print(f"stopped by {result.stopped_by}; look again with: autotune pareto {job.id}", highlight=False)
    if outputs.page is not None:
        write(outputs.page, front_page(result.front, trials, sla, title=job.id))
        console.print(f"wrote {outputs.page}: the front as a page", markup=False)
    source = source_of(job, trials, RECOMMENDED, context.profile.price_per_device_hour)
    if source is None:
        return NOTHING_MEETS_SLA
    if outputs.best is not None:
        write(outputs.best, export(source, "vllm"))
        console.print(f"wrote {outputs.best}: the recommended configuration; start it with", markup=False)
        console.print(_start_line(source, outputs.best, context.profile.executable), markup=False, soft_wrap=True)
    return DONE


def _start_line(source: ExportSource, config_file: Path, executable: Path) -> str:
    """The shell line that starts the engine with an exported file: its environment, then `vllm serve --config`."""
    variables = [f"{name}={shlex.quote(value)}" for name, value in sorted(source.trial.config.environment.items())]
    here = os.path.relpath(executable) if executable.is_relative_to(Path.cwd()) else str(executable)
    return " ".join([*variables, shlex.quote(here), "serve", "--config", shlex.quote(str(config_file))])
