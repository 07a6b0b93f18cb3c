"""The arithmetic that a request needs of a model."""

from collections.abc import Mapping
from typing import Any

from autotune.model_card.card import ModelCard
from autotune.model_card.dimensions import Dimensions


def request_flops(card: ModelCard, *, prompt_tokens: float, cached_tokens: float, output_tokens: float) -> float | None:
    """FLOPs that one request needs of the model: what came from the prefix cache is not computed, nor the last token.

    2 per parameter and token, and the attention's for each position before it (Chowdhery et al., PaLM, 2022, appendix
    B, the forward third). None when the size of the model is not known. With mean lengths the attention of requests of
    different lengths is somewhat underestimated.
    """
    if not card.layer_parameters:
        return None
    last = prompt_tokens + output_tokens - 1
    positions = (last * (last + 1) - cached_tokens * (cached_tokens + 1)) / 2
    layers = 2 * card.layer_parameters * (last - cached_tokens)
    return layers + 2 * card.head_parameters * output_tokens + card.attention_flops * positions


def attention_flops(size: Dimensions | None, config: Mapping[str, Any]) -> int:
    """2 for each value of a query-key product and 2 for each of the weighted sum, in all layers and heads.

    0, not known, where not every position is attended to: windows, linear layers, sparse attention.
    """
    windowed = config.get("sliding_window") and config.get("use_sliding_window", True)
    if size is None or windowed or set(config.get("layer_types") or ()) - {"full_attention"}:
        return 0
    key, value = size.head_size, size.head_size
    if size.latent is not None:
        if size.latent.index_heads:
            return 0
        key, value = size.latent.nope + size.latent.rope, size.latent.value
    return size.layers * size.heads * 2 * (key + value)
