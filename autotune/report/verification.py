"""Whether an SLA holds, line by line."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from autotune.report.rows import milliseconds
from autotune.results import JudgedLine


def verification_table(lines: Sequence[JudgedLine]) -> Table:
    """One row per line of the SLA: its mean over the runs with the bounds, what decides, the limit and the verdict."""
    table = Table(header_style="bold")
    table.add_column("SLA line")
    for name in ("mean", "95 % bounds", "judged", "limit"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for line in lines:
        verdict = Text("holds", style="green") if line.holds else Text("does not hold", style="red")
        table.add_row(line.name, *_figures(line), verdict)
    return table


def _figures(line: JudgedLine) -> tuple[str, str, str, str]:
    show = milliseconds if line.name.endswith("_ms") else _share
    bounds = "–" if line.lower is None and line.upper is None else f"{show(line.lower)} … {show(line.upper)}"
    return show(line.mean), bounds, show(line.decides), show(line.limit)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.2%}"
