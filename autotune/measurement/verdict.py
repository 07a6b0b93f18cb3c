"""How a load point stands to the SLA."""

import math

from scipy.stats import binom

from autotune.measurement.percentiles import CONFIDENCE, lower_rank
from autotune.results import Latency, LoadPoint
from autotune.spec import Sla

VIOLATION_RANGE = (-1.0, 1.5)  # beyond, a sampler learns nothing more; 1.5 is 4.5 times the limit
ERROR_RATE_SCALE = 0.01  # the smallest limit an overshoot is divided by, so that a limit of 0 has a scale


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
