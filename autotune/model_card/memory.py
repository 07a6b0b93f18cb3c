"""The memory that a launch needs on each of its devices: weights, KV cache, workspace; and what is left of a budget.

`docs/memory.md` has the formulas with their sources.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autotune.model_card.card import GIB, ModelCard

UTILIZATION = 0.92
"""The share of a device's memory that vLLM 0.23 to 0.32 takes unless told otherwise."""

_WHOLE = ("max_num_seqs", "max_num_batched_tokens", "block_size")
HCCL_BUFFER_MIB = 200  # the default; a communicator takes it twice. NCCL's buffers are of the same order
_HCCL_BUFFER = "HCCL_BUFFSIZE"
_CAPTURE_BYTES = 8 * 2**20  # of one captured batch size
_CAPTURE_STEP = 8  # vLLM captures 1, 2, 4, then every eighth batch size
MOST_CAPTURED = 512  # the largest batch size that vLLM captures
_SIXTEEN_BITS = ("auto", "bfloat16", "float16")  # how `kv_cache_dtype` spells a cache of two bytes per value
_EIGHT_BITS = ("fp8", "int8", "mxfp8")
_MLA_HEADS = (32, 64, 128)  # heads per rank that vllm-ascend's MLA kernels take (its FAQ, 13)


@dataclass(frozen=True, slots=True)
class Parallel:
    """Over how many devices a launch is spread."""

    tensor: int = 1
    pipeline: int = 1
    data: int = 1

    @property
    def devices(self) -> int:
        """All of them."""
        return self.tensor * self.pipeline * self.data


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a launch decides its memory. Defaults are vLLM's where it knows no better (on Ascend: always)."""

    max_model_len: int
    parallel: Parallel = Parallel()
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    gpu_memory_utilization: float = UTILIZATION
    kv_cache_dtype: str = "auto"
    block_size: int = 128
    eager: bool = False  # nothing is captured
    hccl_buffer_mib: int = HCCL_BUFFER_MIB

    @property
    def kv_scale(self) -> float:
        """Bytes of a cached value, as a share of 16 bits; what is neither 16 nor 8 bits is taken for 4."""
        if self.kv_cache_dtype in _SIXTEEN_BITS:
            return 1.0
        return 0.5 if self.kv_cache_dtype.startswith(_EIGHT_BITS) else 0.25


@dataclass(frozen=True, slots=True)
class Estimate:
    """The memory of one device of a launch, in bytes."""

    weights: int
    kv_per_token: float  # of a token that every layer keeps
    kv_per_request: int  # of one request of `max_model_len`
    activations: int  # at the peak of a full step
    communication: int
    graphs: int

    @property
    def workspace(self) -> int:
        """All that is neither weights nor KV cache."""
        return self.activations + self.communication + self.graphs


@dataclass(frozen=True, slots=True)
class Room:
    """What is left for the KV cache on a device of a given size."""

    kv_bytes: int  # negative when weights and workspace alone are too much
    tokens: int
    concurrent_requests: float  # of `max_model_len`, on all devices of the launch together

    @property
    def fits(self) -> bool:
        """Whether the engine would start: one request of the greatest length has room."""
        return self.concurrent_requests >= 1


def shape_of(
    arguments: Mapping[str, Any], environment: Mapping[str, str] | None = None, *, max_model_len: int = 0
) -> Shape:
    """The shape of a configuration's engine arguments and environment; what they leave open is the engine's default."""
    buffer_mib = (environment or {}).get(_HCCL_BUFFER, "")
    numbers = {name: value for name, value in arguments.items() if isinstance(value, int | float) and value > 0}
    whole = {name: int(numbers[name]) for name in _WHOLE if name in numbers}
    sizes = [int(numbers.get(f"{kind}_parallel_size", 1)) for kind in ("tensor", "pipeline", "data")]
    return Shape(
        max_model_len=int(numbers.get("max_model_len", max_model_len)),
        parallel=Parallel(*sizes),
        gpu_memory_utilization=float(numbers.get("gpu_memory_utilization", UTILIZATION)),
        kv_cache_dtype=str(arguments.get("kv_cache_dtype") or "auto"),
        eager=bool(arguments.get("enforce_eager")),
        hccl_buffer_mib=int(buffer_mib) if buffer_mib.isdecimal() else HCCL_BUFFER_MIB,
        **whole,
    )


def estimate(card: ModelCard, shape: Shape) -> Estimate:
    """What one device holds; the first of a pipeline, which has the most beside its layers."""
    return Estimate(
        weights=_weights(card, shape.parallel),
        kv_per_token=_kv(card, shape, [1 for _ in card.kv_layers]),
        kv_per_request=math.ceil(_kv(card, shape, _kept(card, shape))),
        activations=activation_bytes(
            hidden=card.hidden,
            intermediate=card.intermediate,
            vocabulary=card.vocab_size,
            tensor_parallel=shape.parallel.tensor,
            max_num_batched_tokens=shape.max_num_batched_tokens,
            max_num_seqs=shape.max_num_seqs,
        ),
        communication=2 * shape.hccl_buffer_mib * 2**20 if shape.parallel.devices > 1 else 0,
        graphs=0 if shape.eager else _captured(shape.max_num_seqs) * _CAPTURE_BYTES,
    )


