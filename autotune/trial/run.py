"""The six steps of a trial: check, launch, wait for readiness, load, read back, stop."""

import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from autotune.diagnosis import fatal_line, is_waiting, outcome_of, read_failure
from autotune.engines import loopback, preload, procfs, vllm
from autotune.engines.idle_check import wait_idle
from autotune.engines.loopback import Server
from autotune.engines.process import Busy, EngineProcess, LaunchPlan, LockRequest, SupervisorLost
from autotune.engines.readback import counters, effective_values, fetch_metrics, gauges, limits, overridden, read_back
from autotune.engines.readiness import NotReady, StartWatch, wait_ready
from autotune.engines.sweep import sweep
from autotune.errors import EnvironmentProblem, InputError
from autotune.instruments import InstrumentFailed
from autotune.level_run import LevelRun, LevelWatch
from autotune.loadgen import Endpoint, EngineStalled, Pulse, measure
from autotune.measurement import operating_point
from autotune.model_card import shape_of, shortfall
from autotune.platforms import PLATFORMS, Device, DeviceToolFailed, Platform
from autotune.releases import switches, versions_of
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
from autotune.trial import failures
from autotune.trial.artifacts import ENGINE_LOG, fresh_folder, listing
from autotune.trial.devices import Health, granted
from autotune.trial.host import Cancelled, lock_folder, sockets_folder, unless_cancelled
from autotune.trial.instrument import tool_sender
from autotune.trial.ladder import LevelLost, Send, Site, measure_levels
from autotune.trial.request import Control, Grant, TrialRequest
from autotune.trial.window import EngineWindow, Sources, idle
from autotune.workload import LevelPlan

log = get_logger()

Answer = TypeVar("Answer")

LOCK_WAIT_S = 3600.0  # for another job's trial on the same devices; a cancel is heard meanwhile
GRACE_S = 20.0  # between SIGTERM and SIGKILL
LAST_WORDS_S = 2.0  # the same for an engine whose start has failed: it has nothing to save, and may not listen
END_POLL_S = 0.1
IDLE_TIMEOUT_S = 120.0  # the driver gives a dead engine's memory back seconds later
HEALTH_TIMEOUT_S = 5.0
HEALTH_PAUSE_S = 0.5
DYING_S = 30.0  # from failed requests until an engine that dies has ended; one that has no CPU for seconds lives on
CHANGES_SIZES = {"cpu_offload_gb", "cpu_offload_params", "hf_overrides", "hf_config_path"}


def run_trial(request: TrialRequest, grant: Grant, control: Control) -> TrialResult:
    """Run one trial on the devices that were granted.

    A failure is data: whatever happens comes back as a result, and no engine is left. A cancel is obeyed within five
    seconds; an engine that takes longer to end is ended in the background, and its devices stay locked until then.
    """
    run = _Run(request, grant, control)
    try:
        fresh_folder(request.artifacts)
        outcome = run.outcome()
    except Cancelled:
        outcome = Interrupted(evidence=failures.cancelled())
    except SupervisorLost:
        outcome = run.failed(failures.supervisor_lost())
    except DeviceToolFailed as exc:
        run.health.node_unwell = True
        outcome = run.failed(failures.devices_silent(exc))
    except (EnvironmentProblem, InputError) as exc:  # the job was checked: it is this node that lacks something
        outcome = run.failed(failures.environment_broken(exc))
    except OSError as exc:
        outcome = run.failed(failures.of_os_error(exc))
    except Exception as exc:  # the trial's boundary: a defect of ours must not lose the job
        log.exception("trial_crashed", job=request.job, trial=request.number)
        outcome = run.failed(failures.defect(exc))
    return TrialResult(
        outcome=outcome,
        timings=run.timings(),
        devices=run.devices,
        node=socket.gethostname(),
        engine_version=request.engine_version,
        artifacts=listing(request.artifacts, request.folder),
        device_health=run.health.told,
        unwell=run.health.unwell,
        node_unwell=run.health.node_unwell,
    )


