"""A small process that owns one engine: `python -m autotune.engines.supervisor`, standard library only.

It reads JSON lines from stdin, the pipe from the actor, and writes JSON lines to stdout:

    at its start
        -> {"event": "born", "pid": …, "start_time": …}
    {"op": "lock", "folder": …, "candidates": ["0", "1"], "count": 1, "wait_s": …}
        -> {"event": "waiting", "holder_pid": …} when it must, then {"event": "locked", "devices": […]}
           or {"event": "busy", "holder_pid": …}
    {"op": "launch", "argv": […], "env": {…}, "cwd": …, "log": …, "grace_s": …,
     "idle_command": […], "idle_timeout_s": …, "rest_s": …}
        -> {"event": "launched", "pid": …, "start_time": …, "port": …} or {"event": "failed", "reason": …};
           "{port}" in argv and env becomes the port that is held for the engine
        -> {"event": "exited", "code": …, "signal": …} at once when the engine ends by itself
    {"op": "stop", "grace_s": … or null}, or the end of stdin, or SIGTERM
        -> {"event": "stopped", "code": …, "signal": …, "killed": …, "left": […], "idle": …}; it is the last event, and
           with "idle": false this process goes on holding the locks until the devices are idle

The end of stdin is the truth about the actor: it comes whatever ended it, kill -9 included. Then the engine gets
SIGTERM and some seconds, every descendant SIGKILL by pid (also those in sessions of their own: this process is their
subreaper), the devices time to become idle, and only then are the device locks released. Devices that are not idle in
that time stay locked for up to an hour more, so that who wants them waits instead of meeting them busy. An actor that
stops waiting closes its end: from then on nobody needs what the engine might still save, and its grace is short.
"""

import contextlib
import ctypes
import errno
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from autotune.engines import procfs
from autotune.engines.idle_check import wait_idle
from autotune.engines.locks import DeviceLocks

# Marks every process of an engine, for a sweep after a killed supervisor. The supervisor is started with it: so its
# child carries the mark between fork and exec too.
OWNER_VARIABLE = "AUTOTUNE_ENGINE_OWNER"

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_LOCK_POLL_S = 0.2
_ABANDONED_GRACE_S = 2.0  # between SIGTERM and SIGKILL once the actor has closed its end
_WATCH_S = 2.0  # an upper bound only: signals and commands wake the loop at once
_KILL_POLL_S = 0.02
_KILL_TIMEOUT_S = 60.0  # a process stuck in a driver call cannot be killed; it keeps its device locked
_KEPT_S = 3600.0  # so long devices stay locked that do not become idle
_KEPT_PAUSE_S = 5.0

_NOTHING_STOPPED: dict[str, Any] = {"code": None, "signal": None, "killed": 0, "left": [], "idle": None}


class Inbox:
    """The actor's commands; `ended` once it asked to stop, closed the pipe, or somebody sent SIGTERM."""

    def __init__(self, stdin: int = 0) -> None:
        self.ended = False
        self._closed = False
        self._asked_grace_s: float | None = None  # another grace than the launch allowed
        self._stdin = stdin
        self._text = b""
        self._commands: deque[dict[str, Any]] = deque()
        self._wake, wake_write = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        # Handlers rather than SIG_IGN, which the engine would inherit through exec.
        signal.signal(signal.SIGINT, _ignore)  # Ctrl-C goes to the whole foreground group; the actor decides
        signal.signal(signal.SIGCHLD, _ignore)
        signal.signal(signal.SIGTERM, self._terminated)

    def _terminated(self, _number: int, _frame: FrameType | None) -> None:
        self.ended = True

    def grace_s(self, planned_s: float) -> float:
        """How long the engine may take to end, as far as is known now."""
        asked_s = planned_s if self._asked_grace_s is None else self._asked_grace_s
        return min(asked_s, _ABANDONED_GRACE_S) if self._closed else asked_s

    def wait(self, timeout_s: float) -> None:
        """Return after `timeout_s`, or earlier when a command or a signal came."""
        watched = [self._wake] if self._closed else [self._wake, self._stdin]
        ready, _, _ = select.select(watched, [], [], max(0.0, timeout_s))
        if self._wake in ready:
            os.read(self._wake, 4096)
        if self._stdin in ready:
            self._read()

    def _read(self) -> None:
        chunk = os.read(self._stdin, 1 << 16)
        if not chunk:
            self.ended = self._closed = True
        *lines, self._text = (self._text + chunk).split(b"\n")
        for command in map(json.loads, lines):
            self._commands.append(command)
            if command["op"] == "stop":
                self.ended, self._asked_grace_s = True, command["grace_s"]

    def take(self, operation: str) -> dict[str, Any] | None:
        """Wait for the next command, which must be `operation`; None when the actor is done."""
        while not self._commands and not self.ended:
            self.wait(_WATCH_S)
        if self.ended:
            return None
        command = self._commands.popleft()
        if command["op"] != operation:
            raise ValueError(f"the actor said {command['op']!r} where {operation!r} is due")
        return command


