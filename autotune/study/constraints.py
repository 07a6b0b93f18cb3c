"""Constraints as Optuna hears them: every key, always, in one fixed order.

GPSampler maps constraints by position, and a COMPLETE trial without constraints counts as feasible.
"""

from collections.abc import Mapping
from statistics import median

from autotune.measurement import VIOLATION_RANGE
from autotune.results import LoadPoint, Measured
from autotune.spec import Sla

LAUNCH = "launch"
FEASIBLE_LAUNCH, FAILED_LAUNCH = -1.0, 1.0
WORST = VIOLATION_RANGE[1]


def keys(sla: Sla) -> tuple[str, ...]:
    """`launch`, the latency lines in the SLA's order, `error_rate`."""
    return (LAUNCH, *(limit.name for limit in sla.latency_limits), "error_rate")


def measured(point: LoadPoint, sla: Sla) -> dict[str, float]:
    """The constraints of a trial that ran, at one load point."""
    return {LAUNCH: FEASIBLE_LAUNCH} | {key: point.violations[key] for key in keys(sla)[1:]}


def imputed(successes: list[Mapping[str, float]], sla: Sla) -> dict[str, float]:
    """The constraints of a failed launch: the median of the successful ones, 1.5 while there is none; launch +1."""
    typical = {key: median(s[key] for s in successes) if successes else WORST for key in keys(sla)[1:]}
    return {LAUNCH: FAILED_LAUNCH} | typical


def labels(sla: Sla) -> dict[str, str]:
    """Readable names with units for the persisted study: `p99_ttft_ms <= 200`."""
    lines = {limit.name: f"{limit.name} <= {limit.limit_ms:g}" for limit in sla.latency_limits}
    return {LAUNCH: "engine launches", **lines, "error_rate": f"error_rate <= {sla.error_rate:g}"}


def proposer_point(outcome: Measured) -> LoadPoint:
    """The point whose constraints the proposer hears: the operating point, or the one that violates least."""
    return outcome.closest_point
