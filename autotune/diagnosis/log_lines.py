"""An engine's log as messages: without the stacked prefixes of processes, ranks and loggers."""

import re
from dataclasses import dataclass

_COLOUR = re.compile(r"\x1b\[[0-9;]*m|\[\d+(?:;\d+)+m|\[0m")  # the second: pasted, without the unseen first byte
_PREFIXES = re.compile(
    r"""^(?:
        \([^()\n]*\bpid=\d+[^()\n]*\)[ ]?                # (EngineCore_DP0 pid=791), (VllmWorker rank=2 pid=10)
      | \[rank\d+\]:[ ]?                                 # [rank1]:
      | \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[\d.,]*(?:Z|[+-]\d\d:?\d\d)?[ ](?:std(?:out|err)[ ][FP][ ])?
                                                       # docker logs -t, kubectl logs --timestamps, CRI files
      | [A-Z][a-z]{2}[ ][ \d]\d[ ]\d\d:\d\d:\d\d[ ]\S+[ ][^\s\[]+\[\d+\]:[ ]  # journalctl
      | [\w.-]+[ ]+\|[ ]                                # docker compose: vllm-1  |
      | (?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL)[ ]+ # ERROR 03-25 06:14:02 [core.py:880]
        (?:[\d-]+[ ][\d:.,]+[ ]+)?\[[^\]\n]*\][ ]?
    )+""",
    re.VERBOSE,
)
_QUIET_LEVELS = ("DEBUG", "INFO")
_EXCEPTION = re.compile(r"^(?:[A-Za-z_][\w.]*)?(?:Error|Exception|Interrupt): .+")


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line: its message (the indentation is kept) and the level its logger gave it, None for bare output."""

    message: str
    level: str | None

    @property
    def quiet(self) -> bool:
        """Whether the line only informs. Arguments and plans appear in such lines, never an error."""
        return self.level in _QUIET_LEVELS

    @property
    def names_exception(self) -> bool:
        """Whether it is the line of a Python traceback that says what was raised."""
        return not self.quiet and _EXCEPTION.match(self.message) is not None


def read_lines(log_text: str) -> list[LogLine]:
    """The log's lines, one for one."""
    return [_read_line(line) for line in _COLOUR.sub("", log_text).split("\n")]


def _read_line(line: str) -> LogLine:
    match = _PREFIXES.match(line)
    if match is None:
        return LogLine(line.rstrip("\r"), None)
    return LogLine(line[match.end() :].rstrip("\r"), match["level"])
