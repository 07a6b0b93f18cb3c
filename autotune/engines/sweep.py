"""Ends engines whose supervisor was killed, found by the record it left behind."""

import contextlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from autotune.engines import procfs
from autotune.engines.supervisor import OWNER_VARIABLE

_POLL_S = 0.05
_TIMEOUT_S = 30.0


def sweep(folder: Path) -> tuple[int, ...]:
    """End every engine in `folder`, where the supervisors lock and record, that has no supervisor any more.

    Returns the pids that were killed, by rising number. What cannot be killed keeps its record for the next sweep.
    """
    killed: set[int] = set()
    for record in sorted(folder.glob("*.json")):
        try:
            entry = json.loads(record.read_text())
        except FileNotFoundError:  # its supervisor ended meanwhile
            continue
        if not procfs.is_running(entry["pid"], entry["start_time"]):
            ended, all_gone = _end(entry)
            killed |= ended
            if all_gone:
                record.unlink(missing_ok=True)
    return tuple(sorted(killed))


def _end(entry: dict[str, Any]) -> tuple[set[int], bool]:
    deadline = time.monotonic() + _TIMEOUT_S
    family = _family(entry)
    while alive := [process for process in family if procfs.is_running(process.pid, process.start_time)]:
        if time.monotonic() >= deadline:
            break
        for process in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        time.sleep(_POLL_S)
        family |= _family(entry)
    return {process.pid for process in family}, not alive


def _family(entry: dict[str, Any]) -> set[procfs.ProcessStat]:
    """The engine and its descendants, and by the mark in their environment those that others have inherited."""
    family = set(procfs.with_environment(f"{OWNER_VARIABLE}={entry['owner']}"))
    engine = entry["engine"]
    if engine is not None and procfs.is_running(engine["pid"], engine["start_time"]):
        family |= {found for found in (procfs.stat(engine["pid"]),) if found} | set(procfs.descendants(engine["pid"]))
    return family
