"""Commands that launch engines: a job here, another launch of a trial, a measurement of an endpoint."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from autotune.cli.parameters import AsJson, BestFile, FrontPage, JobFile, JobName, Overrides, SlaLines, overrides

app = typer.Typer()
command = partial(app.command, rich_help_panel="Tuning")


@command()
def run(
    job_file: JobFile,
    fields: Overrides = None,
    sla: SlaLines = None,
    best: BestFile = None,
    page: FrontPage = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an unfinished job of the same files, if there is one.")
    ] = False,
) -> None:
    """Run a tuning job here, from the first launch to the recommendation (SQLite, local Ray)."""
    from autotune.cli.run import Outputs, run_here

    raise typer.Exit(run_here(job_file, overrides(fields, sla), Outputs(best, page), resume=resume))


@command()
def rerun(
    job: JobName,
    trial: Annotated[int, typer.Argument(help="The trial's number.", metavar="TRIAL", min=0)],
    debug: Annotated[bool, typer.Option("--debug", help="Let the engine log at debug level.")] = False,
) -> None:
    """Launch one trial again to look at it; its logs are kept beside the first ones, no result changes."""
    from autotune.cli.control import rerun_trial

    raise typer.Exit(rerun_trial(job, trial, debug=debug))


@command()
def explain(job: JobName, as_json: AsJson = False) -> None:
    """Find out which knob brought which share of the winner's gain, by launching the path to it; inert knobs go."""
    from autotune.cli.explain import explain_here

    raise typer.Exit(explain_here(job, as_json=as_json))


@command()
def bench(
    url: Annotated[str, typer.Option(help="The endpoint, http://HOST:PORT; its key is taken from OPENAI_API_KEY.")],
    workload: Annotated[str, typer.Option(help="A bundled workload's name, or a file.")],
    fields: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a field of the workload: --set levels=[4,8].", metavar="FIELD=VALUE"),
    ] = None,
    sla: Annotated[
        list[str] | None,
        typer.Option("--sla", help="Stop at the first level that breaks it: p99_ttft_ms=200.", metavar="LINE=LIMIT"),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Which of the models it serves; default the first.")] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="The served model's folder here; default what the endpoint tells.")
    ] = None,
    devices: Annotated[int, typer.Option(help="Devices behind the endpoint: levels are per device.", min=1)] = 1,
    seed: Annotated[
        int | None, typer.Option(help="Of the trace; default a fresh one, so that nothing is cached.", min=0)
    ] = None,
    exact: Annotated[
        bool, typer.Option("--ignore-eos/--no-ignore-eos", help="Ask for answers of exactly the planned length.")
    ] = True,
    records: Annotated[Path | None, typer.Option(help="Keep every request's record in this folder.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure any OpenAI-compatible endpoint with a workload, without tuning it."""
    from autotune.cli.bench import Asked, bench

    asked = Asked(url, workload, fields or (), sla or (), model, tokenizer, devices, seed, records, exact)
    raise typer.Exit(bench(asked, as_json=as_json))
