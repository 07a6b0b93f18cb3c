"""What a model's `config.json` says: vocabulary, positions, the memory it needs, and its work per token."""

from autotune.model_card.card import GIB, ModelCard
from autotune.model_card.devices import KNOWN_DEVICES, KnownDevice, known_device
from autotune.model_card.flops import request_flops
from autotune.model_card.kv_cache import KvLayers
from autotune.model_card.memory import (
    HCCL_BUFFER_MIB,
    MOST_CAPTURED,
    Estimate,
    Parallel,
    Room,
    Shape,
    activation_bytes,
    estimate,
    mla_warning,
    refusals,
    room,
    shape_of,
    shortfall,
)
from autotune.model_card.read import find_model, read_model
from autotune.model_card.traffic import request_bytes

__all__ = [
    "GIB",
    "HCCL_BUFFER_MIB",
    "KNOWN_DEVICES",
    "MOST_CAPTURED",
    "Estimate",
    "KnownDevice",
    "KvLayers",
    "ModelCard",
    "Parallel",
    "Room",
    "Shape",
    "activation_bytes",
    "estimate",
    "find_model",
    "known_device",
    "mla_warning",
    "read_model",
    "refusals",
    "request_bytes",
    "request_flops",
    "room",
    "shape_of",
    "shortfall",
]
