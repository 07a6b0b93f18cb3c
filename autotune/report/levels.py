"""The load levels of one trial: what each measured, and what held the engine back there."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from autotune.report.rows import milliseconds, throughput
from autotune.results import LoadPoint


def levels_table(points: Sequence[LoadPoint]) -> Table:
    """A line per level; MFU and MBU only where they are known."""
    table = Table(header_style="bold")
    shares = [name for name in ("mfu", "mbu") if any(getattr(point, name) is not None for point in points)]
    for header in ("level", "load per device", "tok/s per device", "P99 TTFT", *map(str.upper, shares)):
        table.add_column(header, justify="left" if header == "load per device" else "right", no_wrap=True)
    table.add_column("SLA", overflow="fold")
    table.add_column("bottleneck", overflow="fold")
    for point in points:
        table.add_row(
            str(point.level),
            str(point.load),
            throughput(point),
            milliseconds(point.p99_ttft_ms),
            *(share_text(getattr(point, name)) for name in shares),
            _verdict(point),
            Text(point.bottleneck.kind if point.bottleneck else "–"),
        )
    return table


def bottleneck_lines(points: Sequence[LoadPoint]) -> list[str]:
    """`level 3: slots: the figures. What to do.` for every level whose reading is known."""
    return [
        f"level {point.level}: {point.bottleneck.kind}: {point.bottleneck.evidence}. {point.bottleneck.advice}"
        for point in points
        if point.bottleneck is not None
    ]


def growth_lines(points: Sequence[LoadPoint]) -> list[str]:
    """`level 3: not steady: …` for every level that never reached a steady state."""
    return [
        f"level {point.level}: not steady: {point.growth}; a longer level would show worse figures"
        for point in points
        if not point.steady
    ]


def share_text(share: float | None) -> str:
    """`38.1%`, or a dash."""
    return "–" if share is None else f"{share:.1%}"


def _verdict(point: LoadPoint) -> Text:
    if point.invalid:
        return Text("not valid: the load generator was the bottleneck")
    notes = ("" if point.steady else ", not steady") + (", ended early" if point.aborted else "")
    return Text(("met" if point.feasible else "missed") + notes)
