"""`autotune diagnose`: what an engine's log says about its failure, without any job."""

import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from autotune.cli.outcome import DONE, NO_CAUSE
from autotune.diagnosis import Finding, LogReading, blocks, read_log
from autotune.errors import NotFound

STDIN = "-"


def diagnose_log(name: str, *, as_json: bool) -> int:
    """Print cause, evidence and advice; the exit code says whether a cause was found. The log may be of any size.

    Raises NotFound when it cannot be read.
    """
    with ExitStack() as opened:
        try:
            file = sys.stdin.buffer if name == STDIN else opened.enter_context(Path(name).open("rb"))
            reading = read_log(blocks(file.read))
        except OSError as exc:
            raise NotFound(f"{name}: cannot be read: {exc.strerror}") from exc
    if as_json:
        print(json.dumps(_document(name, reading), indent=2))
    else:
        print(_text(reading))
    return DONE if _cause(reading) is not None else NO_CAUSE


def _cause(reading: LogReading) -> Finding | None:
    """A wrapper says that something failed, but not what: no cause."""
    return None if reading.finding is None or reading.finding.wrapper else reading.finding


def _text(reading: LogReading) -> str:
    found = _cause(reading)
    if found is not None:
        return f"Cause:    {found.cause}\nEvidence: line {found.line_number}: {found.line}\nAdvice:   {found.advice}"
    number, line = _hint(reading)
    said = f"\nEvidence: line {number}: {line}" if number else ""
    return (
        f"Cause:    The log names no known cause.{said}\n"
        "Advice:   Read upwards from the end of the log to its first error; the first process that failed tells why."
    )


def _hint(reading: LogReading) -> tuple[int, str]:
    """The line to begin at where no cause is known; 0 where there is none."""
    if reading.last_exception_number or reading.finding is None:
        return reading.last_exception_number, reading.last_exception
    return reading.finding.line_number, reading.finding.line


def _document(name: str, reading: LogReading) -> dict[str, Any]:
    found = _cause(reading)
    number, line = (found.line_number, found.line) if found else _hint(reading)
    return {
        "log": name,
        "class": str(found.failure) if found else None,
        "signature": found.signature if found else None,
        "cause": found.cause if found else None,
        "advice": found.advice if found else None,
        "line_number": number or None,
        "line": line or None,
    }
