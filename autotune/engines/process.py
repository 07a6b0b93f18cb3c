"""The actor's handle of an engine: starts the supervisor, speaks with it over two pipes, and always ends it."""

import contextlib
import errno
import json
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from autotune.engines import procfs
from autotune.engines.idle_check import wait_idle
from autotune.engines.locks import DeviceLocks
from autotune.engines.supervisor import OWNER_VARIABLE
from autotune.engines.sweep import sweep
from autotune.errors import AutotuneError, EnvironmentProblem

_POLL_S = 0.1  # how soon a cancel is heard while waiting for the supervisor
_SWEEP_S = 2.0  # while waiting for devices: how often engines are looked for whose supervisor was lost
_LAUNCH_TIMEOUT_S = 30.0
_DEATH_S = 10.0  # from the end of the supervisor's pipe to its own
_DEATH_POLL_S = 0.01
_STOP_MARGIN_S = 90.0  # for killing what ignores SIGTERM, and one last idle check
_CANCELLED_S = 3.5  # so long a cancelled trial waits for the end of its engine, the short grace included

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
HOST_EXHAUSTED = (errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE)
"""What the host runs out of for a while; anything else it refuses stays refused."""


class SupervisorLost(AutotuneError):
    """The supervisor ended, or does not answer, though nobody asked it to end: not the configuration's fault."""


@dataclass(frozen=True, slots=True)
class LockRequest:
    """Exactly `count` of the `candidates`, waited for at most `wait_s`; locks and engine records lie in `folder`."""

    folder: Path
    candidates: tuple[str, ...]
    count: int
    wait_s: float


