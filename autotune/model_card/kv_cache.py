"""What the layers of a model keep of each token in the KV cache."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autotune.model_card.dimensions import index_layers

VALUE_BYTES = 2  # bfloat16 and float16; a quantised KV cache is opt-in and halves it


@dataclass(frozen=True, slots=True)
class KvLayers:
    """Layers of one kind. Bytes are of all of them together, at 16 bits a value, on one device."""

    layers: int
    bytes_per_token: int
    shards: int  # over how many tensor-parallel ranks the heads are divided; more ranks hold copies
    window: int = 0  # only so many tokens are kept; 0: all of them
    index: bool = False  # the keys of an indexer, for which CUDA needs half as much

    def on_rank(self, ranks: int) -> float:
        """Bytes per token on one of so many tensor-parallel ranks."""
        return self.bytes_per_token / min(ranks, self.shards)

    def tokens(self, length: int, block_size: int, in_flight: int) -> int:
        """Tokens whose room a request of so many needs, in whole blocks.

        As `max_memory_usage_bytes` in vLLM's `v1/kv_cache_interface.py`: a window keeps the tokens that are in flight
        too, and may begin inside a block.
        """
        if not self.window:
            return math.ceil(length / block_size) * block_size
        return (math.ceil(min(self.window - 1 + in_flight, length) / block_size) + 1) * block_size

    def fewest_tokens(self, length: int) -> int:
        """What is surely kept of a request, in tokens of this size."""
        if self.index:
            return length // 2
        return min(length, self.window) if self.window else length


def kv_layers(config: Mapping[str, Any]) -> tuple[KvLayers, ...]:
    """The layers that keep tokens, by kind; empty when the attention is of a kind that is not known here.

    2 (K and V) x KV heads x head size x 2 bytes a layer; for MLA one latent and one rotary vector, which no rank can
    divide, and for sparse attention (DeepSeek-V3.2) the indexer's key, at 16 bits as vllm-ascend keeps it (CUDA: 8 bits
    and a scale). Source: vLLM `v1/kv_cache_interface.py`, `FullAttentionSpec` and `MLAAttentionSpec` page sizes. Layers
    of linear attention keep a state of constant size, which is not counted.
    """
    layers, heads = int(config.get("num_hidden_layers") or 0), int(config.get("num_attention_heads") or 0)
    if not layers or not heads:
        return ()
    if config.get("kv_lora_rank"):
        latent = int(config["kv_lora_rank"]) + int(config.get("qk_rope_head_dim") or 0)
        found = [KvLayers(layers, layers * latent * VALUE_BYTES, 1)]
        if indexers := index_layers(config):
            found.append(KvLayers(indexers, indexers * int(config["index_head_dim"]) * VALUE_BYTES, 1, index=True))
        return tuple(found)
    size = int(config.get("head_dim") or int(config.get("hidden_size") or 0) // heads)
    kv_heads = int(config.get("num_key_value_heads") or heads)
    shared = int(config.get("num_kv_shared_layers") or 0)  # the last ones use the cache of earlier ones (Gemma 3n)
    windows = _windows(config, layers)[: layers - shared]
    found = []
    for window in sorted({window for window in windows if window is not None}):
        alike = windows.count(window)
        found.append(KvLayers(alike, alike * 2 * kv_heads * size * VALUE_BYTES, kv_heads, window))
    return tuple(found)


def _windows(config: Mapping[str, Any], layers: int) -> list[int | None]:
    """The window of each layer: 0 keeps all tokens, None keeps none."""
    window = int(config.get("sliding_window") or 0)
    kinds = config.get("layer_types")
    if kinds:
        known = {"full_attention": 0, "sliding_attention": window, "chunked_attention": 0, "attention": 0}
        return [known.get(str(kind)) for kind in kinds][:layers]
    if not window or not config.get("use_sliding_window", True):
        return [0] * layers
    every = {"gemma2": 2, "gemma3_text": int(config.get("sliding_window_pattern") or 6)}
    pattern = every.get(str(config.get("model_type")))
    if pattern:  # each so-manieth layer sees everything
        return [0 if (layer + 1) % pattern == 0 else window for layer in range(layers)]
    first = int(config.get("max_window_layers") or 0)  # Qwen2: the layers from here on have the window
    return [window if layer >= first else 0 for layer in range(layers)]
