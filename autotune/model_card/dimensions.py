"""The dimensions of a decoder, read from its `config.json` whatever names its authors gave them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_CHATGLM = {
    "num_layers": "num_hidden_layers",
    "kv_channels": "head_dim",
    "ffn_hidden_size": "intermediate_size",
    "padded_vocab_size": "vocab_size",
    "add_qkv_bias": "attention_bias",
    "seq_length": "max_position_embeddings",
}
"""The names of ChatGLM's own configuration (GLM-4-9B) -> those of everybody else."""

_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")


@dataclass(frozen=True, slots=True)
class Latent:
    """Multi-head latent attention (DeepSeek-AI, DeepSeek-V2, 2024): ranks and head sizes."""

    rank: int
    query_rank: int  # 0: queries are not compressed
    nope: int
    rope: int
    value: int
    index_heads: int = 0  # of the indexer of sparse attention (DeepSeek-V3.2), which chooses what is attended to
    index_size: int = 0
    index_layers: int = 0  # that have an indexer; the others take the choice of an earlier one


@dataclass(frozen=True, slots=True)
class Traits:
    """What an architecture has beside its projections. Norms are vectors of the hidden size, per layer."""

    norms: int = 2
    qkv_bias: bool = False
    qk_norm: bool = False
    router_bias: bool = False
    shared_gate: bool = False  # of the shared expert (Qwen2-MoE)
    tied: bool = False  # where the configuration does not say


_TRAITS: Mapping[str, Traits] = {
    "llama": Traits(),
    "mistral": Traits(),
    "mixtral": Traits(),
    "phi3": Traits(),
    "qwen2": Traits(qkv_bias=True),
    "qwen2_moe": Traits(qkv_bias=True, shared_gate=True),
    "qwen3": Traits(qk_norm=True),
    "qwen3_moe": Traits(qk_norm=True),
    "deepseek_v2": Traits(),
    "deepseek_v3": Traits(router_bias=True),
    "deepseek_v32": Traits(router_bias=True),
    "kimi_k2": Traits(router_bias=True),
    "chatglm": Traits(),
    "glm4": Traits(norms=4),
    "glm4_moe": Traits(router_bias=True),
    "gemma": Traits(tied=True),
    "gemma2": Traits(norms=4, tied=True),
    "gemma3_text": Traits(norms=4, qk_norm=True, tied=True),
}
"""`model_type` of the architectures whose weights follow from their dimensions: a gated MLP, or experts like it."""


@dataclass(frozen=True, slots=True)
class Dimensions:
    """Sizes of a decoder whose weights follow from them."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate: int
    vocabulary: int
    tied: bool  # the output layer is the embedding table
    traits: Traits
    latent: Latent | None = None
    sparse_layers: int = 0  # of `layers`, those with experts
    experts: int = 0  # routed ones of such a layer
    experts_per_token: int = 0
    expert_width: int = 0
    shared_width: int = 0  # of the shared experts together


def normalized(config: Mapping[str, Any]) -> dict[str, Any]:
    """The decoder's part of a configuration, with the usual names."""
    text = dict(config.get("text_config") or config)
    renamed = {usual: text[own] for own, usual in _CHATGLM.items() if own in text}
    if text.get("multi_query_attention"):
        renamed["num_key_value_heads"] = text.get("multi_query_group_num")
    return text | renamed


def dimensions(config: Mapping[str, Any]) -> Dimensions | None:
    """Read a normalized configuration; None for an architecture whose weights do not follow from it."""
    traits = _TRAITS.get(str(config.get("model_type")))
    needed = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "vocab_size")
    if traits is None or not all(config.get(name) for name in needed):
        return None
    layers, hidden, heads, intermediate, vocabulary = (int(config[name]) for name in needed)
    experts = next((int(config[name]) for name in _EXPERTS if config.get(name)), 0)
    width = int(config.get("moe_intermediate_size") or intermediate)
    tied = config.get("tie_word_embeddings")
    return Dimensions(
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=int(config.get("num_key_value_heads") or heads),
        head_size=int(config.get("head_dim") or hidden // heads),
        intermediate=intermediate,
        vocabulary=vocabulary,
        tied=traits.tied if tied is None else bool(tied),
        traits=_as_configured(traits, config),
        latent=_latent(config),
        sparse_layers=_sparse_layers(config, layers) if experts else 0,
        experts=experts,
        experts_per_token=int(config.get("num_experts_per_tok") or 0),
        expert_width=width,
        shared_width=_shared_width(config, width) if experts else 0,
    )


def has_experts(config: Mapping[str, Any]) -> bool:
    """Whether a token meets only some of the weights."""
    return any(config.get(name) for name in _EXPERTS)


def _as_configured(traits: Traits, config: Mapping[str, Any]) -> Traits:
    """The architecture's traits, where the configuration does not switch them."""
    bias, norm = config.get("attention_bias"), config.get("use_qk_norm")
    return Traits(
        norms=traits.norms,
        qkv_bias=traits.qkv_bias if bias is None else bool(bias),
        qk_norm=traits.qk_norm if norm is None else bool(norm),
        router_bias=traits.router_bias,
        shared_gate=traits.shared_gate,
        tied=traits.tied,
    )


def _latent(config: Mapping[str, Any]) -> Latent | None:
    if not config.get("kv_lora_rank"):
        return None
    names = ("kv_lora_rank", "q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
    rank, query_rank, nope, rope, value = (int(config.get(name) or 0) for name in names)
    heads, size = (int(config.get(name) or 0) for name in ("index_n_heads", "index_head_dim"))
    return Latent(rank, query_rank, nope, rope, value, heads, size, index_layers(config))


def index_layers(config: Mapping[str, Any]) -> int:
    """Layers with an indexer, as vLLM's `deepseek_v2.py` has them: all, every so-manieth, or as a pattern says."""
    layers = int(config.get("num_hidden_layers") or 0) if config.get("index_head_dim") else 0
    pattern = config.get("index_topk_pattern")
    if pattern is not None:
        return sum(layer >= len(pattern) or pattern[layer] != "S" for layer in range(layers))
    every, first = int(config.get("index_topk_freq") or 1), int(config.get("index_skip_topk_offset", 2))
    return sum(max(layer - first + 1, 0) % every == 0 for layer in range(layers))


def _sparse_layers(config: Mapping[str, Any], layers: int) -> int:
    """DeepSeek's first layers are dense; Qwen names dense ones, or has experts in every so-manieth layer."""
    first = int(config.get("first_k_dense_replace") or 0)
    step = int(config.get("decoder_sparse_step") or config.get("moe_layer_freq") or 1)
    dense = set(config.get("mlp_only_layers") or ())
    return sum(1 for layer in range(first, layers) if layer not in dense and (layer + 1) % step == 0)


def _shared_width(config: Mapping[str, Any], width: int) -> int:
    return int(config.get("shared_expert_intermediate_size") or width * int(config.get("n_shared_experts") or 0))