class Engine:
    """The engine's process and everything it started."""

    def __init__(self, order: dict[str, Any], owner: str, inherited: tuple[int, ...]) -> None:
        self._port_holder, self.port = _hold_port()
        port = str(self.port)
        environment = {name: value.replace("{port}", port) for name, value in order["env"].items()}
        with Path(order["log"]).open("xb") as log:  # two engines never write one log
            self._process = subprocess.Popen(
                [argument.replace("{port}", port) for argument in order["argv"]],
                env={**environment, OWNER_VARIABLE: owner},
                cwd=order["cwd"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=inherited,
            )
        self.pid = self._process.pid
        found = procfs.stat(self.pid)  # not reaped yet, so it is there even if it died at once
        self.start_time = found.start_time if found else 0
        self.killed = 0

    @property
    def exit(self) -> dict[str, int | None]:
        """How the engine ended, as an exit code or a signal; both None while it runs."""
        status = self._process.returncode
        if status is None:
            return {"code": None, "signal": None}
        return {"code": status, "signal": None} if status >= 0 else {"code": None, "signal": -status}

    def reap(self) -> bool:
        """Collect every dead child, orphans included; whether the engine itself has ended."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                if pid == self.pid:
                    self._process.returncode = os.waitstatus_to_exitcode(status)
        return self._process.returncode is not None

    def terminate(self, planned_grace_s: float, inbox: Inbox) -> None:
        """Ask the engine to end and give it its grace, which may shrink meanwhile."""
        if self.reap():
            return
        os.kill(self.pid, signal.SIGTERM)
        asked_s = time.monotonic()
        while not self.reap() and (left_s := asked_s + inbox.grace_s(planned_grace_s) - time.monotonic()) > 0:
            inbox.wait(left_s)

    def end_descendants(self) -> list[int]:
        """SIGKILL whatever is left, again and again until nothing is; the pids that would not die in time."""
        told: set[int] = set()
        deadline = time.monotonic() + _KILL_TIMEOUT_S
        while True:
            self.reap()
            alive = [process.pid for process in procfs.descendants(os.getpid())]
            if not alive or time.monotonic() >= deadline:
                break
            for pid in alive:  # parents first: who sees its child killed says so in the log, as of an accident
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            told |= set(alive)
            time.sleep(_KILL_POLL_S)
        self.killed += len(told)
        return sorted(alive)


def detached() -> int:
    """Be nobody's child, say who we are, and do the work.

    A Ray worker that ends kills its children, by SIGKILL and without waiting (KillChildProcs in Ray's core_worker): as
    its child the supervisor would die with the actor, and the engine live on.
    """
    if os.fork() > 0:
        return 0
    os.setsid()  # neither Ctrl-C nor the end of the actor's group reaches it
    own = procfs.stat(os.getpid())
    assert own is not None
    _emit("born", pid=own.pid, start_time=own.start_time)
    return main()


def main() -> int:
    """Own one engine from lock to stop."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    inbox = Inbox()
    request = inbox.take("lock")
    try:
        if request is not None:
            _serve(request, inbox)
            return 0
    except (OSError, ValueError) as problem:
        code = problem.errno if isinstance(problem, OSError) else errno.EINVAL
        _emit("failed", reason=str(problem), errno=code)
    _emit("stopped", **_NOTHING_STOPPED)
    return 0


def _serve(request: dict[str, Any], inbox: Inbox) -> None:
    """From the lock to its release. What was stopped is told last of all, unless the devices do not become idle."""
    locks = DeviceLocks(Path(request["folder"]))
    order = inbox.take("launch") if _lock(request, locks, inbox) else None
    stopped = _NOTHING_STOPPED if order is None else _own(order, locks, inbox)
    if order is not None and stopped["idle"] is False:
        _emit("stopped", **stopped)
        _keep_until_idle(order["idle_command"])
        locks.close()
        return
    locks.close()
    _emit("stopped", **stopped)


def _keep_until_idle(idle_command: Sequence[str]) -> None:
    """Nobody listens any more: a person may end this with SIGTERM, and with it the locks."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    wait_idle(idle_command, _KEPT_S, pause_s=_KEPT_PAUSE_S)


def _lock(request: dict[str, Any], locks: DeviceLocks, inbox: Inbox) -> bool:
    deadline = time.monotonic() + request["wait_s"]
    told = False
    while not inbox.ended:
        devices = locks.acquire(request["candidates"], request["count"])
        if devices is not None:
            _emit("locked", devices=devices)
            return True
        if time.monotonic() >= deadline:
            break
        if not told:
            _emit("waiting", holder_pid=locks.holder_pid)
            told = True
        inbox.wait(min(_LOCK_POLL_S, deadline - time.monotonic()))
    _emit("busy", holder_pid=locks.holder_pid)
    return False


def _own(order: dict[str, Any], locks: DeviceLocks, inbox: Inbox) -> dict[str, Any]:
    record = locks.folder / f"{os.getpid()}.json"
    entry = _identity()
    _write(record, entry)  # before the launch: the owner's mark alone is enough for a sweep
    left: list[int] = []
    try:
        engine = Engine(order, entry["owner"], locks.files)
        try:
            _write(record, entry | {"engine": {"pid": engine.pid, "start_time": engine.start_time}})
            _emit("launched", pid=engine.pid, start_time=engine.start_time, port=engine.port)
            _watch(engine, inbox)
            engine.terminate(order["grace_s"], inbox)
        finally:
            left = engine.end_descendants()
        is_clean = engine.exit["code"] == 0 and not engine.killed
        idle = wait_idle(order["idle_command"], order["idle_timeout_s"], rest_s=0.0 if is_clean else order["rest_s"])
        return {**engine.exit, "killed": engine.killed, "left": left, "idle": idle}
    finally:
        if not left:
            record.unlink(missing_ok=True)


def _identity() -> dict[str, Any]:
    own = procfs.stat(os.getpid())
    assert own is not None
    return {"pid": own.pid, "start_time": own.start_time, "owner": os.environ[OWNER_VARIABLE], "engine": None}


def _watch(engine: Engine, inbox: Inbox) -> None:
    """Until the actor is done; an engine that ends by itself is reported, and its leftovers are ended at once."""
    told = False
    while not inbox.ended:
        if engine.reap() and not told:
            engine.end_descendants()
            _emit("exited", **engine.exit)
            told = True
        inbox.wait(_WATCH_S)


def _hold_port() -> tuple[socket.socket, int]:
    """Bind a free loopback port and never listen on it.

    Linux lets a second socket bind the same port when both set SO_REUSEADDR and none listens, and vLLM sets it
    (vllm.entrypoints.launchers.launcher.create_server_socket). Until the engine listens, nobody who asks for any
    free port is given this one; so there is no time between picking the port and losing it.
    """
    holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    return holder, holder.getsockname()[1]


def _write(record: Path, entry: dict[str, Any]) -> None:
    partial = record.with_suffix(".partial")
    partial.write_text(json.dumps(entry))
    partial.replace(record)


def _emit(event: str, **fields: Any) -> None:
    with contextlib.suppress(BrokenPipeError):  # the actor is gone; the work goes on
        os.write(1, json.dumps({"event": event, **fields}).encode() + b"\n")


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Wake the loop, nothing else."""


if __name__ == "__main__":
    sys.exit(detached())
