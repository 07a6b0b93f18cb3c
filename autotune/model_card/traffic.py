"""The memory that answering reads."""

from autotune.model_card.card import ModelCard

_SIXTEEN_BITS = 2  # bytes; the embedding table is not quantised


def request_bytes(card: ModelCard, *, prompt_tokens: float, output_tokens: float, steps: float) -> float | None:
    """Bytes that one request makes the devices read: in each of its `steps` all weights, and its own KV cache.

    `steps` is the request's share of the engine's steps, which are fewer than its tokens because requests share them.
    Of the embedding table only rows are read, unless it is the output layer too. The KV cache is read once per output
    token but the first, with every position before it; what a prompt's chunks read of earlier ones does not count.
    None when the size is not known, and for mixtures of experts, of which a step reads those that its batch needs.
    """
    if card.size is None or not card.weight_bytes or card.expert_bytes:
        return None
    table_bytes = 0 if card.size.tied else card.head_parameters * _SIXTEEN_BITS
    later = max(0.0, output_tokens - 1)
    positions = later * prompt_tokens + later * output_tokens / 2
    return steps * (card.weight_bytes - table_bytes) + card.kv_bytes_per_token * positions
