"""What trials of one user share on a host: the device locks, and the sweep of what killed trials left."""

import os
import re
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import TypeVar

from autotune.engines import procfs
from autotune.engines.sweep import sweep

_HEAR_S = 0.1
_SOCKETS = re.compile(r"s(\d+)-\w+")  # the pid of the actor that made the folder

Answer = TypeVar("Answer")


class Cancelled(Exception):
    """The trial was cancelled while it waited."""


def lock_folder() -> Path:
    """Where this user's device locks of this host lie, a folder for each platform, whatever the job."""
    return Path(tempfile.gettempdir()) / f"autotune-{os.getuid()}"


def sockets_folder() -> "tempfile.TemporaryDirectory[str]":
    """A folder for one engine's sockets, which it leaves behind when it ends: they go with the folder.

    Those of killed actors go now.
    """
    place = lock_folder()
    place.mkdir(parents=True, exist_ok=True)
    _remove_left_sockets()
    return tempfile.TemporaryDirectory(prefix=f"s{os.getpid()}-", dir=place, ignore_cleanup_errors=True)


def sweep_host() -> tuple[int, ...]:
    """End this user's engines on this host that have no supervisor any more; the pids that were killed."""
    killed: set[int] = set()
    for folder in lock_folder().glob("*/"):
        if _SOCKETS.fullmatch(folder.name) is None:
            killed |= set(sweep(folder))
    _remove_left_sockets()
    return tuple(sorted(killed))


def _remove_left_sockets() -> None:
    for folder in lock_folder().glob("s*-*/"):
        match = _SOCKETS.fullmatch(folder.name)
        if match is not None and procfs.stat(int(match[1])) is None:
            shutil.rmtree(folder, ignore_errors=True)


def unless_cancelled(ask: Callable[[], Answer], cancelled: Callable[[], bool]) -> Answer:
    """The answer of a function that may wait for long, such as a device tool; raises what it raises.

    Raises Cancelled as soon as `cancelled` says so; the function then ends by itself, unheard.
    """
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="slow-question")
    answer = pool.submit(ask)
    pool.shutdown(wait=False)
    while not wait([answer], timeout=_HEAR_S).done:
        if cancelled():
            raise Cancelled
    return answer.result()
