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
    head_size: int
    intermediate: int
    vocabulary: int
    max_positions: int
    active_parameters: int  # that one token is multiplied with, without the embedding table
    head_parameters: int  # of the output layer: multiplied only where a token is sampled
    weight_bytes: int
    kv_bytes_per_token: int  # of all layers


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
    all_experts, active_experts = _feed_forward(text, hidden, intermediate)
    table = card.vocab_size * hidden
    tables = table if text.get("tie_word_embeddings") else 2 * table
    parameters = layers * (attention + all_experts) + tables
    full_kv = 2 * layers * kv_heads * head_size * _BYTES_PER_VALUE
    return Model(
        architecture=(config.get("architectures") or ["LlamaForCausalLM"])[0],
        layers=layers,
        hidden=hidden,
        heads=heads,
        head_size=head_size,
        intermediate=intermediate,
        vocabulary=card.vocab_size,
        max_positions=card.max_positions,
        active_parameters=layers * (attention + active_experts),
        head_parameters=table,
        weight_bytes=card.weight_bytes or parameters * _BYTES_PER_VALUE,
        kv_bytes_per_token=card.kv_bytes_per_token or full_kv,  # an upper bound for sliding windows
    )


def _feed_forward(text: dict[str, Any], hidden: int, intermediate: int) -> tuple[int, int]:
    """Weights of a layer's gated feed-forward part: all, and those that one token uses (fewer with experts)."""
    experts = int(text.get("num_experts") or text.get("n_routed_experts") or text.get("num_local_experts") or 0)
    if not experts:
        return 3 * hidden * intermediate, 3 * hidden * intermediate
    one = 3 * hidden * int(text.get("moe_intermediate_size") or intermediate)
    shared = int(text.get("n_shared_experts") or 0)
    return (experts + shared) * one, (int(text.get("num_experts_per_tok") or 1) + shared) * one
