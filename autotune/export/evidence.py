"""What is known about an exported configuration: as sentences for comments, and as fields."""

import statistics
from collections.abc import Sequence
from typing import Any

from autotune.export.gain import gain_sentences
from autotune.export.replay import replay_of
from autotune.export.source import ExportSource
from autotune.results import Confirmation, Load, LoadPoint, Quantile, cost_per_million_tokens, unsteady


def comments(source: ExportSource) -> str:
    """The evidence as comment lines, each of one line, whatever the names hold."""
    return comment_lines(_sentences(source))


def comment_lines(sentences: Sequence[str]) -> str:
    """Sentences as comment lines, each of one line and of printable characters: YAML refuses the others anywhere."""
    return "".join(f"# {_printable(' '.join(sentence.split()))}\n" for sentence in sentences)


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def fields(source: ExportSource) -> dict[str, Any]:
    """The evidence as plain JSON values."""
    return {
        "job": {"id": source.job_id, "name": source.job_name},
        "trial": source.trial.number,
        "origin": source.trial.origin,
        "level": source.point.level,
        "workload": source.workload,
        "workload_digest": source.workload_digest,
        "engine": source.engine,
        "engine_version": source.engine_version,
        "engine_versions": source.engine_versions,
        "sla": source.sla.model_dump(mode="json", exclude_none=True),
        "measured": source.point.model_dump(mode="json"),
        "confirmation": source.confirmation.model_dump(mode="json") if source.confirmation else None,
        "baseline": source.baseline.model_dump(mode="json") if source.baseline else None,
        "throughput_versus_baseline": throughput_ratio(source),
        "versus_baseline": source.comparison.model_dump(mode="json") if source.comparison else None,
        "attribution": source.attribution.model_dump(mode="json") if source.attribution else None,
        "recommended_load": {"kind": source.point.load.kind, "value": total_load(source.point)},
        **{f"cost_per_million_{name}_tokens": cost for name, cost in _costs(source).items()},
        "exported_at": source.exported_at.isoformat(),
        "replay": replay_of(source).model_dump(mode="json", exclude_none=True),
    }


def throughput_ratio(source: ExportSource) -> float | None:
    """Output throughput per device, this configuration over the baseline; None when the baseline has none.

    From the re-runs where both were measured again, else from the search.
    """
    mine, base = (source.confirmation, source.baseline_confirmation)
    if mine is not None and base is not None:
        return mine.output_throughput_per_device / base.output_throughput_per_device if base.holds else None
    found = source.baseline.output_throughput_per_device if source.baseline else 0.0
    return source.point.output_throughput_per_device / found if found else None


def total_load(point: LoadPoint) -> float:
    """The load of one instance, over all its devices: requests/s, or concurrent requests."""
    return point.load.value * point.devices


def _sentences(source: ExportSource) -> list[str]:
    point = source.point
    return [
        f"vllm-autotune: job {source.job_name} ({source.job_id}), trial {source.trial.number}, level {point.level}",
        f"model {source.model}, engine {source.engine_version or 'of unknown version'}, "
        f"workload {source.workload}, exported {source.exported_at:%Y-%m-%d}",
        f"measured at {point.load} per device: {_throughput(point)}, {_latencies(source)}, "
        f"{point.failed} of {point.failed + point.completed} requests failed",
        *unsteady([point], " when it was measured"),
        _confirmed(source),
        *unsteady(source.confirmation.runs if source.confirmation else (), " when it was measured again"),
        "SLA: " + source.sla.text,
        _versus_baseline(source),
        *gain_sentences(source),
        *_bottleneck(point),
        *_cost(source),
        f"keep the load of one instance ({_devices(point)}) at or below {_load(point)}",
    ]


def _bottleneck(point: LoadPoint) -> list[str]:
    shares = (("FLOPs", "MFU", point.mfu), ("bandwidth", "MBU", point.mbu))
    used = [f"model {what} utilization ({short}) {share:.1%}" for what, short, share in shares if share is not None]
    if point.bottleneck is None:
        return used
    return [f"bottleneck at this load: {point.bottleneck.kind} ({point.bottleneck.evidence})", *used]


