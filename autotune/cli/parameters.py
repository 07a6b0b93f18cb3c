"""Arguments and options that several commands take."""

from pathlib import Path
from typing import Annotated

import typer

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
TrialNumber = Annotated[int, typer.Argument(help="The trial's number.", metavar="TRIAL", min=0)]
ServerAddress = Annotated[
    str | None,
    typer.Option(
        "--server",
        envvar="AUTOTUNE_SERVER",
        help="A server's address instead of the database here, with the token of AUTOTUNE_TOKEN or "
        "~/.config/autotune/token; '' is the database here.",
        metavar="URL",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def overrides(fields: list[str] | None, sla: list[str] | None) -> list[str]:
    """Both kinds of overrides as fields of the job file."""
    return [*(fields or ()), *(f"sla.{line}" for line in sla or ())]
