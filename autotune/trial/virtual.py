"""A trial in virtual time: the ladder over the simulated engine, without a process and without waiting."""

from pathlib import Path

from autotune.diagnosis import outcome_of, read_failure
from autotune.engines import vllm
from autotune.engines.readback import effective_values, overridden
from autotune.engines.simulated import launch, model, options, transcript
from autotune.engines.simulated.core import Core
from autotune.engines.simulated.metrics import Metrics
from autotune.engines.simulated.refusal import Refused
from autotune.errors import InputError
from autotune.measurement import operating_point
from autotune.results import Infeasible, Interrupted, Measured, Timings, TrialOutcome, TrialResult
from autotune.trial import failures
from autotune.trial.artifacts import ENGINE_LOG, fresh_folder, listing
from autotune.trial.ladder import LevelLost, Site, measure_levels
from autotune.trial.request import Control, TrialRequest
from autotune.trial.virtual_window import VirtualInstrument

NODE = "virtual"
"""The node that results name."""

_STAMP = transcript.Stamp("01-01 00:00:00", 1)  # the same for every trial: equal requests have equal results


def run_virtual(request: TrialRequest, control: Control | None = None) -> TrialResult:
    """Run one trial on a simulated engine in virtual time; the same request gives the same result.

    The profile must be one of the simulated engine's. Timings are those of the simulation. A start that would fail
    comes back as the failure that the log of a real process would be read as. Raises InputError for another
    instrument than our own: a tool takes real time.
    """
    if request.instrument != "autotune":
        raise InputError(f"instrument {request.instrument}: cannot run in virtual time; use instrument: autotune")
    fresh_folder(request.artifacts)
    log = request.artifacts / ENGINE_LOG
    try:
        core = Core(_launched(request))
    except Refused as refused:
        log.write_text("".join(f"{line}\n" for line in transcript.refusal(refused, _STAMP)))
        return _result(request, _failed(request, log, refused.exit_code), 0.0)
    log.write_text("".join(f"{line}\n" for line in transcript.start(core.launch, _STAMP)))
    return _result(request, _measured(request, core, control or Control()), core.now_s)


def _launched(request: TrialRequest) -> launch.Launch:
    argv = vllm.serve_arguments(request.config, model=str(request.model.path))
    environment = request.profile.environment | request.config.environment
    asked = options.read([word.replace("{port}", "0") for word in argv], environment)
    return launch.prepare(asked, model.read(request.model.path))


def _measured(request: TrialRequest, core: Core, control: Control) -> TrialOutcome:
    instrument = VirtualInstrument(core)
    site = Site(
        send=instrument.send,
        gone=lambda: False,
        window=instrument.window,
        keep_records=False,
    )
    try:
        points = measure_levels(request, site, control)
    except LevelLost:
        return Interrupted(evidence=failures.cancelled())
    log_text = (request.artifacts / ENGINE_LOG).read_text()
    effective = effective_values(Metrics(core).exposition(), log_text)
    best = operating_point(points)
    return Measured(
        points=tuple(points),
        operating_level=best.level if best else None,
        effective_config=effective,
        overridden=overridden(request.config, effective),
    )


def _failed(request: TrialRequest, log: Path, exit_code: int) -> TrialOutcome:
    evidence = read_failure(log.read_text(), exit_code=exit_code, signal=None, log_path=str(log))
    if outcome_of(evidence.failure, attempt=request.failures + 1) == "infeasible":
        return Infeasible(evidence=evidence)
    return Interrupted(evidence=evidence)


def _result(request: TrialRequest, outcome: TrialOutcome, load_s: float) -> TrialResult:
    return TrialResult(
        outcome=outcome,
        timings=Timings(load_s=load_s, total_s=load_s),
        devices=tuple(map(str, range(request.config.devices))),
        node=NODE,
        engine_version=request.engine_version,
        artifacts=listing(request.artifacts, request.folder),
    )
