"""The `autotune` command: its options, and how errors and results become exit codes."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from autotune import __version__
from autotune.access import Role
from autotune.cli.outcome import INTERRUPTED
from autotune.errors import AutotuneError, InputError

app = typer.Typer(
    name="autotune",
    help="Tune an LLM serving engine under a latency SLA.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

JobFile = Annotated[Path, typer.Argument(help="The job file (YAML).", metavar="JOB.yaml")]
JobName = Annotated[
    str, typer.Argument(help="A job's id, the start of one, or a name (its newest job).", metavar="JOB")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a field of the job file: --set sla.p99_ttft_ms=200.", metavar="FIELD=VALUE"),
]
SlaLines = Annotated[
    list[str] | None, typer.Option("--sla", help="Short for --set sla.…: --sla p99_ttft_ms=200.", metavar="LINE=LIMIT")
]
BestFile = Annotated[Path | None, typer.Option(help="Write the recommended configuration for `vllm serve --config`.")]
FrontPage = Annotated[Path | None, typer.Option(help="Write the Pareto front as an HTML page.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"vllm-autotune {__version__}")
        raise typer.Exit


@app.callback()
def options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens to stderr.")] = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Tune an LLM serving engine under a latency SLA."""
    from autotune import telemetry

    telemetry.configure(verbose=verbose)


def _overrides(fields: list[str] | None, sla: list[str] | None) -> list[str]:
    return [*(fields or ()), *(f"sla.{line}" for line in sla or ())]


@app.command()
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

    raise typer.Exit(run_here(job_file, _overrides(fields, sla), Outputs(best, page), resume=resume))


@app.command()
def resume(job: JobName, best: BestFile = None, page: FrontPage = None) -> None:
    """Go on with a job that was stopped, that failed, or whose tuner was killed; measured trials are kept."""
    from autotune.cli.run import Outputs, resume_here

    raise typer.Exit(resume_here(job, Outputs(best, page)))


@app.command()
def cancel(job: JobName) -> None:
    """Stop a running job; what was measured is kept, and `autotune resume` can go on with it."""
    from autotune.cli.control import cancel_job

    cancel_job(job)


@app.command()
def rerun(
    job: JobName,
    trial: Annotated[int, typer.Argument(help="The trial's number.", metavar="TRIAL", min=0)],
    debug: Annotated[bool, typer.Option("--debug", help="Let the engine log at debug level.")] = False,
) -> None:
    """Launch one trial again to look at it; its logs are kept beside the first ones, no result changes."""
    from autotune.cli.control import rerun_trial

    raise typer.Exit(rerun_trial(job, trial, debug=debug))


@app.command()
def explain(job: JobName, as_json: AsJson = False) -> None:
    """Find out which knob brought which share of the winner's gain, by launching the path to it; inert knobs go."""
    from autotune.cli.explain import explain_here

    raise typer.Exit(explain_here(job, as_json=as_json))


@app.command()
def validate(job_file: JobFile, fields: Overrides = None, sla: SlaLines = None) -> None:
    """Check a job file with its search space and workload; every problem at once, with line numbers."""
    from autotune.cli.files import validate_file

    validate_file(job_file, _overrides(fields, sla))


@app.command()
def schema() -> None:
    """Print the job file's JSON Schema, for editors."""
    from autotune.cli.files import print_schema

    print_schema()


