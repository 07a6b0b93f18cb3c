"""Finds the root cause in a log: the lowest priority number wins, then the earliest line."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from autotune.diagnosis.log_lines import LogLine, read_lines
from autotune.diagnosis.signatures import Signature, signatures
from autotune.results import FailureClass


@dataclass(frozen=True, slots=True)
class Finding:
    """The signature that explains a log, and the line that told."""

    signature: str
    failure: FailureClass
    cause: str
    advice: str
    line: str  # without its prefixes
    line_number: int  # from 1
    wrapper: bool  # the line says that something failed, but not what


def diagnose(log_text: str) -> Finding | None:
    """The root cause that an engine's log names; None when no known message is in it.

    Lines at INFO level count only for the messages that the engine logs there. Wrappers such as "Engine core
    initialization failed" have the highest priority numbers, so they count only when nothing else matched.
    """
    lines = read_lines(log_text)
    everything = "\n".join(line.message for line in lines)
    errors = _text(lines, lambda line: not line.quiet)
    found = [f for s in signatures() if (f := _find(s, everything if s.at_info else errors)) is not None]
    return min(found, key=lambda item: (item[0].priority, item[1].line_number))[1] if found else None


def fatal_line(new_text: str) -> str | None:
    """The id of a signature in this part of a log that surely ends the start, or None.

    For the wait for readiness: whole lines are expected; warnings and lines at INFO level never count.
    """
    text = _text(read_lines(new_text), lambda line: not line.quiet and line.level != "WARNING")
    fatal = (s for s in signatures() if s.fatal and s.kind != "wrapper" and not s.at_info)
    return next((s.id for s in fatal if s.pattern.search(text)), None)


def _text(lines: Sequence[LogLine], keep: Callable[[LogLine], bool]) -> str:
    """The messages with unwanted ones blanked, so that line numbers stay."""
    return "\n".join(line.message if keep(line) else "" for line in lines)


def _find(signature: Signature, text: str) -> tuple[Signature, Finding] | None:
    match = signature.pattern.search(text)
    if match is None:
        return None
    first = text.rfind("\n", 0, match.start()) + 1
    last = text.find("\n", match.end())
    quoted = text[first : last if last >= 0 else len(text)]
    return signature, Finding(
        signature=signature.id,
        failure=FailureClass.UNKNOWN if signature.kind == "wrapper" else signature.kind,
        cause=signature.cause,
        advice=signature.advice,
        line=" ".join(quoted.split()),
        line_number=text.count("\n", 0, match.start()) + 1,
        wrapper=signature.kind == "wrapper",
    )
