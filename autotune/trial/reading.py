"""What a load point says beyond its latencies: what held the engine back, and how well the devices were used."""

from dataclasses import dataclass

from autotune.diagnosis.bottleneck import read_bottleneck
from autotune.model_card import ModelCard, request_bytes, request_flops
from autotune.results import LoadPoint

_TERA = 1e12
_GIGA = 1e9


@dataclass(frozen=True, slots=True)
class Peaks:
    """What one device can do; None: the settings do not say."""

    tflops: float | None = None  # 10^12 FLOP/s
    memory_gb_per_s: float | None = None  # 10^9 bytes/s


def read(point: LoadPoint, card: ModelCard, peaks: Peaks) -> LoadPoint:
    """The point with its bottleneck, and its MFU and MBU where the peaks of one device are known."""
    used = point.model_copy(
        update={
            "mfu": None if peaks.tflops is None else model_flops_utilization(point, card, peaks.tflops),
            "mbu": None
            if peaks.memory_gb_per_s is None
            else model_bandwidth_utilization(point, card, peaks.memory_gb_per_s),
        }
    )
    return used.model_copy(update={"bottleneck": read_bottleneck(used)})


def model_flops_utilization(point: LoadPoint, card: ModelCard, peak_tflops: float) -> float | None:
    """FLOP/s that the answered requests needed of the model, over what the devices could do (0-1).

    Counted by the engine itself where it does (`--enable-mfu-metrics`, vLLM's v1/metrics/perf.py), else from the
    model's size by `request_flops` with the mean lengths; None when neither knows. Recomputed tokens do not count.
    """
    flops_per_s = _counted(point, "estimated_flops_per_device") or _flops_per_s(point, card)
    return None if flops_per_s is None else flops_per_s / (peak_tflops * _TERA)


def model_bandwidth_utilization(point: LoadPoint, card: ModelCard, peak_memory_gb_per_s: float) -> float | None:
    """Bytes/s that the answered requests made a device read, over what its memory can give (0-1).

    Weights in each step of the engine, and the KV cache: as vLLM counts them with `--enable-mfu-metrics`, else by
    `request_bytes` with the mean lengths and the engine's own number of steps; None when neither knows. After the model
    bandwidth utilization of MosaicML's "LLM Inference Performance Engineering: Best Practices" (2023), for batches.
    """
    bytes_per_s = _counted(point, "estimated_read_bytes_per_device") or _bytes_per_s(point, card)
    return None if bytes_per_s is None else bytes_per_s / (peak_memory_gb_per_s * _GIGA)


def _counted(point: LoadPoint, name: str) -> float | None:
    """A second's worth of one device; per token, because counters and throughputs may be of different windows."""
    counted, tokens = point.engine.get(name), point.engine.get("generation_tokens")
    return counted / tokens * point.output_throughput if counted and tokens else None


def _flops_per_s(point: LoadPoint, card: ModelCard) -> float | None:
    if not point.completed:
        return None
    prompt, output = _mean_tokens(point)
    asked = point.engine.get("prefix_cache_queries", 0.0)
    hits = point.engine.get("prefix_cache_hits", 0.0) / asked if asked else 0.0
    flops = request_flops(card, prompt_tokens=prompt, cached_tokens=hits * prompt, output_tokens=output)
    return None if flops is None else flops * point.request_throughput / point.devices


def _bytes_per_s(point: LoadPoint, card: ModelCard) -> float | None:
    steps, tokens = point.engine.get("iterations"), point.engine.get("generation_tokens")
    if not point.completed or not steps or not tokens:
        return None
    prompt, output = _mean_tokens(point)
    read_bytes = request_bytes(card, prompt_tokens=prompt, output_tokens=output, steps=steps / tokens * output)
    return None if read_bytes is None else read_bytes * point.request_throughput / point.devices


def _mean_tokens(point: LoadPoint) -> tuple[float, float]:
    """Of a request's prompt, and of its answer."""
    output = point.output_throughput / point.request_throughput
    return point.total_token_throughput / point.request_throughput - output, output
