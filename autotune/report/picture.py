"""The front as a picture: what the page shows, for a report or a ticket. The only importer of matplotlib."""

import io
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from autotune.report.rows import measured
from autotune.results import LoadPoint, ParetoFront, Trial
from autotune.spec import Sla

SIZE_INCHES, DPI = (9.0, 5.5), 144

_BLUE, _GREY, _GREEN, _RED = "#1f6feb", "#8c959f", "#1a7f37", "#cf222e"
_LOOKS = {  # (purpose, whether the SLA is met) -> legend, marker, colour
    ("search", False): ("misses the SLA", "x", _GREY),
    ("search", True): ("meets the SLA", "o", _BLUE),
    ("baseline", False): ("baseline, misses the SLA", "D", _GREY),
    ("baseline", True): ("baseline", "D", _GREEN),
}


def front_picture(front: ParetoFront, trials: Sequence[Trial], sla: Sla, *, title: str, form: str) -> bytes:
    """Throughput per device over P99 TTFT (logarithmic) with every measured point, as `png` or `svg`."""
    figure = Figure(figsize=SIZE_INCHES, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes: Axes = figure.add_subplot()
    for (purpose, feasible), look in _LOOKS.items():
        _add_points(axes, [point for trial in trials for point in _points(trial, purpose, feasible)], look)
    _add_front(axes, front)
    _add_limit(axes, sla)
    axes.set_title(f"{title}\nSLA: {sla.text}", fontsize=10)
    axes.set_xlabel("output throughput per device (tokens/s)")
    axes.set_ylabel("P99 TTFT (ms)")
    _set_scales(axes)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9)
    written = io.BytesIO()
    figure.savefig(written, format=form)
    return written.getvalue()


def _points(trial: Trial, purpose: str, feasible: bool) -> list[LoadPoint]:
    outcome = measured(trial) if trial.purpose == purpose else None
    points = [point for point in outcome.points if not point.aborted] if outcome else []
    return [point for point in points if point.p99_ttft_ms is not None and point.feasible == feasible]


def _add_points(axes: Axes, points: Sequence[LoadPoint], look: tuple[str, str, str]) -> None:
    name, marker, colour = look
    if points:
        across = [point.output_throughput_per_device for point in points]
        up = [point.p99_ttft_ms or 0.0 for point in points]
        axes.scatter(across, up, s=36, marker=marker, color=colour, label=name, zorder=3)


def _add_front(axes: Axes, front: ParetoFront) -> None:
    if front.points:
        across = [point.output_throughput_per_device for point in front.points]
        up = [point.p99_ttft_ms for point in front.points]
        axes.plot(across, up, color=_BLUE, linewidth=1.6, marker="o", markersize=4, label="Pareto front", zorder=2)


def _add_limit(axes: Axes, sla: Sla) -> None:
    for line in sla.latency_limits:
        if line.name == "p99_ttft_ms":
            axes.axhline(line.limit_ms, color=_RED, linestyle="--", linewidth=1.2, label=f"SLA {line.limit_ms:g} ms")


def _set_scales(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.grid(visible=True, color="#d0d7de", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
