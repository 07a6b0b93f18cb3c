"""From what the client saw of each request to load points, their bounds, and their verdict under the SLA."""

from autotune.measurement.crossing import operating_point, sla_crossing_throughput
from autotune.measurement.percentiles import lower_rank, quantile, upper_rank
from autotune.measurement.point import PERCENTILES, joined, latency, load_point
from autotune.measurement.verdict import VIOLATION_RANGE, clearly_violates, violations

__all__ = [
    "PERCENTILES",
    "VIOLATION_RANGE",
    "clearly_violates",
    "joined",
    "latency",
    "load_point",
    "lower_rank",
    "operating_point",
    "quantile",
    "sla_crossing_throughput",
    "upper_rank",
    "violations",
]
