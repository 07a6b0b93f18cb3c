"""The `autotune` command: its groups of commands, and how errors and results become exit codes."""

import sys
from typing import Annotated

import typer

from autotune import __version__
from autotune.cli.commands import checks, jobs, serving, tuning
from autotune.cli.outcome import INTERRUPTED
from autotune.errors import AutotuneError, InputError

app = typer.Typer(
    name="autotune",
    help="Tune an LLM serving engine under a latency SLA.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for group in (tuning, jobs, checks, serving):
    app.add_typer(group.app)  # without a name: its commands are `autotune COMMAND`


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