def _cost(source: ExportSource) -> list[str]:
    costs = [f"{cost:.4g} per million {name} tokens" for name, cost in _costs(source).items()]
    if not costs:
        return []
    return [f"cost at this load and {source.price_per_device_hour:g} per device-hour: {', '.join(costs)}"]


def _costs(source: ExportSource) -> dict[str, float]:
    """Of the selected point, for output tokens and for all; empty where there is no price or no token."""
    price, point = source.price_per_device_hour, source.point
    if price is None:
        return {}
    rates = {"output": point.output_throughput, "total": point.total_token_throughput}
    costs = {name: cost_per_million_tokens(price, rate / point.devices) for name, rate in rates.items()}
    return {name: cost for name, cost in costs.items() if cost is not None}


def _confirmed(source: ExportSource) -> str:
    again = source.confirmation
    if again is None:
        return "not confirmed by re-runs"
    verdict = "the SLA holds" if again.holds else "the SLA does NOT hold"
    lines = [_line(again, line.metric, line.percent, line.limit_ms) for line in source.sla.latency_limits]
    return (
        f"measured again in {_count(again)} at {again.load} per device: "
        f"{again.output_throughput_per_device:.1f} tok/s per device, {'; '.join(lines)}: {verdict} "
        f"(judged by mean plus standard error{'' if source.sla.confidence is None else ' of the upper bounds'})"
    )


def _line(again: Confirmation, metric: str, percent: float, limit_ms: float) -> str:
    """`P99 TPOT 14 ms on average, 19 ms at worst, limit 16 ms`."""
    values = [getattr(run, metric).at(percent).value_ms for run in again.runs]
    name = f"P{percent:g} {metric.upper()}"
    if None in values:
        return f"{name} beyond every answer in one run, limit {limit_ms:g} ms"
    return f"{name} {statistics.fmean(values):.0f} ms on average, {max(values):.0f} ms at worst, limit {limit_ms:g} ms"


def _versus_baseline(source: ExportSource) -> str:
    ratio = throughput_ratio(source)
    base, again = source.baseline, source.baseline_confirmation
    if source.trial.purpose == "baseline":
        return "this is the baseline: nothing that is searched differs from the engine's defaults"
    if source.confirmation is not None and again is not None:
        if ratio is None:
            return f"the baseline does not hold the SLA at {again.load} per device when measured again"
        return (
            f"baseline measured again at {again.load} per device: {again.output_throughput_per_device:.1f} tok/s per "
            f"device; this configuration has {ratio:.2f} times its throughput"
        )
    if base is None or ratio is None:
        return "the baseline meets the SLA at no measured load"
    return (
        f"baseline at {base.load} per device: {_throughput(base)}, {_quantile('P99 TTFT', base.ttft.at(99))}; "
        f"this configuration has {ratio:.2f} times its throughput"
    )


def _count(again: Confirmation) -> str:
    return "1 run" if len(again.runs) == 1 else f"{len(again.runs)} runs"


def _throughput(point: LoadPoint) -> str:
    return f"{point.output_throughput_per_device:.1f} tok/s per device"


def _latencies(source: ExportSource) -> str:
    """P99 TTFT, which the front is about, and what else the SLA limits."""
    lines = dict.fromkeys([("ttft", 99.0), *((line.metric, line.percent) for line in source.sla.latency_limits)])
    told = ((f"P{percent:g} {metric.upper()}", getattr(source.point, metric), percent) for metric, percent in lines)
    return ", ".join(_quantile(name, latency.at(percent)) for name, latency, percent in told)


def _quantile(name: str, quantile: Quantile) -> str:
    if quantile.value_ms is None:
        return f"{name} missing"
    lower = "0" if quantile.lower_ms is None else f"{quantile.lower_ms:.0f}"
    upper = "unknown" if quantile.upper_ms is None else f"{quantile.upper_ms:.0f}"
    return f"{name} {quantile.value_ms:.0f} ms (95 % bounds {lower} to {upper})"


def _devices(point: LoadPoint) -> str:
    return "1 device" if point.devices == 1 else f"{point.devices} devices"


def _load(point: LoadPoint) -> str:
    whole = Load(kind=point.load.kind, value=total_load(point))
    return f"{whole.value:g} requests/s" if whole.kind == "request_rate" else f"{whole.value:g} concurrent requests"
