"""What the engine said in several windows on the same level, as if it had been one."""

from collections.abc import Mapping

_COUNTERS = frozenset(
    {
        "preemptions",
        "prompt_tokens",
        "generation_tokens",
        "prefix_cache_queries",
        "prefix_cache_hits",
        "queue_time_s",
        "queue_count",
        "prefill_time_s",
        "prefill_count",
        "iteration_tokens",
        "iterations",
        "estimated_flops_per_device",
        "estimated_read_bytes_per_device",
        "samples",
    }
)
_MEANS = {  # name -> what each window counts by
    "mean_queue_time_ms": "queue_count",
    "mean_prefill_time_ms": "prefill_count",
    "mean_iteration_tokens": "iterations",
    "requests_running_mean": "samples",
    "requests_waiting_mean": "samples",
    "kv_cache_usage_mean": "samples",
    "engine_cpu_cores": "samples",
    "busiest_thread_share": "samples",
    "host_thread_share": "samples",
    "device_utilization": "samples",
    "memory_bandwidth_utilization": "samples",
}


def pooled_figures(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    """The figures of two windows (names and units: docs/bottlenecks.md) as those of both together.

    Counters add up, and one that a window lacks is left out: half a sum would pass for the whole. Means are weighted by
    what they are means of, those of looks by the number of looks; maxima are the larger one. What is left, limits and
    gauges at the end, is as the second window says. Pure; raises nothing.
    """
    pooled = {**first, **second}
    for name in tuple(pooled):
        if name in _COUNTERS and not (name in first and name in second):
            del pooled[name]
        elif name in first and name in second:
            pooled[name] = _both(name, first, second)
    return pooled


def _both(name: str, first: Mapping[str, float], second: Mapping[str, float]) -> float:
    if name in _COUNTERS:
        return first[name] + second[name]
    if name.endswith("_max"):
        return max(first[name], second[name])
    if name not in _MEANS:
        return second[name]
    weights = (first.get(_MEANS[name], 1.0), second.get(_MEANS[name], 1.0))
    total = sum(weights)
    return (first[name] * weights[0] + second[name] * weights[1]) / total if total else second[name]
