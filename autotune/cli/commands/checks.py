"""Commands that look at files and at the machine, and tune nothing."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from autotune.cli.parameters import AsJson, JobFile, Overrides, SlaLines, overrides

app = typer.Typer()
command = partial(app.command, rich_help_panel="Checks")


@command()
def validate(job_file: JobFile, fields: Overrides = None, sla: SlaLines = None) -> None:
    """Check a job file with its search space and workload; every problem at once, with line numbers."""
    from autotune.cli.files import validate_file

    validate_file(job_file, overrides(fields, sla))


@command()
def schema(
    of_api: Annotated[bool, typer.Option("--api", help="The OpenAPI description of the service instead.")] = False,
) -> None:
    """Print the job file's JSON Schema, for editors."""
    from autotune.cli.files import print_schema

    print_schema(of_api=of_api)


@command()
def diagnose(
    log: Annotated[str, typer.Argument(help="An engine's log; - reads standard input.", metavar="LOG")],
    as_json: AsJson = False,
) -> None:
    """Say why an engine failed, from its log alone: cause, the line that tells, and what to do."""
    from autotune.cli.diagnose import diagnose_log

    raise typer.Exit(diagnose_log(log, as_json=as_json))


@command()
def doctor(
    job_file: Annotated[
        Path | None, typer.Argument(help="A job file whose model and memory are judged too.", metavar="[JOB.yaml]")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="The engine profile; default the job's, or the detected one.")
    ] = None,
    root: Annotated[Path, typer.Option(help="Look at the system's files below this folder.", hidden=True)] = Path("/"),
    as_json: AsJson = False,
) -> None:
    """Check this machine: driver, engine, devices, host, database, and whether a job's model fits; with fixes."""
    from autotune.cli.doctor import report
    from autotune.doctor import Asked

    raise typer.Exit(report(Asked(job_file, engine, root), as_json=as_json))


@command()
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
    hccl_buffsize: Annotated[int, typer.Option(help="Of several NPUs, in MiB.", min=1)] = 200,
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
        "hccl_buffer_mib": hccl_buffsize,
    }
    show_estimate(Asked(model, device, device_memory_gib, max_model_len, launch), as_json=as_json)


@command()
def profiles() -> None:
    """List the engine profiles: those of the settings, and the one detected on this machine."""
    from autotune.cli.files import list_profiles

    list_profiles()
