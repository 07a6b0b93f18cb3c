"""When a level may end early: what it would show if it went on is certain.

A percentile is decided by rank. Of N requests, fixed before the start, the sample at rank r is beyond the limit as soon
as more than N - r requests are, whatever the others do.
"""

import math

from autotune.level_run import Hopeless, LevelRun
from autotune.measurement.percentiles import CONFIDENCE, lower_rank, nearest_rank, upper_rank
from autotune.measurement.samples import samples_ms
from autotune.measurement.verdict import VIOLATION_RANGE
from autotune.spec import LatencyLimit, Sla

_ON_THE_DOT = 1 + 1e-9  # seconds and milliseconds round differently: a request at its limit must not count as beyond


def hopeless_rules(sla: Sla, planned: int, *, exact: bool, first: LevelRun | None = None) -> tuple[Hopeless, ...]:
    """The rules that end a level of `planned` requests as soon as it is lost, one per TTFT and E2EL line.

    Without `first` the level must be clearly lost (else it would get a second look): so many requests are beyond the
    limit that the lower bound is. With `first`, the first look, both are judged together. An `exact` end waits until
    so many are beyond e^1.5 times the limit, where violations are clipped: it changes nothing that a proposer hears of
    the line. Lines per token have no rule, because a request that has not ended has no verdict in them.
    """
    factor = math.exp(VIOLATION_RANGE[1]) if exact else 1.0
    rules = (_rule(sla, line, factor * _ON_THE_DOT, planned, first) for line in sla.latency_limits)
    return tuple(rule for rule in rules if rule is not None)


def out_of_reach(sla: Sla, first: LevelRun, planned: int) -> bool:
    """Whether a second look of `planned` requests cannot save a level, however good it is."""
    return any(rule.allowed < 0 for rule in hopeless_rules(sla, planned, exact=False, first=first))


def deciding_rank(count: int, percent: float, confidence: float | None) -> int:
    """Rank of the sample that decides a latency line: the percentile, or its upper bound where a confidence is set."""
    return nearest_rank(count, percent) if confidence is None else upper_rank(count, percent, confidence)


def _rule(sla: Sla, line: LatencyLimit, factor: float, planned: int, first: LevelRun | None) -> Hopeless | None:
    limit_s = line.limit_ms / 1e3 * factor
    match line.metric:
        case "ttft" | "e2el" as metric:
            allowed = _allowed(sla, line, planned) if first is None else _left(sla, line, planned, first, limit_s)
            return None if allowed is None else Hopeless(metric, limit_s, allowed)
        case _:
            return None


def _allowed(sla: Sla, line: LatencyLimit, planned: int) -> int | None:
    """None: so few requests have no lower bound, and are never clearly lost."""
    rank = lower_rank(planned, line.percent, sla.confidence or CONFIDENCE)
    return planned - rank if rank else None


def _left(sla: Sla, line: LatencyLimit, planned: int, first: LevelRun, limit_s: float) -> int:
    """What the first look has left of the requests that may be beyond the limit; below 0: it has left nothing."""
    both = planned + max(first.planned, len(first.records))
    beyond = sum(value_ms > limit_s * 1e3 for r in first.records for value_ms in samples_ms(r, line.metric))
    return both - deciding_rank(both, line.percent, sla.confidence) - beyond
