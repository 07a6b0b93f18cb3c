"""The memory of a device: what is left for the KV cache, how many blocks that gives, and when it is too little."""

import math

from autotune.engines.simulated.devices import Device
from autotune.engines.simulated.model import Model
from autotune.engines.simulated.options import Options
from autotune.engines.simulated.refusal import Refused, by_core, by_worker
from autotune.engines.simulated.scheduler import Limits
from autotune.model_card import HCCL_BUFFER_MIB, activation_bytes

_GIB = 2**30
_GRAPH_BYTES = {"cuda": 8 * 2**20, "ascend": 6 * 2**20, "cpu": 0}  # of one captured size
_ADVICE = "See https://docs.vllm.ai/en/latest/configuration/conserving_memory/ for more details."


def profiled_bytes(options: Options, device: Device, model: Model, limits: Limits, captured: int) -> int:
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
    free = device.memory_bytes - device.outside_bytes
    if device.family == "cpu" and share * device.memory_bytes > free:
        raise by_worker(
            f"ValueError: Available memory on node 0 ({free / _GIB:.2f}/{device.memory_bytes / _GIB:.2f} GiB) on "
            f"startup is less than desired CPU memory utilization ({share}, {share * device.memory_bytes / _GIB:.2f} "
            "GiB). On the CPU backend, the `--gpu-memory-utilization` flag controls the fraction of CPU memory "
            "reserved (despite its name)."
        )


def _activation_bytes(options: Options, model: Model, limits: Limits) -> int:
    return activation_bytes(
        hidden=model.hidden,
        intermediate=model.intermediate,
        vocabulary=model.vocabulary,
        tensor_parallel=options.tensor_parallel_size,
        max_num_batched_tokens=limits.max_num_batched_tokens,
        max_num_seqs=limits.max_num_seqs,
    )


def _communication_bytes(options: Options, device: Device) -> int:
    """HCCL takes twice its buffer per communicator; NCCL's buffers are of the same order."""
    if options.tensor_parallel_size == 1 or device.family == "cpu":
        return 0
    return 2 * int(options.environment.get("HCCL_BUFFSIZE", HCCL_BUFFER_MIB)) * 2**20


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


def blocks(options: Options, kv_bytes: int, block_bytes: int) -> int:
    """How many blocks the KV cache has; `--num-gpu-blocks-override` stands for any memory there is."""
    override = options.num_gpu_blocks_override
    return kv_bytes // block_bytes if override is None else override


def fitted_length(num_blocks: int, block_size: int, derived: int) -> int:
    """What `--max-model-len auto` becomes, as in vLLM's `_auto_fit_max_model_len`. Raises Refused when nothing fits."""
    longest = min(derived, (num_blocks - 1) * block_size)
    if longest <= 0:
        raise by_core(
            "ValueError: Cannot auto-fit max_model_len: not enough GPU memory available to serve even a single token. "
            "Try increasing `gpu_memory_utilization`."
        )
    return longest


def check_one_request(num_blocks: int, block_bytes: int, block_size: int, length: int) -> None:
    """As vLLM's `_check_enough_kv_cache_memory`: a request of the greatest length must fit beside the null block.

    So no request waits for ever: those that are longer are refused when they come. Raises Refused.
    """
    usable = num_blocks - 1
    if usable <= 0:
        raise by_core(
            "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when "
            "initializing the engine (this flag also controls CPU memory reservation on the CPU backend, despite its "
            f"name). {_ADVICE}"
        )
    needed = math.ceil(length / block_size)
    if needed > usable:
        raise by_core(
            f"ValueError: To serve at least one request with the model's max seq len ({length}), "
            f"({_gib(needed * block_bytes)} GiB KV cache is needed, which is larger than the available KV cache memory "
            f"({_gib(usable * block_bytes)} GiB). Based on the available memory, the estimated maximum model length is "
            f"{usable * block_size}. Try increasing `gpu_memory_utilization` (which also controls CPU memory on the "
            f"CPU backend) or decreasing `max_model_len` when initializing the engine. {_ADVICE}"
        )


def _gib(size: int) -> str:
    """As vLLM's `format_gib`."""
    return f"{round(size / _GIB, 2)}"
