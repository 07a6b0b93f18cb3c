"""Who runs a job, by a name that tells later whether that process still lives."""

import os
import re
import socket
from datetime import UTC, datetime
from pathlib import Path

from autotune.engines import procfs
from autotune.store import Store

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_PID_NAMESPACE = Path("/proc/self/ns/pid")  # of the container, on a host with containers
_NAME = re.compile(
    r"^process (?P<pid>\d+) on (?P<host>\S+) \(boot (?P<boot>\S*), (?P<space>\S*), tick (?P<tick>\d+)\)$"
)


def owner() -> str:
    """The name of the running process."""
    own = procfs.stat(os.getpid())
    assert own is not None
    return f"process {own.pid} on {socket.gethostname()} (boot {_boot()}, {_namespace()}, tick {own.start_time})"


def gone(name: str) -> bool:
    """Whether that owner surely runs no more; of another host or container nobody here knows."""
    match = _NAME.match(name)
    if match is None or match["host"] != socket.gethostname():
        return False
    if match["boot"] != _boot():
        return True
    return match["space"] == _namespace() and not procfs.is_running(int(match["pid"]), int(match["tick"]))


def runner(store: Store, job_id: str) -> str | None:
    """The process that runs the job now; None when nobody does, whatever its status says."""
    holder = store.owner(job_id, now=utc_now())
    return None if holder is None or gone(holder) else holder


def utc_now() -> datetime:
    """The moment, as rows are stamped."""
    return datetime.now(UTC)


def _namespace() -> str:
    """Process numbers mean something only within it."""
    try:
        return str(_PID_NAMESPACE.readlink())
    except OSError:
        return ""


def _boot() -> str:
    """The host's boot: after a restart process numbers and ticks mean something else."""
    return _BOOT_ID.read_text().strip()[:8] if _BOOT_ID.is_file() else ""