def room(found: Estimate, shape: Shape, device_bytes: int) -> Room:
    """What a device of this size has left for the KV cache: vLLM's budget is a share of all its memory."""
    kv_bytes = int(shape.gpu_memory_utilization * device_bytes) - found.weights - found.workspace
    tokens = int(max(0, kv_bytes) / found.kv_per_token) if found.kv_per_token else 0
    requests = max(0, kv_bytes) / found.kv_per_request * shape.parallel.data if found.kv_per_request else 0.0
    return Room(kv_bytes, tokens, requests)


def activation_bytes(
    *,
    hidden: int,
    intermediate: int,
    vocabulary: int,
    tensor_parallel: int,
    max_num_batched_tokens: int,
    max_num_seqs: int,
) -> int:
    """The peak while a full step runs: hidden states, both halves of the feed-forward part, and the logits in 32 bits.

    Six vectors of the hidden size (residual, norm, query, key and value, attention, output) and three of the
    intermediate one (gate, up, their product) are alive at once at most; 2 bytes a value.
    """
    per_token = 2 * (6 * hidden + 3 * intermediate // tensor_parallel)
    return per_token * max_num_batched_tokens + 4 * vocabulary * max_num_seqs


def shortfall(card: ModelCard, shape: Shape, device_bytes: int) -> str | None:
    """Why a launch surely cannot fit: weights plus the KV cache of one request are more than the devices hold.

    A lower bound (no activations, no workspace, the whole of the memory): what passes may still run out of it.
    """
    weights = _weights(card, shape.parallel)
    kv = _kv(card, shape, [kind.fewest_tokens(shape.max_model_len) for kind in card.kv_layers])
    if not device_bytes or weights + kv <= device_bytes:
        return None
    devices = shape.parallel.devices
    each = " on each" if devices > 1 else ""
    return (
        f"weights ({weights / GIB:.1f} GiB{each}) and the KV cache of one request of {shape.max_model_len} tokens "
        f"({kv / GIB:.1f} GiB{each}) exceed {devices} x {device_bytes / GIB:.1f} GiB"
    )


def refusals(card: ModelCard, parallel: Parallel) -> list[str]:
    """Why vLLM would refuse to divide the model so, whatever the memory."""
    found, ranks, size = [], parallel.tensor, card.size
    if card.heads % ranks:
        found.append(f"{card.heads} attention heads cannot be divided by {ranks}")
    for kind in card.kv_layers:
        if kind.shards > 1 and kind.shards % ranks and ranks % kind.shards:
            found.append(f"{kind.shards} KV heads cannot be divided by {ranks}")
            break
    block = card.scheme.block if card.scheme else 0
    if block and size is not None and ranks > 1:
        width = size.expert_width if size.sparse_layers else size.intermediate
        if width % (ranks * block):
            found.append(f"a width of {width} over {ranks} is no multiple of the FP8 blocks of {block}")
    return found


def mla_warning(card: ModelCard, parallel: Parallel) -> str | None:
    """What vllm-ascend says of a model with latent attention whose heads per rank its kernels do not take."""
    if not card.latent or card.heads // parallel.tensor in _MLA_HEADS:
        return None
    return f"{card.heads // parallel.tensor} heads per NPU; MLA kernels of vllm-ascend take 32, 64 or 128"


def _weights(card: ModelCard, parallel: Parallel) -> int:
    """Experts are divided among data-parallel ranks too, the rest only among tensor-parallel ones; layers in pipelines.

    vLLM, `FusedMoEParallelConfig.make`: with or without expert parallelism.
    """
    divided = card.weight_bytes - card.expert_bytes - card.replicated_bytes
    experts = card.expert_bytes / (parallel.tensor * parallel.data)
    return math.ceil((divided / parallel.tensor + experts + card.replicated_bytes) / parallel.pipeline)


def _kv(card: ModelCard, shape: Shape, tokens: Sequence[int]) -> float:
    """Bytes of so many tokens in each kind of layers, on one rank."""
    parallel = shape.parallel
    held = sum(kind.on_rank(parallel.tensor) * kept for kind, kept in zip(card.kv_layers, tokens, strict=True))
    return held * shape.kv_scale / parallel.pipeline


def _kept(card: ModelCard, shape: Shape) -> list[int]:
    in_flight = shape.max_num_batched_tokens
    return [kind.tokens(shape.max_model_len, shape.block_size, in_flight) for kind in card.kv_layers]


def _captured(max_num_seqs: int) -> int:
    return 3 + math.ceil(min(max_num_seqs, MOST_CAPTURED) / _CAPTURE_STEP)
