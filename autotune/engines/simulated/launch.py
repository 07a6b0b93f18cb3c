"""From what was asked to what runs: vLLM's defaults, its refusals, and the memory that is left for the KV cache."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autotune.engines.simulated.cost import Cost, Graphs
from autotune.engines.simulated.devices import DEVICES, Device, chosen
from autotune.engines.simulated.model import Model
from autotune.engines.simulated.options import Options
from autotune.engines.simulated.refusal import Refused, by_config, by_core, by_parser, by_worker
from autotune.engines.simulated.scheduler import Limits

_GIB = 2**30
_STREAMS = 2048  # per NPU; vllm-ascend leaves some of them free when it chooses the sizes itself
_LARGEST_CAPTURE = 512
_GRAPH_BYTES = {"cuda": 8 * 2**20, "ascend": 6 * 2**20, "cpu": 0}  # of one captured size
_AIV_LINK_FACTOR = 0.6  # all-reduces unrolled by the vector cores start sooner
_HCCL_BUFFER_MIB = 200
_TRUE = frozenset({"1", "true", "True"})


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
    limits = _scheduler_limits(options, device, length)
    _check_parallel(options, model)
    block_size = _block_size(options, device)
    graphs, sizes = _graphs(options, device, limits.max_num_seqs)
    kv_bytes = _kv_bytes(options, device, model, limits, len(sizes))
    per_token = math.ceil(model.kv_bytes_per_token / options.tensor_parallel_size)
    _check_one_request(kv_bytes, per_token, length, block_size)
    _check_capture(options, device, model, sizes, graphs)
    blocks = options.num_gpu_blocks_override or kv_bytes // (per_token * block_size)
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
        limits=limits.sized(block_size=block_size, num_blocks=blocks),
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
    if asked is not None and asked > derived:
        raise by_config(
            "ModelConfig",
            f"User-specified max_model_len ({asked}) is greater than the derived max_model_len "
            f"(max_position_embeddings={float(derived)} or model_max_length=None in model's config.json). To allow "
            "overriding this maximum, set the env var VLLM_ALLOW_LONG_MAX_MODEL_LEN=1.",
        )
    return asked or derived


def _scheduler_limits(options: Options, device: Device, length: int) -> Limits:
    """The defaults of vLLM (`EngineArgs._set_default_max_num_seqs_and_batched_tokens_args`) and its checks."""
    seqs = options.max_num_seqs or device.max_num_seqs
    tokens = options.max_num_batched_tokens
    if tokens is None:
        default = device.max_num_batched_tokens
        tokens = min(seqs * length, default if options.enable_chunked_prefill else max(default, length))
        seqs = seqs if options.max_num_seqs else min(seqs, tokens)
    elif options.max_num_seqs is None:
        seqs = min(seqs, tokens)
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
    )


def _check_parallel(options: Options, model: Model) -> None:
    for name in ("pipeline_parallel_size", "data_parallel_size"):
        if getattr(options, name) != 1:
            flag = name.replace("_", "-")
            raise by_parser(f"argument --{flag}: {getattr(options, name)} is not simulated, only 1")
    if model.heads % options.tensor_parallel_size:
        raise by_config(
            "VllmConfig",
            f"Total number of attention heads ({model.heads}) must be divisible by tensor parallel size "
            f"({options.tensor_parallel_size}).",
        )


def _block_size(options: Options, device: Device) -> int:
    asked = options.block_size or device.block_size
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
    mode = str(options.compilation_config.get("cudagraph_mode", "FULL_AND_PIECEWISE")).upper()
    if options.enforce_eager:
        return Graphs(full=False, piecewise=False, largest=0, compiled=False), ()
    if device.family == "cpu" or mode == "NONE":
        return Graphs(full=False, piecewise=False, largest=0), ()
    sizes = _capture_sizes(options.compilation_config, device, max_num_seqs)
    graphs = Graphs(full="FULL" in mode, piecewise="PIECEWISE" in mode, largest=max(sizes, default=0))
    return graphs, sizes


def _capture_sizes(config: Mapping[str, Any], device: Device, max_num_seqs: int) -> tuple[int, ...]:
    """As vLLM's `_set_cudagraph_sizes`: 1, 2, 4, then every 8 up to 256, then every 16, up to the cap."""
    own = config.get("cudagraph_capture_sizes")
    if own:
        return tuple(int(size) for size in own)
    doubled = max_num_seqs if device.family == "ascend" else 2 * max_num_seqs
    largest = int(config.get("max_cudagraph_capture_size") or min(doubled, _LARGEST_CAPTURE))
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
    if max(sizes) > _LARGEST_CAPTURE:
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


