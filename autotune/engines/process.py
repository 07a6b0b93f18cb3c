"""The actor's handle of an engine: starts the supervisor, speaks with it over two pipes, and always ends it."""

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from autotune.engines.sweep import sweep
from autotune.errors import EnvironmentProblem

_POLL_S = 0.1  # how soon a cancel is heard while waiting for the supervisor
_LAUNCH_TIMEOUT_S = 30.0
_STOP_MARGIN_S = 90.0  # for killing what ignores SIGTERM, and one last idle check


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
    """One engine's lifetime: `lock`, `launch`, look at `exited`, `stop`; leaving the context stops it in any case."""

    def __init__(self) -> None:
        self._plan: LaunchPlan | None = None
        self._folder: Path | None = None
        self._events: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        self._silent = False  # the supervisor has closed its end
        self._stopped: Stopped | None = None
        self._unstoppable: EnvironmentProblem | None = None

    def __enter__(self) -> Self:
        # In a session of its own, so that neither Ctrl-C nor the end of the actor's group reaches it.
        self._supervisor = subprocess.Popen(
            [sys.executable, "-m", "autotune.engines.supervisor"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._listen, name="engine-events", daemon=True)
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._unstoppable is None:  # else whoever asked knows, and waiting again would change nothing
            self.stop()

    def lock(self, request: LockRequest, cancelled: Callable[[], bool] = lambda: False) -> Locked | Busy:
        """Take the devices, waiting as long as the request says or until `cancelled` says so; after Busy, just leave.

        Raises EnvironmentProblem when the lock folder cannot be used.
        """
        self._folder = request.folder
        self._send(
            op="lock",
            folder=str(request.folder),
            candidates=request.candidates,
            count=request.count,
            wait_s=request.wait_s,
        )
        answer = self._answer(("locked", "busy"), request.wait_s + _LAUNCH_TIMEOUT_S, cancelled)
        if answer is None:
            return Busy(self._last("waiting").get("holder_pid"), cancelled=True)
        if answer["event"] == "locked":
            return Locked(tuple(answer["devices"]))
        return Busy(answer["holder_pid"])

    def launch(self, plan: LaunchPlan) -> Launched:
        """Start the engine. Raises EnvironmentProblem when its executable or folder cannot be used."""
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
        )
        answer = self._answer(("launched",), _LAUNCH_TIMEOUT_S)
        assert answer is not None
        return Launched(answer["pid"], answer["start_time"], answer["port"])

    @property
    def pid(self) -> int:
        """The supervisor's process id."""
        return self._supervisor.pid

    @property
    def exited(self) -> ExitStatus | None:
        """How the engine ended by itself; None while it runs. Never waits."""
        found = self._last("exited") or self._last("stopped")
        if found:
            return ExitStatus(found["code"], found["signal"])
        return ExitStatus(None, None) if self._silent else None

    def stop(self, timeout_s: float | None = None, *, grace_s: float | None = None) -> Stopped:
        """End the engine and wait until its devices are idle and unlocked; asked again, the same answer.

        Without `timeout_s` and `grace_s` the plan's own limits decide. Raises EnvironmentProblem when the supervisor
        does not come to an end in that time; it goes on in the background and keeps the devices locked.
        """
        if self._unstoppable is not None:
            raise self._unstoppable
        if self._stopped is None:
            if grace_s is not None:
                with contextlib.suppress(EnvironmentProblem):  # a lost supervisor is found below
                    self._send(op="stop", grace_s=grace_s)
            self._stopped = self._stop(self._patience_s if timeout_s is None else timeout_s)
        return self._stopped

    @property
    def _patience_s(self) -> float:
        plan = self._plan
        return _STOP_MARGIN_S + (plan.grace_s + plan.idle_timeout_s if plan else 0.0)

    def _stop(self, timeout_s: float) -> Stopped:
        assert self._supervisor.stdin is not None
        assert self._supervisor.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._supervisor.stdin.close()  # the end of its stdin is the stop
        try:
            self._supervisor.wait(timeout_s)
        except subprocess.TimeoutExpired as problem:
            self._unstoppable = EnvironmentProblem(
                f"the engine did not stop within {timeout_s:g} s; its supervisor, process {self.pid}, goes on trying "
                "and keeps the devices locked. Look for processes that hang in the device driver (state D in `ps`)."
            )
            raise self._unstoppable from problem
        self._reader.join()
        self._supervisor.stdout.close()
        found = self._last("stopped")
        if found:
            status = ExitStatus(found["code"], found["signal"])
            return Stopped(status, found["killed"], tuple(found["left"]), found["idle"])
        killed = sweep(self._folder) if self._folder else ()
        return Stopped(ExitStatus(None, None), len(killed), (), None)

    def _send(self, **command: Any) -> None:
        assert self._supervisor.stdin is not None
        try:
            self._supervisor.stdin.write(json.dumps(command).encode() + b"\n")
            self._supervisor.stdin.flush()
        except BrokenPipeError as problem:
            raise self._lost() from problem

    def _listen(self) -> None:
        assert self._supervisor.stdout is not None
        for line in self._supervisor.stdout:
            with self._changed:
                self._events.append(json.loads(line))
                self._changed.notify_all()
        with self._changed:
            self._silent = True
            self._changed.notify_all()

    def _last(self, *names: str) -> dict[str, Any]:
        with self._changed:
            return next((event for event in reversed(self._events) if event["event"] in names), {})

    def _answer(
        self, names: tuple[str, ...], timeout_s: float, cancelled: Callable[[], bool] = lambda: False
    ) -> dict[str, Any] | None:
        """The supervisor's answer; None once cancelled."""
        deadline = time.monotonic() + timeout_s
        while not (found := self._last(*names, "failed")):
            if cancelled():
                return None
            if self._silent or time.monotonic() >= deadline:
                raise self._lost()
            with self._changed:
                self._changed.wait(_POLL_S)
        if found["event"] == "failed":
            raise EnvironmentProblem(f"the engine could not be started: {found['reason']}")
        return found

    def _lost(self) -> EnvironmentProblem:
        return EnvironmentProblem(
            f"the engine's supervisor, process {self.pid}, does not answer; its messages are in this process's stderr"
        )
