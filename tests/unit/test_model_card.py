"""What is read from a model folder, and which launches surely cannot fit."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.errors import InputError
from autotune.model_card import ModelCard, find_model, read_model, shortfall

GIB = 2**30
# Qwen3-32B: 64 layers, 8 KV heads of 128 values.
DENSE = {
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "num_hidden_layers": 64,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "hidden_size": 5120,
    "eos_token_id": 151645,
    "bos_token_id": 151643,
}
CARD = ModelCard(
    path=Path("/models/m"),
    vocab_size=100,
    special_ids=frozenset(),
    max_positions=4096,
    weight_bytes=60 * GIB,
    kv_bytes_per_token=2**18,
)


def model(folder: Path, config: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in DENSE.items() if name not in names}


# Reading


def test_vocabulary_and_positions_are_the_configs(tmp_path: Path):
    card = read_model(model(tmp_path, DENSE))
    assert (card.vocab_size, card.max_positions) == (151936, 40960)


def test_the_text_part_of_a_multimodal_config_counts(tmp_path: Path):
    card = read_model(model(tmp_path, {"eos_token_id": 7, "text_config": DENSE}))
    assert card.vocab_size == 151936
    assert card.special_ids == {151643, 151645}


def test_a_token_of_the_kv_cache_takes_keys_and_values_of_every_layer(tmp_path: Path):
    """2 x 64 layers x 8 heads x 128 values x 2 bytes = 256 KiB."""
    assert read_model(model(tmp_path, DENSE)).kv_bytes_per_token == 262144


def test_a_model_without_kv_heads_has_one_per_attention_head(tmp_path: Path):
    assert read_model(model(tmp_path, without("num_key_value_heads"))).kv_bytes_per_token == 8 * 262144


def test_a_model_without_a_head_size_divides_its_hidden_size(tmp_path: Path):
    """5120 / 64 = 80 values a head."""
    assert read_model(model(tmp_path, without("head_dim"))).kv_bytes_per_token == 2 * 64 * 8 * 80 * 2


def test_latent_attention_keeps_one_latent_and_one_rotary_vector_a_layer(tmp_path: Path):
    """DeepSeek-V3: 61 layers x (512 + 64) values x 2 bytes."""
    config = {**DENSE, "num_hidden_layers": 61, "kv_lora_rank": 512, "qk_rope_head_dim": 64}
    assert read_model(model(tmp_path, config)).kv_bytes_per_token == 61 * 576 * 2


@pytest.mark.parametrize("hybrid", [{"layer_types": ["linear_attention"]}, {"sliding_window": 4096}])
def test_a_model_that_does_not_keep_every_token_is_not_estimated(hybrid: dict[str, Any], tmp_path: Path):
    assert read_model(model(tmp_path, {**DENSE, **hybrid})).kv_bytes_per_token == 0


def test_the_weights_are_the_safetensors_files(tmp_path: Path):
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"x" * 1000)
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(b"x" * 500)
    (tmp_path / "optimizer.bin").write_bytes(b"x" * 9000)
    assert read_model(model(tmp_path, DENSE)).weight_bytes == 1500


def test_special_ids_come_from_the_config_and_the_tokenizer(tmp_path: Path):
    added = [{"id": 5, "special": True}, {"id": 6, "special": False}]
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))
    card = read_model(model(tmp_path, {"vocab_size": 10, "eos_token_id": [1, 2], "bos_token_id": None}))
    assert card.special_ids == {1, 2, 5}


def test_a_config_without_a_vocabulary_is_no_language_model(tmp_path: Path):
    with pytest.raises(InputError, match="no vocab_size; is it a language model's"):
        read_model(model(tmp_path, {"model_type": "vit"}))


def test_a_config_that_is_no_json_is_named(tmp_path: Path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json: cannot be read"):
        read_model(tmp_path)


# Finding


def test_a_model_is_found_relative_to_the_job_file(tmp_path: Path):
    model(tmp_path / "tiny", DENSE)
    assert find_model("tiny", relative_to=tmp_path) == tmp_path / "tiny"


def test_a_model_is_found_below_a_root(tmp_path: Path):
    model(tmp_path / "roots" / "tiny", DENSE)
    assert find_model("tiny", relative_to=tmp_path, roots=(tmp_path / "roots",)) == tmp_path / "roots" / "tiny"


def test_a_cached_hub_name_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    snapshot = model(tmp_path / "hf" / "hub" / "models--Qwen--Qwen3-0.6B" / "snapshots" / "abc", DENSE)
    assert find_model("Qwen/Qwen3-0.6B", relative_to=tmp_path) == snapshot


def test_a_model_that_is_nowhere_is_told_with_the_places_looked_at(tmp_path: Path):
    with pytest.raises(InputError, match=rf"no folder with a config\.json \(looked at {tmp_path}/nowhere"):
        find_model("nowhere", relative_to=tmp_path)


def test_a_model_outside_the_roots_is_refused(tmp_path: Path):
    model(tmp_path / "elsewhere", DENSE)
    (tmp_path / "roots").mkdir()
    with pytest.raises(InputError, match="outside the engine profile's model_roots"):
        find_model("elsewhere", relative_to=tmp_path, roots=(tmp_path / "roots",))


def test_a_link_out_of_the_roots_is_refused(tmp_path: Path):
    model(tmp_path / "elsewhere", DENSE)
    (tmp_path / "roots").mkdir()
    (tmp_path / "roots" / "tiny").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="outside the engine profile's model_roots"):
        find_model("tiny", relative_to=tmp_path / "jobs", roots=(tmp_path / "roots",))


# Judging


def test_weights_and_one_request_that_exceed_the_devices_surely_cannot_fit():
    """60 GiB and 16384 tokens of 256 KiB (4 GiB) on 32 GiB x 1."""
    told = shortfall(CARD, max_model_len=16384, devices=1, device_bytes=32 * GIB)
    assert told == ("weights (60.0 GiB) and the KV cache of one request of 16384 tokens (4.0 GiB) exceed 1 x 32.0 GiB")


def test_the_kv_cache_of_one_request_decides_at_the_edge():
    """60 + 4 GiB fill 64 GiB exactly; one token more does not fit."""
    assert shortfall(CARD, max_model_len=16384, devices=1, device_bytes=64 * GIB) is None
    assert shortfall(CARD, max_model_len=16385, devices=1, device_bytes=64 * GIB) is not None


def test_devices_share_the_model():
    assert shortfall(CARD, max_model_len=16384, devices=2, device_bytes=32 * GIB) is None


def test_a_platform_without_device_memory_is_not_judged():
    assert shortfall(CARD, max_model_len=16384, devices=1, device_bytes=0) is None


@given(st.integers(0, 10**6), st.integers(1, 16), st.integers(1, 128))
def test_more_devices_never_make_a_model_too_large(length: int, devices: int, gib: int):
    card = replace(CARD, weight_bytes=200 * GIB)
    if shortfall(card, max_model_len=length, devices=devices, device_bytes=gib * GIB) is None:
        assert shortfall(card, max_model_len=length, devices=devices + 1, device_bytes=gib * GIB) is None