def _kv_bytes(options: Options, device: Device, model: Model, limits: Limits, captured: int) -> int:
    """Bytes of one rank for the KV cache; at most 0 when nothing is left. Raises Refused when the device runs out."""
    total = device.memory_bytes
    space = options.environment.get("VLLM_CPU_KVCACHE_SPACE")
    if device.family == "cpu" and space:
        return _requested_main_memory(float(space), device)
    weights = math.ceil(model.weight_bytes / options.tensor_parallel_size)
    if weights > total - device.outside_bytes:
        raise _out_of_memory(device, wanted=weights // model.layers, allocated=total - device.outside_bytes)
    share = options.gpu_memory_utilization * total
    _check_share(options, device)
    graph_bytes = _GRAPH_BYTES[device.family] * captured
    outside = device.outside_bytes + _communication_bytes(options, device) + graph_bytes
    if options.kv_cache_memory_bytes:
        share = options.kv_cache_memory_bytes + weights + _activation_bytes(options, model, limits)
    if share + outside > total:
        raise _out_of_memory(device, wanted=max(graph_bytes, 22 * 2**20), allocated=int(share))
    return int(share - weights - _activation_bytes(options, model, limits))


def _requested_main_memory(space_gib: float, device: Device) -> int:
    free = device.memory_bytes - device.outside_bytes
    if space_gib * _GIB > free:
        raise by_worker(
            f"ValueError: Available memory on node 0 ({free / _GIB:.2f}/{device.memory_bytes / _GIB:.2f} GiB) on kv "
            f"cache allocation is less than requested memory for kv ({space_gib} GiB). Decrease "
            "--kv-cache-memory-bytes, VLLM_CPU_KVCACHE_SPACE, or reduce CPU memory used by other processes."
        )
    return int(space_gib * _GIB)


def _check_share(options: Options, device: Device) -> None:
    share = options.gpu_memory_utilization
    if not 0 < share <= 1:
        raise by_config("CacheConfig", f"GPU memory utilization must be in (0, 1]. Got {share}.")
    free = device.memory_bytes - device.outside_bytes
    if device.family == "cpu" and share * device.memory_bytes > free:
        raise by_worker(
            f"ValueError: Available memory on node 0 ({free / _GIB:.2f}/{device.memory_bytes / _GIB:.2f} GiB) on "
            f"startup is less than desired CPU memory utilization ({share}, {share * device.memory_bytes / _GIB:.2f} "
            "GiB). On the CPU backend, the `--gpu-memory-utilization` flag controls the fraction of CPU memory "
            "reserved (despite its name)."
        )


def _activation_bytes(options: Options, model: Model, limits: Limits) -> int:
    """The peak while a full step runs: hidden states, both halves of the feed-forward part, and the logits."""
    per_token = 2 * (6 * model.hidden + 3 * model.intermediate // options.tensor_parallel_size)
    return per_token * limits.max_num_batched_tokens + 4 * model.vocabulary * limits.max_num_seqs


def _communication_bytes(options: Options, device: Device) -> int:
    """HCCL takes twice its buffer per communicator; NCCL's buffers are of the same order."""
    if options.tensor_parallel_size == 1 or device.family == "cpu":
        return 0
    return 2 * int(options.environment.get("HCCL_BUFFSIZE", _HCCL_BUFFER_MIB)) * 2**20


def _out_of_memory(device: Device, *, wanted: int, allocated: int) -> Refused:
    total, free = device.memory_bytes / _GIB, max(0, device.memory_bytes - device.outside_bytes - allocated) / 2**20
    if device.family == "cuda":
        return by_worker(
            f"torch.OutOfMemoryError: CUDA out of memory. Tried to allocate {wanted / _GIB:.2f} GiB. GPU 0 has a total "
            f"capacity of {total:.2f} GiB of which {free:.2f} MiB is free."
        )
    if device.family == "ascend":
        held = allocated / _GIB
        return by_worker(
            f"RuntimeError: NPU out of memory. Tried to allocate {wanted / 2**20:.2f} MiB (NPU 0; {total:.2f} GiB "
            f"total capacity; {held:.2f} GiB already allocated; {held:.2f} GiB current active; {free:.2f} MiB free; "
            f"{held:.2f} GiB reserved in total by PyTorch) If reserved memory is >> allocated memory try setting "
            "max_split_size_mb to avoid fragmentation."
        )
    return by_worker(
        "RuntimeError: [enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you "
        f"tried to allocate {wanted} bytes. Error code 12 (Cannot allocate memory)"
    )


def _check_one_request(kv_bytes: int, per_token: int, length: int, block_size: int) -> None:
    """As vLLM's `check_enough_kv_cache_memory`: one request of the greatest length must fit."""
    if kv_bytes <= 0:
        raise by_core(
            "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when "
            "initializing the engine (this flag also controls CPU memory reservation on the CPU backend, despite its "
            "name). See https://docs.vllm.ai/en/latest/configuration/conserving_memory/ for more details."
        )
    needed = math.ceil(length / block_size) * block_size * per_token
    if needed > kv_bytes:
        longest = kv_bytes // per_token // block_size * block_size
        raise by_core(
            f"ValueError: To serve at least one request with the model's max seq len ({length}), "
            f"({needed / _GIB:.2f} GiB KV cache is needed, which is larger than the available KV cache memory "
            f"({kv_bytes / _GIB:.2f} GiB). Based on the available memory, the estimated maximum model length is "
            f"{longest}. Try increasing `gpu_memory_utilization` (which also controls CPU memory on the CPU backend) "
            "or decreasing `max_model_len` when initializing the engine. See "
            "https://docs.vllm.ai/en/latest/configuration/conserving_memory/ for more details."
        )
