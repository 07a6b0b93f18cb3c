"""Commands about jobs, in the database here or on a server: their course and what came of them."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from autotune.cli.parameters import (
    AsJson,
    BestFile,
    FrontPage,
    JobFile,
    JobName,
    Overrides,
    ServerAddress,
    SlaLines,
    TrialNumber,
    overrides,
)

app = typer.Typer()
command = partial(app.command, rich_help_panel="Jobs")


@command()
def submit(
    job_file: JobFile,
    fields: Overrides = None,
    sla: SlaLines = None,
    priority: Annotated[int, typer.Option(help="Your jobs of a higher one run first.", min=-100, max=100)] = 0,
    watch: Annotated[bool, typer.Option("--watch", help="Watch it to its end.")] = False,
    idempotency_key: Annotated[
        str | None, typer.Option(help="Submitting twice with the same key makes one job.", metavar="KEY")
    ] = None,
    server: ServerAddress = None,
    as_json: AsJson = False,
) -> None:
    """Check a job file and put it into the queue of a server."""
    from autotune.cli.submit import Asked
    from autotune.cli.submit import submit as send

    asked = Asked(job_file, overrides(fields, sla), priority, idempotency_key)
    raise typer.Exit(send(server, asked, watch=watch, as_json=as_json))


def list_jobs(
    status: Annotated[
        list[str] | None, typer.Option(help="Only queued, running, succeeded, failed or cancelled ones; repeatable.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Only jobs of this name.")] = None,
    most: Annotated[int, typer.Option("--most", "-n", help="The newest so many.", min=1)] = 1000,
    server: ServerAddress = None,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    from autotune.cli.results import list_jobs as show

    show(server, status or (), name, most=most, as_json=as_json)


command("list")(list_jobs)
command("jobs", hidden=True)(list_jobs)  # its name before there was a service


@command()
def status(job: JobName, server: ServerAddress = None, as_json: AsJson = False) -> None:
    """Show how a job stands: its place in the queue, its progress, its best so far, its result."""
    from autotune.cli.results import show_status

    show_status(server, job, as_json=as_json)


@command()
def watch(
    job: JobName,
    server: ServerAddress = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per event and line.")] = False,
) -> None:
    """Watch a job to its end; the exit code tells its outcome, Ctrl-C leaves it running."""
    from autotune.cli.watch import watch as look

    raise typer.Exit(look(server, job, as_json=as_json))


@command()
def trials(
    job: JobName,
    trial: Annotated[int | None, typer.Argument(help="Only this one, with the end of its engine's log.", min=0)] = None,
    server: ServerAddress = None,
    as_json: AsJson = False,
) -> None:
    """Show a job's trials: what was launched, what it measured, why it failed."""
    from autotune.cli.results import show_trials

    show_trials(server, job, trial, as_json=as_json)


@command()
def logs(
    job: JobName,
    trial: TrialNumber,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the trial has ended.")] = False,
    tail: Annotated[int | None, typer.Option("--tail", "-n", help="Only the last so many lines.", min=0)] = None,
    server: ServerAddress = None,
) -> None:
    """Print the log of a trial's engine."""
    from autotune.cli.logs import show_log

    raise typer.Exit(show_log(server, job, trial, follow=follow, tail=tail))


@command()
def pareto(
    job: JobName,
    plot: Annotated[
        Path | None, typer.Option("--plot", "--page", help="Draw the front into a .png, .svg or .html file.")
    ] = None,
    server: ServerAddress = None,
    as_json: AsJson = False,
) -> None:
    """Show a job's Pareto front of throughput versus P99 TTFT."""
    from autotune.cli.results import show_front

    show_front(server, job, as_json=as_json, plot=plot)


@command()
def export(
    job: JobName,
    select: Annotated[
        str,
        typer.Option(help="recommended, max-throughput, min-latency, knee, or trial=N[:LEVEL]."),
    ] = "recommended",
    format: Annotated[str, typer.Option(help="vllm, command, env, compose, kubernetes, json or csv.")] = "vllm",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A file instead of the terminal.")] = None,
    server: ServerAddress = None,
) -> None:
    """Export one configuration of the front, with its evidence."""
    from autotune.cli.results import export_choice

    raise typer.Exit(export_choice(server, job, select, format, output))


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
def cancel(job: JobName, server: ServerAddress = None) -> None:
    """Stop a running job; what was measured is kept, and `autotune resume` can go on with it."""
    if server:
        from autotune.cli.remote_control import cancel_on

        cancel_on(server, job)
        return
    from autotune.cli.control import cancel_job

    cancel_job(job)


@command()
def resume(job: JobName, best: BestFile = None, page: FrontPage = None, server: ServerAddress = None) -> None:
    """Go on with a job that was stopped, that failed, or whose tuner was killed; measured trials are kept.

    Here it runs in this terminal; on a server it goes back into the queue.
    """
    if server:
        from autotune.cli.remote_control import resume_on

        if best is not None or page is not None:
            raise typer.BadParameter(
                "on a server a job is only put back into the queue; get the files with `autotune export` and "
                "`autotune pareto --plot` when it has ended"
            )
        resume_on(server, job)
        return
    from autotune.cli.run import Outputs, resume_here

    raise typer.Exit(resume_here(job, Outputs(best, page)))
