"""Why a trial failed, as a person reads it."""

from rich.console import Console

from autotune.results import Evidence

SHORT_TAIL = 5  # lines of the log's end beside many other trials


def print_evidence(console: Console, evidence: Evidence, *, whole_tail: bool = True) -> None:
    """Cause, advice, the line that told, the end of the log, and where the log is.

    Among many trials (`whole_tail` false) the end is short, and left out where one line tells everything.
    """
    tail = evidence.log_tail.splitlines()
    if not whole_tail:
        tail = [] if evidence.line else tail[-SHORT_TAIL:]
    lines = [f"{evidence.cause} {evidence.advice}".strip(), f"    {evidence.line}" if evidence.line else ""]
    lines += [f"    | {line}" for line in tail] + [f"    log: {evidence.log_path}" if evidence.log_path else ""]
    console.print("\n".join(filter(None, lines)), markup=False, highlight=False, soft_wrap=True)
