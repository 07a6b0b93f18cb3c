"""The load levels of one trial: what each measured, and what held the engine back there."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from autotune.report.rows import milliseconds
from autotune.results import LoadPoint


def levels_table(points: Sequence[LoadPoint]) -> Table:
    """A line per level; MFU only where it is known."""
    table = Table(header_style="bold")
    shows_mfu = any(point.mfu is not None for point in points)
    for header in ("level", "load per device", "tok/s per device", "P99 TTFT", *(["MFU"] if shows_mfu else [])):
        table.add_column(header, justify="left" if header == "load per device" else "right", no_wrap=True)
    table.add_column("SLA", overflow="fold")
    table.add_column("bottleneck", overflow="fold")
    for point in points:
        table.add_row(
            str(point.level),
            str(point.load),
            f"{point.output_throughput_per_device:,.1f}",
            milliseconds(point.p99_ttft_ms),
            *([mfu_text(point)] if shows_mfu else []),
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


def mfu_text(point: LoadPoint) -> str:
    """`38.1 %`, or a dash."""
    return "–" if point.mfu is None else f"{point.mfu:.1%}"


def _verdict(point: LoadPoint) -> Text:
    if point.invalid:
        return Text("not valid: the load generator was the bottleneck")
    return Text(("met" if point.feasible else "missed") + ("" if point.steady else ", not steady"))
