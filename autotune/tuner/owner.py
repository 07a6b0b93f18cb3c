"""Who runs a job, by a name that tells later whether that process still lives."""

import os
import re
import socket
from datetime import UTC, datetime
from pathlib import Path

from autotune.engines import procfs
from autotune.store import Store

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_NAME = re.compile(r"^process (?P<pid>\d+) on (?P<host>\S+) \(boot (?P<boot>\S*), tick (?P<tick>\d+)\)$")


def owner() -> str:
    """The name of the running process."""
    own = procfs.stat(os.getpid())
    assert own is not None
    return f"process {own.pid} on {socket.gethostname()} (boot {_boot()}, tick {own.start_time})"


def gone(name: str) -> bool:
    """Whether that owner surely runs no more; of another host nobody here knows."""
    match = _NAME.match(name)
    if match is None or match["host"] != socket.gethostname():
        return False
    return match["boot"] != _boot() or not procfs.is_running(int(match["pid"]), int(match["tick"]))


def runner(store: Store, job_id: str) -> str | None:
    """The process that runs the job now; None when nobody does, whatever its status says."""
    holder = store.owner(job_id, now=utc_now())
    return None if holder is None or gone(holder) else holder


def utc_now() -> datetime:
    """The moment, as rows are stamped."""
    return datetime.now(UTC)


def _boot() -> str:
    """The host's boot: after a restart process numbers and ticks mean something else."""
    return _BOOT_ID.read_text().strip()[:8] if _BOOT_ID.is_file() else ""
