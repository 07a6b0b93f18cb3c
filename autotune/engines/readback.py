"""What an engine says of itself: effective values from `/metrics` and the log, and its counters."""

import contextlib
import math
import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from autotune.engine_config import EngineConfig
from autotune.engines.loopback import Server, request

_METRICS_TIMEOUT_S = 2.0  # a cancel waits for it

_SAMPLE = re.compile(r"^(?P<name>[a-zA-Z_:][\w:]*)(?:\{(?P<labels>.*)\})? (?P<value>\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

_CACHE_LABELS = {
    "block_size": "block_size",
    "user_specified_block_size": "user_specified_block_size",
    "num_gpu_blocks": "num_gpu_blocks",
    "num_gpu_blocks_override": "num_gpu_blocks_override",
    "gpu_memory_utilization": "gpu_memory_utilization",
    "enable_prefix_caching": "enable_prefix_caching",
    "cache_dtype": "kv_cache_dtype",
    "kv_cache_size_tokens": "kv_cache_size_tokens",
    "kv_cache_max_concurrency": "kv_cache_max_concurrency",
}
"""Labels of `vllm:cache_config_info` and the names they get here, spelled as arguments where there is one."""

_LOG_VALUES = {
    "engine_version": r"Initializing a V1 LLM engine \(v([^)\s]+)\)",
    "max_model_len": r"Using max model len (\d+)",
    "max_num_batched_tokens": r"Chunked prefill is enabled with max_num_batched_tokens=(\d+)",
    "kv_cache_size_tokens": r"KV cache size: ([\d,]+) tokens",
    "kv_cache_max_concurrency": r"Maximum concurrency for [\d,]+ tokens per request: ([\d.]+)x",
    "available_kv_cache_gib": r"Available KV cache memory: (-?[\d.]+) GiB",
    "tensor_parallel_size": r"Initializing a V1 LLM engine .*?\btensor_parallel_size=(\d+)",
    "pipeline_parallel_size": r"Initializing a V1 LLM engine .*?\bpipeline_parallel_size=(\d+)",
    "enforce_eager": r"Initializing a V1 LLM engine .*?\benforce_eager=(True|False)",
    "non_default_args": r"non-default args: (\{.*\})",
}
"""Log lines of vLLM 0.23 to 0.32 (api_utils, config, v1.engine.core, v1.core.kv_cache_utils)."""

_COUNTERS: dict[str, tuple[str, Callable[[Iterable[float]], float]]] = {
    "vllm:num_preemptions_total": ("preemptions", sum),
    "vllm:prompt_tokens_total": ("prompt_tokens", sum),
    "vllm:generation_tokens_total": ("generation_tokens", sum),
    "vllm:prefix_cache_queries_total": ("prefix_cache_queries", sum),
    "vllm:prefix_cache_hits_total": ("prefix_cache_hits", sum),
    "vllm:request_queue_time_seconds_sum": ("queue_time_s", sum),
    "vllm:request_queue_time_seconds_count": ("queue_count", sum),
    "vllm:request_prefill_time_seconds_sum": ("prefill_time_s", sum),
    "vllm:request_prefill_time_seconds_count": ("prefill_count", sum),
    "vllm:iteration_tokens_total_sum": ("iteration_tokens", sum),
    "vllm:iteration_tokens_total_count": ("iterations", sum),
    "vllm:estimated_flops_per_gpu_total": ("estimated_flops_per_device", statistics.fmean),
    "vllm:estimated_read_bytes_per_gpu_total": ("estimated_read_bytes_per_device", statistics.fmean),
    "vllm:kv_cache_usage_perc": ("kv_cache_usage", max),
    "vllm:gpu_cache_usage_perc": ("kv_cache_usage", max),  # its name before the V1 engine
    "vllm:num_requests_running": ("requests_running", sum),
    "vllm:num_requests_waiting": ("requests_waiting", sum),
}
"""Sample name -> our name, and how the engines of a data-parallel deployment add up."""

_LIMITS = ("max_num_seqs", "max_num_batched_tokens")
_GAUGES = frozenset({"kv_cache_usage", "requests_running", "requests_waiting"})
_LOOKED_AT = _GAUGES | {"generation_tokens"}
_ON_REQUEST = frozenset(
    {"estimated_flops_per_device", "estimated_read_bytes_per_device"}
)  # stay 0 without `enable_mfu_metrics`

_GAUGE_SAMPLE = re.compile(
    rf"^({'|'.join(name for name, (ours, _) in _COUNTERS.items() if ours in _LOOKED_AT)})\{{.*\}} (\S+)$", re.MULTILINE
)


def fetch_metrics(server: Server) -> str:
    """The text of `/metrics`; empty when the engine does not answer."""
    answer = request(server, "/metrics", timeout_s=_METRICS_TIMEOUT_S)
    return answer.body if answer.status == 200 else ""


def read_back(server: Server, log_text: str) -> dict[str, str]:
    """What the engine really runs with; see `effective_values`."""
    return effective_values(fetch_metrics(server), log_text)


def effective_values(metrics_text: str, log_text: str) -> dict[str, str]:
    """Effective values by argument name, as text, from a Prometheus exposition and a start log. Pure; raises nothing.

    The metrics win over the log, because a platform may change a value after it was logged.
    """
    found = {name: match[1] for name, pattern in _LOG_VALUES.items() if (match := re.search(pattern, log_text))}
    for numeric in {"kv_cache_size_tokens"} & found.keys():
        found[numeric] = found[numeric].replace(",", "")
    for name, labels, _ in _samples(metrics_text):
        if name == "vllm:cache_config_info":
            known = {_CACHE_LABELS[label]: text for label, text in labels.items() if label in _CACHE_LABELS}
            found |= {label: text for label, text in known.items() if text != "None"}
    return found


def limits(config: EngineConfig, effective: Mapping[str, str]) -> dict[str, float]:
    """What bounds each step of the scheduler, by argument name: as the engine says, else as it was asked.

    A limit is left out when neither knows it: vLLM's default depends on the device and is not logged.
    """
    known = {**config.arguments, **effective}
    return {name: float(known[name]) for name in _LIMITS if isinstance(_normal(known.get(name)), float)}


def overridden(config: EngineConfig, effective: Mapping[str, str]) -> dict[str, str]:
    """Arguments the engine runs with another value than was asked: name -> "asked 16, runs 128"."""
    return {
        name: f"asked {asked}, runs {effective[name]}"
        for name, asked in config.arguments.items()
        if name in effective and asked != "auto" and _normal(asked) != _normal(effective[name])
    }


def _normal(value: Any) -> str | float:
    text = str(value).strip().lower()
    try:
        return float(text)
    except ValueError:
        return text


def counters(metrics_text: str) -> dict[str, float]:
    """The engine's counters at one moment, summed over engines; times in s, `kv_cache_usage` 0-1 (the fullest)."""
    values: dict[str, list[float]] = {}
    for name, _, value in _samples(metrics_text):
        if name in _COUNTERS:
            values.setdefault(name, []).append(value)
    summed = {_COUNTERS[name][0]: _COUNTERS[name][1](found) for name, found in values.items()}
    return {name: value for name, value in summed.items() if value or name not in _ON_REQUEST}


def gauges(metrics_text: str) -> dict[str, float]:
    """The gauges among the `counters`, `generation_tokens`, and how many `engines` there are; empty without an answer.

    For looking often: it costs a fraction of reading the whole exposition.
    """
    values: dict[str, list[float]] = {}
    for name, value in _GAUGE_SAMPLE.findall(metrics_text):
        values.setdefault(name, []).append(float(value))
    found = {_COUNTERS[name][0]: _COUNTERS[name][1](several) for name, several in values.items()}
    return found | ({"engines": float(max(map(len, values.values())))} if values else {})


def counter_deltas(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """What happened between two moments: differences of counters, gauges as they are at the end, and means.

    The means (`mean_queue_time_ms`, `mean_prefill_time_ms`, `mean_iteration_tokens`) come from the differences of sums
    and counts: vLLM's histogram buckets start at 0.3 s, too coarse for percentiles.
    """
    if not before:
        return {}  # the engine did not answer then: totals would pass for what happened in between
    deltas = {name: value if name in _GAUGES else value - before.get(name, 0.0) for name, value in after.items()}
    means = (
        ("mean_queue_time_ms", "queue_time_s", "queue_count", 1000.0),
        ("mean_prefill_time_ms", "prefill_time_s", "prefill_count", 1000.0),
        ("mean_iteration_tokens", "iteration_tokens", "iterations", 1.0),
    )
    for mean, total, count, scale in means:
        if deltas.get(count, 0.0) > 0 and total in deltas:
            deltas[mean] = scale * deltas[total] / deltas[count]
    return deltas


def _samples(metrics_text: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """Samples of a Prometheus text exposition (https://prometheus.io/docs/instrumenting/exposition_formats/).

    What else a server may say at that address has none.
    """
    for line in metrics_text.splitlines():
        match = _SAMPLE.match(line)
        if match is None:
            continue
        with contextlib.suppress(ValueError):  # a line of two words
            value = float(match["value"])
            if math.isfinite(value):
                yield match["name"], dict(_LABEL.findall(match["labels"] or "")), value