@app.command()
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
    seed: Annotated[int, typer.Option(help="Of the trace.", min=0)] = 0,
    records: Annotated[Path | None, typer.Option(help="Keep every request's record in this folder.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure any OpenAI-compatible endpoint with a workload, without tuning it."""
    from autotune.cli.bench import Asked, bench

    asked = Asked(url, workload, fields or (), sla or (), model, tokenizer, devices, seed, records)
    raise typer.Exit(bench(asked, as_json=as_json))


@app.command()
def diagnose(
    log: Annotated[str, typer.Argument(help="An engine's log; - reads standard input.", metavar="LOG")],
    as_json: AsJson = False,
) -> None:
    """Say why an engine failed, from its log alone: cause, the line that tells, and what to do."""
    from autotune.cli.diagnose import diagnose_log

    raise typer.Exit(diagnose_log(log, as_json=as_json))


@app.command()
def estimate(
    model: Annotated[str, typer.Argument(help="A model folder, its config.json, or a cached hub name.")],
    device: Annotated[
        str | None, typer.Option(help="910B-64GB, 910B-32GB, 910C, H100, A100-80GB …; default all.")
    ] = None,
    device_memory_gib: Annotated[
        float | None, typer.Option(help="Of a device that is not known by name, in GiB.", min=0.1)
    ] = None,
    max_model_len: Annotated[int | None, typer.Option(help="Default the model's greatest length.", min=1)] = None,
    max_num_seqs: Annotated[int, typer.Option(min=1)] = 256,
    max_num_batched_tokens: Annotated[int, typer.Option(min=1)] = 2048,
    gpu_memory_utilization: Annotated[float, typer.Option(min=0.01, max=1.0)] = 0.92,
    kv_cache_dtype: Annotated[str, typer.Option(help="auto, fp8 or int8.")] = "auto",
    block_size: Annotated[int, typer.Option(min=1)] = 128,
    enforce_eager: Annotated[bool, typer.Option("--enforce-eager", help="Nothing is captured.")] = False,
    as_json: AsJson = False,
) -> None:
    """Tell the memory a model needs: weights, KV cache, workspace, and how many of which devices hold it."""
    from autotune.cli.estimate import Asked, show_estimate

    launch = {
        "max_num_seqs": max_num_seqs,
        "max_num_batched_tokens": max_num_batched_tokens,
        "gpu_memory_utilization": gpu_memory_utilization,
        "kv_cache_dtype": kv_cache_dtype,
        "block_size": block_size,
        "eager": enforce_eager,
    }
    show_estimate(Asked(model, device, device_memory_gib, max_model_len, launch), as_json=as_json)


@app.command()
def jobs(as_json: AsJson = False) -> None:
    """List the jobs in the database."""
    from autotune.cli.results import list_jobs

    list_jobs(as_json=as_json)


@app.command()
def trials(
    job: JobName,
    trial: Annotated[int | None, typer.Argument(help="Only this one, with the end of its engine's log.", min=0)] = None,
    as_json: AsJson = False,
) -> None:
    """Show a job's trials: what was launched, what it measured, why it failed."""
    from autotune.cli.results import show_trials

    show_trials(job, trial, as_json=as_json)


@app.command()
def pareto(
    job: JobName,
    as_json: AsJson = False,
    page: Annotated[Path | None, typer.Option(help="Write the front as an HTML page.")] = None,
) -> None:
    """Show a job's Pareto front of throughput versus P99 TTFT."""
    from autotune.cli.results import show_front

    show_front(job, as_json=as_json, page=page)


@app.command()
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


@app.command()
def dashboard(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 8080,
) -> None:
    """Open Optuna dashboard on the job database."""
    from autotune.cli.results import serve_dashboard

    serve_dashboard(host, port)


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; others than loopback need tokens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0: any free one.", min=0, max=65535)] = 8000,
    worker: Annotated[bool, typer.Option(help="Start a worker too.")] = True,
) -> None:
    """Serve tuning to a team: API, pages and Optuna dashboard, with a queue of jobs."""
    from autotune.cli.service import run_server

    run_server(host, port, worker=worker)


@app.command()
def worker(
    once: Annotated[bool, typer.Option("--once", help="End when the queue is empty.")] = False,
    parent: Annotated[int | None, typer.Option(hidden=True, help="End with this process.")] = None,
) -> None:
    """Run jobs of the queue, one at a time, until asked to stop; a job under way is handed to another worker."""
    from autotune.cli.service import run_worker

    run_worker(once=once, parent=parent)


tokens = typer.Typer(help="Tokens of the service.", no_args_is_help=True)
app.add_typer(tokens, name="token")


@tokens.command("create")
def create_token(
    tenant: Annotated[str, typer.Option(help="Whose jobs its bearer sees.")],
    role: Annotated[Role, typer.Option(help="viewer, submitter or admin.")] = Role.SUBMITTER,
    name: Annotated[str, typer.Option(help="For the list and the logs.")] = "",
    days: Annotated[float | None, typer.Option(help="Days until it expires; default never.", min=0)] = None,
) -> None:
    """Make a token and print it; it is shown only now."""
    from autotune.cli.service import create_token as create

    create(tenant, role, name, days)


@tokens.command("list")
def list_tokens(as_json: AsJson = False) -> None:
    """List the tokens, without their secrets."""
    from autotune.cli.service import list_tokens as show

    show(as_json=as_json)


@tokens.command("revoke")
def revoke_token(token_id: Annotated[str, typer.Argument(help="The token's id.", metavar="ID")]) -> None:
    """Make a token worthless at once, with the browser sessions it has opened."""
    from autotune.cli.service import revoke_token as revoke

    revoke(token_id)


@app.command()
def profiles() -> None:
    """List the engine profiles: those of the settings, and the one detected on this machine."""
    from autotune.cli.files import list_profiles

    list_profiles()


def main() -> None:
    """Run the command line; a known error is one clear message and an exit code, never a traceback."""
    try:
        app()
    except InputError as exc:
        for problem in exc.problems:
            print(f"error: {problem}", file=sys.stderr)
        sys.exit(exc.exit_code)
    except AutotuneError as exc:
        print(f"error: {exc}", file=sys.stderr)
        sys.exit(exc.exit_code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
