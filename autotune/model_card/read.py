"""Finds a model folder and reads it into a card."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autotune.errors import InputError
from autotune.model_card.card import ModelCard
from autotune.model_card.dimensions import Dimensions, dimensions, has_experts, normalized
from autotune.model_card.files import quantization_description, read_json, weight_bytes
from autotune.model_card.flops import attention_flops
from autotune.model_card.kinds import kinds
from autotune.model_card.kv_cache import kv_layers
from autotune.model_card.parameters import Parameters, count
from autotune.model_card.quantization import Scheme, scheme

_SIXTEEN_BITS = 2  # bytes: bfloat16 and float16; vLLM makes float32 checkpoints bfloat16 unless told otherwise
_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


def find_model(reference: str, *, relative_to: Path, roots: tuple[Path, ...] = ()) -> Path:
    """The folder of a model: a path (relative to the job file), a name below one of the roots, or a cached hub name.

    Raises InputError when no such folder holds a `config.json`, or when it lies outside the roots.
    """
    hub = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser() / "hub"
    places = [relative_to / Path(reference).expanduser(), *(root / reference for root in roots)]
    places += sorted((hub / f"models--{reference.replace('/', '--')}" / "snapshots").glob("*"))
    found = next((place.resolve() for place in places if (place / "config.json").is_file()), None)
    if found is None:
        looked = ", ".join([*map(str, places), f"the cache in {hub}"])
        raise InputError(f"model {reference!r}: no folder with a config.json (looked at {looked}); download it first")
    if roots and not any(found.is_relative_to(root.resolve()) for root in roots):
        raise InputError(f"model {reference!r}: {found} is outside the engine profile's model_roots")
    return found


def read_model(path: Path) -> ModelCard:
    """Read a model folder. Raises InputError when its `config.json` is not a language model's."""
    config = read_json(path / "config.json")
    text = normalized(config)
    if "vocab_size" not in text:
        raise InputError(f"{path / 'config.json'}: has no vocab_size; is it a language model's?")
    tokenizer = read_json(path / "tokenizer.json") if (path / "tokenizer.json").is_file() else {}
    size = dimensions(text)
    counted = None if size is None else count(size)
    quantised = scheme(config, quantization_description(path))
    tied = bool(text.get("tie_word_embeddings")) if size is None else size.tied
    on_disk = weight_bytes(path, layers=int(text.get("num_hidden_layers") or 0), tied=tied)
    if on_disk and quantised is None and _dtype(config | text) == "float32":
        on_disk //= 2
    return ModelCard(
        path=path,
        vocab_size=int(text["vocab_size"]),
        token_ids=min(int(text["vocab_size"]), _tokenizer_ids(tokenizer) or int(text["vocab_size"])),
        special_ids=_special_ids(tokenizer, config | text),
        max_positions=int(text.get("max_position_embeddings") or 0),
        weight_bytes=on_disk or _computed_bytes(counted, quantised),
        kv_layers=kv_layers(text),
        layer_parameters=counted.active if counted else _parameters_of_files(path, config | text, quantised),
        head_parameters=counted.embedding if counted else 0,
        attention_flops=attention_flops(size, text),
        parameters=counted.total if counted else 0,
        expert_bytes=round(counted.experts * _expert_bytes(quantised)) if counted else 0,
        replicated_bytes=_replicated_bytes(counted, quantised),
        hidden=int(text.get("hidden_size") or 0),
        intermediate=_widest(size, text),
        heads=int(text.get("num_attention_heads") or 0),
        has_files=bool(on_disk),
        size=size,
        scheme=quantised,
        kinds=kinds(text),
    )


def _expert_bytes(quantised: Scheme | None) -> float:
    return _SIXTEEN_BITS if quantised is None else quantised.expert_bytes


def _other_bytes(quantised: Scheme | None) -> float:
    return _SIXTEEN_BITS if quantised is None else quantised.other_bytes


def _computed_bytes(counted: Parameters | None, quantised: Scheme | None) -> int:
    expert, other = _expert_bytes(quantised), _other_bytes(quantised)
    if counted is None or not expert or not other:
        return 0
    linear = counted.experts * expert + (counted.linear - counted.experts) * other
    return round(linear + (counted.total - counted.linear) * _SIXTEEN_BITS)


def _replicated_bytes(counted: Parameters | None, quantised: Scheme | None) -> int:
    if counted is None:
        return 0
    others = counted.replicated - counted.latent_inputs
    return round(others * _SIXTEEN_BITS + counted.latent_inputs * _other_bytes(quantised))


def _widest(size: Dimensions | None, config: Mapping[str, Any]) -> int:
    """Values between the two halves of a feed-forward part, for one token: of a dense layer, or of its experts."""
    if size is None or not size.sparse_layers:
        return int(config.get("intermediate_size") or 0)
    experts = size.experts_per_token * size.expert_width + size.shared_width
    return max(experts, size.intermediate if size.sparse_layers < size.layers else 0)


def _dtype(config: Mapping[str, Any]) -> str:
    return str(config.get("torch_dtype") or config.get("dtype"))


def _parameters_of_files(path: Path, config: Mapping[str, Any], quantised: Scheme | None) -> int:
    """All weights of a dense model of another architecture; 0 where the files do not say how many a token meets."""
    width = _BYTES.get(_dtype(config))
    if has_experts(config) or width is None or quantised is not None:
        return 0
    return weight_bytes(path, layers=0, tied=False) // width


def _tokenizer_ids(tokenizer: Mapping[str, Any]) -> int:
    """One more than the largest id of a tokenizer; 0 for one that names none. Tables are padded beyond it."""
    vocabulary = (tokenizer.get("model") or {}).get("vocab") or ()
    plain = vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
    added = (token["id"] for token in tokenizer.get("added_tokens") or ())
    return max((*plain, *added), default=-1) + 1


def _special_ids(tokenizer: Mapping[str, Any], config: Mapping[str, Any]) -> frozenset[int]:
    ids = [config.get(f"{name}_token_id") for name in ("bos", "eos", "pad", "unk")]
    flat = {i for value in ids for i in (value if isinstance(value, list) else [value])}
    flat |= {token["id"] for token in tokenizer.get("added_tokens") or () if token.get("special")}
    return frozenset(i for i in flat if isinstance(i, int))
