"""The front as characters for the terminal."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotext

from autotune.results import LoadPoint, ParetoFront
from autotune.spec import Sla

WIDTH, HEIGHT = 90, 22  # characters
TICKS = 5


def front_plot_text(
    front: ParetoFront,
    points: Sequence[LoadPoint],
    baseline: LoadPoint | None,
    sla: Sla,
) -> str:
    """Throughput per device against P99 TTFT (logarithmic): all points, the baseline, the front, the SLA's line.

    The text holds no control codes: the marks differ by shape, so it reads the same in a terminal, a log and a file.
    """
    shown = [_at(point) for point in points if point.p99_ttft_ms]
    if not shown:
        return "There is no measured load point with a P99 TTFT to plot yet."
    figure = _empty_figure()
    limit_ms = next((line.limit_ms for line in sla.latency_limits if line.name == "p99_ttft_ms"), None)
    across = [throughput for throughput, _ in shown]
    limit = [] if limit_ms is None else [(min(across), limit_ms), (max(across), limit_ms)]
    _set_ticks(figure, [*shown, *limit])
    _draw(figure, limit, "-", joined=True)
    _draw(figure, [_at(p) for p in points if p.p99_ttft_ms and not p.feasible], "x")
    _draw(figure, [_at(p) for p in points if p.p99_ttft_ms and p.feasible], "o")
    _draw(figure, [(p.output_throughput_per_device, p.p99_ttft_ms) for p in front.points], "*", joined=True)
    started = [baseline] if baseline is not None and baseline.p99_ttft_ms and not baseline.aborted else []
    _draw(figure, [_at(point) for point in started], "B")
    rows = plotext.uncolorize(figure.build().string()).rstrip().split("\n")
    return "\n".join([*(row.rstrip() for row in rows), _key(limit_ms), ""])


def _key(limit_ms: float | None) -> str:
    # Below the plot: plotext's own legend would cover the points.
    sla = "" if limit_ms is None else f"   - SLA {limit_ms:g} ms"
    return f"  o meets the SLA   x misses it   B baseline   * Pareto front{sla}"


def _at(point: LoadPoint) -> tuple[float, float]:
    return point.output_throughput_per_device, point.p99_ttft_ms or 0.0


def _empty_figure() -> Any:
    # plotext has one figure per process; it is emptied before every use.
    plotext.terminal.limit(False, False)
    figure = plotext.figure
    figure.clear()
    figure.plot_size(WIDTH, HEIGHT)
    figure.theme("colorless")
    figure.label("output tok/s per device", axis=0, side=0)
    figure.title("P99 TTFT in ms (logarithmic) over throughput")
    return figure


def _set_ticks(figure: Any, shown: Sequence[tuple[float, float]]) -> None:
    """Plain numbers at the axes (plotext would write 3.0e2); the latencies are drawn as their logarithms."""
    throughputs, latencies_ms = zip(*shown, strict=True)
    x = sorted({float(value) for value in np.linspace(min(throughputs), max(throughputs), TICKS)})
    y = sorted({float(value) for value in np.geomspace(min(latencies_ms), max(latencies_ms), TICKS)})
    figure.ruler(axis=0).ticks(x, [f"{value:,.0f}" for value in x])
    # plotext 6 loses the points when a logarithmic axis has its own ticks, so the logarithm is taken here.
    figure.ruler(axis=1).ticks([math.log10(value) for value in y], [f"{value:,.0f}" for value in y])


def _draw(figure: Any, points: Sequence[tuple[float, float]], marker: str, *, joined: bool = False) -> None:
    if points:
        x = [throughput for throughput, _ in points]
        y = [math.log10(latency_ms) for _, latency_ms in points]
        figure.draw(figure.signal(x, y, marker=marker).lines(joined))
