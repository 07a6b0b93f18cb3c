"""How a load point stands to the SLA."""

import math

from scipy.stats import binom

from autotune.measurement.percentiles import CONFIDENCE, lower_rank, upper_rank
from autotune.results import Latency, LoadPoint
from autotune.spec import LatencyLimit, Sla

VIOLATION_RANGE = (-1.0, 1.5)  # beyond, a sampler learns nothing more; 1.5 is 4.5 times the limit
ERROR_RATE_SCALE = 0.01  # the smallest limit an overshoot is divided by, so that a limit of 0 has a scale


def violations(point: LoadPoint, sla: Sla) -> dict[str, float]:
    """How far every line of the SLA is missed, in one fixed order: the latency lines, then `error_rate`.

    A value up to 0 is met. Latency lines: log(value / limit), infinite values at the upper end; the error rate:
    (share - limit) / max(limit, 0.01). All are clipped to -1 … 1.5. Where the SLA has a confidence, the value is the
    upper bound, which the point must have been measured with; one that does not exist counts as infinite. A metric
    without any sample is met, as answers of one token have no tpot; but in a level that was ended early it is not
    known, and at the upper end.
    Raises KeyError when the point was measured without a percentile the SLA names.
    """
    result = {line.name: _overshoot(point, line, sla) for line in sla.latency_limits}
    share = point.error_rate
    return result | {"error_rate": _clip((share - sla.error_rate) / max(sla.error_rate, ERROR_RATE_SCALE))}


def clearly_violates(point: LoadPoint, sla: Sla) -> bool:
    """Whether some line of the SLA is broken with confidence, not only in this sample.

    The confidence is that of the bounds: the SLA's, or 95 %.
    """
    if _failures_clearly_above(point, sla):
        return True
    return any(_lower_ms(getattr(point, line.metric), line, sla) > line.limit_ms for line in sla.latency_limits)


def straddles(point: LoadPoint, sla: Sla) -> bool:
    """Whether the bounds of a point that meets the SLA leave open that a latency line is missed.

    Its upper bound is above the limit or does not exist. A line of which twice the samples would have no upper bound
    either is left out, as measuring once more cannot show it. Where the SLA has a confidence, a point that meets it
    never straddles.
    """
    return any(_is_open(getattr(point, line.metric), line, sla) for line in sla.latency_limits)


def _is_open(metric: Latency, line: LatencyLimit, sla: Sla) -> bool:
    twice, confidence = 2 * metric.count, sla.confidence or CONFIDENCE
    if metric.count == 0 or upper_rank(twice, line.percent, confidence) > twice:
        return False
    upper_ms = metric.at(line.percent).upper_ms
    return upper_ms is None or upper_ms > line.limit_ms


def _overshoot(point: LoadPoint, line: LatencyLimit, sla: Sla) -> float:
    metric: Latency = getattr(point, line.metric)
    if metric.count == 0:  # one-token answers have no tpot: nothing can be late
        return VIOLATION_RANGE[1 if point.aborted else 0]
    found = metric.at(line.percent)
    value_ms = found.value_ms if sla.confidence is None else found.upper_ms
    if value_ms is None:
        return VIOLATION_RANGE[1]
    return _clip(math.log(value_ms / line.limit_ms)) if value_ms > 0 else VIOLATION_RANGE[0]


def _clip(value: float) -> float:
    low, high = VIOLATION_RANGE
    return min(high, max(low, value))


def _lower_ms(metric: Latency, line: LatencyLimit, sla: Sla) -> float:
    """The lower bound as a number that compares: what does not exist says nothing, what never came is infinite."""
    if metric.count == 0:
        return -math.inf
    lower_ms = metric.at(line.percent).lower_ms
    if lower_ms is not None:
        return lower_ms
    return math.inf if lower_rank(metric.count, line.percent, sla.confidence or CONFIDENCE) else -math.inf


def _failures_clearly_above(point: LoadPoint, sla: Sla) -> bool:
    """One-sided binomial test: so many failures are unlikely when the true share is at the limit."""
    count, unlikely = point.completed + point.failed, 1 - (sla.confidence or CONFIDENCE)
    return point.failed > 0 and bool(binom.sf(point.failed - 1, count, sla.error_rate) < unlikely)
