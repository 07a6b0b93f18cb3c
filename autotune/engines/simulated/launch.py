"""From what was asked to what runs: vLLM's defaults, its refusals, and the memory that is left for the KV cache."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autotune.engines.simulated.cost import Cost, Graphs
from autotune.engines.simulated.devices import DEVICES, Device, chosen
from autotune.engines.simulated.memory import blocks, check_one_request, fitted_length, profiled_bytes
from autotune.engines.simulated.model import Model
from autotune.engines.simulated.options import AUTO, Options
from autotune.engines.simulated.refusal import (
    OutOfRange,
    by_config,
    by_core,
    by_fields,
    by_interpreter,
    by_parser,
    by_worker,
)
from autotune.engines.simulated.scheduler import Limits
from autotune.model_card import MOST_CAPTURED

_STREAMS = 2048  # per NPU; vllm-ascend leaves some of them free when it chooses the sizes itself
_GRAPH_MODES = ("NONE", "PIECEWISE", "FULL", "FULL_DECODE_ONLY", "FULL_AND_PIECEWISE")
_NUMBERED_GRAPH_MODES = 3
_AIV_LINK_FACTOR = 0.6  # all-reduces unrolled by the vector cores start sooner


@dataclass(frozen=True, slots=True)
class Launch:
    """An engine that starts: what it runs with, and what its steps cost."""

    options: Options
    device: Device
    model: Model
    limits: Limits
    max_model_len: int
    kv_bytes: int  # of one rank
    cost: Cost

    @property
    def kv_tokens(self) -> int:
        """Tokens whose keys and values fit."""
        return self.limits.num_blocks * self.limits.block_size


def prepare(options: Options, model: Model) -> Launch:
    """What these options start on their device. Raises Refused in vLLM's words where vLLM would not start.

    The order is vLLM's: arguments, model and scheduler first, then the engine core, its memory, and graph capture.
    """
    device = _device(options)
    length = _max_model_len(options, model)
    _check_cache(options)
    _check_parallel(options)
    limits = _scheduler_limits(options, device, length)
    _check_heads(options, model)
    block_size = _block_size(options, device)
    graphs, sizes = _graphs(options, device, limits.max_num_seqs)
    kv_bytes = profiled_bytes(options, device, model, limits, len(sizes))
    block_bytes = math.ceil(model.kv_bytes_per_token / model.kv_shards(options.tensor_parallel_size)) * block_size
    num_blocks = blocks(options, kv_bytes, block_bytes)
    if options.max_model_len == AUTO:
        length = fitted_length(num_blocks, block_size, length)
    check_one_request(num_blocks, block_bytes, block_size, length)
    _check_capture(options, device, model, sizes, graphs)
    environment = options.environment
    asked = device.async_scheduling if options.async_scheduling is None else options.async_scheduling
    cost = Cost(
        device,
        model,
        graphs,
        ranks=options.tensor_parallel_size,
        overlapped=asked and device.family != "cpu",
        link_factor=_AIV_LINK_FACTOR if environment.get("HCCL_OP_EXPANSION_MODE") == "AIV" else 1.0,
    )
    return Launch(
        options=options,
        device=device,
        model=model,
        limits=limits.sized(block_size=block_size, num_blocks=num_blocks),
        max_model_len=length,
        kv_bytes=kv_bytes,
        cost=cost,
    )


def _device(options: Options) -> Device:
    name = chosen(options.environment)
    if name not in DEVICES:
        raise by_parser(f"SIMULATED_DEVICE={name} is not known; known are {', '.join(DEVICES)}")
    return DEVICES[name]


def _max_model_len(options: Options, model: Model) -> int:
    derived = model.max_positions or 2048
    asked = options.max_model_len
    if asked is None or asked == AUTO:
        return derived
    if asked < AUTO:
        raise by_fields("ModelConfig", [OutOfRange("max_model_len", asked, "greater_than_equal", AUTO)])
    if asked == 0:
        raise by_config(
            "ModelConfig", "max_model_len must be a positive integer, got int: 0. Example: max_model_len=2048"
        )
    if asked > derived:
        raise by_config(
            "ModelConfig",
            f"User-specified max_model_len ({asked}) is greater than the derived max_model_len "
            f"(max_position_embeddings={float(derived)} or model_max_length=None in model's config.json). To allow "
            "overriding this maximum, set the env var VLLM_ALLOW_LONG_MAX_MODEL_LEN=1.",
        )
    return asked


def _check_cache(options: Options) -> None:
    wrong = []
    if options.block_size is not None and options.block_size <= 0:
        wrong.append(OutOfRange("block_size", options.block_size, "greater_than", 0))
    share = options.gpu_memory_utilization
    if share <= 0:
        wrong.append(OutOfRange("gpu_memory_utilization", share, "greater_than", 0))
    if share > 1:
        wrong.append(OutOfRange("gpu_memory_utilization", share, "less_than_equal", 1))
    if wrong:
        raise by_fields("CacheConfig", wrong)


def _scheduler_limits(options: Options, device: Device, length: int) -> Limits:
    """The defaults of vLLM (`EngineArgs._set_default_max_num_seqs_and_batched_tokens_args`) and its checks."""
    seqs = device.max_num_seqs if options.max_num_seqs is None else options.max_num_seqs
    tokens = options.max_num_batched_tokens
    if tokens is None:
        default = device.max_num_batched_tokens
        tokens = min(seqs * length, default if options.enable_chunked_prefill else max(default, length))
    if options.max_num_seqs is None:
        seqs = min(seqs, tokens)
    _check_at_least_one("SchedulerConfig", max_num_batched_tokens=tokens, max_num_seqs=seqs)
    if tokens < length and not options.enable_chunked_prefill:
        raise by_config(
            "SchedulerConfig",
            f"max_num_batched_tokens ({tokens}) is smaller than max_model_len ({length}). This effectively limits the "
            "maximum sequence length to max_num_batched_tokens and makes vLLM reject longer sequences. Please increase "
            "max_num_batched_tokens or decrease max_model_len.",
        )
    if tokens < seqs:
        raise by_config(
            "SchedulerConfig",
            f"max_num_batched_tokens ({tokens}) must be greater than or equal to max_num_seqs ({seqs}).",
        )
    return Limits(
        max_num_seqs=seqs,
        max_num_batched_tokens=tokens,
        chunked_prefill=options.enable_chunked_prefill,
        prefix_caching=options.enable_prefix_caching,
        reserve_full_isl=options.scheduler_reserve_full_isl,
    )


def _check_at_least_one(config: str, **values: int) -> None:
    wrong = [OutOfRange(name, value, "greater_than_equal", 1) for name, value in values.items() if value < 1]
    if wrong:
        raise by_fields(config, wrong)


def _check_parallel(options: Options) -> None:
    _check_at_least_one("ParallelConfig", tensor_parallel_size=options.tensor_parallel_size)
    for name in ("pipeline_parallel_size", "data_parallel_size"):
        if getattr(options, name) != 1:
            flag = name.replace("_", "-")
            raise by_parser(f"argument --{flag}: {getattr(options, name)} is not simulated, only 1")


def _check_heads(options: Options, model: Model) -> None:
    if model.heads % options.tensor_parallel_size:
        raise by_config(
            "VllmConfig",
            f"Total number of attention heads ({model.heads}) must be divisible by tensor parallel size "
            f"({options.tensor_parallel_size}).",
        )


def _block_size(options: Options, device: Device) -> int:
    asked = device.block_size if options.block_size is None else options.block_size
    if device.family == "cpu" and asked % 32:
        raise by_core(f"ValueError: No common block size for {asked} (CPU_ATTN: [MultipleOf(32)])")
    if device.family == "ascend" and asked % 128:
        if not (options.enable_prefix_caching or options.enable_chunked_prefill):
            raise by_core(f"ValueError: None of the kernel sizes [128] can divide physical block size {asked} evenly")
        return 128  # forced with one line in the log (vllm_ascend.utils)
    if device.family == "cuda" and asked % 16:
        raise by_core(f"ValueError: No common block size for {asked} (FLASH_ATTN: [MultipleOf(16)])")
    return 128 if device.family == "ascend" else asked


def _graphs(options: Options, device: Device, max_num_seqs: int) -> tuple[Graphs, tuple[int, ...]]:
    """What is captured, and at which batch sizes."""
    mode = _graph_mode(options.compilation_config)
    if options.enforce_eager:
        return Graphs(full=False, piecewise=False, largest=0, compiled=False), ()
    if device.family == "cpu" or mode == "NONE":
        return Graphs(full=False, piecewise=False, largest=0), ()
    sizes = _capture_sizes(options.compilation_config, device, max_num_seqs)
    graphs = Graphs(full="FULL" in mode, piecewise="PIECEWISE" in mode, largest=max(sizes, default=0))
    return graphs, sizes


def _graph_mode(config: Mapping[str, Any]) -> str:
    """The name of a mode, which may be given by its number; a wrong one is a KeyError in vLLM, which ends it."""
    given = config.get("cudagraph_mode")
    if given is None:
        return _GRAPH_MODES[-1]
    if isinstance(given, int) and 0 <= given < _NUMBERED_GRAPH_MODES:
        return _GRAPH_MODES[given]
    if str(given).upper() not in _GRAPH_MODES:
        raise by_interpreter(f"KeyError: {str(given).upper()!r}")
    return str(given).upper()


def _capture_sizes(config: Mapping[str, Any], device: Device, max_num_seqs: int) -> tuple[int, ...]:
    """As vLLM's `_set_cudagraph_sizes`: 1, 2, 4, then every 8 up to 256, then every 16, up to the cap."""
    own = config.get("cudagraph_capture_sizes")
    if own:
        return tuple(int(size) for size in own)
    doubled = max_num_seqs if device.family == "ascend" else 2 * max_num_seqs
    largest = int(config.get("max_cudagraph_capture_size") or min(doubled, MOST_CAPTURED))
    sizes = [1, 2, 4, *range(8, 256, 8), *range(256, largest + 1, 16)]
    return tuple(size for size in sizes if size <= largest)


