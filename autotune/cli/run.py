"""`autotune run`: a whole job in this process, with a progress bar, on SQLite and local Ray."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from autotune.cli.console import console as open_console
from autotune.cli.exports import RECOMMENDED, result_of, source_of, start_line
from autotune.cli.outcome import DONE, INTERRUPTED, NOTHING_MEETS_SLA, check_writable, write
from autotune.cli.progress import progress_bar
from autotune.export import export
from autotune.fleet import Fleet
from autotune.report.page import front_page
from autotune.report.plot import front_plot_text
from autotune.report.rows import baseline_point, searched_points
from autotune.report.tables import baseline_panel, front_table
from autotune.results import Job, Trial
from autotune.search_space import size
from autotune.settings import Settings, load_settings
from autotune.spec import JobSpec
from autotune.store import Store, url_for_optuna
from autotune.study import note
from autotune.study.grid import Grid
from autotune.study.persisted import PersistedStudy, open_storage
from autotune.tuner.context import JobContext, load_job, prepare
from autotune.tuner.events import Observer
from autotune.tuner.job import run_job
from autotune.tuner.loop import JobCancelled, Seats


@dataclass(frozen=True, slots=True)
class Outputs:
    """The files a run writes, where asked for."""

    best: Path | None  # for `vllm serve --config`
    page: Path | None  # the front as HTML


def run_here(job_file: Path, overrides: list[str], outputs: Outputs) -> int:
    """Run a job file to its end and show the result; returns the exit code."""
    console = open_console()
    check_writable(outputs.best, outputs.page)
    settings = load_settings()
    context = prepare(load_job(job_file, overrides), settings)
    console.print(_introduction(context), highlight=False)
    with Store.open(settings.database) as store:
        try:
            with progress_bar(console) as observe:
                job = _run(context, settings, store, observe)
        except (JobCancelled, KeyboardInterrupt):
            console.print(f"cancelled; what was measured is kept: autotune pareto {context.job.id}")
            return INTERRUPTED
        return _show(console, context, job, store.trials(job.id), outputs)


def _run(context: JobContext, settings: Settings, store: Store, observe: Observer) -> Job:
    with Fleet(context.spec.devices, address=settings.ray_address) as fleet:
        fleet.check_fits(context.baseline.devices)
        storage = open_storage(url_for_optuna(settings.database))
        store.create_job(context.job)
        study = PersistedStudy(storage, context.job.id, context.spec.sla, Grid.of(context.space))
        study.describe(note.attributes(context.spec, context.engine.version), note.text(context.spec, context.workload))
        return run_job(context, Seats(store, study, fleet), observe)


def _introduction(context: JobContext) -> str:
    spec = context.spec
    return (
        f"[bold]{context.job.id}[/bold]: {escape(context.model.path.name)} on {context.engine.version} "
        f"({context.profile.platform}), workload {escape(context.workload.name)}, SLA {note.sla_text(spec)}\n"
        f"space {escape(context.space.name)} ({size(context.space)} configurations); "
        f"budget: baseline + {spec.budget.trials} trials, then the top {spec.budget.confirm_top} confirmed"
    )


def _show(console: Console, context: JobContext, job: Job, trials: tuple[Trial, ...], outputs: Outputs) -> int:
    """The baseline, the front as table and plot, the recommendation; and the files that were asked for."""
    result, sla = result_of(job), JobSpec.model_validate(job.spec).sla
    console.print(baseline_panel(trials, sla, result.confirmations))
    console.print(front_table(result.front, trials))
    console.print(
        front_plot_text(result.front, searched_points(trials), baseline_point(trials), sla),
        markup=False,
        highlight=False,
    )
    console.print(f"[bold]recommendation[/bold]: {escape(result.recommendation.reason)}", highlight=False)
    console.print(f"stopped by {result.stopped_by}; look again with: autotune pareto {job.id}", highlight=False)
    if outputs.page is not None:
        write(outputs.page, front_page(result.front, trials, sla, title=job.id))
        console.print(f"wrote {outputs.page}: the front as a page", markup=False)
    source = source_of(job, trials, RECOMMENDED)
    if source is None:
        return NOTHING_MEETS_SLA
    if outputs.best is not None:
        write(outputs.best, export(source, "vllm"))
        console.print(f"wrote {outputs.best}: the recommended configuration; start it with", markup=False)
        console.print(start_line(source, outputs.best, context.profile.executable), markup=False, soft_wrap=True)
    return DONE
