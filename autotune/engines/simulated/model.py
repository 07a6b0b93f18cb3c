"""The model that is served, as sizes: from its folder's `config.json`."""

import json
from dataclasses import dataclass
from pathlib import Path

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
    """Read a model folder. Raises InputError when it has no `config.json`, or one whose sizes are not known."""
    card = read_model(folder)
    size = card.size
    if size is None:
        raise InputError(
            f"{folder / 'config.json'}: the sizes of this architecture are not known, so it cannot be simulated; "
            "use a Llama, Mistral, Mixtral, Qwen, Phi-3, Gemma, GLM or DeepSeek model"
        )
    in_full = 2 * size.layers * size.kv_heads * size.head_size * _BYTES_PER_VALUE
    return Model(
        architecture=_architecture(folder),
        layers=size.layers,
        hidden=size.hidden,
        heads=size.heads,
        kv_heads=size.kv_heads,
        latent_kv=card.latent,
        head_size=size.head_size,
        intermediate=size.intermediate,
        vocabulary=size.vocabulary,
        max_positions=card.max_positions,
        active_parameters=card.layer_parameters,
        head_parameters=card.head_parameters,
        weight_bytes=card.weight_bytes,
        kv_bytes_per_token=card.kv_bytes_per_token or in_full,  # an upper bound for sliding windows
        experts=size.experts,
        experts_per_token=size.experts_per_token,
        expert_bytes=card.expert_bytes,
    )


def _architecture(folder: Path) -> str:
    """The class that vLLM would name in its log."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return str((config.get("architectures") or ["LlamaForCausalLM"])[0])
