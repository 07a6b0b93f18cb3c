"""What a model's `config.json` says: vocabulary, positions, and the least memory it can run in."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.errors import InputError

_BYTES_PER_VALUE = 2  # bfloat16 and float16; a quantised KV cache is opt-in and halves it
_GIB = 2**30


@dataclass(frozen=True, slots=True)
class ModelCard:
    """The facts of a model folder that the tuner needs. Sizes in bytes."""

    path: Path
    vocab_size: int
    special_ids: frozenset[int]
    max_positions: int
    weight_bytes: int  # of the safetensors files at hand; 0 when there are none
    kv_bytes_per_token: int  # of all layers; 0 when the attention is of a kind not known here


def find_model(reference: str, *, relative_to: Path, roots: tuple[Path, ...] = ()) -> Path:
    """The folder of a model: a path (relative to the job file), a name below one of the roots, or a cached hub name.

    Raises InputError when no such folder holds a `config.json`, or when it lies outside the roots.
    """
    hub = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser() / "hub"
    places = [relative_to / Path(reference).expanduser(), *(root / reference for root in roots)]
    places += sorted((hub / f"models--{reference.replace('/', '--')}" / "snapshots").glob("*"))
    found = next((place.resolve() for place in places if (place / "config.json").is_file()), None)
    if found is None:
        looked = ", ".join(str(place) for place in places)
        raise InputError(f"model {reference!r}: no folder with a config.json (looked at {looked}); download it first")
    if roots and not any(found.is_relative_to(root.resolve()) for root in roots):
        raise InputError(f"model {reference!r}: {found} is outside the engine profile's model_roots")
    return found


def read_model(path: Path) -> ModelCard:
    """Read a model folder. Raises InputError when its `config.json` is not a language model's."""
    config = _read_json(path / "config.json")
    text = config.get("text_config") or config
    if "vocab_size" not in text:
        raise InputError(f"{path / 'config.json'}: has no vocab_size; is it a language model's?")
    return ModelCard(
        path=path,
        vocab_size=int(text["vocab_size"]),
        special_ids=_special_ids(path, config | text),
        max_positions=int(text.get("max_position_embeddings") or 0),
        weight_bytes=_weight_bytes(path),
        kv_bytes_per_token=_kv_bytes_per_token(text),
    )


def shortfall(card: ModelCard, *, max_model_len: int, devices: int, device_bytes: int) -> str | None:
    """Why a launch surely cannot fit: weights plus the KV cache of one request are more than the devices hold.

    A lower bound (no activations, no workspace): what passes may still run out of memory.
    """
    needed = card.weight_bytes + card.kv_bytes_per_token * max_model_len
    if device_bytes and needed > devices * device_bytes:
        kv_gib = card.kv_bytes_per_token * max_model_len / _GIB
        return (
            f"weights ({card.weight_bytes / _GIB:.1f} GiB) and the KV cache of one request of {max_model_len} tokens "
            f"({kv_gib:.1f} GiB) exceed {devices} x {device_bytes / _GIB:.1f} GiB"
        )
    return None


def _kv_bytes_per_token(config: dict[str, Any]) -> int:
    """2 (K and V) x layers x KV heads x head size x 2 bytes; for MLA one latent and one rotary vector a layer.

    Source: vLLM `v1/kv_cache_interface.py`, `FullAttentionSpec` and `MLAAttentionSpec` page sizes.
    """
    layers = int(config.get("num_hidden_layers") or 0)
    if config.get("kv_lora_rank"):
        return layers * (int(config["kv_lora_rank"]) + int(config.get("qk_rope_head_dim") or 0)) * _BYTES_PER_VALUE
    heads = int(config.get("num_attention_heads") or 0)
    if not heads or config.get("layer_types") or config.get("sliding_window"):
        return 0  # hybrid and sliding-window models hold less than every token in every layer
    head_size = int(config.get("head_dim") or int(config.get("hidden_size") or 0) // heads)
    return 2 * layers * int(config.get("num_key_value_heads") or heads) * head_size * _BYTES_PER_VALUE


def _weight_bytes(path: Path) -> int:
    """Of the files that vLLM loads: those of the index, else all but a second, consolidated copy."""
    index = path / "model.safetensors.index.json"
    if index.is_file():
        names = set(_read_json(index).get("weight_map", {}).values())
        files = [path / name for name in names]
    else:
        files = [file for file in path.glob("*.safetensors") if not file.name.startswith("consolidated")]
    return sum(file.stat().st_size for file in files if file.is_file())


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise InputError(f"{path}: cannot be read as JSON ({exc}); is it a git-lfs pointer?") from exc
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds no JSON object")
    return content


def _special_ids(path: Path, config: dict[str, Any]) -> frozenset[int]:
    ids = [config.get(f"{name}_token_id") for name in ("bos", "eos", "pad", "unk")]
    flat = {i for value in ids for i in (value if isinstance(value, list) else [value])}
    tokenizer = path / "tokenizer.json"
    if tokenizer.is_file():
        added = _read_json(tokenizer).get("added_tokens", [])
        flat |= {token["id"] for token in added if token.get("special")}
    return frozenset(i for i in flat if isinstance(i, int))
