"""Tables for the terminal."""

from collections.abc import Mapping, Sequence

from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from autotune.report.rows import (
    against_baseline,
    baseline_point,
    baseline_trial,
    changed_knobs,
    knob_text,
    measured,
    milliseconds,
    re_runs,
    state,
    throughput,
)
from autotune.results import Confirmation, FrontPoint, ParetoFront, Trial, cost_per_million_tokens
from autotune.spec import Sla

_RATIOS = ("tok/s ×", "TTFT ×")  # over the baseline
_KNOB_WIDTH = 30  # so that few knobs are broken within their names on a terminal of 80 or 100 columns
_STATE_WIDTH = 36  # of a state in short
_COSTS = ("cost/M out", "cost/M all")  # per million tokens


def front_table(front: ParetoFront, trials: Sequence[Trial], price_per_device_hour: float | None = None) -> Table:
    """The front by rising throughput: load, throughput, latency, gain, and which knobs differ from the baseline.

    `trial:level` is what `export --select trial=` takes.
    With a price also what a million output tokens and a million tokens of both kinds cost.
    """
    costs = _COSTS if price_per_device_hour is not None else ()
    table = _table("trial:level", "load per device", "tok/s per device", "P99 TTFT", *_RATIOS, *costs)
    table.add_column("differs from the baseline by", overflow="fold", min_width=_KNOB_WIDTH)
    by_number = {trial.number: trial for trial in trials}
    base = baseline_trial(trials)
    for point in front.points:
        trial = by_number[point.trial]
        table.add_row(
            f"{point.trial}:{point.level}",
            str(point.load),
            f"{point.output_throughput_per_device:,.1f}",
            milliseconds(point.p99_ttft_ms),
            *against_baseline(point.output_throughput_per_device, point.p99_ttft_ms, baseline_point(trials)),
            *(_costs(trial, point, price_per_device_hour) if price_per_device_hour is not None else ()),
            Text(knob_text(changed_knobs(trial.knobs, base.knobs if base else {})) or "nothing"),
        )
    return table


def trials_table(trials: Sequence[Trial], *, last: int | None = None, stages: Mapping[int, str] | None = None) -> Table:
    """Trials with their state, their operating point (or the level closest to the SLA) and their duration.

    `last`: only so many of them, with the beginning of their state; `stages`: what running ones do now, by number.
    """
    table = _table("trial", "origin", "load per device", "tok/s per device", "P99 TTFT", *_RATIOS, "took")
    table.add_column("state", overflow="fold")
    base = baseline_point(trials)
    for trial in trials if last is None else trials[-last:]:
        now = (stages or {}).get(trial.number) if trial.result is None else None
        told = Text(now or state(trial))
        if last is not None:
            told.truncate(_STATE_WIDTH, overflow="ellipsis")
        table.add_row(str(trial.number), Text(_origin(trial)), *_numbers(trial, trials), _took(trial), told)
    if base is not None and not base.feasible:
        table.caption = "The baseline meets the SLA at no measured load, so there is no gain to show."
    return table


def baseline_summary(trials: Sequence[Trial], sla: Sla, confirmations: Sequence[Confirmation] = ()) -> str:
    """The baseline's operating point, or why it has none, and what its re-runs said."""
    trial = baseline_trial(trials)
    if trial is None or trial.result is None:
        return "The baseline has not been measured yet."
    point = baseline_point(trials)
    if point is None:
        return f"The baseline has no measurement: {state(trial)}"
    numbers = f"{throughput(point)} tok/s per device at {point.load}, P99 TTFT {milliseconds(point.p99_ttft_ms)}"
    limits = ", ".join(f"{line.name} ≤ {line.limit_ms:g}" for line in sla.latency_limits)
    if point.feasible:
        return f"The baseline keeps the SLA ({limits}) with {numbers}.{_measured_again(trial, confirmations)}"
    early = " (ended early, for the SLA was out of reach)" if point.aborted else ""
    return f"The baseline misses the SLA ({limits}) at every measured load; closest: {numbers}{early}."


def _measured_again(trial: Trial, confirmations: Sequence[Confirmation]) -> str:
    again = next((c for c in confirmations if c.trial == trial.number), None)
    if again is None:
        return ""
    verdict = "the SLA holds" if again.holds else "the SLA does not hold"
    return f" Measured again {len(again.runs)} times: {again.output_throughput_per_device:,.1f} tok/s, {verdict}."


def baseline_panel(trials: Sequence[Trial], sla: Sla, confirmations: Sequence[Confirmation] = ()) -> Panel:
    """The baseline's sentences in a box."""
    text = Text(baseline_summary(trials, sla, confirmations))
    return Panel(text, title="baseline", title_align="left", expand=False)


def _costs(trial: Trial, shown: FrontPoint, price_per_device_hour: float) -> tuple[str, ...]:
    outcome = measured(trial)
    points = outcome.points if outcome else ()
    all_tokens = next((p.total_token_throughput / p.devices for p in points if p.level == shown.level), 0.0)
    rates = (shown.output_throughput_per_device, all_tokens)
    costs = (cost_per_million_tokens(price_per_device_hour, rate) for rate in rates)
    return tuple("–" if cost is None else f"{cost:.4g}" for cost in costs)


def _table(*headers: str) -> Table:
    table = Table(header_style="bold")
    for header in headers:
        words = header in ("origin", "load per device")
        table.add_column(header, justify="left" if words else "right", no_wrap=not words)
    return table


def _numbers(trial: Trial, trials: Sequence[Trial]) -> tuple[str, str, str, str, str]:
    outcome = measured(trial)
    if outcome is None:
        return ("–", "–", "–", "–", "–")
    point = outcome.closest_point
    shown = point if trial.confirms is None else re_runs(outcome.points)
    base = baseline_point(trials) if point.feasible and trial.confirms is None else None
    ratios = against_baseline(shown.output_throughput_per_device, shown.p99_ttft_ms, base)
    told = throughput(point) if trial.confirms is None else f"{shown.output_throughput_per_device:,.1f}"
    return (str(point.load), told, milliseconds(shown.p99_ttft_ms), *ratios)


def _origin(trial: Trial) -> str:
    return trial.origin if trial.confirms is None else f"re-run of {trial.confirms}"


def _took(trial: Trial) -> str:
    if trial.finished_at is None:
        return "–"
    minutes, seconds = divmod(round((trial.finished_at - trial.started_at).total_seconds()), 60)
    return f"{minutes}:{seconds:02d}"
