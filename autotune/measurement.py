"""From what the client saw of each request to a load point: percentiles with bounds, goodput, violations of the SLA.

A request that failed counts as one that never came: its latencies are infinite. Leaving it out would make a server
look better the more requests it drops.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from autotune.results import Latency, Load, LoadPoint, Quantile, RequestRecord
from autotune.spec import LATENCY_METRICS, Sla

PERCENTILES = (50.0, 90.0, 95.0, 99.0)
CONFIDENCE = 0.95  # of each one-sided bound
VIOLATION_RANGE = (-1.0, 1.5)  # beyond, a sampler learns nothing more; 1.5 is 4.5 times the limit
ERROR_RATE_SCALE = 0.01  # the smallest limit an overshoot is divided by, so that a limit of 0 has a scale

_PER_REQUEST = ("ttft", "tpot", "e2el")  # metrics with one value per request; itl has one per gap


def load_point(
    records: Sequence[RequestRecord],
    *,
    level: int,
    load: Load,
    devices: int,
    seed: int,
    sla: Sla,
    engine_counters: Mapping[str, float] | None = None,
) -> LoadPoint:
    """One measured level out of its request records.

    Latencies (ms) count from the scheduled time; the window of the throughputs is from the level's start to the last
    end. Definitions as in `vllm.benchmarks.serve.calculate_metrics`, except for failures, which vLLM leaves out.
    Raises ValueError when there are no records.
    """
    if not records:
        raise ValueError("a load point needs at least one request record")
    good = [record for record in records if record.error is None]
    duration_s = max(record.end_s for record in records)
    output_tokens = sum(record.output_tokens for record in good)
    input_tokens = sum(record.input_tokens for record in good)
    percentiles = sorted({*PERCENTILES, *(line.percent for line in sla.latency_limits)})
    lag = quantile(_sorted((r.sent_s - r.scheduled_s) * 1e3 for r in records), 99)
    point = LoadPoint(
        level=level,
        load=load,
        devices=devices,
        seed=seed,
        duration_s=duration_s,
        completed=len(good),
        failed=len(records) - len(good),
        request_throughput=len(good) / duration_s,
        output_throughput=output_tokens / duration_s,
        total_token_throughput=(input_tokens + output_tokens) / duration_s,
        request_goodput=sum(_meets_every_line(record, sla) for record in good) / duration_s,
        client_lag_ms=max(0.0, lag.value_ms or 0.0),
        violations={},
        engine=dict(engine_counters or {}),
        **{metric: latency(records, metric, percentiles) for metric in LATENCY_METRICS},
    )
    return point.model_copy(update={"violations": violations(point, sla)})


def joined(*runs: Sequence[RequestRecord]) -> list[RequestRecord]:
    """Repeated runs of one level as one, each starting (s) when the one before ended: percentiles are pooled.

    The mean of two P99s is not a P99, and the bounds of the pooled one are closer.
    """
    records: list[RequestRecord] = []
    for run in runs:
        start_s = max((record.end_s for record in records), default=0.0)
        records += [_shifted(record, start_s) for record in run]
    return records


def latency(records: Sequence[RequestRecord], metric: str, percentiles: Sequence[float]) -> Latency:
    """One of ttft, tpot, itl and e2el over all requests, the failed ones as infinite, in ms.

    The bounds of itl treat gaps as independent; gaps of one request are not quite.
    """
    samples = _sorted(value for record in records for value in _samples_ms(record, metric))
    successes = [v for r in records if r.error is None for v in _samples_ms(r, metric)]
    return Latency(
        count=len(samples),
        mean_ms=float(np.mean(successes)) if successes else None,
        quantiles=tuple(quantile(samples, percent) for percent in percentiles),
    )


def quantile(ordered_ms: Sequence[float] | NDArray[np.float64], percent: float) -> Quantile:
    """The nearest-rank percentile of ascending samples (ms) with its two one-sided 95 % bounds.

    The bounds are order statistics and hold for every distribution: David & Nagaraja, Order Statistics (3rd edition),
    sec. 7.1. A value that is infinite or does not exist is None.
    """
    count = len(ordered_ms)
    # The tiny margin undoes binary fractions: 99.9 % of 1000 is rank 999, not 1000.
    rank = max(1, math.ceil(percent * count / 100 - 1e-9))
    return Quantile(
        percent=percent,
        value_ms=_at_rank(ordered_ms, rank),
        lower_ms=_at_rank(ordered_ms, lower_rank(count, percent)),
        upper_ms=_at_rank(ordered_ms, upper_rank(count, percent)),
    )


def lower_rank(count: int, percent: float) -> int:
    """Rank (from 1) of the sample that is below the true percentile with 95 % confidence; 0: there is none.

    The number of samples below the percentile is binomial(count, percent / 100).
    """
    return int(binom.ppf(1 - CONFIDENCE, count, percent / 100)) if count else 0


def upper_rank(count: int, percent: float) -> int:
    """Rank (from 1) of the sample that is above the true percentile with 95 % confidence; above `count`: none is.

    For a P99 it exists from 299 samples on, where it is the largest.
    """
    return int(binom.ppf(CONFIDENCE, count, percent / 100)) + 1 if count else 1


def violations(point: LoadPoint, sla: Sla) -> dict[str, float]:
    """How far every line of the SLA is missed, in one fixed order: the latency lines, then `error_rate`.

    A value up to 0 is met. Latency lines: log(value / limit), infinite values at the upper end; the error rate:
    (share - limit) / max(limit, 0.01). All are clipped to -1 … 1.5.
    Raises KeyError when the point was measured without a percentile the SLA names.
    """
    lines = {line.name: (getattr(point, line.metric), line) for line in sla.latency_limits}
    result = {name: _overshoot(metric, line.percent, line.limit_ms) for name, (metric, line) in lines.items()}
    share = point.failed / (point.completed + point.failed)
    return result | {"error_rate": _clip((share - sla.error_rate) / max(sla.error_rate, ERROR_RATE_SCALE))}


def clearly_violates(point: LoadPoint, sla: Sla) -> bool:
    """Whether some line of the SLA is broken with 95 % confidence, not only in this sample."""
    if _failures_clearly_above(point, sla.error_rate):
        return True
    return any(
        _bound(getattr(point, line.metric), line.percent, upper=False) > line.limit_ms for line in sla.latency_limits
    )


def operating_point(points: Iterable[LoadPoint]) -> LoadPoint | None:
    """The feasible point with the highest output throughput per device; None when no point is feasible."""
    feasible = [point for point in _one_per_load(points) if point.feasible]
    return max(feasible, key=lambda point: point.output_throughput_per_device, default=None)


def sla_crossing_throughput(points: Iterable[LoadPoint]) -> float:
    """Output throughput per device (tokens/s) at the load where the worst violation crosses 0.

    Between the last good level and the bad one above it, violation and throughput are taken as linear in log(load).
    Never below the best good level. All levels good: the highest throughput; none: that of the lowest level.
    Raises ValueError when there are no points.
    """
    ladder = _one_per_load(points)
    if not ladder:
        raise ValueError("an SLA crossing needs at least one load point")
    good = [index for index, point in enumerate(ladder) if point.feasible]
    if not good:
        return ladder[0].output_throughput_per_device
    best = max(ladder[index].output_throughput_per_device for index in good)
    if good[-1] + 1 == len(ladder):
        return best
    return max(best, _interpolate(ladder[good[-1]], ladder[good[-1] + 1]))


def _interpolate(below: LoadPoint, above: LoadPoint) -> float:
    start, end = max(below.violations.values()), max(above.violations.values())
    # Both lines run over the same log(load), so the share of the way to the crossing is the same on both.
    share = -start / (end - start)
    low, high = below.output_throughput_per_device, above.output_throughput_per_device
    return low + share * (high - low)


def _one_per_load(points: Iterable[LoadPoint]) -> list[LoadPoint]:
    """The points by rising load; of a load measured twice the worse one, so that a lucky run proves nothing."""
    worst: dict[float, LoadPoint] = {}
    for point in points:
        known = worst.get(point.load.value)
        if known is None or max(point.violations.values()) > max(known.violations.values()):
            worst[point.load.value] = point
    return [worst[load] for load in sorted(worst)]


def _shifted(record: RequestRecord, by_s: float) -> RequestRecord:
    return dataclasses.replace(
        record,
        scheduled_s=record.scheduled_s + by_s,
        sent_s=record.sent_s + by_s,
        token_times_s=tuple(time_s + by_s for time_s in record.token_times_s),
        end_s=record.end_s + by_s,
    )


def _samples_ms(record: RequestRecord, metric: str) -> list[float]:
    """The values of one request; a failed one is infinite wherever a successful one would have had a value."""
    if metric == "itl":
        gaps = [gap * 1e3 for gap in np.diff(record.token_times_s)]
        missing = 0 if record.error is None else max(0, record.requested_tokens - 1 - len(gaps))
        return gaps + [math.inf] * missing
    if record.error is not None:
        return [] if metric == "tpot" and record.requested_tokens < 2 else [math.inf]
    if metric == "tpot":
        return [_tpot_ms(record)] if record.output_tokens > 1 else []
    end_s = record.token_times_s[0] if metric == "ttft" else record.end_s
    return [(end_s - record.scheduled_s) * 1e3]


def _tpot_ms(record: RequestRecord) -> float:
    times_s = record.token_times_s
    return (times_s[-1] - times_s[0]) / (record.output_tokens - 1) * 1e3


def _meets_every_line(record: RequestRecord, sla: Sla) -> bool:
    """Whether a successful request is inside every per-request line, as `vllm bench serve --goodput` judges it."""
    return all(
        value <= line.limit_ms
        for line in sla.latency_limits
        if line.metric in _PER_REQUEST
        for value in _samples_ms(record, line.metric)
    )


def _sorted(values_ms: Iterable[float]) -> NDArray[np.float64]:
    return np.sort(np.fromiter(values_ms, dtype=np.float64))


def _at_rank(ordered_ms: Sequence[float] | NDArray[np.float64], rank: int) -> float | None:
    """The sample at a rank from 1; None where there is none or it is infinite."""
    if not 1 <= rank <= len(ordered_ms):
        return None
    value = float(ordered_ms[rank - 1])
    return value if math.isfinite(value) else None


def _overshoot(metric: Latency, percent: float, limit_ms: float) -> float:
    if metric.count == 0:  # one-token answers have no tpot: nothing can be late
        return VIOLATION_RANGE[0]
    value_ms = metric.at(percent).value_ms
    if value_ms is None:
        return VIOLATION_RANGE[1]
    return _clip(math.log(value_ms / limit_ms)) if value_ms > 0 else VIOLATION_RANGE[0]


def _clip(value: float) -> float:
    low, high = VIOLATION_RANGE
    return min(high, max(low, value))


def _bound(metric: Latency, percent: float, *, upper: bool) -> float:
    """A bound as a number that compares: what does not exist says nothing (-inf, +inf), what never came is +inf."""
    if metric.count == 0:
        return -math.inf
    found = metric.at(percent)
    if upper:
        return math.inf if found.upper_ms is None else found.upper_ms
    if found.lower_ms is None:
        return math.inf if lower_rank(metric.count, percent) else -math.inf
    return found.lower_ms


def _failures_clearly_above(point: LoadPoint, limit: float) -> bool:
    """One-sided binomial test: so many failures are unlikely (5 %) when the true share is at the limit."""
    count = point.completed + point.failed
    return point.failed > 0 and bool(binom.sf(point.failed - 1, count, limit) < 1 - CONFIDENCE)
