"""`autotune serve`: the application on a socket, with a worker and more servers of that socket as its children."""

import gc
import ipaddress
import socket
from collections.abc import Callable

import uvicorn
from anyio import to_thread

from autotune.errors import EnvironmentProblem
from autotune.service.app import create_app
from autotune.service.children import Child, kept
from autotune.service.hub import Hub
from autotune.service.state import State
from autotune.settings import Settings
from autotune.store import SharedStore

RETRY_S = 3.0  # a request waits for a database that is away, and then hears of it
THREADS = 8  # that answer requests
GARBAGE = 20_000  # objects more than were freed, before the collector looks at them
SHUTDOWN_S = 10  # for requests that are being answered

_WORKER = Child(("worker",), grace_s=90.0)  # to end its engines


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def serve(
    settings: Settings, announce: Callable[[str], None], *, host: str, port: int, worker: bool, processes: int = 1
) -> None:
    """Listen until interrupted, with so many processes; `announce` is told the address.

    Raises EnvironmentProblem where it may not or cannot listen.
    """
    with SharedStore.open(settings.database, retry_s=RETRY_S) as store:
        if not is_loopback(host) and not store.has_tokens():
            raise EnvironmentProblem(
                f"will not listen on {host} without tokens: whoever reaches it could run jobs. Make one first: "
                "autotune token create --tenant NAME --role admin"
            )
        listening = _listen(host, port)
        announce(f"http://{_shown(host)}:{listening.getsockname()[1]}/")
        beside = [_sibling(listening, host)] * (processes - 1)
        with kept([_WORKER, *beside] if worker else beside):
            _answer(settings, store, listening, host)


def serve_beside(settings: Settings, descriptor: int, *, host: str) -> None:
    """Answer on the socket of the server that started this process, until it is interrupted."""
    with SharedStore.open(settings.database, retry_s=RETRY_S) as store, socket.socket(fileno=descriptor) as listening:
        _answer(settings, store, listening, host)


def _answer(settings: Settings, store: SharedStore, listening: socket.socket, host: str) -> None:
    app = create_app(settings, store, host=host)
    state: State = app.state.autotune
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=SHUTDOWN_S
    )
    _Server(config, state.hub).run(sockets=[listening])


def _sibling(listening: socket.socket, host: str) -> Child:
    words = ("serve", "--host", host, "--descriptor", str(listening.fileno()))
    return Child(words, grace_s=SHUTDOWN_S + 5, files=(listening.fileno(),))


class _Server(uvicorn.Server):
    """With as many threads as are of use. Asked to stop, it ends the streams of events, which would go on for ever."""

    def __init__(self, config: uvicorn.Config, hub: Hub) -> None:
        super().__init__(config)
        self._hub = hub

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        # Only one thread computes at a time: more of them answer no more requests, they take turns for longer.
        to_thread.current_default_thread_limiter().total_tokens = THREADS
        # What is loaded stays, and requests leave no cycles to speak of: looking for them cost a quarter of the time.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GARBAGE)
        await super().startup(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._hub.close()
        await super().shutdown(sockets)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as exc:
        raise EnvironmentProblem(
            f"cannot listen on {host}:{port} ({exc.strerror or exc}); choose another with --host and --port"
        ) from exc


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
