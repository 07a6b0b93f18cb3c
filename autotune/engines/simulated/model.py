"""The model that is served, as sizes: from its folder's `config.json`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.errors import InputError
from autotune.model_card import read_model

_BYTES_PER_VALUE = 2  # bfloat16


@dataclass(frozen=True, slots=True)
class Model:
    """Sizes of a decoder. Parameters count weights; sizes are in bytes at 16 bits."""

    architecture: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    latent_kv: bool  # MLA: one latent vector per token and layer instead of keys and values per head
    head_size: int
    intermediate: int
    vocabulary: int
    max_positions: int
    active_parameters: int  # that one token is multiplied with, without the embedding table
    head_parameters: int  # of the output layer: multiplied only where a token is sampled
    weight_bytes: int
    kv_bytes_per_token: int  # of all layers
    experts: int = 0  # routed ones per layer; 0: none
    experts_per_token: int = 0
    expert_bytes: int = 0  # of `weight_bytes`, those of all routed experts

    def kv_shards(self, ranks: int) -> int:
        """Over how many of the tensor-parallel ranks the KV cache is divided; the others hold copies.

        A latent vector is everybody's, and no head is divided (vLLM's `ModelConfig.get_num_kv_heads`).
        """
        return 1 if self.latent_kv else min(ranks, self.kv_heads)

    def weight_bytes_read(self, tokens: int) -> float:
        """Bytes of weights that a step of so many tokens reads: of experts, those with at least one token.

        A token misses one of E experts with probability 1 - k/E, so E (1 - (1 - k/E)^tokens) of them are expected to
        be read. Assumes that tokens are routed independently and uniformly, which is what load-balancing losses train
        for (Fedus et al., Switch Transformers, JMLR 23, 2022); real routers prefer some experts and read fewer.
        """
        if not self.experts:
            return self.weight_bytes
        missed = (1 - self.experts_per_token / self.experts) ** tokens
        return self.weight_bytes - self.expert_bytes * missed


def read(folder: Path) -> Model:
    """Read a model folder. Raises InputError when there is no `config.json`, or it is not a decoder's."""
    card = read_model(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text: dict[str, Any] = config.get("text_config") or config
    try:
        layers, hidden, heads = (
            int(text[name]) for name in ("num_hidden_layers", "hidden_size", "num_attention_heads")
        )
    except KeyError as exc:
        raise InputError(f"{folder / 'config.json'}: has no {exc}; only decoders can be simulated") from exc
    head_size = int(text.get("head_dim") or hidden // heads)
    kv_heads = int(text.get("num_key_value_heads") or heads)
    intermediate = int(text.get("intermediate_size") or 4 * hidden)
    attention = hidden * head_size * (2 * heads + 2 * kv_heads)
    layer = _feed_forward(text, hidden, intermediate)
    table = card.vocab_size * hidden
    tables = table if text.get("tie_word_embeddings") else 2 * table
    parameters = layers * (attention + layer.always + layer.experts * layer.expert) + tables
    weight_bytes = card.weight_bytes or parameters * _BYTES_PER_VALUE
    full_kv = 2 * layers * kv_heads * head_size * _BYTES_PER_VALUE
    return Model(
        architecture=(config.get("architectures") or ["LlamaForCausalLM"])[0],
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        latent_kv=bool(text.get("kv_lora_rank")),
        head_size=head_size,
        intermediate=intermediate,
        vocabulary=card.vocab_size,
        max_positions=card.max_positions,
        active_parameters=layers * (attention + layer.always + layer.chosen * layer.expert),
        head_parameters=table,
        weight_bytes=weight_bytes,
        kv_bytes_per_token=card.kv_bytes_per_token or full_kv,  # an upper bound for sliding windows
        experts=layer.experts,
        experts_per_token=layer.chosen,
        expert_bytes=weight_bytes * layers * layer.experts * layer.expert // parameters,
    )


@dataclass(frozen=True, slots=True)
class _FeedForward:
    """A layer's gated feed-forward part, in weights."""

    always: int  # that every token is multiplied with: all of it, or the shared experts
    experts: int = 0
    chosen: int = 0  # of these, per token
    expert: int = 0  # weights of one


def _feed_forward(text: dict[str, Any], hidden: int, intermediate: int) -> _FeedForward:
    experts = int(text.get("num_experts") or text.get("n_routed_experts") or text.get("num_local_experts") or 0)
    if not experts:
        return _FeedForward(always=3 * hidden * intermediate)
    one = 3 * hidden * int(text.get("moe_intermediate_size") or intermediate)
    chosen = min(experts, int(text.get("num_experts_per_tok") or 1))
    return _FeedForward(always=int(text.get("n_shared_experts") or 0) * one, experts=experts, chosen=chosen, expert=one)
