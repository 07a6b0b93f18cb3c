"""What a load point says beyond its latencies: what held the engine back, and how well the devices were used."""

from autotune.diagnosis.bottleneck import read_bottleneck
from autotune.model_card import ModelCard, request_flops
from autotune.results import LoadPoint

_TERA = 1e12


def read(point: LoadPoint, card: ModelCard, peak_tflops: float | None) -> LoadPoint:
    """The point with its bottleneck, and its MFU when the peak of one device is known (TFLOP/s)."""
    return point.model_copy(
        update={
            "bottleneck": read_bottleneck(point),
            "mfu": None if peak_tflops is None else model_flops_utilization(point, card, peak_tflops),
        }
    )


def model_flops_utilization(point: LoadPoint, card: ModelCard, peak_tflops: float) -> float | None:
    """FLOP/s that the answered requests needed of the model, over what the devices could do (0-1).

    Counted by the engine itself where it does (`--enable-mfu-metrics`, vLLM's v1/metrics/perf.py), else from the
    model's size by `request_flops` with the mean lengths; None when neither knows. Recomputed tokens do not count.
    """
    flops_per_s = _counted(point) or _computed(point, card)
    return None if flops_per_s is None else flops_per_s / (peak_tflops * _TERA)


def _counted(point: LoadPoint) -> float | None:
    """FLOP/s of one device; per token, because counters and throughputs may be of different windows."""
    flops, tokens = point.engine.get("estimated_flops_per_device"), point.engine.get("generation_tokens")
    return flops / tokens * point.output_throughput if flops and tokens else None


def _computed(point: LoadPoint, card: ModelCard) -> float | None:
    if not point.completed:
        return None
    output = point.output_throughput / point.request_throughput
    prompt = point.total_token_throughput / point.request_throughput - output
    asked = point.engine.get("prefix_cache_queries", 0.0)
    hits = point.engine.get("prefix_cache_hits", 0.0) / asked if asked else 0.0
    flops = request_flops(card, prompt_tokens=prompt, cached_tokens=hits * prompt, output_tokens=output)
    return None if flops is None else flops * point.request_throughput / point.devices
