"""Finds the root cause in a log: the lowest priority number wins, then the earliest line."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from autotune.diagnosis.log_lines import LogLine, read_lines
from autotune.diagnosis.signatures import Signature, signatures
from autotune.results import FailureClass

_OVERLAP_LINES = 20  # of a block read again with the next: no message is longer


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


@dataclass(frozen=True, slots=True)
class LogReading:
    """What a log says: the root cause, if it names one, and the last exception, whether it is known or not."""

    finding: Finding | None
    last_exception: str  # without its prefixes; empty when there is none
    last_exception_number: int  # its line, from 1


def diagnose(log_text: str) -> Finding | None:
    """The root cause that an engine's log names; None when no known message is in it.

    Lines at INFO level count only for the messages that the engine logs there. Wrappers such as "Engine core
    initialization failed" have the highest priority numbers, so they count only when nothing else matched.
    """
    return read_log([log_text]).finding


def read_log(blocks: Iterable[str]) -> LogReading:
    """The same of a log of any size, in blocks of whole lines: no more than one block is kept.

    Line numbers count over all blocks. See `long_log.blocks` for where blocks come from.
    """
    finding, best = None, _Best()
    exception = ("", 0)
    seen, kept = 0, ""  # lines before this block, and the last of them
    for block in blocks:
        first = seen - kept.count("\n")  # lines before the kept ones
        lines = read_lines(kept + block)
        finding = best.of(lines, first) or finding
        exception = _last_exception(lines, first) or exception
        seen += block.count("\n")
        kept = "".join(f"{line}\n" for line in (kept + block).split("\n")[:-1][-_OVERLAP_LINES:])
    return LogReading(finding, *exception)


def fatal_line(new_text: str) -> str | None:
    """The id of a signature in this part of a log that surely ends the start, or None.

    For the wait for readiness: whole lines are expected; warnings and lines at INFO level never count.
    """
    text = _text(read_lines(new_text), lambda line: not line.quiet and line.level != "WARNING")
    fatal = (s for s in signatures() if s.fatal and s.kind != "wrapper" and not s.at_info)
    return next((s.id for s in fatal if s.search(text)), None)


def is_waiting(line: str) -> bool:
    """Whether a line says only that a process waits for another one; it comes every minute while nothing happens."""
    waiting = next(s for s in signatures() if s.id == "shm_broadcast_wait")
    return waiting.pattern.search(line) is not None


class _Best:
    """The most likely root cause so far; what could not beat it any more is not looked for."""

    def __init__(self) -> None:
        self._candidates = signatures()

    def of(self, lines: Sequence[LogLine], first: int) -> Finding | None:
        """A better finding in these lines, `first` lines into the log; None when there is none."""
        everything = "\n".join(line.message for line in lines)
        errors = _text(lines, lambda line: not line.quiet)
        texts = ((s, everything if s.at_info else errors) for s in self._candidates)
        found = [(s.priority, f) for s, text in texts if text and (f := _find(s, text, first)) is not None]
        if not found:
            return None
        priority, finding = min(found, key=lambda item: (item[0], item[1].line_number))
        self._candidates = tuple(s for s in self._candidates if s.priority < priority)
        return finding


def _text(lines: Sequence[LogLine], keep: Callable[[LogLine], bool]) -> str:
    """The messages with unwanted ones blanked, so that line numbers stay; nothing when none is wanted."""
    kept = [line.message if keep(line) else "" for line in lines]
    return "\n".join(kept) if any(kept) else ""


def _last_exception(lines: Sequence[LogLine], first: int) -> tuple[str, int] | None:
    numbered = zip(range(len(lines) - 1, -1, -1), reversed(lines), strict=True)
    return next(((line.message, first + place + 1) for place, line in numbered if line.names_exception), None)


def _find(signature: Signature, text: str, first: int) -> Finding | None:
    match = signature.search(text)
    if match is None:
        return None
    start = text.rfind("\n", 0, match.start()) + 1
    end = text.find("\n", match.end())
    quoted = text[start : end if end >= 0 else len(text)]
    return Finding(
        signature=signature.id,
        failure=FailureClass.UNKNOWN if signature.kind == "wrapper" else signature.kind,
        cause=signature.cause,
        advice=signature.advice,
        line=" ".join(quoted.split()),
        line_number=first + text.count("\n", 0, match.start()) + 1,
        wrapper=signature.kind == "wrapper",
    )
