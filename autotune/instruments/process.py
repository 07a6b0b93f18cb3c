"""One run of a tool: a process group of its own that is heard, bounded in time, and never left behind."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

POLL_S = 0.2  # how often a run asks whether it is stopped
GRACE_S = 1.0  # between SIGTERM and SIGKILL: a tool has nothing to save, and a cancel is to be obeyed in five seconds
DEATH_S = 2.0  # after SIGKILL, until the kernel has taken the processes away
END_POLL_S = 0.05
TAIL = 3000  # characters of the output's end that are quoted

_PROC = Path("/proc")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_DEAD = "ZX"

Busy = tuple[float, Mapping[int, float]]  # a moment (monotonic s), and the CPU seconds of every process until then


@dataclass(frozen=True, slots=True)
class Command:
    """What is run: nothing secret may be in `argv`, which every user of the machine can read."""

    argv: Sequence[str]
    environment: Mapping[str, str]
    cwd: Path
    log: Path  # stdout and stderr


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a tool may go on. `progress` says how many requests have ended, None when the tool does not tell."""

    stopped: Callable[[], bool]
    progress: Callable[[], int | None]
    quiet_s: float  # without any progress


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended. An exit code of None: it was ended here, `overdue` or because it was stopped."""

    exit_code: int | None
    overdue: bool
    busy: tuple[Busy, ...]


def run(command: Command, patience: Patience) -> Ended:
    """Run a command until it ends, is stopped, or shows no progress for too long; none of its processes is left.

    Raises OSError when it cannot be started.
    """
    with command.log.open("ab") as log:
        process = subprocess.Popen(
            command.argv,
            env=dict(command.environment),
            cwd=command.cwd,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        return _watch(process, patience)
    finally:
        _end_group(process)


def tail(log: Path) -> str:
    """The end of a tool's output."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL))
        return file.read().decode(errors="replace").strip()


def busiest_share(busy: Sequence[Busy], start_s: float, end_s: float) -> float:
    """CPU time of the busiest process between two moments (monotonic s), as a share of one core.

    The samples nearest outside the interval are taken; 0 when there are fewer than two.
    """
    first = max((sample for sample in busy if sample[0] <= start_s), default=min(busy, default=None, key=_moment))
    last = min((sample for sample in busy if sample[0] >= end_s), default=max(busy, default=None, key=_moment))
    if first is None or last is None or last[0] <= first[0]:
        return 0.0
    spent = (cpu_s - first[1].get(pid, 0.0) for pid, cpu_s in last[1].items())
    return max(spent, default=0.0) / (last[0] - first[0])


def _moment(sample: Busy) -> float:
    return sample[0]


def _watch(process: "subprocess.Popen[bytes]", patience: Patience) -> Ended:
    busy: list[Busy] = []
    done, heard_s = None, time.monotonic()
    while True:
        try:
            return Ended(process.wait(POLL_S), overdue=False, busy=tuple(busy))
        except subprocess.TimeoutExpired:
            now_s = time.monotonic()
        busy.append((now_s, _cpu_s(process.pid)))
        seen = patience.progress()
        if seen != done:
            done, heard_s = seen, now_s
        if patience.stopped() or now_s - heard_s > patience.quiet_s:
            return Ended(None, overdue=not patience.stopped(), busy=tuple(busy))


def _end_group(process: "subprocess.Popen[bytes]") -> None:
    """End what is left of the process group: politely, then by force."""
    for number, wait_s in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, DEATH_S)):
        deadline = time.monotonic() + wait_s
        _signal(process.pid, number)
        while _members(process.pid) and time.monotonic() < deadline:
            time.sleep(END_POLL_S)
    process.wait()


def _signal(group: int, number: int) -> None:
    for pid in _members(group):  # one by one: the group's number may be somebody else's once it is empty
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), number)


def _members(group: int) -> dict[int, list[str]]:
    """The living processes of a group: pid -> fields of /proc/PID/stat after the name, see proc(5)."""
    found = {}
    for folder in _PROC.iterdir():
        if folder.name.isdigit():
            try:
                text = (folder / "stat").read_text(errors="replace")
            except (FileNotFoundError, ProcessLookupError):
                continue
            fields = text[text.rindex(")") + 2 :].split()
            if int(fields[2]) == group and fields[0] not in _DEAD:
                found[int(folder.name)] = fields
    return found


def _cpu_s(group: int) -> dict[int, float]:
    """CPU seconds of every process of a group: user and system time, fields 14 and 15 of proc(5)."""
    return {pid: (int(fields[11]) + int(fields[12])) / _TICKS_PER_S for pid, fields in _members(group).items()}
