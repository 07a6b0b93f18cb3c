"""Commands that read finished and running jobs."""

import json
import socket
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from autotune.choice import price_of, result_of, source_of, trial_of
from autotune.cli.console import console as open_console
from autotune.cli.evidence import print_evidence
from autotune.cli.outcome import NOTHING_MEETS_SLA, check_writable, write
from autotune.errors import EnvironmentProblem
from autotune.export import export
from autotune.report.levels import bottleneck_lines, levels_table
from autotune.report.rows import baseline_point, measured, searched_points
from autotune.report.tables import baseline_panel, front_table, trials_table
from autotune.results import JobStatus, Measured, Trial
from autotune.settings import load_settings
from autotune.spec import JobSpec
from autotune.store import Store, url_for_optuna
from autotune.tuner.owner import runner


def list_jobs(*, as_json: bool) -> None:
    """Every job, newest first."""
    with Store.open(load_settings().database) as store:
        found = store.jobs()
        lost = {job.id for job in found if job.status is JobStatus.RUNNING and runner(store, job.id) is None}
    if as_json:
        print(json.dumps([job.model_dump(mode="json") for job in found], indent=2))
        return
    table = Table("job", "status", "created (UTC)", "result", header_style="bold")
    for job in found:
        result = job.result.recommendation.reason if job.result else job.message
        if job.id in lost:
            result = f"nobody runs it any more; go on with: autotune resume {job.id}"
        table.add_row(job.id, job.status, f"{job.created_at:%Y-%m-%d %H:%M}", Text(result))
    open_console().print(table)


def show_trials(key: str, number: int | None, *, as_json: bool) -> None:
    """A job's trials, or one of them with the end of its engine's log."""
    with Store.open(load_settings().database) as store:
        job = store.job(key)
        trials = store.trials(job.id)
    if number is not None:
        trials = (trial_of(job, trials, number),)
    if as_json:
        print(json.dumps([trial.model_dump(mode="json") for trial in trials], indent=2))
        return
    console = open_console()
    console.print(trials_table(trials))
    if number is not None:
        _print_levels(console, trials[0])
    for trial in trials:
        if trial.result is not None and not isinstance(trial.result.outcome, Measured):
            evidence = trial.result.outcome.evidence
            console.print(f"trial {trial.number}: ", end="", highlight=False)
            print_evidence(console, evidence, whole_tail=number is not None)


def _print_levels(console: Console, trial: Trial) -> None:
    outcome = measured(trial)
    if outcome is None:
        return
    console.print(levels_table(outcome.points))
    for line in bottleneck_lines(outcome.points):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def show_front(key: str, *, as_json: bool, page: Path | None) -> None:
    """A job's front with the baseline and the recommendation."""
    check_writable(page)
    settings = load_settings()
    with Store.open(settings.database) as store:
        job = store.job(key)
        trials = store.trials(job.id)
    result, sla = result_of(job), JobSpec.model_validate(job.spec).sla
    if page is not None:
        from autotune.report.page import front_page  # plotly takes a second to import

        write(page, front_page(result.front, trials, sla, title=job.id))
    if as_json:
        print(result.model_dump_json(indent=2))
        return
    from autotune.report.plot import front_plot_text

    console = open_console()
    console.print(baseline_panel(trials, sla, result.confirmations))
    console.print(front_table(result.front, trials, price_of(job, settings)))
    plot = front_plot_text(result.front, searched_points(trials), baseline_point(trials), sla)
    console.print(plot, markup=False, highlight=False)
    console.print(f"[bold]recommendation[/bold]: {escape(result.recommendation.reason)}", highlight=False)


def export_choice(key: str, select: str, form: str, output: Path | None) -> int:
    """Export one configuration; returns the exit code."""
    check_writable(output)
    settings = load_settings()
    with Store.open(settings.database) as store:
        job = store.job(key)
        trials = store.trials(job.id)
    source = source_of(job, trials, select, price_of(job, settings))
    if source is None:
        Console(stderr=True).print(result_of(job).recommendation.reason, markup=False, highlight=False)
        return NOTHING_MEETS_SLA
    text = export(source, form)
    if output is None:
        print(text, end="" if text.endswith("\n") else "\n")
    else:
        write(output, text)
    return 0


def serve_dashboard(host: str, port: int) -> None:
    """Optuna dashboard on the job database, until interrupted."""
    from autotune.study.dashboard import serve

    settings = load_settings()
    Store.open(settings.database).close()  # a database that is none is told before anything listens
    _check_address(host, port)
    print(f"Optuna dashboard: http://{host}:{port}/  (Ctrl-C ends it)", flush=True)
    serve(url_for_optuna(settings.database), settings.artifacts, host=host, port=port)


def _check_address(host: str, port: int) -> None:
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as exc:
        raise EnvironmentProblem(
            f"cannot listen on {host}:{port} ({exc.strerror or exc}); choose another with --host and --port"
        ) from exc
