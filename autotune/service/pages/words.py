"""How values are written on the pages."""

import re
from datetime import datetime
from typing import Any

from autotune.report.rows import knob_text, milliseconds
from autotune.results import JobStatus

STATUS_MARKS = {
    JobStatus.QUEUED: "○",
    JobStatus.RUNNING: "◐",
    JobStatus.SUCCEEDED: "✓",
    JobStatus.FAILED: "✕",
    JobStatus.CANCELLED: "–",
}
"""A sign beside each status, so that its colour is never all that tells it."""

_LATENCY = re.compile(r"^(?P<percent>p[\d.]+)_(?P<metric>\w+)_ms$")


def number(value: float | None, digits: int = 0) -> str:
    """`1,234`, or a dash when there is none."""
    return "–" if value is None else f"{value:,.{digits}f}"


def throughput(value: float | None) -> str:
    """Tokens/s: whole from 100 on, else with one decimal."""
    return number(value, 0 if value is None or value >= 100 else 1)


def when(moment: datetime) -> str:
    """`2026-03-01 12:00 UTC`."""
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def took(seconds: float) -> str:
    """`42 s`, `3 min 20 s`, `2 h 5 min`: the two largest units."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"


def promises(sla: str) -> list[str]:
    """The lines of an SLA's text for people: `p99_ttft_ms <= 200` as `P99 TTFT ≤ 200 ms`."""
    return [_promise(line) for line in sla.split(", ") if line]


def _promise(line: str) -> str:
    name, _, limit = line.partition(" <= ")
    match = _LATENCY.match(name)
    if match:
        return f"{match['percent'].upper()} {match['metric'].upper()} ≤ {limit} ms"
    return f"failed requests ≤ {100 * float(limit):.4g} %" if name == "error_rate" else line


FILTERS: dict[str, Any] = {
    "ms": milliseconds,
    "knobs": knob_text,
    "number": number,
    "throughput": throughput,
    "when": when,
    "took": took,
    "promises": promises,
}
