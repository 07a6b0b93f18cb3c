"""`autotune serve`: the application on a socket, and a worker as its child."""

import gc
import ipaddress
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from anyio import to_thread

from autotune.errors import EnvironmentProblem
from autotune.service.app import create_app
from autotune.service.hub import Hub
from autotune.service.state import State
from autotune.settings import Settings
from autotune.store import SharedStore
from autotune.telemetry import get_logger

log = get_logger()

WORKER_GRACE_S = 90.0  # for the worker to end its engines
RETRY_S = 3.0  # a request waits for a database that is away, and then hears of it
THREADS = 8  # that answer requests
GARBAGE = 20_000  # objects more than were freed, before the collector looks at them
SHUTDOWN_S = 10  # for requests that are being answered
RESTART_S = 5.0  # before a worker that died is started again


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def serve(settings: Settings, announce: Callable[[str], None], *, host: str, port: int, worker: bool) -> None:
    """Listen until interrupted; `announce` is told the address.

    Raises EnvironmentProblem where it may not or cannot listen.
    """
    with SharedStore.open(settings.database, retry_s=RETRY_S) as store:
        if not is_loopback(host) and not store.has_tokens():
            raise EnvironmentProblem(
                f"will not listen on {host} without tokens: whoever reaches it could run jobs. Make one first: "
                "autotune token create --tenant NAME --role admin"
            )
        listening = _listen(host, port)
        app = create_app(settings, store, host=host)
        state: State = app.state.autotune
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=SHUTDOWN_S
        )
        announce(f"http://{_shown(host)}:{listening.getsockname()[1]}/")
        with _worker() if worker else _nothing():
            _Server(config, state.hub).run(sockets=[listening])


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


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@contextmanager
def _worker() -> Iterator[None]:
    """A worker that is started again when it dies, and that is asked to hand over at the end."""
    over = threading.Event()
    keeper = threading.Thread(target=_keep, args=(over,))
    keeper.start()
    try:
        yield
    finally:
        over.set()
        keeper.join()


def _keep(over: threading.Event) -> None:
    while not over.is_set():
        # It watches its parent, so that it hands over when this process is killed.
        command = [sys.executable, "-m", "autotune", "worker", "--parent", str(os.getpid())]
        with subprocess.Popen(command, start_new_session=True) as child:
            while child.poll() is None and not over.wait(0.2):
                pass
            if child.poll() is None:
                _end(child)
                return
        log.warning("worker_died", exit_code=child.returncode)
        over.wait(RESTART_S)


def _end(child: subprocess.Popen[bytes]) -> None:
    child.send_signal(signal.SIGTERM)
    try:
        child.wait(WORKER_GRACE_S)
    except subprocess.TimeoutExpired:
        child.kill()
