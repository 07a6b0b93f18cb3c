"""Evidence of failures that no engine's log tells: of the host, the devices, the supervisor and the tuner itself."""

import traceback
from collections.abc import Sequence

from autotune.engines.process import DISK_FULL, HOST_EXHAUSTED, Busy
from autotune.instruments import InstrumentFailed
from autotune.platforms import Device, DeviceToolFailed
from autotune.results import Evidence, FailureClass

_LOOK_AT_IT = "Take it out of service and look at it; nothing is reset by the tuner."


def cancelled() -> Evidence:
    """Somebody asked for the end."""
    return _evidence(FailureClass.CANCELLED, "The job was cancelled.", "")


def environment_broken(problem: Exception) -> Evidence:
    """The machine cannot run any trial."""
    return _evidence(FailureClass.ENVIRONMENT, str(problem), "Mend it, then run the job again.")


def supervisor_lost() -> Evidence:
    """The process that owned the engine was killed, and perhaps the engine with it."""
    return _evidence(
        FailureClass.NODE,
        "The supervisor of the engine was lost: something killed it from outside.",
        "Look for `Out of memory: Killed process` in `dmesg`, and for who else ends processes on this node; "
        "its engine was ended, and the trial is tried once more.",
    )


def devices_taken(busy: Busy, waited_s: float) -> Evidence:
    """The locks of the devices could not be had."""
    held = f" Process {busy.holder_pid} holds it." if busy.holder_pid else ""
    cause = f"A device stayed in use by another engine for {waited_s:g} s.{held}"
    return _evidence(FailureClass.BUSY, cause, "Wait for the other engine to end, or stop it.")


def devices_in_use(devices: Sequence[Device], waited_s: float) -> Evidence:
    """Somebody else's process is on the devices: the engine would seem to run out of memory."""
    pids = ", ".join(str(process.pid) for device in devices for process in device.processes) or "no process shown"
    names = ", ".join(device.id for device in devices)
    cause = f"Device {names} stayed in use by somebody else for {waited_s:g} s ({pids})."
    return _evidence(FailureClass.BUSY, cause, "Stop what runs there, or take it out of Ray.")


def devices_unwell(devices: Sequence[Device]) -> Evidence:
    """The devices' tool reports an alarm."""
    return _evidence(FailureClass.HARDWARE, f"Device {_shown(devices)} is not well.", _LOOK_AT_IT)


def devices_failed(devices: Sequence[Device], evidence: Evidence) -> Evidence:
    """The trial failed as `evidence` says, and since it began its devices have an alarm: the cause of both."""
    cause = f"Device {_shown(devices)} went bad under the trial, which failed so: {evidence.cause}"
    return evidence.model_copy(update={"failure": FailureClass.HARDWARE, "cause": cause, "advice": _LOOK_AT_IT})


def devices_silent(problem: DeviceToolFailed) -> Evidence:
    """The devices' tool hangs or fails: no engine may be trusted to the devices of this node."""
    advice = "Run the command by hand on this node; a device that hangs may need a reset or a reboot, by a person."
    return _evidence(FailureClass.HARDWARE, f"The devices cannot be asked: {problem}.", advice)


def too_large(reason: str) -> Evidence:
    """The model surely does not fit, whatever else is set."""
    advice = "Spread the model over more devices, shorten max_model_len, or use quantised weights."
    return _evidence(FailureClass.OOM, f"The model surely cannot fit: {reason}.", advice)


def client_bound(reason: str) -> Evidence:
    """The load generator was the bottleneck at every level; `reason` says how, and what to do."""
    cause, _, advice = reason.partition(". ")
    return _evidence(FailureClass.CLIENT, f"No level could be measured: {cause}.", advice)


def instrument_failed(problem: InstrumentFailed) -> Evidence:
    """The tool that sends the load brought nothing home, and the engine is well."""
    advice = f"Read what the tool said in {problem.log}, or use instrument: autotune."
    evidence = _evidence(FailureClass.CLIENT, f"The load client failed: {problem}.", advice)
    return evidence.model_copy(update={"log_tail": problem.said, "log_path": str(problem.log)})


def hung(evidence: Evidence, seen: str) -> Evidence:
    """An engine was given up on, and its log (in `evidence`) names no known cause."""
    return evidence.model_copy(
        update={
            "failure": FailureClass.HANG,
            "cause": f"The engine hangs: {seen}.",
            "advice": "Read the end of the log; a configuration that hangs twice is treated as one that cannot run.",
        }
    )


def of_os_error(problem: OSError) -> Evidence:
    """The host refused something: a full disk and exhausted limits pass, anything else is our defect."""
    if problem.errno in DISK_FULL:
        advice = "Free space where the artifacts are kept."
        return _evidence(FailureClass.SHARED_MEMORY, f"The disk is full: {problem}", advice)
    if problem.errno in HOST_EXHAUSTED:
        advice = "Look at what else runs on this node, and at its limits (`ulimit -a`)."
        return _evidence(FailureClass.NODE, f"The node has run out of memory, processes or files: {problem}", advice)
    return defect(problem)


def defect(problem: Exception) -> Evidence:
    """The tuner itself failed; to be called where the exception is handled."""
    cause = f"The tuner itself failed: {type(problem).__name__}: {problem}"
    evidence = _evidence(FailureClass.DEFECT, cause, "Please report this traceback.")
    return evidence.model_copy(update={"log_tail": traceback.format_exc()})


def _shown(devices: Sequence[Device]) -> str:
    return ", ".join(f"{device.id} ({device.health_text})" for device in devices)


def _evidence(failure: FailureClass, cause: str, advice: str) -> Evidence:
    return Evidence(failure=failure, signature=None, cause=cause, advice=advice)
