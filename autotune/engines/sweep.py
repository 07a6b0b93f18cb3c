"""Ends engines whose supervisor was killed, found by the record it left behind."""

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.engines import procfs
from autotune.engines.supervisor import OWNER_VARIABLE

_POLL_S = 0.05
_TIMEOUT_S = 30.0
_GIVEN_UP_S = 0.5  # the same for who has given up: what gets SIGKILL needs a moment to be gone


@dataclass(frozen=True, slots=True)
class _Record:
    """What a supervisor wrote about itself and its engine; a process is its pid and start time."""

    supervisor: tuple[int, int]
    owner: str
    engine: tuple[int, int] | None


def _never() -> bool:
    return False


def sweep(folder: Path, given_up: Callable[[], bool] = _never) -> tuple[int, ...]:
    """End every engine in `folder`, where the supervisors lock and record, that has no supervisor any more.

    Returns the pids that were killed and are gone, by rising number. What cannot be killed keeps its record for the
    next sweep. Once `given_up` says so every engine still gets its SIGKILL; only the wait for its end is short.
    A record that cannot be read says nothing but its supervisor's pid, and is removed when that is gone.
    """
    killed: set[int] = set()
    for path in sorted(folder.glob("*.json")):
        record = _read(path)
        if record is None:
            _remove_unreadable(path)
        elif not procfs.is_running(*record.supervisor):
            ended, all_gone = _end(record, given_up)
            killed |= ended
            if all_gone:
                path.unlink(missing_ok=True)
    for path in folder.glob("*.partial"):  # its supervisor was killed while it wrote
        _remove_unreadable(path)
    return tuple(sorted(killed))


def _read(path: Path) -> _Record | None:
    try:
        entry = json.loads(path.read_text())
        engine = entry["engine"]
        return _Record(_process(entry), str(entry["owner"]), _process(engine) if engine is not None else None)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _process(entry: dict[str, Any]) -> tuple[int, int]:
    return int(entry["pid"]), int(entry["start_time"])


def _remove_unreadable(path: Path) -> None:
    """Remove it unless a process of the number in its name runs, which may be about to complete it."""
    if not (path.stem.isdigit() and procfs.stat(int(path.stem))):
        path.unlink(missing_ok=True)


def _end(record: _Record, given_up: Callable[[], bool]) -> tuple[set[int], bool]:
    """The pids that are gone now, and whether that is all of them."""
    started_s = time.monotonic()
    family = _family(record)
    while alive := _alive(family):
        for process in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        if time.monotonic() - started_s >= (_GIVEN_UP_S if given_up() else _TIMEOUT_S):
            break
        time.sleep(_POLL_S)
        family |= _family(record)
    left = _alive(family)
    return {process.pid for process in family - left}, not left


def _alive(family: set[procfs.ProcessStat]) -> set[procfs.ProcessStat]:
    return {process for process in family if procfs.is_running(process.pid, process.start_time)}


def _family(record: _Record) -> set[procfs.ProcessStat]:
    """The engine and its descendants, and by the mark in their environment those that others have inherited."""
    family = set(procfs.with_environment(f"{OWNER_VARIABLE}={record.owner}"))
    if record.engine is not None and procfs.is_running(*record.engine):
        pid, _ = record.engine
        family |= {found for found in (procfs.stat(pid),) if found} | set(procfs.descendants(pid))
    return family
