"""What held the engine back at a load level: the first rule of a table whose condition the figures meet.

The rules are those of vLLM's own scheduler (v1/core/sched/scheduler.py): a request waits for KV blocks, for one of
`max_num_seqs` places, or for a share of the step's `max_num_batched_tokens`, and for nothing else.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from autotune.results import Bottleneck, LoadPoint

Kind = Literal["kv_cache", "slots", "prefill_budget", "queueing", "compute", "host", "bandwidth", "client"]

PREEMPTED = 0.01  # of the requests: from here on a P99 sees them
KV_FULL = 0.95
PLACES_TAKEN = 0.75  # at a look, which sees what a step left behind: who had finished has left a place
WAITING = 0.5  # requests on the average: less is a burst that is gone at the next step
BUDGET_USED = 0.5  # of `max_num_batched_tokens` in a mean step: those without a prompt hold it down, chunks raise it
THREAD_BUSY = 0.9  # of the time
DEVICE_IDLE = 0.4
DEVICE_BUSY = 0.8
BANDWIDTH_BUSY = 0.9
BANDWIDTH_CORES_IDLE = 0.3
BANDWIDTH_OF_MODEL = 0.6  # MBU: what it leaves out (activations, writes, the way of the bytes) is the rest
QUEUE_OVER_PREFILL = 2.0
TTFT_SHARE = 0.3  # of what the client saw; on a small machine much of it is the way there and the API server


@dataclass(frozen=True, slots=True)
class _Rule:
    kind: Kind
    evidence: Callable[[LoadPoint], str]  # the figures that tell; empty when they do not
    advice: str


def read_bottleneck(point: LoadPoint) -> Bottleneck | None:
    """What held the engine back at this level; None when no rule fires, as when its figures are missing.

    Reads `point.engine` (names and units: docs/bottlenecks.md) and the verdict on the SLA. Pure; raises nothing. A rule
    whose figure or limit is not known does not fire. Source of the rules: the vLLM metrics' own definitions
    (v1/metrics/loggers.py) and vllm-project/vllm-ascend#4120 for the host.
    """
    for rule in _RULES:
        evidence = rule.evidence(point)
        if evidence:
            return Bottleneck(kind=rule.kind, evidence=evidence, advice=rule.advice)
    return None


def _client_late(point: LoadPoint) -> str:
    return point.invalid


def _kv_cache(point: LoadPoint) -> str:
    figures = point.engine
    preemptions, fullest = figures.get("preemptions", 0.0), figures.get("kv_cache_usage_max", 0.0)
    if preemptions > PREEMPTED * (point.completed + point.failed + point.unfinished):
        return f"{preemptions:.0f} preemptions for want of KV cache, which was up to {fullest:.0%} full"
    if not _waits(point) or _places_taken(point) >= 1 or figures.get("requests_running_max", 0.0) < 1:
        return ""
    crowded = _places_taken(point) >= PLACES_TAKEN  # then too few places are as likely a reason as too few blocks
    full = KV_FULL if crowded else min(KV_FULL, _full_for_one_more(point))
    if fullest >= full:
        return (
            f"the KV cache was up to {fullest:.0%} full with {figures['requests_running_max']:.0f} requests, "
            f"and {_queue(point)}"
        )
    return ""


def _full_for_one_more(point: LoadPoint) -> float:
    """From which use on the free blocks are fewer than a running request holds, so that no other fits."""
    running = point.engine.get("requests_running_max", 0.0) / _engines(point)
    return running / (running + 1)


def _slots(point: LoadPoint) -> str:
    if not _waits(point) or _places_taken(point) < PLACES_TAKEN:
        return ""
    running, places = point.engine["requests_running_max"], _limit(point, "max_num_seqs")
    return f"up to {running:.0f} of {places:.0f} places of max_num_seqs were taken, and {_queue(point)}"


def _prefill_budget(point: LoadPoint) -> str:
    """What else a request waits for when there are free places and free blocks."""
    budget, tokens = point.engine.get("max_num_batched_tokens"), point.engine.get("mean_iteration_tokens")
    if budget is None or tokens is None or "max_num_seqs" not in point.engine:
        return ""
    busy = point.engine.get("device_utilization", 0.0) >= DEVICE_BUSY
    if busy or not _waits(point) or _places_taken(point) >= PLACES_TAKEN or tokens < BUDGET_USED * budget:
        return ""
    return (
        f"{_queue(point)} though places and KV cache were free: {tokens:.0f} tokens were computed for each step that "
        f"gave one, and max_num_batched_tokens is {budget:.0f}"
    )


def _host(point: LoadPoint) -> str:
    figures = point.engine
    device = figures.get("device_utilization")
    if device is None:  # then a busy thread is no proof: on a crowded machine every one of them waits for a core
        share = figures.get("host_thread_share", 0.0)
        if share >= THREAD_BUSY and not point.feasible:
            return f"one thread of the API server or the scheduler was busy for {share:.0%} of the time"
        return ""
    share = figures.get("busiest_thread_share", 0.0)
    if share >= THREAD_BUSY and device < DEVICE_IDLE and figures.get("requests_running_mean", 0.0) >= 1:
        return f"one thread was busy for {share:.0%} of the time, the devices for {device:.0%}"
    return ""


def _bandwidth(point: LoadPoint) -> str:
    bandwidth = point.engine.get("memory_bandwidth_utilization", 0.0)
    cores = point.engine.get("device_utilization", 1.0)
    if bandwidth >= BANDWIDTH_BUSY and cores < BANDWIDTH_CORES_IDLE:
        return f"{bandwidth:.0%} of the memory bandwidth was in use, and {cores:.0%} of the compute cores"
    if "memory_bandwidth_utilization" in point.engine or point.mbu is None or point.mbu < BANDWIDTH_OF_MODEL:
        return ""
    computed = "" if point.mfu is None else f", {point.mfu:.0%} of the FLOPs"
    return f"reading weights and KV cache alone took {point.mbu:.0%} of the memory bandwidth{computed}"


def _devices_busy(point: LoadPoint) -> str:
    device = point.engine.get("device_utilization", 0.0)
    return f"the devices were {device:.0%} busy" if device >= DEVICE_BUSY else ""


def _queueing(point: LoadPoint) -> str:
    queue_ms, prefill_ms = _times_ms(point)
    mean_ms = point.ttft.mean_ms
    if not mean_ms or queue_ms < QUEUE_OVER_PREFILL * prefill_ms or queue_ms < TTFT_SHARE * mean_ms:
        return ""
    return f"of a mean TTFT of {mean_ms:.0f} ms, {queue_ms:.0f} ms were queueing and {prefill_ms:.0f} ms prefill"


def _outside(point: LoadPoint) -> str:
    """A TTFT that the scheduler knows nothing of: the request was on its way, or in the API server."""
    queue_ms, prefill_ms = _times_ms(point)
    mean_ms = point.ttft.mean_ms
    if not mean_ms or not prefill_ms or not _misses(point, "ttft") or queue_ms + prefill_ms >= TTFT_SHARE * mean_ms:
        return ""
    return (
        f"of a mean TTFT of {mean_ms:.0f} ms, the engine's scheduler had the request for {queue_ms + prefill_ms:.0f} ms"
    )


def _nothing_waits(point: LoadPoint) -> str:
    figures = point.engine
    if not point.feasible or _waits(point) or "requests_running_max" not in figures:
        return ""
    places = f" of {_limit(point, 'max_num_seqs'):.0f}" if "max_num_seqs" in figures else ""
    return (
        f"nothing waited: at most {figures['requests_running_max']:.0f}{places} requests were "
        f"running, the KV cache was up to {figures.get('kv_cache_usage_max', 0.0):.0%} full"
    )


def _prefill(point: LoadPoint) -> str:
    _, prefill_ms = _times_ms(point)
    mean_ms = point.ttft.mean_ms
    if not mean_ms or prefill_ms < TTFT_SHARE * mean_ms or not _misses(point, "ttft"):
        return ""
    return f"of a mean TTFT of {mean_ms:.0f} ms, {prefill_ms:.0f} ms were prefill"


def _decode(point: LoadPoint) -> str:
    if _waits(point) or not (_misses(point, "tpot") or _misses(point, "itl")) or point.tpot.mean_ms is None:
        return ""
    running = point.engine.get("requests_running_mean")
    batch = "" if running is None else f" with {running:.0f} requests in a batch"
    return f"a token took {point.tpot.mean_ms:.1f} ms{batch}, and nothing waited"


_MORE_COMPUTE = (
    "Raise tensor_parallel_size, compute less (enable_prefix_caching, quantization), or take less load per device; a "
    "lower max_num_batched_tokens shortens the steps that other requests wait for."
)

# The order is that of cause and effect. A late client makes every other figure one of a load that was not offered. A
# full KV cache empties slots, and preempted requests are computed twice; slots come before the budget, which only who
# has a slot can use up. These three name a limit, so they come before the figures that only say where the time went: a
# scheduler with small batches is busy too, and larger batches relieve it. A busy host explains idle devices, queues and
# long prefills; bandwidth and compute explain queues. What nobody waited for, the load did not ask for.
_RULES = (
    _Rule("client", _client_late, "Nothing can be said about the engine: give the load generator a core of its own."),
    _Rule(
        "kv_cache",
        _kv_cache,
        "Give the KV cache more room: raise gpu_memory_utilization, lower max_model_len, max_num_batched_tokens or "
        "max_num_seqs, raise tensor_parallel_size, or use a smaller kv_cache_dtype or quantized weights.",
    ),
    _Rule("slots", _slots, "Raise max_num_seqs."),
    _Rule("prefill_budget", _prefill_budget, "Raise max_num_batched_tokens."),
    _Rule(
        "host",
        _host,
        "Spend less host time per token: graphs instead of enforce_eager (compilation_config cudagraph_mode), "
        "async_scheduling, a higher api_server_count, cores of the engine's own, jemalloc.",
    ),
    _Rule(
        "bandwidth",
        _bandwidth,
        "Read fewer bytes per token: quantization, a smaller kv_cache_dtype, speculative decoding, larger batches "
        "(every step reads all weights once), or raise tensor_parallel_size.",
    ),
    _Rule("compute", _devices_busy, _MORE_COMPUTE),
    _Rule(
        "queueing",
        _queueing,
        "The time to first token is not a prefill problem: raise max_num_seqs or data_parallel_size, or take less load "
        "per device.",
    ),
    _Rule(
        "client",
        _outside,
        "The time goes by before the scheduler: look at the workload's own max_concurrency if it has one, the load "
        "generator, a proxy, tokenization, the API server.",
    ),
    _Rule("client", _nothing_waits, "The load was the limit: offer more to see the engine's."),
    _Rule("compute", _prefill, _MORE_COMPUTE),
    _Rule(
        "compute",
        _decode,
        "Make steps shorter: lower max_num_batched_tokens or max_num_seqs, raise tensor_parallel_size, use graphs "
        "instead of enforce_eager, or speculative decoding.",
    ),
)


def _waits(point: LoadPoint) -> bool:
    return point.engine.get("requests_waiting_mean", 0.0) >= WAITING


def _queue(point: LoadPoint) -> str:
    return f"{point.engine['requests_waiting_mean']:.1f} requests waited on the average"


def _engines(point: LoadPoint) -> float:
    """Engines of a data-parallel deployment; every one has the limits for itself."""
    return point.engine.get("engines", 1.0)


def _limit(point: LoadPoint, name: str) -> float:
    return point.engine[name] * _engines(point)


def _places_taken(point: LoadPoint) -> float:
    """The share of the places of `max_num_seqs` that were taken at most; 0 where their number is not known."""
    running = point.engine.get("requests_running_max", 0.0)
    return running / _limit(point, "max_num_seqs") if "max_num_seqs" in point.engine else 0.0


def _times_ms(point: LoadPoint) -> tuple[float, float]:
    """Mean queueing and prefill."""
    return point.engine.get("mean_queue_time_ms", 0.0), point.engine.get("mean_prefill_time_ms", 0.0)


def _misses(point: LoadPoint, metric: str) -> bool:
    """Whether a line of the SLA about this latency is violated; one of E2EL is a line about its larger part."""
    counted = {metric, "e2el"} if metric == _larger_part(point) else {metric}
    return any(value > 0 and f"_{name}_" in line for line, value in point.violations.items() for name in counted)


def _larger_part(point: LoadPoint) -> str:
    """Whether most of an answer's time goes by before its first token or after it, on the average."""
    first_ms, whole_ms = point.ttft.mean_ms, point.e2el.mean_ms
    return "tpot" if first_ms is None or whole_ms is None or 2 * first_ms < whole_ms else "ttft"