def _check_capture(options: Options, device: Device, model: Model, sizes: tuple[int, ...], graphs: Graphs) -> None:
    """An NPU has about 2048 streams: captured pieces take one per layer, and more where tensors are split."""
    if device.family != "ascend" or not sizes:
        return
    if options.environment.get("TASK_QUEUE_ENABLE") == "2":
        raise by_worker(
            "RuntimeError: Do not support TASK_QUEUE_ENABLE = 2 during NPU graph capture, "
            "please export TASK_QUEUE_ENABLE=1/0."
        )
    if max(sizes) > MOST_CAPTURED:
        raise by_worker(
            "RuntimeError: NPU function error: c10_npu::acl::AclmdlRICaptureBegin(capture_stream_, capture_mode), "
            "error code is 207005\n[Error]: Failed to apply for memory.\n EE9999 [SqCqManage]Alloc sq cq fail, "
            "stream_id=1984, retCode=0x7020023."
        )
    per_size = (model.layers + 1) * (2 if options.tensor_parallel_size > 1 else 1)
    chosen_here = options.compilation_config.get("cudagraph_capture_sizes")  # else vllm-ascend takes fewer itself
    if graphs.piecewise and chosen_here and len(sizes) * per_size > _STREAMS:
        raise by_worker(
            "RuntimeError: NPU function error: c10_npu::acl::AclmdlRICaptureBegin(capture_stream_, capture_mode), "
            "error code is 207008\n[Error]: Stream resources are insufficient."
        )
