"""A trial's latency and throughput against its load, as one self-contained picture (SVG)."""

import html
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from autotune.results import LoadPoint, Quantile
from autotune.spec import LatencyLimit, Sla

_BLUE, _GREY, _RED, _INK, _LINE = "#1f6feb", "#8c959f", "#cf222e", "#24292f", "#d0d7de"
_WIDTH, _LEFT, _RIGHT, _TOP = 640, 70, 20, 56  # px; of the picture, and of its margins
_PLOT, _GAP, _BOTTOM = 150, 46, 64  # px; height of one plot, between two, and below the last one
_HEADROOM = 1.15  # of the greatest value
_TICKS = 4

_LABELS = {"request_rate": "requests/s", "max_concurrency": "concurrent requests", "replay_speed": "times the trace"}


@dataclass(frozen=True, slots=True)
class _Value:
    """What is drawn of one level: a number, and how sure it is. None: it is not finite."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class _Plot:
    title: str
    values: list[_Value]
    limit: float | None = None

    @property
    def top(self) -> float:
        """The upper edge: of a latency at most four times its limit, so that what meets it can still be told apart."""
        most = max([value.value for value in self.values if value.value is not None] or [1.0])
        bounds = [value.high for value in self.values if value.high is not None]
        needed = max([most, self.limit or 0.0, *(bound for bound in bounds if bound <= 2 * most)])
        return _HEADROOM * (min(needed, 4 * self.limit) if self.limit else needed) or 1.0


def latency_picture(points: Sequence[LoadPoint], sla: Sla, *, title: str) -> str:
    """P99 TTFT and every other latency line of the SLA with their bounds and limits, and throughput, over the load.

    Levels stand side by side at equal distances, as a ladder often doubles. A filled mark meets the SLA, a cross does
    not, a hollow one tells nothing about the engine. A latency above the plot stands at its edge with its number.
    """
    ladder = sorted(points, key=lambda point: point.load.value)
    plots = [*_latencies(ladder, sla), _throughput(ladder)]
    height = _TOP + len(plots) * (_PLOT + _GAP) - _GAP + _BOTTOM
    body = [_text(_LEFT, 22, title, size=15, weight="bold"), _text(_LEFT, 40, _key(ladder), colour=_GREY)]
    for number, plot in enumerate(plots):
        body += _drawn(plot, ladder, _TOP + number * (_PLOT + _GAP) + 14)
    body += _loads(ladder, height)
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" '
            f'height="{height}" font-family="sans-serif" font-size="11">',
            f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
            *body,
            "</svg>\n",
        )
    )


def _latencies(ladder: Sequence[LoadPoint], sla: Sla) -> Iterator[_Plot]:
    limits = {limit.name: limit for limit in sla.latency_limits}
    promised = limits.pop("p99_ttft_ms", None)
    yield _Plot("P99 TTFT (ms)", [_value(p.ttft.at(99)) for p in ladder], promised.limit_ms if promised else None)
    for limit in limits.values():
        yield _Plot(_name(limit), [_value(getattr(p, limit.metric).at(limit.percent)) for p in ladder], limit.limit_ms)


def _throughput(ladder: Sequence[LoadPoint]) -> _Plot:
    return _Plot("output throughput per device (tok/s)", [_Value(p.output_throughput_per_device) for p in ladder])


def _name(limit: LatencyLimit) -> str:
    return f"P{limit.percent:g} {limit.metric.upper()} (ms)"


def _value(quantile: Quantile) -> _Value:
    return _Value(quantile.value_ms, quantile.lower_ms, quantile.upper_ms)


def _key(ladder: Sequence[LoadPoint]) -> str:
    marks = ["● meets the SLA", "× misses it"]
    if any(point.invalid for point in ladder):
        marks.append("○ the load generator was the bottleneck")
    return " · ".join([*marks, "bars: 95 % bounds", "dashes: limit"])


def _drawn(plot: _Plot, ladder: Sequence[LoadPoint], top: float) -> list[str]:
    """Frame, ticks, limit, line and marks of one plot whose upper edge is at `top`."""

    def y(value: float | None) -> float:
        return top + _PLOT * (1 - min(1.0, (plot.top if value is None else value) / plot.top))

    lines = [_text(_LEFT, top - 6, plot.title, weight="bold")]
    for tick in _ticks(plot.top):
        lines.append(_line(_LEFT, y(tick), _WIDTH - _RIGHT, y(tick), _LINE))
        lines.append(_text(_LEFT - 6, y(tick) + 4, f"{tick:,g}", anchor="end"))
    if plot.limit is not None:
        lines.append(_line(_LEFT, y(plot.limit), _WIDTH - _RIGHT, y(plot.limit), _RED, dashes="6 4"))
        lines.append(_text(_WIDTH - _RIGHT, y(plot.limit) - 4, f"{plot.limit:g} ms", anchor="end", colour=_RED))
    places = [_across(number, len(ladder)) for number in range(len(ladder))]
    path = " ".join(f"{x:.1f},{y(value.value):.1f}" for x, value in zip(places, plot.values, strict=True))
    lines.append(f'<polyline points="{path}" fill="none" stroke="{_BLUE}" stroke-width="1.5"/>')
    for x, value, point in zip(places, plot.values, ladder, strict=True):
        lines += _mark(x, value, point, y)
        if value.value is None or value.value > plot.top:
            lines.append(_text(x, top + 18, _number(value.value), anchor="middle", colour=_RED))
    return lines


def _mark(x: float, value: _Value, point: LoadPoint, y: Callable[[float | None], float]) -> list[str]:
    at = y(value.value)
    tip = f"<title>{html.escape(_told(value, point))}</title>"
    bars = [] if value.low is None else [_line(x, y(value.low), x, y(value.high), _GREY, width=3)]
    if not point.feasible and not point.invalid:
        d = f"M{x - 5:.1f},{at - 5:.1f} l10,10 m-10,0 l10,-10"
        return [*bars, f'<path d="{d}" stroke="{_RED}" stroke-width="2">{tip}</path>']
    fill = "white" if point.invalid else _BLUE
    return [*bars, f'<circle cx="{x:.1f}" cy="{at:.1f}" r="5" fill="{fill}" stroke="{_BLUE}">{tip}</circle>']


def _told(value: _Value, point: LoadPoint) -> str:
    bounds = "" if value.low is None else f", 95 % bounds {_number(value.low)} to {_number(value.high)}"
    return f"level {point.level}, {point.load}: {_number(value.value)}{bounds}"


def _number(value: float | None) -> str:
    """Whole from ten on; None is a latency that never came."""
    return "∞" if value is None else f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _loads(ladder: Sequence[LoadPoint], height: float) -> list[str]:
    """The load of every level, below the lowest plot."""
    base = height - _BOTTOM + 14
    loads = [
        _text(_across(number, len(ladder)), base + 16, f"{point.load.value:g}", anchor="middle")
        for number, point in enumerate(ladder)
    ]
    label = f"load per device: {_LABELS[ladder[0].load.kind]}"
    return [*loads, _text((_LEFT + _WIDTH - _RIGHT) / 2, base + 36, label, anchor="middle")]


def _across(number: int, count: int) -> float:
    return _LEFT + (_WIDTH - _RIGHT - _LEFT) * (number + 0.5) / count


def _ticks(top: float) -> list[float]:
    """About four round numbers from zero: steps of 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(top / _TICKS))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= top / _TICKS)
    return [step * i for i in range(int(top / step) + 1)]


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, *, width: float = 1, dashes: str = "") -> str:
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
        f'stroke-width="{width:g}"{dashed}/>'
    )


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    colour: str = _INK,
    size: float = 11,
    weight: str = "normal",
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" font-size="{size:g}" '
        f'font-weight="{weight}">{html.escape(text)}</text>'
    )
