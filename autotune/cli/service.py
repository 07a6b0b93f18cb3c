"""`autotune serve`, `autotune worker` and `autotune token`: what an operator starts."""

import json
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta

from pydantic import ValidationError
from rich.table import Table

from autotune.access import Role, new_token
from autotune.cli.console import console as open_console
from autotune.errors import InputError
from autotune.settings import load_settings
from autotune.store import SharedStore

_PARENT_POLL_S = 1.0
_TWICE_EXIT = 130


def run_server(host: str, port: int, *, worker: bool, processes: int) -> None:
    """Serve until interrupted."""
    # uvicorn raises the signal once more when it has shut down: then the children still have to be ended.
    signal.signal(signal.SIGTERM, _leave)
    with _shared_counts() if processes > 1 else nullcontext():
        from autotune.service.server import serve

        serve(load_settings(), _announce, host=host, port=port, worker=worker, processes=processes)


def run_sibling(host: str, descriptor: int, parent: int) -> None:
    """Serve on a socket that another server has opened, for as long as that runs."""
    from autotune.service.server import serve_beside

    signal.signal(signal.SIGTERM, _leave)
    stop = threading.Event()
    threading.Thread(
        target=_watch, args=(parent, stop, lambda: os.kill(os.getpid(), signal.SIGTERM)), daemon=True
    ).start()
    serve_beside(load_settings(), descriptor, host=host)


@contextmanager
def _shared_counts() -> Iterator[None]:
    """A folder in which the servers of one socket count together."""
    with tempfile.TemporaryDirectory(prefix="autotune-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # read by prometheus_client when it is imported
        yield


def _announce(address: str) -> None:
    print(f"vllm-autotune: {address}  (Ctrl-C ends it)", flush=True)


def _leave(*_: object) -> None:
    raise SystemExit(0)


def run_worker(*, once: bool, parent: int | None) -> None:
    """Run jobs of the queue until asked to stop; asked twice, leave at once."""
    from autotune.worker.worker import Worker

    settings, stop = load_settings(), threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stopper(stop))
    if parent is not None:
        threading.Thread(target=_watch, args=(parent, stop, stop.set), daemon=True).start()
    with SharedStore.open(settings.database) as store:
        Worker(store, settings, stop).run(once=once)


def _stopper(stop: threading.Event) -> Callable[..., None]:
    def asked(*_: object) -> None:
        if stop.is_set():
            os._exit(_TWICE_EXIT)  # supervisors end the engines, and another worker goes on with the job
        stop.set()

    return asked


def _watch(parent: int, stopped: threading.Event, end: Callable[[], None]) -> None:
    """End with the process that started this one, however that ended."""
    while os.getppid() == parent:
        if stopped.wait(_PARENT_POLL_S):
            return
    end()


def create_token(tenant: str, role_name: str, name: str, days: float | None) -> None:
    """Make a token and print it, once."""
    from autotune.tuner.owner import utc_now

    if role_name not in list(Role):
        raise InputError(f"role {role_name!r}: choose one of {', '.join(Role)}")
    role = Role(role_name)
    now = utc_now()
    expires_at = None if days is None else now + timedelta(days=days)
    try:
        token, text = new_token(tenant, role, name or f"{tenant}-{role}", now=now, expires_at=expires_at)
    except ValidationError as exc:
        raise InputError(f"tenant {tenant!r}: use small letters, digits, - and _; at most 63, a letter first") from exc
    with SharedStore.open(load_settings().database) as store:
        store.add_token(token)
    print(text)


def list_tokens(*, as_json: bool) -> None:
    """Every token, without its secret."""
    with SharedStore.open(load_settings().database) as store:
        tokens = store.tokens()
    if as_json:
        print(json.dumps([token.model_dump(mode="json", exclude={"secret_hash"}) for token in tokens], indent=2))
        return
    table = Table(
        "id", "tenant", "role", "name", "created (UTC)", "expires", "revoked", "last used", header_style="bold"
    )
    for token in tokens:
        times = (token.created_at, token.expires_at, token.revoked_at, token.last_used_at)
        shown = [f"{at:%Y-%m-%d %H:%M}" if at else "-" for at in times]
        table.add_row(token.id, token.tenant, token.role, token.name, *shown)
    open_console().print(table)


def revoke_token(token_id: str) -> None:
    """Make a token worthless."""
    from autotune.tuner.owner import utc_now

    with SharedStore.open(load_settings().database) as store:
        store.revoke_token(token_id, now=utc_now())
    print(f"token {token_id} is revoked")
