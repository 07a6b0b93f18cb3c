"""Commands that an operator starts: the service, its workers, its tokens, the dashboard."""

from functools import partial
from typing import Annotated

import typer

from autotune.cli.parameters import AsJson

app = typer.Typer()
command = partial(app.command, rich_help_panel="Service")


@command()
def dashboard(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 8080,
) -> None:
    """Open Optuna dashboard on the job database."""
    from autotune.cli.dashboard import serve_dashboard

    serve_dashboard(host, port)


@command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; others than loopback need tokens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0: any free one.", min=0, max=65535)] = 8000,
    worker: Annotated[bool, typer.Option(help="Start a worker too.")] = True,
    processes: Annotated[
        int, typer.Option(help="Processes that answer; more for hundreds of clients.", min=1, max=64)
    ] = 1,
    descriptor: Annotated[int | None, typer.Option(hidden=True, help="A socket that is open already.")] = None,
    parent: Annotated[int | None, typer.Option(hidden=True, help="End with this process.")] = None,
) -> None:
    """Serve tuning to a team: API, pages and Optuna dashboard, with a queue of jobs."""
    from autotune.cli.service import run_server, run_sibling

    if descriptor is not None and parent is not None:
        run_sibling(host, descriptor, parent)
    else:
        run_server(host, port, worker=worker, processes=processes)


@command()
def worker(
    once: Annotated[bool, typer.Option("--once", help="End when the queue is empty.")] = False,
    parent: Annotated[int | None, typer.Option(hidden=True, help="End with this process.")] = None,
) -> None:
    """Run jobs of the queue, one at a time, until asked to stop; a job under way is handed to another worker."""
    from autotune.cli.service import run_worker

    run_worker(once=once, parent=parent)


tokens = typer.Typer(help="Tokens of the service.", no_args_is_help=True)
app.add_typer(tokens, name="token", rich_help_panel="Service")


@tokens.command("create")
def create_token(
    tenant: Annotated[str, typer.Option(help="Whose jobs its bearer sees.")],
    role: Annotated[str, typer.Option(help="viewer, submitter or admin.")] = "submitter",
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
