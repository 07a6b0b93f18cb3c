"""Commands about jobs that are in the database: their course and what came of them."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from autotune.cli.parameters import AsJson, BestFile, FrontPage, JobName

app = typer.Typer()
command = partial(app.command, rich_help_panel="Jobs")


@command()
def jobs(as_json: AsJson = False) -> None:
    """List the jobs in the database."""
    from autotune.cli.results import list_jobs

    list_jobs(as_json=as_json)


@command()
def trials(
    job: JobName,
    trial: Annotated[int | None, typer.Argument(help="Only this one, with the end of its engine's log.", min=0)] = None,
    as_json: AsJson = False,
) -> None:
    """Show a job's trials: what was launched, what it measured, why it failed."""
    from autotune.cli.results import show_trials

    show_trials(job, trial, as_json=as_json)


@command()
def pareto(
    job: JobName,
    as_json: AsJson = False,
    page: Annotated[Path | None, typer.Option(help="Write the front as an HTML page.")] = None,
) -> None:
    """Show a job's Pareto front of throughput versus P99 TTFT."""
    from autotune.cli.results import show_front

    show_front(job, as_json=as_json, page=page)


@command()
def export(
    job: JobName,
    select: Annotated[
        str,
        typer.Option(help="recommended, max-throughput, min-latency, knee, or trial=N[:LEVEL]."),
    ] = "recommended",
    format: Annotated[str, typer.Option(help="vllm, command, env, compose, kubernetes, json or csv.")] = "vllm",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A file instead of the terminal.")] = None,
) -> None:
    """Export one configuration of the front, with its evidence."""
    from autotune.cli.results import export_choice

    raise typer.Exit(export_choice(job, select, format, output))


@command()
def verify(
    file: Annotated[Path, typer.Argument(help="A file of `autotune export`, format vllm or json.", metavar="FILE")],
    workload: Annotated[
        str | None, typer.Option(help="A bundled workload's name, or a file; default the one that was measured.")
    ] = None,
    profile: Annotated[str | None, typer.Option(help="Another engine profile than the job's.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the traffic; default a fresh one.", min=0)] = None,
    as_json: AsJson = False,
) -> None:
    """Launch an exported configuration again and say whether it keeps its SLA under fresh traffic."""
    from autotune.cli.verify import Asked, verify_file

    raise typer.Exit(verify_file(Asked(file, workload, profile, seed), as_json=as_json))


@command()
def cancel(job: JobName) -> None:
    """Stop a running job; what was measured is kept, and `autotune resume` can go on with it."""
    from autotune.cli.control import cancel_job

    cancel_job(job)


@command()
def resume(job: JobName, best: BestFile = None, page: FrontPage = None) -> None:
    """Go on with a job that was stopped, that failed, or whose tuner was killed; measured trials are kept."""
    from autotune.cli.run import Outputs, resume_here

    raise typer.Exit(resume_here(job, Outputs(best, page)))