@dataclass(slots=True)
class _Run:
    """One launch while it happens."""

    request: TrialRequest
    grant: Grant
    control: Control
    devices: tuple[str, ...] = ()
    health: Health = field(default_factory=Health)
    sockets: str = ""
    spent_s: dict[str, float] = field(default_factory=dict)
    started_s: float = field(default_factory=time.monotonic)

    def outcome(self) -> TrialOutcome:
        platform = PLATFORMS[self.request.profile.platform]
        devices = granted(self.grant, self._discover(platform))
        refusal = self._unwell(devices) or self._too_large(devices)
        if refusal is not None:
            return refusal
        self.control.enter("waiting for devices")
        folder = lock_folder() / self.request.profile.platform
        swept = bool(sweep(folder, self.control.cancelled))  # what a killed supervisor left
        with sockets_folder() as self.sockets, EngineProcess(self.control.cancelled) as engine:
            with self._timed("wait_s"):
                candidates = tuple(device.id for device in devices)
                locked = engine.lock(LockRequest(folder, candidates, self.grant.count, LOCK_WAIT_S))
            if isinstance(locked, Busy):
                return self._busy(locked)
            self.devices = locked.devices
            return self._locked(engine, platform, rest_s=self._rest_s(platform) if swept or engine.has_swept else 0.0)

    def _locked(self, engine: EngineProcess, platform: Platform, *, rest_s: float) -> TrialOutcome:
        with self._timed("wait_s"):
            stranger = self._in_use(platform, rest_s)
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
        stopped = engine.stop()
        if stopped is None:
            log.warning("engine_not_stopped", trial=self.request.number, devices=self.devices, supervisor=engine.pid)
        elif stopped.idle is False or stopped.left:
            if stopped.left:  # what cannot be killed hangs in the driver of one of them
                self.health.unwell = self.devices
            log.warning("devices_not_idle", trial=self.request.number, devices=self.devices, left=stopped.left)

    def timings(self) -> Timings:
        return Timings(total_s=time.monotonic() - self.started_s, **self.spent_s)

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        start_s = time.monotonic()
        try:
            yield
        finally:
            self.spent_s[phase] = self.spent_s.get(phase, 0.0) + time.monotonic() - start_s

    def _ask(self, question: Callable[[], Answer]) -> Answer:
        return unless_cancelled(question, self.control.cancelled)

    def _discover(self, platform: Platform) -> tuple[Device, ...]:
        return self._ask(platform.discover)  # npu-smi may hang in a wedged driver

    def _rest_s(self, platform: Platform) -> float:
        asked_s = self.request.profile.device_rest_s
        return platform.REST_S if asked_s is None else asked_s

    def _unwell(self, devices: Sequence[Device]) -> TrialOutcome | None:
        unwell = self.health.look_at(devices)
        return self.failed(failures.devices_unwell(unwell)) if unwell else None

    def _blame(self, evidence: Evidence) -> Evidence:
        platform = PLATFORMS[self.request.profile.platform]
        return self.health.blame(evidence, self.devices, lambda: self._discover(platform))

    def _too_large(self, devices: Sequence[Device]) -> TrialOutcome | None:
        request = self.request
        smallest = min((device.memory_total_mib or 0 for device in devices), default=0) * 2**20
        arguments = request.config.arguments
        changed = {name for name, value in arguments.items() if value not in (None, 0)}
        if CHANGES_SIZES & changed or ("quantization" in changed and request.model.scheme is None):
            return None  # the files at hand do not say what they will take
        reason = shortfall(request.model, shape_of(arguments), smallest)
        return self.failed(failures.too_large(reason)) if reason is not None else None

    def _in_use(self, platform: Platform, rest_s: float) -> TrialOutcome | None:
        """The devices are ours now, but an engine that was killed may still be leaving them."""
        if not rest_s and not self._busy_devices(platform):
            return None
        wait_idle(platform.idle_command(self.devices), IDLE_TIMEOUT_S, self.control.cancelled, rest_s=rest_s)
        busy = self._busy_devices(platform)
        return self.failed(failures.devices_in_use(busy, IDLE_TIMEOUT_S)) if busy else None

    def _busy_devices(self, platform: Platform) -> list[Device]:
        if self.control.cancelled():
            raise Cancelled
        return [device for device in self._discover(platform) if device.id in self.devices and not device.idle]

    def _busy(self, busy: Busy) -> TrialOutcome:
        return self.failed(failures.cancelled() if busy.cancelled else failures.devices_taken(busy, LOCK_WAIT_S))

    def _launched(self, engine: EngineProcess, platform: Platform) -> TrialOutcome:
        self.control.enter("starting the engine")
        with self._timed("start_s"):
            server = self._start(engine, platform)
            ready = wait_ready(server, self._watch(engine))
        if isinstance(ready, NotReady):
            return self._not_ready(engine, ready)
        site = Site(
            send=self._sender(engine, server),
            gone=lambda: engine.exited is not None,
            window=lambda: self._window(engine, server, platform),
            settled=lambda: idle(gauges(self._ask(lambda: fetch_metrics(server)))) is True,
        )
        try:
            with self._timed("load_s"):
                points = measure_levels(self.request, site, self.control)
        except LevelLost:
            return self._ended(engine)
        except EngineStalled as exc:
            return self._hung(engine, str(exc))
        except InstrumentFailed as exc:
            return self.failed(failures.instrument_failed(exc))
        if all(point.invalid for point in points):
            return self.failed(failures.client_bound(points[-1].invalid))
        return self._measured(points, self._ask(lambda: read_back(server, self._log_text())))

    def _window(self, engine: EngineProcess, server: Server, platform: Platform) -> EngineWindow:
        pids = [process.pid for process in procfs.descendants(engine.pid)]
        return EngineWindow(
            Sources(
                counters=lambda: counters(self._ask(lambda: fetch_metrics(server))),
                gauges=lambda: gauges(fetch_metrics(server)),
                cpu_times=lambda: procfs.cpu_times(pids),
                utilization=lambda: platform.utilization(self.devices),
                over=lambda: self.control.cancelled() or engine.exited is not None,
                limits=limits(self.request.config, effective_values("", self._log_text())),
            )
        )

    def _sender(self, engine: EngineProcess, server: Server) -> Send:
        if self.request.instrument != "autotune":
            return tool_sender(self.request, server, lambda: self._settle(engine, server))
        endpoint = Endpoint(server.base_url, server.model, server.api_key)
        pulse = Pulse(self.request.profile.stall_timeout_s, self.request.workload.request_timeout_s)

        def send(plan: LevelPlan, watch: LevelWatch) -> LevelRun:
            run = measure(plan, endpoint, watch, pulse)
            if any(record.error is not None and not record.unfinished for record in run.records):
                self._settle(engine, server)
            return run

        return send

    def _settle(self, engine: EngineProcess, server: Server) -> None:
        """After failed requests: an engine that dies answers nobody, some time before its end is known."""
        deadline = time.monotonic() + DYING_S
        while engine.exited is None and not self.control.cancelled():
            answer = self._ask(lambda: loopback.request(server, "/health", timeout_s=HEALTH_TIMEOUT_S))
            if answer.status == 200:
                return
            if time.monotonic() >= deadline:
                said = f"answers HTTP {answer.status}" if answer.status else f"does not answer ({answer.body})"
                raise EngineStalled(f"requests failed, and /health {said} for {DYING_S:g} s after them")
            self._wait_for_end(engine, HEALTH_PAUSE_S)

    def _wait_for_end(self, engine: EngineProcess, timeout_s: float) -> None:
        """Give the engine so long to end by itself."""
        deadline = time.monotonic() + timeout_s
        while engine.exited is None and not self.control.cancelled() and time.monotonic() < deadline:
            time.sleep(END_POLL_S)

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
                    switches(versions_of(request.engine_version)),
                    preload.environment(os.environ) if profile.jemalloc else {},
                    profile.environment,
                    request.config.environment,
                    self._debug_environment(),
                    platform.visibility(self.devices),  # last: nobody overrides the pinning
                    model=model,
                    api_key=key,
                ),
                cwd=request.artifacts,
                log=request.artifacts / ENGINE_LOG,
                grace_s=GRACE_S,
                idle_command=platform.idle_command(self.devices),
                idle_timeout_s=IDLE_TIMEOUT_S,
                rest_s=self._rest_s(platform),
            )
        )
        if launched is None:
            raise Cancelled
        return Server(f"http://127.0.0.1:{launched.port}", model, key)

    def _debug_environment(self) -> dict[str, str]:
        """All that the engine can say; on Ascend also what CANN says, into the launch's own folder.

        CANN's log (plog) lies in ~/ascend/log otherwise, and holds errors only (CANN, "Setting Log Levels").
        """
        if not self.request.debug:
            return {}
        cann = {"ASCEND_GLOBAL_LOG_LEVEL": "1", "ASCEND_PROCESS_LOG_PATH": str(self.request.artifacts / "plog")}
        return {"VLLM_LOGGING_LEVEL": "DEBUG"} | (cann if self.request.profile.platform == "ascend" else {})

    def _watch(self, engine: EngineProcess) -> StartWatch:
        return StartWatch(
            log=self.request.artifacts / ENGINE_LOG,
            timeout_s=self.request.profile.start_timeout_s,
            exited=lambda: engine.exited is not None,
            fatal=fatal_line,
            cancelled=self.control.cancelled,
            stall_timeout_s=self.request.profile.start_stall_timeout_s,
            cpu_s=lambda: _cpu_s(engine),
            waits=is_waiting,
        )

    def _measured(self, points: list[LoadPoint], effective: dict[str, str]) -> Measured:
        best = operating_point(points)
        return Measured(
            points=tuple(points),
            operating_level=best.level if best else None,
            effective_config=effective,
            overridden=overridden(self.request.config, effective),
        )

    def _not_ready(self, engine: EngineProcess, ready: NotReady) -> TrialOutcome:
        if ready.kind in ("timeout", "stalled", "no_answer"):
            return self._hung(engine, ready.detail)
        self._wait_for_end(engine, LAST_WORDS_S)  # of one that fails; its last words may come after the line that told
        return self._ended(engine)

    def _hung(self, engine: EngineProcess, seen: str) -> TrialOutcome:
        """Its log decides first: an engine whose workers died may hang too."""
        if engine.exited is not None:
            return self._ended(engine)
        evidence = self._read_failure(engine)
        named = failures.hung(evidence, seen) if evidence.failure is FailureClass.UNKNOWN else evidence
        return self.failed(self._blame(named))

    def _ended(self, engine: EngineProcess) -> TrialOutcome:
        if self.control.cancelled():
            return self.failed(failures.cancelled())
        return self.failed(failures.supervisor_lost() if engine.lost else self._blame(self._read_failure(engine)))

    def _read_failure(self, engine: EngineProcess) -> Evidence:
        """Read the log as it is before we end the engine: what it says of our signals is no cause."""
        own_end = engine.exited  # an end that we bring about says nothing about the cause either
        log_text = self._log_text()
        if own_end is None:
            engine.stop(grace_s=LAST_WORDS_S)
        return read_failure(
            log_text,
            exit_code=own_end.code if own_end else None,
            signal=own_end.signal if own_end else None,
            log_path=str(self.request.artifacts / ENGINE_LOG),
        )

    def failed(self, evidence: Evidence) -> TrialOutcome:
        if outcome_of(evidence.failure, attempt=self.request.failures + 1) == "infeasible":
            return Infeasible(evidence=evidence)
        return Interrupted(evidence=evidence)

    def _log_text(self) -> str:
        path = self.request.artifacts / ENGINE_LOG
        return path.read_text(errors="replace") if path.is_file() else ""


def _cpu_s(engine: EngineProcess) -> float:
    """CPU time that the engine's living processes have taken."""
    pids = [process.pid for process in procfs.descendants(engine.pid)]
    return sum(used.total_s for used in procfs.cpu_times(pids).values())
