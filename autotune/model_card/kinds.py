"""The words that the knob catalogue sorts models by."""

import re
from collections.abc import Mapping
from typing import Any

from autotune.model_card.dimensions import has_experts

_ATTENTION = frozenset({"full_attention", "sliding_attention", "chunked_attention", "attention"})
_OTHER_LAYERS = re.compile(r"^(mamba|ssm|linear)_|^(hybrid_override_pattern|attn_layer_\w+|full_attention_interval)$")


def kinds(config: Mapping[str, Any]) -> frozenset[str]:
    """A decoder's `model_type`, `dense` or `moe`, and `hybrid` when it has layers of another kind than attention."""
    found = {str(config.get("model_type") or "unknown"), "moe" if has_experts(config) else "dense"}
    others = set(config.get("layer_types") or config.get("layers_block_type") or ()) - _ATTENTION
    if others or any(_OTHER_LAYERS.match(name) for name, value in config.items() if value):
        found.add("hybrid")
    return frozenset(found)
