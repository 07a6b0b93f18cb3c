"""From what the client saw of each request to load points, their bounds, and their verdict under the SLA."""

from autotune.measurement.client import BEAT_S, client_bound
from autotune.measurement.crossing import operating_point, sla_crossing_throughput
from autotune.measurement.drift import Drift, drift
from autotune.measurement.early import hopeless_rules, out_of_reach
from autotune.measurement.engine_figures import pooled_figures
from autotune.measurement.ladder import Doubling, Given, next_load
from autotune.measurement.percentiles import fewest_samples, lower_rank, nearest_rank, quantile, upper_rank
from autotune.measurement.point import PERCENTILES, joined, load_point
from autotune.measurement.samples import latency
from autotune.measurement.verdict import VIOLATION_RANGE, clearly_violates, straddles, violations

__all__ = [
    "BEAT_S",
    "PERCENTILES",
    "VIOLATION_RANGE",
    "Doubling",
    "Drift",
    "Given",
    "clearly_violates",
    "client_bound",
    "drift",
    "fewest_samples",
    "hopeless_rules",
    "joined",
    "latency",
    "load_point",
    "lower_rank",
    "nearest_rank",
    "next_load",
    "operating_point",
    "out_of_reach",
    "pooled_figures",
    "quantile",
    "sla_crossing_throughput",
    "straddles",
    "upper_rank",
    "violations",
]
