"""What /proc says about processes: start times, states, descendants, and how busy each thread is."""

import os
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class ProcessStat:
    """One process: its parent, its state letter, and its start time in clock ticks since boot."""

    pid: int
    parent: int
    state: str
    start_time: int


def stat(pid: int) -> ProcessStat | None:
    """The process as the kernel sees it now; None when there is none. Source of the fields: proc(5)."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(")") + 2 :].split()  # the name before it may hold spaces and brackets
    return ProcessStat(pid, parent=int(fields[1]), state=fields[0], start_time=int(fields[19]))


def is_running(pid: int, start_time: int) -> bool:
    """Whether that very process runs: a zombie does not, nor does another process with the same number."""
    found = stat(pid)
    return found is not None and found.start_time == start_time and found.state not in "ZX"


def all_stats() -> list[ProcessStat]:
    """Every process that could be read."""
    pids = [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()]
    return [found for pid in pids if (found := stat(pid)) is not None]


def descendants(root: int) -> tuple[ProcessStat, ...]:
    """Children of `root`, their children and so on, zombies left out."""
    children: dict[int, list[ProcessStat]] = defaultdict(list)
    for found in all_stats():
        children[found.parent].append(found)
    family: list[ProcessStat] = []
    todo = [root]
    while todo:
        born = children[todo.pop()]
        family += born
        todo += [child.pid for child in born]
    return tuple(member for member in family if member.state not in "ZX")


def with_environment(entry: str) -> tuple[ProcessStat, ...]:
    """Running processes that were started with this `NAME=value` in their environment, as far as we may read it."""
    wanted = entry.encode()
    found = []
    for process in all_stats():
        try:
            environment = (_PROC / str(process.pid) / "environ").read_bytes()
        except OSError:  # gone meanwhile, or another user's
            continue
        if wanted in environment.split(b"\0") and process.pid != os.getpid():
            found.append(process)
    return tuple(process for process in found if process.state not in "ZX")


@dataclass(frozen=True, slots=True)
class ThreadTime:
    """What a thread wanted of the CPU since its start: seconds on a core, or waiting for one."""

    wanted_s: float
    at_s: float  # when that was read, on the monotonic clock: on a busy machine a hundred threads take their time


@dataclass(frozen=True, slots=True)
class CpuTime:
    """What one process has used of the CPU since its start, and what each of its threads that live wanted of it."""

    command: str  # as `ps -o comm` shows it: at most 15 characters
    total_s: float  # on a core
    at_s: float  # when that was read
    threads: Mapping[int, ThreadTime]  # by thread id


def cpu_times(pids: Iterable[int]) -> dict[int, CpuTime]:
    """What these processes have used until now; those that are gone are left out. Source of the fields: proc(5)."""
    found = {}
    for pid in pids:
        at_s, used = time.monotonic(), _used(pid)
        if used is not None:
            wanted = {thread: _wanted(pid, thread) for thread in _threads(pid)}
            threads = {thread: time_ for thread, time_ in wanted.items() if time_ is not None}
            found[pid] = CpuTime(*used, at_s, threads)
    return found


def _used(pid: int) -> tuple[str, float] | None:
    """The command, and the seconds of CPU, user and system."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    name, _, rest = text.partition("(")[2].rpartition(")")
    fields = rest.split()
    return name, (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def _wanted(pid: int, thread: int) -> ThreadTime | None:
    """Time on a core and in its queue (Linux, Documentation/scheduler/sched-stats.rst); None: gone, or not kept."""
    at_s = time.monotonic()
    try:
        on_core_ns, waited_ns, _ = (_PROC / str(pid) / "task" / str(thread) / "schedstat").read_text().split()
    except (OSError, ValueError):
        return None
    return ThreadTime((int(on_core_ns) + int(waited_ns)) / 1e9, at_s)


def _threads(pid: int) -> list[int]:
    try:
        return [int(name) for name in os.listdir(_PROC / str(pid) / "task")]  # noqa: PTH208 - names only, in one call
    except (FileNotFoundError, ProcessLookupError):
        return []
