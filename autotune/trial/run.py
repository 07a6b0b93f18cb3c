"""The six steps of a trial: check, launch, wait for readiness, load, read back, stop."""

import errno
import os
import secrets
import socket
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from autotune.diagnosis import fatal_line, outcome_of, read_failure
from autotune.engines import vllm
from autotune.engines.loopback import Server
from autotune.engines.process import Busy, EngineProcess, LaunchPlan, Locked, LockRequest
from autotune.engines.readback import counters, fetch_metrics, overridden, read_back
from autotune.engines.readiness import NotReady, StartWatch, wait_ready
from autotune.engines.sweep import sweep
from autotune.errors import EnvironmentProblem
from autotune.loadgen import Endpoint
from autotune.measurement import operating_point
from autotune.model_card import shortfall
from autotune.platforms import PLATFORMS, Device, Platform
from autotune.results import (
    Evidence,
    FailureClass,
    Infeasible,
    Interrupted,
    LoadPoint,
    Measured,
    Timings,
    TrialOutcome,
    TrialResult,
)
from autotune.telemetry import get_logger
from autotune.trial.artifacts import ENGINE_LOG, listing
from autotune.trial.ladder import LevelLost, Site, climb, repeat
from autotune.trial.request import Control, Grant, TrialRequest

log = get_logger()

LOCK_WAIT_S = 3600.0  # for another job's trial on the same devices; a cancel is heard meanwhile
GRACE_S = 20.0  # between SIGTERM and SIGKILL
LAST_WORDS_S = 2.0  # the same for an engine whose start has failed: it has nothing to save, and may not listen
IDLE_TIMEOUT_S = 120.0
CHANGES_SIZES = {"quantization", "kv_cache_dtype", "cpu_offload_gb", "load_format"}


def lock_folder() -> Path:
    """Where this user's device locks of this host lie, whatever the job and its database."""
    return Path(tempfile.gettempdir()) / f"autotune-{os.getuid()}"


def run_trial(request: TrialRequest, grant: Grant, control: Control) -> TrialResult:
    """Run one trial on the devices that were granted.

    A failure is data: whatever happens comes back as a result, and no engine is left.
    """
    run = _Run(request, grant, control)
    try:
        request.artifacts.mkdir(parents=True, exist_ok=True)
        outcome = run.outcome()
    except EnvironmentProblem as exc:
        outcome = Interrupted(
            evidence=_evidence(FailureClass.ENVIRONMENT, str(exc), "Mend it, then run the job again.")
        )
    except OSError as exc:
        outcome = Interrupted(evidence=_disk_full(exc) if exc.errno == errno.ENOSPC else _defect(exc))
    except Exception as exc:  # the trial's boundary: a defect of ours must not lose the job
        log.exception("trial_crashed", job=request.job, trial=request.number)
        outcome = Interrupted(evidence=_defect(exc))
    return TrialResult(
        outcome=outcome,
        timings=run.timings(),
        devices=run.devices,
        node=socket.gethostname(),
        engine_version=request.engine_version,
        artifacts=listing(request.artifacts, request.folder),
    )


