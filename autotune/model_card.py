"""What a model's `config.json` says: vocabulary, positions, the least memory it can run in, and its work per token."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.errors import InputError

_BYTES_PER_VALUE = 2  # bfloat16 and float16; a quantised KV cache is opt-in and halves it
_GIB = 2**30

_LLAMA_LIKE = frozenset(
    {
        "llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "phi3", "deepseek_v2", "deepseek_v3",
    }
)  # fmt: skip
"""`model_type` of the architectures whose weights follow from their dimensions: a gated MLP, or experts like it."""

_DIMENSIONS = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size")
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


@dataclass(frozen=True, slots=True)
class ModelCard:
    """The facts of a model folder that the tuner needs. Sizes in bytes."""

    path: Path
    vocab_size: int
    special_ids: frozenset[int]
    max_positions: int
    weight_bytes: int  # of the safetensors files at hand; 0 when there are none
    kv_bytes_per_token: int  # of all layers; 0 when the attention is of a kind not known here
    layer_parameters: int = 0  # that a token is multiplied with in all layers; 0 when the architecture is not known
    head_parameters: int = 0  # of the output layer, which only tokens that are sampled from meet
    attention_flops: int = 0  # of one token for each position that it attends to, in all layers; 0: not known


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
        layer_parameters=_layer_parameters(text) or _parameters_of_files(path, config | text),
        head_parameters=int(text["vocab_size"]) * int(text.get("hidden_size") or 0) if _is_known(text) else 0,
        attention_flops=_attention_flops(text),
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


def _is_known(config: dict[str, Any]) -> bool:
    return config.get("model_type") in _LLAMA_LIKE and all(config.get(name) for name in _DIMENSIONS)


def _layer_parameters(config: dict[str, Any]) -> int:
    """Weights of attention, MLP, router and active experts in all layers of a llama-like model; 0 for others."""
    if not _is_known(config):
        return 0
    layers, hidden = int(config["num_hidden_layers"]), int(config["hidden_size"])
    experts = next((int(config[name]) for name in _EXPERTS if config.get(name)), 0)
    dense = int(config.get("first_k_dense_replace") or 0) if experts else layers
    mlp = 3 * hidden * int(config["intermediate_size"])  # gate, up and down
    width = int(config.get("moe_intermediate_size") or config["intermediate_size"])
    routed = 3 * hidden * width * int(config.get("num_experts_per_tok") or 0)
    shared = int(config.get("shared_expert_intermediate_size") or width * int(config.get("n_shared_experts") or 0))
    sparse = routed + 3 * hidden * shared + hidden * experts
    return layers * _attention_parameters(config) + dense * mlp + (layers - dense) * sparse


def _attention_parameters(config: dict[str, Any]) -> int:
    """Query, key, value and output projections of one layer; with MLA their low-rank factors."""
    hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
    if config.get("kv_lora_rank"):
        nope, rope, value = (int(config[name]) for name in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"))
        rank, query_rank = int(config["kv_lora_rank"]), int(config.get("q_lora_rank") or 0)
        query = (hidden + heads * (nope + rope)) * query_rank if query_rank else hidden * heads * (nope + rope)
        return query + hidden * (rank + rope) + rank * heads * (nope + value) + heads * value * hidden
    size = int(config.get("head_dim") or hidden // heads)
    return 2 * hidden * size * (heads + int(config.get("num_key_value_heads") or heads))


def _attention_flops(config: dict[str, Any]) -> int:
    """2 for each value of a query-key product and 2 for each of the weighted sum, in all layers and heads."""
    windowed = config.get("sliding_window") and config.get("use_sliding_window", True)
    if not _is_known(config) or windowed or set(config.get("layer_types") or ()) - {"full_attention"}:
        return 0
    heads = int(config["num_attention_heads"])
    size = int(config.get("head_dim") or int(config["hidden_size"]) // heads)
    key, value = size, size
    if config.get("kv_lora_rank"):
        key = int(config["qk_nope_head_dim"]) + int(config["qk_rope_head_dim"])
        value = int(config["v_head_dim"])
    return int(config["num_hidden_layers"]) * heads * 2 * (key + value)


def _parameters_of_files(path: Path, config: dict[str, Any]) -> int:
    """All weights of a dense model of another architecture; 0 where the files do not say how many a token meets."""
    experts = any(config.get(name) for name in _EXPERTS)
    size = _BYTES.get(str(config.get("torch_dtype") or config.get("dtype")))
    if experts or size is None or config.get("quantization_config"):
        return 0
    return _weight_bytes(path) // size


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
