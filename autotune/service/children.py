"""Processes beside the server: they are started again when they die, and end with it."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from autotune.telemetry import get_logger

log = get_logger()

POLL_S = 0.2
RESTART_S = 5.0  # before one that died is started again


@dataclass(frozen=True, slots=True)
class Child:
    """A command of `autotune` that runs beside the server, for as long as it does."""

    arguments: tuple[str, ...]  # it is told its parent too, so that it ends when that is killed
    grace_s: float  # between SIGTERM and SIGKILL
    files: tuple[int, ...] = ()  # descriptors that it inherits


@contextmanager
def kept(children: Sequence[Child]) -> Iterator[None]:
    """Keep them running; at the end, all are asked to stop before any is waited for."""
    over = threading.Event()
    keepers = [threading.Thread(target=_keep, args=(child, over)) for child in children]
    for keeper in keepers:
        keeper.start()
    try:
        yield
    finally:
        over.set()
        for keeper in keepers:
            keeper.join()


def _keep(child: Child, over: threading.Event) -> None:
    command = [sys.executable, "-m", "autotune", *child.arguments, "--parent", str(os.getpid())]
    while not over.is_set():
        with subprocess.Popen(command, start_new_session=True, pass_fds=child.files) as process:
            while process.poll() is None and not over.wait(POLL_S):
                pass
            if process.poll() is None:
                _end(process, child.grace_s)
                return
        log.warning("child_died", command=child.arguments[0], exit_code=process.returncode)
        over.wait(RESTART_S)


def _end(process: subprocess.Popen[bytes], grace_s: float) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        process.kill()