@dataclass(frozen=True, slots=True)
class Locked:
    """The devices are ours until the engine is stopped."""

    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Busy:
    """The devices could not be had; `holder_pid` is the supervisor that has one of them, where known."""

    holder_pid: int | None
    cancelled: bool = False


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """What to launch. `{port}` in `argv` and `environment` becomes the port; `environment` is complete."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    cwd: Path
    log: Path
    grace_s: float = 20.0  # between SIGTERM and SIGKILL
    idle_command: tuple[str, ...] | None = None  # exits 0 when the devices are idle again
    idle_timeout_s: float = 120.0
    rest_s: float = 0.0  # so long the devices are left alone when the engine did not end by itself, well


@dataclass(frozen=True, slots=True)
class Launched:
    """The engine's process. `start_time` (clock ticks since boot) tells it from a later one with the same pid."""

    pid: int
    start_time: int
    port: int


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How the engine ended: an exit code or a signal; neither when the supervisor was lost with it."""

    code: int | None
    signal: int | None


@dataclass(frozen=True, slots=True)
class Stopped:
    """What stopping found. `idle` is None where the platform has no idle check."""

    exit: ExitStatus
    killed: int  # processes that needed SIGKILL
    left: tuple[int, ...]  # pids that cannot be killed (stuck in the driver); their devices stay locked
    idle: bool | None


class EngineProcess:
    """One engine's lifetime: `lock`, `launch`, look at `exited`, `stop`; leaving the context stops it in any case.

    Once `cancelled` says so, every wait ends soon. `lock` and `launch` raise SupervisorLost when the supervisor is
    lost; `stop` does its work then.
    """

    def __init__(self, cancelled: Callable[[], bool] = lambda: False) -> None:
        self._cancelled = cancelled
        self._plan: LaunchPlan | None = None
        self._folder: Path | None = None
        self._devices: tuple[str, ...] = ()
        self._events: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        self._silent = False  # the supervisor has ended
        self._ordered = False  # it was asked to end
        self._abandoned = False  # it was still busy ending when we left
        self._stopped: Stopped | None = None
        self.has_swept = False  # it ended processes that another supervisor had left

    def __enter__(self) -> Self:
        self._supervisor = subprocess.Popen(
            # -P: else a `select.py` in the folder the user works in would be the supervisor's `select`.
            [sys.executable, "-P", "-m", "autotune.engines.supervisor"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, OWNER_VARIABLE: secrets.token_hex(16)},
        )
        self._reader = threading.Thread(target=self._listen, name="engine-events", daemon=True)
        self._reader.start()
        with self._changed:
            self._changed.wait_for(lambda: self._events or self._silent, _LAUNCH_TIMEOUT_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def lock(self, request: LockRequest) -> Locked | Busy:
        """Take the devices, waiting as long as the request says or until cancelled; after Busy, just leave.

        Raises EnvironmentProblem when the lock folder cannot be used, OSError when the host has run out of something.
        """
        self._folder = request.folder
        self._send(
            op="lock",
            folder=str(request.folder),
            candidates=request.candidates,
            count=request.count,
            wait_s=request.wait_s,
        )
        answer = self._answer(("locked", "busy"), request.wait_s + _LAUNCH_TIMEOUT_S, self._sweep)
        if answer is None:
            return Busy(self._last("waiting").get("holder_pid"), cancelled=True)
        if answer["event"] == "busy":
            return Busy(answer["holder_pid"])
        self._devices = tuple(answer["devices"])
        return Locked(self._devices)

    def launch(self, plan: LaunchPlan) -> Launched | None:
        """Start the engine; None once cancelled.

        Raises EnvironmentProblem when its executable or folder cannot be used, OSError when the disk is full or the
        host has run out of something.
        """
        self._plan = plan
        self._send(
            op="launch",
            argv=plan.argv,
            env=dict(plan.environment),
            cwd=str(plan.cwd),
            log=str(plan.log),
            grace_s=plan.grace_s,
            idle_command=plan.idle_command,
            idle_timeout_s=plan.idle_timeout_s,
            rest_s=plan.rest_s,
        )
        answer = self._answer(("launched",), _LAUNCH_TIMEOUT_S)
        return Launched(answer["pid"], answer["start_time"], answer["port"]) if answer else None

    @property
    def pid(self) -> int:
        """The supervisor's process id."""
        return int(self._last("born").get("pid", self._supervisor.pid))

    @property
    def exited(self) -> ExitStatus | None:
        """How the engine ended by itself; None while it runs. Never waits."""
        found = self._last("exited") or self._last("stopped")
        if found:
            return ExitStatus(found["code"], found["signal"])
        return ExitStatus(None, None) if self._silent else None

    @property
    def lost(self) -> bool:
        """Whether the supervisor ended though neither we asked it to nor the engine had ended."""
        ended = self._silent or bool(self._last("stopped"))
        return ended and not self._ordered and not self._last("exited", "failed")

    def stop(self, *, grace_s: float | None = None) -> Stopped | None:
        """End the engine and wait until its devices are idle and unlocked; asked again, the same answer.

        None when that takes too long, or once cancelled: then the supervisor goes on in the background and keeps the
        devices locked meanwhile. So it does when the devices are not idle within the plan's time-out (`idle` is False
        then). `grace_s` overrules the plan's.
        """
        if self._stopped is None and not self._abandoned:
            self._order_stop(grace_s)
            self._abandoned = not self._supervisor_is_done()
            if not self._abandoned:
                self._stopped = self._report() or self._replace_supervisor()
        return self._stopped

    def _order_stop(self, grace_s: float | None) -> None:
        if self.lost:
            return
        self._ordered = True
        with contextlib.suppress(SupervisorLost):  # `_replace_supervisor` does its work
            self._send(op="stop", grace_s=grace_s)

    def _supervisor_is_done(self) -> bool:
        """Wait for it, as long as its plan may take; once cancelled, close the pipe, which makes it hurry."""
        plan = self._plan
        deadline = (
            time.monotonic() + _STOP_MARGIN_S + (plan.grace_s + plan.rest_s + plan.idle_timeout_s if plan else 0.0)
        )
        assert self._supervisor.stdin is not None
        while not self._is_done and time.monotonic() < deadline:
            if self._cancelled() and not self._supervisor.stdin.closed:
                deadline = time.monotonic() + _CANCELLED_S
                self._close_pipe()
            self._reader.join(_POLL_S)
        self._close_pipe()
        return self._is_done

    @property
    def _is_done(self) -> bool:
        """Whether the supervisor has ended, or only watches over devices that do not become idle."""
        return not self._reader.is_alive() or self._last("stopped").get("idle") is False

    def _close_pipe(self) -> None:
        assert self._supervisor.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._supervisor.stdin.close()

    def _report(self) -> Stopped | None:
        found = self._last("stopped")
        if not found:
            return None
        status = ExitStatus(found["code"], found["signal"])
        return Stopped(status, found["killed"], tuple(found["left"]), found["idle"])

    def _replace_supervisor(self) -> Stopped:
        """What a lost supervisor cannot do any more: end the engine, and keep its devices until they are idle."""
        killed: tuple[int, ...] = ()
        idle = None
        if self._folder is not None:
            killed = sweep(self._folder, self._cancelled)
            locks = DeviceLocks(self._folder)
            if self._devices and self._lock_again(locks):
                idle = self._wait_idle()
            locks.close()
        return Stopped(ExitStatus(None, None), len(killed), (), idle)

    def _lock_again(self, locks: DeviceLocks) -> bool:
        """Wait for the locks, which the engine inherited; False when somebody else was faster, or in vain."""
        deadline = time.monotonic() + _STOP_MARGIN_S
        while locks.acquire(self._devices, len(self._devices)) is None:
            if locks.holder_pid != self.pid or self._cancelled() or time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_S)
        return True

    def _wait_idle(self) -> bool | None:
        plan = self._plan
        if plan is None:
            return None
        return wait_idle(plan.idle_command, plan.idle_timeout_s, self._cancelled, rest_s=plan.rest_s)

    def _send(self, **command: Any) -> None:
        assert self._supervisor.stdin is not None
        try:
            self._supervisor.stdin.write(json.dumps(command).encode() + b"\n")
            self._supervisor.stdin.flush()
        except BrokenPipeError as problem:
            raise self._loss() from problem

    def _listen(self) -> None:
        """Take the supervisor's events until it ends, and reap it, also when nobody waits for it any more."""
        assert self._supervisor.stdout is not None
        with self._supervisor.stdout as events:
            for line in events:
                with self._changed:
                    self._events.append(json.loads(line))
                    self._changed.notify_all()
        self._supervisor.wait()  # its first process, which ended when the supervisor was born
        self._wait_for_death()
        with self._changed:
            self._silent = True
            self._changed.notify_all()

    def _wait_for_death(self) -> None:
        """A dying process closes its pipe before it is dead, and nobody sweeps after one that is not."""
        born = self._last("born")
        deadline = time.monotonic() + _DEATH_S
        while born and procfs.is_running(born["pid"], born["start_time"]) and time.monotonic() < deadline:
            time.sleep(_DEATH_POLL_S)

    def _last(self, *names: str) -> dict[str, Any]:
        with self._changed:
            return next((event for event in reversed(self._events) if event["event"] in names), {})

    def _sweep(self) -> None:
        if self._folder is not None:
            self.has_swept = bool(sweep(self._folder, self._cancelled)) or self.has_swept

    def _answer(
        self, names: tuple[str, ...], timeout_s: float, meanwhile: Callable[[], None] = lambda: None
    ) -> dict[str, Any] | None:
        """The supervisor's answer; None once cancelled."""
        now = time.monotonic()
        deadline, next_s = now + timeout_s, now + _SWEEP_S
        silent = False
        while not (found := self._last(*names, "failed")):
            if self._cancelled():
                return None
            if silent or time.monotonic() >= deadline:
                raise self._loss()
            if time.monotonic() >= next_s:
                meanwhile()
                next_s = time.monotonic() + _SWEEP_S
            with self._changed:
                silent = self._silent or (self._changed.wait(_POLL_S) and self._silent)  # then one last look
        if found["event"] == "failed" and found["errno"] in DISK_FULL + HOST_EXHAUSTED:
            raise OSError(found["errno"], found["reason"])
        if found["event"] == "failed":
            raise EnvironmentProblem(f"the engine could not be started: {found['reason']}")
        return found

    def _loss(self) -> SupervisorLost:
        return SupervisorLost(
            f"the engine's supervisor, process {self.pid}, ended or does not answer; if it said why, then in the "
            "stderr of this process"
        )
