"""Commands that read finished and running jobs, here or on a server."""

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from autotune.choice import result_of, trial_of
from autotune.cli.console import console as open_console
from autotune.cli.evidence import print_evidence
from autotune.cli.outcome import DONE, NOTHING_MEETS_SLA, check_writable, write
from autotune.cli.pictures import drawing
from autotune.cli.place import place
from autotune.cli.recommendation import print_recommendation
from autotune.cli.standing import course_of
from autotune.errors import InputError
from autotune.report.course import course_view
from autotune.report.jobs import jobs_table
from autotune.report.levels import bottleneck_lines, growth_lines, levels_table
from autotune.report.rows import baseline_point, measured, searched_points
from autotune.report.tables import baseline_panel, front_table, trials_table
from autotune.results import JobStatus, Measured, Trial
from autotune.spec import JobSpec
from autotune.submission import JobFilter

LAST_TRIALS = 10  # of a job's status


def list_jobs(server: str | None, status: Sequence[str], name: str | None, *, most: int, as_json: bool) -> None:
    """Jobs of these statuses (none named: of any) and this name, newest first."""
    unknown = sorted(set(status) - set(JobStatus))
    if unknown:
        raise InputError(f"--status {', '.join(unknown)}: known are {', '.join(JobStatus)}")
    wanted = JobFilter(status=tuple(map(JobStatus, status)), name=name)
    with place(server) as there:
        found = there.jobs(wanted, most=most)
    if as_json:
        print(json.dumps([job.model_dump(mode="json") for job in found], indent=2))
        return
    console = open_console()
    console.print(jobs_table(found))
    for job in found:
        if job.message:
            console.print(f"{job.id}: {job.message}", markup=False, highlight=False, soft_wrap=True)


def show_status(server: str | None, key: str, *, as_json: bool) -> None:
    """How one job stands."""
    with place(server) as there:
        submitted = there.find(key)
        if as_json:
            print(submitted.model_dump_json(indent=2))
            return
        trials = there.trials(submitted.job.id)
        course = course_of(there, submitted, trials)
    console = open_console()
    console.print(course_view(course, rows=LAST_TRIALS))
    if submitted.job.result is not None:
        print_recommendation(console, submitted.job.result)


def show_trials(server: str | None, key: str, number: int | None, *, as_json: bool) -> None:
    """A job's trials, or one of them with the end of its engine's log."""
    with place(server) as there:
        job = there.find(key).job
        trials = there.trials(job.id)
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
    for line in [*growth_lines(outcome.points), *bottleneck_lines(outcome.points)]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def show_front(server: str | None, key: str, *, as_json: bool, plot: Path | None) -> None:
    """A job's front with the baseline and the recommendation; `plot` is a page or a picture of it."""
    check_writable(plot)
    draw = drawing(plot) if plot is not None else None
    with place(server) as there:
        job = there.find(key).job
        trials, price = there.trials(job.id), there.price(job)
    result, sla = result_of(job), JobSpec.model_validate(job.spec).sla
    if plot is not None and draw is not None:
        draw(plot, result.front, trials, sla, job.id)
    if as_json:
        print(result.model_dump_json(indent=2))
        return
    from autotune.report.plot import front_plot_text

    console = open_console()
    console.print(baseline_panel(trials, sla, result.confirmations))
    console.print(front_table(result.front, trials, price))
    text = front_plot_text(result.front, searched_points(trials), baseline_point(trials), sla)
    console.print(text, markup=False, highlight=False)
    console.print(f"[bold]recommendation[/bold]: {escape(result.recommendation.reason)}", highlight=False)


def export_choice(server: str | None, key: str, select: str, form: str, output: Path | None) -> int:
    """Export one configuration; returns the exit code."""
    check_writable(output)
    with place(server) as there:
        job = there.find(key).job
        text = there.export(job, select, form)
    if text is None:
        Console(stderr=True).print(result_of(job).recommendation.reason, markup=False, highlight=False)
        return NOTHING_MEETS_SLA
    if output is None:
        print(text, end="" if text.endswith("\n") else "\n")
    else:
        write(output, text)
    return DONE
