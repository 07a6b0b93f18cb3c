"""A load point as `vllm bench serve` prints it, with what that does not tell: bounds, validity, the client."""

from collections.abc import Iterator
from typing import Any

from autotune.results import Latency, LoadPoint

_WIDTH = 50  # of the table that people know
_HEADERS = {
    "ttft": ("TTFT", "Time to First Token"),
    "tpot": ("TPOT", "Time per Output Token (excl. 1st token)"),
    "itl": ("ITL", "Inter-token Latency"),
    "e2el": ("E2EL", "End-to-end Latency"),
}


def serving_table(point: LoadPoint, *, is_judged: bool = True) -> str:
    """The table of `vllm bench serve` for one load level; latencies in ms. Without an SLA there is no goodput."""
    return "\n".join(_lines(point, is_judged=is_judged))


def serving_document(point: LoadPoint, *, is_judged: bool = True) -> dict[str, Any]:
    """The fields of `vllm bench serve --save-result`, spelled as there, and ours beside them. JSON values only.

    What only an SLA gives a meaning is None without one (`is_judged` false).
    """
    latencies = {
        key: value for metric in _HEADERS for key, value in _latency_fields(metric, getattr(point, metric)).items()
    }
    return {
        "load": point.load.model_dump(mode="json"),
        "duration": point.duration_s,
        "completed": point.completed,
        "failed": point.failed,
        "errors": point.failure_reasons,
        "seed": point.seed,
        "total_input_tokens": _input_tokens(point),
        "total_output_tokens": _output_tokens(point),
        "request_throughput": point.request_throughput,
        "request_goodput": point.request_goodput if is_judged else None,
        "output_throughput": point.output_throughput,
        "total_token_throughput": point.total_token_throughput,
        **latencies,
        "client_lag_ms": point.client_lag_ms,
        "client_pause_ms": point.client_pause_ms,
        "client_cpu_share": point.client_cpu_share,
        "invalid": point.invalid or None,
        "steady": point.steady if point.drift is not None or not point.steady else None,
        "unfinished": point.unfinished,
        "feasible": point.feasible if is_judged else None,
        "violations": point.violations if is_judged else None,
        "engine": point.engine,
        "bottleneck": point.bottleneck and point.bottleneck.model_dump(mode="json"),
    }


def _lines(point: LoadPoint, *, is_judged: bool) -> Iterator[str]:
    yield f"{' Serving Benchmark Result ':=^{_WIDTH}}"
    yield _row("Load:", str(point.load))
    yield _row("Successful requests:", str(point.completed))
    yield _row("Failed requests:", str(point.failed))
    for reason, count in point.failure_reasons.items():
        yield f"{count:8d} x {reason}"
    if point.unfinished:
        yield _row("Unfinished requests (ended early):", str(point.unfinished))
    yield _row("Benchmark duration (s):", f"{point.duration_s:.2f}")
    yield _row("Total input tokens:", str(_input_tokens(point)))
    yield _row("Total generated tokens:", str(_output_tokens(point)))
    yield _row("Request throughput (req/s):", f"{point.request_throughput:.2f}")
    if is_judged:
        yield _row("Request goodput (req/s):", f"{point.request_goodput:.2f}")
    yield _row("Output token throughput (tok/s):", f"{point.output_throughput:.2f}")
    yield _row("Total token throughput (tok/s):", f"{point.total_token_throughput:.2f}")
    for metric, (name, title) in _HEADERS.items():
        yield f"{title:-^{_WIDTH}}"
        yield from _latency_lines(name, getattr(point, metric))
    yield f"{' Can it be believed ':-^{_WIDTH}}"
    yield _row("P99 client lag (ms):", f"{point.client_lag_ms:.2f}")
    yield _row("P99 client pause (ms):", f"{point.client_pause_ms:.2f}")
    yield _row("Client CPU (share of a core):", f"{point.client_cpu_share:.2f}")
    yield _row("Steady state:", _steady(point))
    yield _row("Prompt tokens from the prefix cache:", _cached(point))
    yield _row("Seed of the trace:", str(point.seed))
    if point.bottleneck is not None:
        yield f"Bottleneck: {point.bottleneck.kind}: {point.bottleneck.evidence}."
    if point.invalid:
        yield f"INVALID: {point.invalid}"
    yield "=" * _WIDTH


def _latency_lines(name: str, latency: Latency) -> Iterator[str]:
    yield _row(f"Mean {name} (ms):", _known(latency.mean_ms))
    for found in latency.quantiles:
        label = "Median" if found.percent == 50 else f"P{found.percent:g}"
        value = _known(found.value_ms) if latency.count == 0 or found.value_ms is not None else "never"
        yield _row(f"{label} {name} (ms):", f"{value:<10} [{_known(found.lower_ms)}, {_known(found.upper_ms)}]")


def _latency_fields(metric: str, latency: Latency) -> dict[str, float | None]:
    fields = {f"mean_{metric}_ms": latency.mean_ms}
    for found in latency.quantiles:
        name = "median" if found.percent == 50 else f"p{found.percent:g}"
        fields[f"{name}_{metric}_ms"] = found.value_ms
        fields[f"{name}_{metric}_lower_ms"] = found.lower_ms
        fields[f"{name}_{metric}_upper_ms"] = found.upper_ms
    return fields


def _row(label: str, value: str) -> str:
    return f"{label:<40} {value}"


def _known(value_ms: float | None) -> str:
    return "-" if value_ms is None else f"{value_ms:.2f}"


def _steady(point: LoadPoint) -> str:
    if point.steady:
        return "yes" if point.drift is not None else "not judged"
    return f"no: {point.growth}"


def _cached(point: LoadPoint) -> str:
    """The share of the looked-up prompt tokens that were not computed."""
    asked, hits = point.engine.get("prefix_cache_queries", 0.0), point.engine.get("prefix_cache_hits", 0.0)
    return f"{hits / asked:.0%}" if asked else "not told"


def _input_tokens(point: LoadPoint) -> int:
    return round((point.total_token_throughput - point.output_throughput) * point.duration_s)


def _output_tokens(point: LoadPoint) -> int:
    return round(point.output_throughput * point.duration_s)