@dataclass(slots=True)
class _Run:
    """One launch while it happens."""

    request: TrialRequest
    grant: Grant
    control: Control
    devices: tuple[str, ...] = ()
    sockets: str = ""
    spent_s: dict[str, float] = field(default_factory=dict)
    started_s: float = field(default_factory=time.monotonic)

    def outcome(self) -> TrialOutcome:
        platform = PLATFORMS[self.request.profile.platform]
        found = platform.discover()
        granted = _granted(self.grant, found)
        refusal = self._unwell(granted) or self._too_large(granted)
        if refusal is not None:
            return refusal
        # vLLM leaves its sockets behind when it ends: in a folder of their own they go with it.
        with (
            tempfile.TemporaryDirectory(prefix="at-", ignore_cleanup_errors=True) as sockets,
            EngineProcess() as engine,
        ):
            self.sockets = sockets
            sweep(lock_folder() / self.request.profile.platform)  # what a killed supervisor left
            with self._timed("wait_s"):
                locked = self._lock(engine, tuple(device.id for device in granted))
            if isinstance(locked, Busy):
                return self._busy(locked)
            self.devices = locked.devices
            stranger = self._in_use(platform)
            if stranger is not None:
                return stranger
            try:
                return self._launched(engine, platform)
            finally:
                self.control.enter("stopping")
                with self._timed("stop_s"):
                    self._stop(engine)

    def _stop(self, engine: EngineProcess) -> None:
        """What was measured stays measured, however hard the engine is to end; its devices stay locked meanwhile."""
        try:
            stopped = engine.stop()
        except EnvironmentProblem as exc:
            log.warning("engine_not_stopped", trial=self.request.number, devices=self.devices, problem=str(exc))
            return
        if stopped.idle is False or stopped.left:
            log.warning("devices_not_idle", trial=self.request.number, devices=self.devices, left=stopped.left)

    def timings(self) -> Timings:
        return Timings(total_s=time.monotonic() - self.started_s, **self.spent_s)

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        start_s = time.monotonic()
        try:
            yield
        finally:
            self.spent_s[phase] = time.monotonic() - start_s

    def _unwell(self, granted: Sequence[Device]) -> Interrupted | None:
        unwell = [f"{device.id} ({device.health})" for device in granted if not device.usable]
        if not unwell:
            return None
        cause = f"Device {', '.join(unwell)} is not well."
        return Interrupted(evidence=_evidence(FailureClass.HARDWARE, cause, "Take it out of service and look at it."))

    def _too_large(self, granted: Sequence[Device]) -> Infeasible | None:
        request = self.request
        smallest = min((device.memory_total_mib or 0 for device in granted), default=0) * 2**20
        arguments = request.config.arguments
        if CHANGES_SIZES & {name for name, value in arguments.items() if value not in (None, "auto", 0)}:
            return None  # the files at hand do not say what they will take
        length = int(arguments.get("max_model_len", 0))
        reason = shortfall(request.model, max_model_len=length, devices=request.config.devices, device_bytes=smallest)
        if reason is None:
            return None
        advice = "Spread the model over more devices, shorten max_model_len, or use quantised weights."
        return Infeasible(evidence=_evidence(FailureClass.OOM, f"The model surely cannot fit: {reason}.", advice))

    def _lock(self, engine: EngineProcess, candidates: tuple[str, ...]) -> Locked | Busy:
        self.control.enter("waiting for devices")
        folder = lock_folder() / self.request.profile.platform
        return engine.lock(
            LockRequest(folder, candidates, self.grant.count, LOCK_WAIT_S), cancelled=self.control.cancelled
        )

    def _in_use(self, platform: Platform) -> Interrupted | None:
        """Somebody else's process on a device is not the configuration's fault: it would look like out of memory."""
        busy = [device for device in platform.discover() if device.id in self.devices and not device.idle]
        if not busy:
            return None
        pids = ", ".join(str(process.pid) for device in busy for process in device.processes) or "no process shown"
        cause = f"Device {', '.join(device.id for device in busy)} is in use by somebody else ({pids})."
        return Interrupted(evidence=_evidence(FailureClass.BUSY, cause, "Stop what runs there, or take it out of Ray."))

    def _launched(self, engine: EngineProcess, platform: Platform) -> TrialOutcome:
        self.control.enter("starting the engine")
        with self._timed("start_s"):
            server = self._start(engine, platform)
            ready = wait_ready(server, self._watch(engine))
        if isinstance(ready, NotReady):
            return self._not_ready(engine, ready)
        site = Site(
            endpoint=Endpoint(server.base_url, server.model, server.api_key),
            gone=lambda: engine.exited is not None,
            counters=lambda: counters(fetch_metrics(server)),
        )
        try:
            with self._timed("load_s"):
                points = (repeat if self.request.confirm_seeds else climb)(self.request, site, self.control)
        except LevelLost:
            return self._lost(engine)
        effective = read_back(server, self._log_text())
        return self._measured(points, effective)

    def _start(self, engine: EngineProcess, platform: Platform) -> Server:
        request, profile = self.request, self.request.profile
        model, key = str(request.model.path), secrets.token_urlsafe(24)
        launched = engine.launch(
            LaunchPlan(
                argv=(
                    str(profile.executable),
                    *vllm.serve_arguments(request.config, model=model),
                ),
                environment=vllm.environment(
                    os.environ,
                    {"VLLM_RPC_BASE_PATH": self.sockets},
                    platform.environment(self.devices, request.config.devices),
                    profile.environment,
                    request.config.environment,
                    platform.visibility(self.devices),  # last: nobody overrides the pinning
                    model=model,
                    api_key=key,
                ),
                cwd=request.artifacts,
                log=request.artifacts / ENGINE_LOG,
                grace_s=GRACE_S,
                idle_command=platform.idle_command(self.devices),
                idle_timeout_s=IDLE_TIMEOUT_S,
            )
        )
        return Server(f"http://127.0.0.1:{launched.port}", model, key)

    def _watch(self, engine: EngineProcess) -> StartWatch:
        return StartWatch(
            log=self.request.artifacts / ENGINE_LOG,
            timeout_s=self.request.profile.start_timeout_s,
            exited=lambda: engine.exited is not None,
            fatal=fatal_line,
            cancelled=self.control.cancelled,
        )

    def _measured(self, points: list[LoadPoint], effective: dict[str, str]) -> Measured:
        best = operating_point(points)
        return Measured(
            points=tuple(points),
            operating_level=best.level if best else None,
            effective_config=effective,
            overridden=overridden(self.request.config, effective),
        )

    def _busy(self, busy: Busy) -> Interrupted:
        if busy.cancelled:
            return _cancelled()
        held = f" Process {busy.holder_pid} holds it." if busy.holder_pid else ""
        cause = f"A device stayed in use by another engine for {LOCK_WAIT_S:g} s.{held}"
        return Interrupted(
            evidence=_evidence(FailureClass.BUSY, cause, "Wait for the other engine to end, or stop it.")
        )

    def _not_ready(self, engine: EngineProcess, ready: NotReady) -> TrialOutcome:
        if ready.kind == "cancelled":
            return _cancelled()
        if ready.kind in ("timeout", "no_answer"):
            evidence = self._read_failure(engine)
            if evidence.failure is FailureClass.UNKNOWN:
                evidence = evidence.model_copy(update={"failure": FailureClass.HANG, "cause": ready.detail})
            return self._failed(evidence)
        return self._failed(self._read_failure(engine))

    def _lost(self, engine: EngineProcess) -> TrialOutcome:
        if self.control.cancelled():
            return _cancelled()
        return self._failed(self._read_failure(engine))

    def _read_failure(self, engine: EngineProcess) -> Evidence:
        """Read the log once the engine has ended: its last words may come after the line that told."""
        own_end = engine.exited  # an end that we brought about says nothing about the cause
        if own_end is None:
            engine.stop(grace_s=LAST_WORDS_S)
        return read_failure(
            self._log_text(),
            exit_code=own_end.code if own_end else None,
            signal=own_end.signal if own_end else None,
            log_path=str(self.request.artifacts / ENGINE_LOG),
        )

    def _failed(self, evidence: Evidence) -> TrialOutcome:
        if outcome_of(evidence.failure, attempt=self.request.attempt) == "infeasible":
            return Infeasible(evidence=evidence)
        return Interrupted(evidence=evidence)

    def _log_text(self) -> str:
        path = self.request.artifacts / ENGINE_LOG
        return path.read_text(errors="replace") if path.is_file() else ""


