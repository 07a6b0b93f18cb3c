"""Numbers in words, for the reason of a recommendation."""

import statistics
from collections.abc import Sequence

from autotune.results import Difference, LoadPoint
from autotune.spec import Sla


def count(runs: Sequence[LoadPoint]) -> str:
    """`3 re-runs`."""
    return f"{len(runs)} re-run" + ("" if len(runs) == 1 else "s")


def summary(runs: Sequence[LoadPoint], sla: Sla) -> str:
    """Throughput and every latency line of the SLA, each the mean over the runs."""
    throughput = statistics.fmean(run.output_throughput_per_device for run in runs)
    lines = []
    for line in sla.latency_limits:
        values = [_value_ms(run, line.name, sla) for run in runs]
        known = [value for value in values if value is not None]
        if known:
            lines.append(f"{_title(line.name, sla)} {statistics.fmean(known):.0f} ms ≤ {line.limit_ms:g} ms")
    return ", ".join([f"{throughput:.0f} tok/s per device", *lines])


def miss(point: LoadPoint, sla: Sla) -> str:
    """The line of the SLA that is missed most, in its own unit."""
    name = max(point.violations, key=lambda key: point.violations[key])
    limits = {line.name: line.limit_ms for line in sla.latency_limits}
    if name not in limits:
        share = point.error_rate
        return f"{share:.1%} of the requests failed at {point.load}, limit {sla.error_rate:.1%}"
    value_ms = _value_ms(point, name, sla)
    told = "beyond every answer, because too many requests failed," if value_ms is None else f"{value_ms:.0f} ms"
    return f"{_title(name, sla)} {told} at {point.load}, limit {limits[name]:g} ms"


def difference(found: Difference) -> str:
    """`+312 tok/s per device, 95 % interval +309 to +315`, or `… for the best of 5`."""
    told = f"{found.value:+.0f} tok/s per device"
    if found.low is None or found.high is None:
        return f"{told}; a single run shows no interval"
    chosen = f" for the best of {found.best_of}" if found.best_of > 1 else ""
    return f"{told}, 95 % interval {found.low:+.0f} to {found.high:+.0f}{chosen}"


def trials(numbers: Sequence[int]) -> str:
    """`trial 7`, or `trials 7, 9`."""
    return f"trial {numbers[0]}" if len(numbers) == 1 else f"trials {', '.join(map(str, numbers))}"


def _value_ms(point: LoadPoint, name: str, sla: Sla) -> float | None:
    line = next(line for line in sla.latency_limits if line.name == name)
    latency = {"ttft": point.ttft, "tpot": point.tpot, "itl": point.itl, "e2el": point.e2el}[line.metric]
    found = latency.at(line.percent)
    return found.value_ms if sla.confidence is None else found.upper_ms


def _title(name: str, sla: Sla) -> str:
    """`p99_ttft_ms` as people say it: P99 TTFT."""
    bound = "" if sla.confidence is None else f" with {sla.confidence:.0%} confidence"
    return name.removesuffix("_ms").replace("_", " ").upper() + bound
