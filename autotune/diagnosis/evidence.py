"""Why an engine failed, as evidence for a person: from its log, its exit code and the signal that ended it."""

import signal as signals

from autotune.diagnosis.matching import Finding, LogReading, read_log
from autotune.results import Evidence, FailureClass

TAIL_LINES = 30


def read_failure(log_text: str, *, exit_code: int | None, signal: int | None, log_path: str) -> Evidence:
    """The evidence of an engine that ended, or that was given up on (no exit code and no signal).

    `exit_code` and `signal` are as the operating system reports them; a negative code is read as a signal, 137 as
    SIGKILL. A known message decides; without one a SIGKILL from outside is taken for the kernel's out-of-memory killer.
    """
    killed_by = signal or _signal_of(exit_code)
    read = read_log([log_text])
    finding = _conclusive(read, gave_up=exit_code is None and killed_by is None)
    if finding is not None and not finding.wrapper:
        evidence = _of_finding(finding)
    elif killed_by == signals.SIGKILL:
        evidence = _killed_from_outside()
    else:
        evidence = _unknown(read, finding, _ending(exit_code, killed_by))
    return evidence.model_copy(update={"log_tail": _tail(log_text), "log_path": log_path})


def _conclusive(read: LogReading, *, gave_up: bool) -> Finding | None:
    """What the log names; "waiting for a worker" explains only an engine that hung, not one that ended by itself."""
    harmless = read.finding is not None and read.finding.signature == "shm_broadcast_wait" and not gave_up
    return None if harmless else read.finding


def _signal_of(exit_code: int | None) -> int | None:
    """The signal in an exit code: negative as Python reports it, 128 + signal as shells do."""
    if exit_code is None:
        return None
    number = -exit_code if exit_code < 0 else exit_code - 128
    return number if number in signals.valid_signals() else None


def _of_finding(finding: Finding) -> Evidence:
    return Evidence(
        failure=finding.failure,
        signature=finding.signature,
        cause=finding.cause,
        advice=finding.advice,
        line=finding.line,
    )


def _killed_from_outside() -> Evidence:
    return Evidence(
        failure=FailureClass.OOM,
        signature=None,
        cause="The engine was killed from outside (SIGKILL), most likely by the kernel because main memory ran out.",
        advice="Look for `Out of memory: Killed process` in `dmesg`; "
        "give the configuration less main memory, or run fewer trials at once on this node.",
    )


def _unknown(read: LogReading, wrapper: Finding | None, ending: str) -> Evidence:
    return Evidence(
        failure=FailureClass.UNKNOWN,
        signature=wrapper.signature if wrapper else None,
        cause=wrapper.cause if wrapper else f"{ending} Its log names no known cause.",
        advice="Read the end of the log; the configuration is treated as one that cannot run.",
        line=wrapper.line if wrapper else read.last_exception,
    )


def _ending(exit_code: int | None, killed_by: int | None) -> str:
    if killed_by is not None:
        name = signals.Signals(killed_by).name if killed_by in list(signals.Signals) else "unnamed"
        return f"The engine was ended by signal {killed_by} ({name}: {signals.strsignal(killed_by) or 'unknown'})."
    return "The engine did not become ready." if exit_code is None else f"The engine ended with exit code {exit_code}."


def _tail(log_text: str) -> str:
    return "\n".join(log_text.rstrip().split("\n")[-TAIL_LINES:])
