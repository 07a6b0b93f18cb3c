"""What tables, plot and page show of trials, as plain values."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autotune.results import Infeasible, Interrupted, LoadPoint, Measured, Trial


def measured(trial: Trial) -> Measured | None:
    """The trial's measurements, None when it has none."""
    outcome = trial.result.outcome if trial.result else None
    return outcome if isinstance(outcome, Measured) else None


def baseline_trial(trials: Sequence[Trial]) -> Trial | None:
    """The trial of the starting configuration: the last one, for an earlier one was interrupted."""
    return next((trial for trial in reversed(trials) if trial.purpose == "baseline"), None)


def baseline_point(trials: Sequence[Trial]) -> LoadPoint | None:
    """The baseline's operating point; where no level meets the SLA the point that misses it least."""
    trial = baseline_trial(trials)
    outcome = measured(trial) if trial else None
    return outcome.closest_point if outcome else None


def searched_points(trials: Sequence[Trial]) -> list[LoadPoint]:
    """Every load point of the baseline and search trials that has a throughput; later launches repeat some of them."""
    outcomes = [measured(trial) for trial in trials if trial.is_searched]
    return [point for outcome in outcomes if outcome for point in outcome.points if not point.aborted]


def throughput(point: LoadPoint) -> str:
    """Output tokens per second and device; a dash for a level that was ended before its answers came."""
    return "–" if point.aborted else f"{point.output_throughput_per_device:,.1f}"


def changed_knobs(knobs: Mapping[str, Any], baseline: Mapping[str, Any]) -> dict[str, Any]:
    """The knobs whose value differs from the baseline's, those that the baseline does not have included."""
    return {name: value for name, value in knobs.items() if name not in baseline or baseline[name] != value}


def knob_text(knobs: Mapping[str, Any]) -> str:
    """`max_num_seqs=64 enforce_eager=true`, booleans as YAML writes them."""
    return " ".join(f"{name}={_plain(value)}" for name, value in knobs.items())


def state(trial: Trial) -> str:
    """How a trial stands, in a word or with the cause of its failure."""
    outcome = trial.result.outcome if trial.result else None
    if outcome is None:
        return "running"
    if isinstance(outcome, Infeasible):
        return f"cannot run: {outcome.evidence.cause}"
    if isinstance(outcome, Interrupted):
        return f"interrupted: {outcome.evidence.cause}"
    if trial.confirms is not None:
        return re_runs(outcome.points).verdict
    found = "measured" if outcome.operating_point else "misses the SLA"
    return found if outcome.closest_point.steady else f"{found}, not steady"


@dataclass(frozen=True, slots=True)
class ReRuns:
    """The runs of a confirmation in short: mean throughput, the latest P99 TTFT, how many meet the SLA."""

    output_throughput_per_device: float
    p99_ttft_ms: float | None
    held: int
    count: int
    unsteady: int  # never reached a steady state

    @property
    def verdict(self) -> str:
        """`2 of 3 runs meet the SLA`, or `3 of 3 runs meet the SLA, 1 not steady`."""
        told = f"{self.held} of {self.count} runs meet the SLA"
        return f"{told}, {self.unsteady} not steady" if self.unsteady else told


def re_runs(points: Sequence[LoadPoint]) -> ReRuns:
    """Sum up the runs of one confirmation; without a P99 in one of them (too many failures) there is none."""
    p99s = [point.p99_ttft_ms for point in points]
    return ReRuns(
        output_throughput_per_device=statistics.fmean(point.output_throughput_per_device for point in points),
        p99_ttft_ms=None if None in p99s else max(p for p in p99s if p is not None),
        held=sum(point.feasible for point in points),
        count=len(points),
        unsteady=sum(not point.steady for point in points),
    )


def milliseconds(value_ms: float | None) -> str:
    """A latency for people: whole milliseconds, one decimal below ten, a dash for "never came"."""
    if value_ms is None:
        return "–"
    return f"{value_ms:.1f} ms" if value_ms < 10 else f"{value_ms:,.0f} ms"


def against_baseline(
    output_throughput_per_device: float, p99_ttft_ms: float | None, base: LoadPoint | None
) -> tuple[str, str]:
    """Throughput per device and P99 TTFT over the baseline's, `1.62×`; dashes when it has no feasible level."""
    if base is None or not base.feasible:
        return ("–", "–")
    return (
        _ratio(output_throughput_per_device, base.output_throughput_per_device),
        _ratio(p99_ttft_ms, base.p99_ttft_ms),
    )


def _ratio(value: float | None, base: float | None) -> str:
    return "–" if value is None or not base else f"{value / base:.2f}×"


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