def _granted(grant: Grant, found: Sequence[Device]) -> list[Device]:
    """The granted devices as the platform sees them; all of them where the cluster only counts.

    Raises EnvironmentProblem when the cluster and the platform number devices differently: nothing would be pinned.
    """
    if not grant.devices:
        return list(found)
    known = {device.id: device for device in found}
    missing = [identity for identity in grant.devices if identity not in known]
    if missing:
        raise EnvironmentProblem(
            f"Ray gave device {', '.join(missing)}, this machine has {', '.join(known) or 'none'}; start Ray with the "
            "numbering that the device tool shows (inside a container: from 0)"
        )
    return [known[identity] for identity in grant.devices]


def _evidence(failure: FailureClass, cause: str, advice: str) -> Evidence:
    return Evidence(failure=failure, signature=None, cause=cause, advice=advice)


def _cancelled() -> Interrupted:
    return Interrupted(evidence=_evidence(FailureClass.CANCELLED, "The job was cancelled.", ""))


def _disk_full(exc: OSError) -> Evidence:
    return _evidence(FailureClass.SHARED_MEMORY, f"The disk is full: {exc}", "Free space where the artifacts are kept.")


def _defect(exc: Exception) -> Interrupted:
    evidence = _evidence(
        FailureClass.DEFECT, f"The tuner itself failed: {type(exc).__name__}: {exc}", "Please report this traceback."
    )
    return Interrupted(evidence=evidence.model_copy(update={"log_tail": traceback.format_exc()}))
