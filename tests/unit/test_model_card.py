"""What is read from a model folder, and which launches surely cannot fit."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.errors import InputError
from autotune.model_card import KvLayers, ModelCard, Parallel, Shape, find_model, read_model, request_flops, shortfall

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
    token_ids=100,
    special_ids=frozenset(),
    max_positions=4096,
    weight_bytes=60 * GIB,
    kv_layers=(KvLayers(64, 2**18, 8),),
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


@pytest.mark.parametrize(
    ("more", "kinds"),
    [
        ({"model_type": "qwen3"}, {"qwen3", "dense"}),
        (
            {"model_type": "gemma3_text", "layer_types": ["sliding_attention", "full_attention"]},
            {"gemma3_text", "dense"},
        ),
        ({"model_type": "qwen3_moe", "num_experts": 128}, {"qwen3_moe", "moe"}),
        (
            {"model_type": "qwen3_next", "num_experts": 512, "layer_types": ["linear_attention", "full_attention"]},
            {"qwen3_next", "moe", "hybrid"},
        ),
        ({"model_type": "zamba2", "mamba_d_state": 64}, {"zamba2", "dense", "hybrid"}),
        ({}, {"unknown", "dense"}),
    ],
)
def test_a_model_is_sorted_by_its_layers(more: dict[str, Any], kinds: set[str], tmp_path: Path):
    assert read_model(model(tmp_path, DENSE | more)).kinds == kinds


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


@pytest.mark.parametrize(
    ("tokenizer", "expected"),
    [
        (None, 384),
        ({}, 384),
        ({"model": {"vocab": {"a": 0, "b": 345}}, "added_tokens": [{"id": 346, "special": True}]}, 347),
        ({"model": {"vocab": [["a", 0.0], ["b", -1.0]]}, "added_tokens": None}, 2),
        ({"model": {"vocab": {"a": 999}}}, 384),
    ],
)
def test_tokens_are_those_of_the_tokenizer_for_tables_are_padded(
    tmp_path: Path, tokenizer: dict[str, Any] | None, expected: int
):
    folder = model(tmp_path, {"vocab_size": 384})
    if tokenizer is not None:
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert (read_model(folder).vocab_size, read_model(folder).token_ids) == (384, expected)


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
    told = shortfall(CARD, Shape(16384), 32 * GIB)
    assert told == ("weights (60.0 GiB) and the KV cache of one request of 16384 tokens (4.0 GiB) exceed 1 x 32.0 GiB")


def test_the_kv_cache_of_one_request_decides_at_the_edge():
    """60 + 4 GiB fill 64 GiB exactly; one token more does not fit."""
    assert shortfall(CARD, Shape(16384), 64 * GIB) is None
    assert shortfall(CARD, Shape(16385), 64 * GIB) is not None


def test_devices_share_the_model():
    assert shortfall(CARD, Shape(16384, Parallel(tensor=2)), 32 * GIB) is None
    assert shortfall(CARD, Shape(16384, Parallel(pipeline=2)), 32 * GIB) is None


def test_data_parallel_replicas_share_nothing_but_experts():
    told = shortfall(CARD, Shape(16384, Parallel(data=2)), 32 * GIB)
    assert told is not None
    assert "(60.0 GiB on each)" in told
    assert shortfall(replace(CARD, expert_bytes=60 * GIB), Shape(8192, Parallel(data=2)), 32 * GIB) is None


def test_a_platform_without_device_memory_is_not_judged():
    assert shortfall(CARD, Shape(16384), 0) is None


@given(st.integers(0, 10**6), st.integers(1, 16), st.integers(1, 128))
def test_more_devices_never_make_a_model_too_large(length: int, devices: int, gib: int):
    card = replace(CARD, weight_bytes=200 * GIB)
    if shortfall(card, Shape(length, Parallel(tensor=devices)), gib * GIB) is None:
        assert shortfall(card, Shape(length, Parallel(tensor=devices + 1)), gib * GIB) is None


# Work per token


QWEN3_32B = {**DENSE, "model_type": "qwen3", "intermediate_size": 25600}
QWEN3_30B_A3B = {
    "model_type": "qwen3_moe",
    "vocab_size": 151936,
    "num_hidden_layers": 48,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_experts": 128,
    "num_experts_per_tok": 8,
}
DEEPSEEK_V3 = {
    "model_type": "deepseek_v3",
    "vocab_size": 129280,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "first_k_dense_replace": 3,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
}


@pytest.mark.parametrize(
    ("config", "billions"),
    [
        (QWEN3_32B, 31.2),  # "31.2B non-embedding" on its model card
        (QWEN3_30B_A3B, 2.7),  # "3.3B activated", 0.3 of them the embedding and 0.3 the output layer
        (DEEPSEEK_V3, 35.7),  # "37B activated", 0.9 of them the output layer
    ],
)
def test_the_weights_that_a_token_meets_are_those_that_the_models_authors_count(
    tmp_path: Path, config: dict[str, Any], billions: float
):
    assert read_model(model(tmp_path, config)).layer_parameters / 1e9 == pytest.approx(billions, abs=0.1)


def test_the_output_layer_has_a_row_for_every_word(tmp_path: Path):
    assert read_model(model(tmp_path, QWEN3_32B)).head_parameters == 151936 * 5120


def test_attention_needs_four_flops_for_each_value_of_a_head(tmp_path: Path):
    """64 layers x 64 heads x 128 values x 4; with MLA 2 x 192 for the product and 2 x 128 for the sum."""
    assert read_model(model(tmp_path / "a", QWEN3_32B)).attention_flops == 64 * 64 * 128 * 4
    assert read_model(model(tmp_path / "b", DEEPSEEK_V3)).attention_flops == 61 * 128 * (2 * 192 + 2 * 128)


@pytest.mark.parametrize(
    ("changed", "known"),
    [
        ({"sliding_window": 4096}, False),
        ({"sliding_window": 4096, "use_sliding_window": False}, True),
        ({"layer_types": ["full_attention", "sliding_attention"]}, False),
        ({"layer_types": ["full_attention"]}, True),
    ],
)
def test_only_attention_to_every_position_is_counted(tmp_path: Path, changed: dict[str, Any], known: bool):
    assert (read_model(model(tmp_path, {**QWEN3_32B, **changed})).attention_flops > 0) is known


def test_the_files_tell_the_size_of_an_architecture_that_is_not_known(tmp_path: Path):
    config = {**DENSE, "model_type": "novel", "torch_dtype": "bfloat16"}
    (model(tmp_path, config) / "model.safetensors").write_bytes(bytes(1000))
    card = read_model(tmp_path)
    assert (card.layer_parameters, card.head_parameters, card.attention_flops) == (500, 0, 0)


@pytest.mark.parametrize(
    "changed", [{"quantization_config": {"bits": 4}}, {"num_experts": 8}, {"torch_dtype": "float8"}, {}]
)
def test_where_the_files_do_not_tell_what_a_token_meets_nothing_is_known(tmp_path: Path, changed: dict[str, Any]):
    config = {**DENSE, "model_type": "novel", **({"torch_dtype": "bfloat16"} if changed else {}), **changed}
    (model(tmp_path, config) / "model.safetensors").write_bytes(bytes(1000))
    card = read_model(tmp_path)
    assert card.layer_parameters == 0
    assert request_flops(card, prompt_tokens=10, cached_tokens=0, output_tokens=10) is None


def test_a_llama_whose_dimensions_are_missing_is_not_known(tmp_path: Path):
    assert read_model(model(tmp_path, {"vocab_size": 100, "model_type": "llama"})).layer_parameters == 0


COUNTED = replace(CARD, layer_parameters=1000, head_parameters=10, attention_flops=3)


def test_a_request_needs_two_flops_a_weight_and_the_attention_to_what_came_before():
    """4 prompt tokens and 2 answered ones: 5 tokens are computed, 2 are sampled, 1 + 2 + 3 + 4 + 5 positions."""
    flops = request_flops(COUNTED, prompt_tokens=4, cached_tokens=0, output_tokens=2)
    assert flops == 2 * 1000 * 5 + 2 * 10 * 2 + 3 * 15


def test_what_came_from_the_prefix_cache_is_not_computed_but_attended_to():
    """Tokens 4 and 5 remain, which see 4 and 5 positions."""
    flops = request_flops(COUNTED, prompt_tokens=4, cached_tokens=3, output_tokens=2)
    assert flops == 2 * 1000 * 2 + 2 * 10 * 2 + 3 * 9


@given(st.integers(1, 500), st.integers(1, 500), st.data())
def test_prefill_and_decode_add_up_to_the_request(prompt: int, output: int, data: st.DataObject):
    """As if the prompt had been computed before, and everything but the head of its answer came from the cache."""
    head = data.draw(st.integers(1, output))
    both = request_flops(COUNTED, prompt_tokens=prompt, cached_tokens=0, output_tokens=output)
    first = request_flops(COUNTED, prompt_tokens=prompt, cached_tokens=0, output_tokens=head)
    rest = request_flops(
        COUNTED, prompt_tokens=prompt + head, cached_tokens=prompt + head - 1, output_tokens=output - head
    )
    assert both is not None
    assert first is not None
    assert rest is not None
    assert both == pytest.approx(first + rest)
