"""The front as one self-contained HTML page."""

import html
from collections.abc import Sequence

import plotly.graph_objects as go

from autotune.report.rows import (
    baseline_trial,
    changed_knobs,
    knob_text,
    measured,
    milliseconds,
)
from autotune.results import LoadPoint, ParetoFront, Trial
from autotune.spec import Sla

_BLUE, _GREY, _GREEN, _RED = "#1f6feb", "#8c959f", "#1a7f37", "#cf222e"

_LOOKS = {  # (purpose, whether the SLA is met) -> legend, symbol, colour
    ("search", False): ("misses the SLA", "x", _GREY),
    ("search", True): ("meets the SLA", "circle", _BLUE),
    ("baseline", False): ("baseline, misses the SLA", "diamond-open", _GREEN),
    ("baseline", True): ("baseline", "diamond", _GREEN),
}

_Shown = tuple[Trial, LoadPoint]


def front_page(front: ParetoFront, trials: Sequence[Trial], sla: Sla, *, title: str) -> str:
    """Throughput per device over P99 TTFT with every measured point; hover shows the knobs. No network is needed."""
    shown = [(trial, point) for trial in trials for point in _points(trial)]
    figure = go.Figure()
    for (purpose, feasible), look in _LOOKS.items():
        alike = [(t, point) for t, point in shown if t.purpose == purpose and point.feasible == feasible]
        _add_points(figure, alike, trials, look)
    _add_front(figure, front)
    _add_limit(figure, sla)
    figure.update_layout(
        title=f"{html.escape(title)}<br><sup>SLA: {_limits(sla)}</sup>",
        template="plotly_white",
        hovermode="closest",
        xaxis_title="output throughput per device (tokens/s)",
        yaxis={"title": "P99 TTFT (ms)", "type": "log"},
    )
    page: str = figure.to_html(include_plotlyjs=True, full_html=True, config={"displaylogo": False})
    heading = f'<html lang="en"><head><title>{html.escape(title)}</title>'
    return page.replace("<html>", "", 1).replace("<head>", heading, 1)


def _limits(sla: Sla) -> str:
    return ", ".join(f"{line.name} ≤ {line.limit_ms:g}" for line in sla.latency_limits)


def _points(trial: Trial) -> list[LoadPoint]:
    outcome = measured(trial)
    points = outcome.points if outcome else ()
    return [point for point in points if point.p99_ttft_ms is not None and not point.aborted]


def _add_points(
    figure: go.Figure, shown: Sequence[_Shown], trials: Sequence[Trial], look: tuple[str, str, str]
) -> None:
    name, symbol, colour = look
    if shown:
        figure.add_scatter(
            x=[point.output_throughput_per_device for _, point in shown],
            y=[point.p99_ttft_ms for _, point in shown],
            mode="markers",
            name=name,
            marker={"symbol": symbol, "color": colour, "size": 9},
            text=[_hover(trial, point, trials) for trial, point in shown],
            hoverinfo="text",
        )


def _add_front(figure: go.Figure, front: ParetoFront) -> None:
    if front.points:
        figure.add_scatter(
            x=[point.output_throughput_per_device for point in front.points],
            y=[point.p99_ttft_ms for point in front.points],
            mode="lines",
            name="Pareto front",
            line={"color": _BLUE, "width": 2},
            hoverinfo="skip",
        )


def _add_limit(figure: go.Figure, sla: Sla) -> None:
    for line in sla.latency_limits:
        if line.name == "p99_ttft_ms":
            label = f"SLA {line.limit_ms:g} ms"
            figure.add_hline(y=line.limit_ms, line_dash="dash", line_color=_RED, annotation_text=label)


def _hover(trial: Trial, point: LoadPoint, trials: Sequence[Trial]) -> str:
    base = baseline_trial(trials)
    changed = changed_knobs(trial.knobs, base.knobs if base else {})
    lines = [
        f"<b>trial {trial.number}</b> ({html.escape(trial.origin)}), level {point.level}: {point.load} per device",
        f"{point.output_throughput_per_device:,.1f} tok/s per device, P99 TTFT {milliseconds(point.p99_ttft_ms)}",
        *(html.escape(knob_text({name: value})) for name, value in changed.items()),
    ]
    return "<br>".join(lines)
