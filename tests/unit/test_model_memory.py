"""The memory of well-known models, from their `config.json` written out by hand, against what is published of them."""

import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.errors import NotFound
from autotune.model_card import (
    GIB,
    KNOWN_DEVICES,
    ModelCard,
    Parallel,
    Shape,
    estimate,
    known_device,
    mla_warning,
    read_model,
    refusals,
    room,
    shape_of,
    shortfall,
)


def config(model_type: str, layers: int, hidden: int, intermediate: int, vocabulary: int, **others: Any) -> Any:
    return {
        "model_type": model_type,
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "vocab_size": vocabulary,
        **others,
    }


def heads(attention: int, kv: int, **others: Any) -> dict[str, Any]:
    return {"num_attention_heads": attention, "num_key_value_heads": kv, **others}


MLA = {"kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}
QWEN2 = {"use_sliding_window": False, "sliding_window": 131072, "max_window_layers": 28}
LLAMA_8B = config("llama", 32, 4096, 14336, 128256, **heads(32, 8), max_position_embeddings=131072)
QWEN_7B = config("qwen2", 28, 3584, 18944, 152064, **heads(28, 4), **QWEN2)
QWEN3_06B = config("qwen3", 28, 1024, 3072, 151936, **heads(16, 8, head_dim=128), tie_word_embeddings=True)
MIXTRAL = config("mixtral", 32, 4096, 14336, 32000, **heads(32, 8), num_local_experts=8, num_experts_per_tok=2)
MISTRAL_7B = config("mistral", 32, 4096, 14336, 32000, **heads(32, 8), sliding_window=4096)
GEMMA_2_9B = config("gemma2", 42, 3584, 14336, 256000, **heads(16, 8, head_dim=256), sliding_window=4096)
QWEN3_30B_A3B = config(
    "qwen3_moe",
    48,
    2048,
    6144,
    151936,
    **heads(32, 4, head_dim=128),
    moe_intermediate_size=768,
    num_experts=128,
    num_experts_per_tok=8,
    decoder_sparse_step=1,
    mlp_only_layers=[],
)
DEEPSEEK_V3 = config(
    "deepseek_v3",
    61,
    7168,
    18432,
    129280,
    **heads(128, 128),
    **MLA,
    q_lora_rank=1536,
    moe_intermediate_size=2048,
    first_k_dense_replace=3,
    n_routed_experts=256,
    n_shared_experts=1,
    num_experts_per_tok=8,
)
DEEPSEEK_V2_LITE = config(
    "deepseek_v2",
    27,
    2048,
    10944,
    102400,
    **heads(16, 16),
    **MLA,
    q_lora_rank=None,
    moe_intermediate_size=1408,
    first_k_dense_replace=1,
    n_routed_experts=64,
    n_shared_experts=2,
    num_experts_per_tok=6,
    moe_layer_freq=1,
)
GLM_4_9B = {
    "model_type": "chatglm",
    "num_layers": 40,
    "hidden_size": 4096,
    "ffn_hidden_size": 13696,
    "num_attention_heads": 32,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "kv_channels": 128,
    "padded_vocab_size": 151552,
    "vocab_size": 151552,
    "add_qkv_bias": True,
    "seq_length": 131072,
    "tie_word_embeddings": False,
}

PUBLISHED = {  # the count of the checkpoint's tensors, as the hub shows it
    "Llama-3.1-8B": (LLAMA_8B, 8_030_261_248),
    "Llama-3.1-70B": (config("llama", 80, 8192, 28672, 128256, **heads(64, 8)), 70_553_706_496),
    "Qwen2.5-7B": (QWEN_7B, 7_615_616_512),
    "Qwen2.5-32B": (config("qwen2", 64, 5120, 27648, 152064, **heads(40, 8), **QWEN2), 32_763_876_352),
    "Qwen2.5-72B": (config("qwen2", 80, 8192, 29568, 152064, **heads(64, 8), **QWEN2), 72_706_203_648),
    "Qwen3-0.6B": (QWEN3_06B, 596_049_920),
    "Qwen3-32B": (config("qwen3", 64, 5120, 25600, 151936, **heads(64, 8, head_dim=128)), 32_762_123_264),
    "Qwen3-30B-A3B": (QWEN3_30B_A3B, 30_532_122_624),
    "Mixtral-8x7B": (MIXTRAL, 46_702_792_704),
    "Mistral-7B-v0.1": (MISTRAL_7B, 7_241_732_096),
    "DeepSeek-V3": (DEEPSEEK_V3, 671_026_419_200),
    "DeepSeek-V2-Lite": (DEEPSEEK_V2_LITE, 15_706_484_224),
    "GLM-4-9B": (GLM_4_9B, 9_399_951_360),
    "GLM-4-9B-0414": (
        config("glm4", 40, 4096, 13696, 151552, **heads(32, 2, head_dim=128), attention_bias=True),
        9_400_279_040,
    ),
    "Gemma-2-9B": (GEMMA_2_9B, 9_241_705_984),
    "Phi-3-mini": (config("phi3", 32, 3072, 8192, 32064, **heads(32, 32), sliding_window=2047), 3_821_079_552),
}


def card(folder: Path, *parts: dict[str, Any]) -> ModelCard:
    (folder / "config.json").write_text(json.dumps({name: value for part in parts for name, value in part.items()}))
    return read_model(folder)


# Weights


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_model_has_exactly_the_parameters_that_are_published(name: str, tmp_path: Path):
    described, parameters = PUBLISHED[name]
    found = card(tmp_path, described)
    assert found.parameters == parameters
    assert found.weight_bytes == 2 * parameters


def test_the_eight_bit_weights_of_deepseek_v3_are_those_of_its_checkpoint(tmp_path: Path):
    """680,571,043,840 elements of F8_E4M3 with the layer for multi-token prediction, the 62nd; a scale per 128 x 128.

    Quantised are all projections; what remains are 16-bit tables, routers and norms of 3.9e9 elements less that
    layer's own two tables and its projection from 14336 to 7168.
    """
    fp8 = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
    found = card(tmp_path, DEEPSEEK_V3, {"num_hidden_layers": 62}, fp8)
    others = found.parameters - 680_571_043_840
    assert found.weight_bytes == pytest.approx(680_571_043_840 * (1 + 4 / 128**2) + 2 * others, abs=1)


AWQ = {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}}
GPTQ = {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}}
FP8 = {"quantization_config": {"quant_method": "fp8", "activation_scheme": "static"}}
W8A8 = {
    "quantization_config": {
        "quant_method": "compressed-tensors",
        "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "int", "strategy": "channel"}}},
        "ignore": ["lm_head"],
    }
}
LINEAR, TABLES = 6_525_288_448, 2 * 152064 * 3584  # of Qwen2.5-7B: projections, and embedding with output layer


@pytest.mark.parametrize(
    ("quantised", "bits"),
    [
        (AWQ, 4 + 16 / 128 + 4 / 128),
        (GPTQ, 4 + 16 / 128 + 4 / 128),
        (FP8, 8),
        (W8A8, 8),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}, 8),
        ({"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"}}, 4.5),
    ],
)
def test_quantisation_is_of_the_projections_and_leaves_the_tables(quantised: Any, bits: float, tmp_path: Path):
    others = 7_615_616_512 - LINEAR
    assert card(tmp_path, QWEN_7B, quantised).weight_bytes == round(LINEAR * bits / 8 + 2 * others)
    assert others - TABLES < 1e6  # norms and biases


def test_an_awq_checkpoint_of_qwen_7b_is_as_large_as_published(tmp_path: Path):
    """Its two files are 5.2 GiB."""
    assert card(tmp_path, QWEN_7B, AWQ).weight_bytes / GIB == pytest.approx(5.2, abs=0.05)


def test_msmodelslim_describes_its_quantisation_beside_the_config(tmp_path: Path):
    (tmp_path / "quant_model_description.json").write_text(json.dumps({"model_quant_type": "W8A8_DYNAMIC"}))
    found = card(tmp_path, QWEN_7B)
    assert found.scheme is not None
    assert (found.scheme.name, found.scheme.bits) == ("ascend W8A8_DYNAMIC", 8)
    assert found.weight_bytes == LINEAR + 2 * (7_615_616_512 - LINEAR)


def test_experts_of_4_bits_may_stand_beside_attention_of_8(tmp_path: Path):
    """As msModelSlim makes W4A8 of DeepSeek: the description names each weight's own kind."""
    described = {
        "model_quant_type": "W4A8_DYNAMIC",
        "model.layers.0.self_attn.q_proj.weight": "W8A8",
        "model.layers.0.self_attn.o_proj.weight": "W8A8_DYNAMIC",
        "model.layers.0.self_attn.q_proj.weight_scale": "W8A8",
        "model.layers.0.input_layernorm.weight": "FLOAT",
        **{f"model.layers.0.mlp.experts.{n}.gate_proj.weight": "W4A8_DYNAMIC" for n in range(8)},
    }
    (tmp_path / "quant_model_description.json").write_text(json.dumps(described))
    found = card(tmp_path, MIXTRAL)
    experts, attention = 45_097_156_608, 32 * 2 * 4096 * 128 * (32 + 8)
    others = 46_702_792_704 - experts - attention
    assert found.expert_bytes == experts / 2
    assert found.weight_bytes == experts / 2 + attention + 2 * others


def test_attention_may_have_kept_its_16_bits_beside_quantised_experts(tmp_path: Path):
    described = {
        "model_quant_type": "W8A8_DYNAMIC",
        "model.layers.0.self_attn.q_proj.weight": "FLOAT",
        "model.layers.0.mlp.experts.0.gate_proj.weight": "W4A8_DYNAMIC",
    }
    (tmp_path / "quant_model_description.json").write_text(json.dumps(described))
    found = card(tmp_path, MIXTRAL)
    experts = 45_097_156_608
    assert found.weight_bytes == experts / 2 + 2 * (46_702_792_704 - experts)


def test_the_size_of_a_quantisation_that_is_not_known_is_not_invented(tmp_path: Path):
    found = card(tmp_path, QWEN_7B, {"quantization_config": {"quant_method": "novel"}})
    assert (found.weight_bytes, found.expert_bytes) == (0, 0)
    assert found.parameters == 7_615_616_512


def tensors(file: Path, **sizes: int) -> None:
    """A safetensors file with tensors of so many bytes."""
    header, place = {"__metadata__": {"format": "pt"}}, 0
    for name, size in sizes.items():
        header[name] = {"dtype": "U8", "shape": [size], "data_offsets": [place, place + size]}  # type: ignore[dict-item]
        place += size
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(place))


NAMES = {"model.embed_tokens.weight": 100, "model.layers.27.mlp.weight": 1000, "model.layers.28.eh_proj.weight": 50}


def test_the_weights_are_the_tensors_that_are_loaded(tmp_path: Path):
    """Not the layer beyond the last of 28, which is for multi-token prediction, nor the file's header."""
    tensors(tmp_path / "model.safetensors", **NAMES, **{"lm_head.weight": 100})
    assert card(tmp_path, QWEN_7B).weight_bytes == 1200


def test_an_output_layer_that_is_the_embedding_table_is_not_loaded_twice(tmp_path: Path):
    tensors(tmp_path / "model.safetensors", **NAMES, **{"lm_head.weight": 100})
    assert card(tmp_path, QWEN3_06B).weight_bytes == 1100


def test_a_checkpoint_of_32_bits_takes_16_in_the_engine(tmp_path: Path):
    tensors(tmp_path / "model.safetensors", **NAMES)
    assert card(tmp_path, QWEN_7B, {"torch_dtype": "float32"}).weight_bytes == 550


# KV cache


@pytest.mark.parametrize(
    ("name", "kib"),
    [
        ("Llama-3.1-8B", 128),  # 2 x 32 layers x 8 heads x 128 values x 2 bytes
        ("Llama-3.1-70B", 320),
        ("Qwen2.5-7B", 56),
        ("Qwen2.5-72B", 320),
        ("Qwen3-32B", 256),
        ("Qwen3-30B-A3B", 96),
        ("Mixtral-8x7B", 128),
        ("DeepSeek-V3", 61 * 576 * 2 / 1024),  # 70 KB, DeepSeek-V3's own figure ("Insights into DeepSeek-V3", table 1)
        ("DeepSeek-V2-Lite", 27 * 576 * 2 / 1024),
        ("GLM-4-9B", 40),
    ],
)
def test_the_kv_cache_of_a_token_is_what_the_layers_keep(name: str, kib: float, tmp_path: Path):
    assert card(tmp_path, PUBLISHED[name][0]).kv_bytes_per_token == kib * 1024


def test_half_of_gemmas_layers_keep_a_window_only(tmp_path: Path):
    """21 layers x 8 KiB keep all 8192 tokens; 21 keep 4095 of the window and 2048 in flight, in one block more."""
    found = card(tmp_path, GEMMA_2_9B)
    assert [(kind.layers, kind.window) for kind in found.kv_layers] == [(21, 0), (21, 4096)]
    assert found.kv_bytes_per_token == 0  # it is not the same for every token
    kept = estimate(found, Shape(8192, max_num_batched_tokens=2048)).kv_per_request
    assert kept == 21 * 8192 * 8192 + 21 * 8192 * (48 * 128 + 128)


def test_every_layer_of_the_first_mistral_keeps_its_window(tmp_path: Path):
    assert [(kind.layers, kind.window) for kind in card(tmp_path, MISTRAL_7B).kv_layers] == [(32, 4096)]


@pytest.mark.parametrize(
    ("changed", "kinds"),
    [
        ({}, [(28, 0)]),  # use_sliding_window is false
        ({"use_sliding_window": True, "max_window_layers": 21}, [(21, 0), (7, 131072)]),
        ({"layer_types": ["full_attention"] * 7 + ["linear_attention"] * 21}, [(7, 0)]),
        ({"layer_types": ["sliding_attention"] * 14 + ["full_attention"] * 14}, [(14, 0), (14, 131072)]),
    ],
)
def test_a_window_counts_where_the_configuration_uses_it(changed: Any, kinds: Any, tmp_path: Path):
    found = card(tmp_path, QWEN_7B, changed)
    assert [(kind.layers, kind.window) for kind in found.kv_layers] == kinds


def test_a_request_takes_whole_blocks(tmp_path: Path):
    """1000 tokens take 8 blocks of 128."""
    assert estimate(card(tmp_path, LLAMA_8B), Shape(1000)).kv_per_request == 1024 * 128 * 1024


@pytest.mark.parametrize(
    ("dtype", "share"), [("auto", 1), ("bfloat16", 1), ("fp8", 0.5), ("fp8_e4m3", 0.5), ("int8", 0.5), ("nvfp4", 0.25)]
)
def test_a_quantised_cache_takes_less(dtype: str, share: float, tmp_path: Path):
    found = estimate(card(tmp_path, LLAMA_8B), Shape(1024, kv_cache_dtype=dtype))
    assert found.kv_per_token == share * 128 * 1024


# Devices


def test_ranks_divide_weights_and_kv_heads(tmp_path: Path):
    found = card(tmp_path, LLAMA_8B)
    one, four = estimate(found, Shape(4096)), estimate(found, Shape(4096, Parallel(tensor=4)))
    assert four.weights == pytest.approx(one.weights / 4, rel=0.001)  # but for the norms
    assert four.kv_per_request == one.kv_per_request / 4


def test_ranks_beyond_the_kv_heads_hold_copies(tmp_path: Path):
    found = card(tmp_path, QWEN_7B)  # four KV heads
    kept = [estimate(found, Shape(4096, Parallel(tensor=ranks))).kv_per_token for ranks in (4, 8)]
    assert kept == [56 * 1024 / 4, 56 * 1024 / 4]


def test_no_rank_has_less_of_a_latent_cache(tmp_path: Path):
    found = card(tmp_path, DEEPSEEK_V3)
    assert estimate(found, Shape(4096, Parallel(tensor=16))).kv_per_token == 61 * 576 * 2


def test_sparse_attention_keeps_and_holds_its_indexer(tmp_path: Path):
    """DeepSeek-V3.2 is V3 with an indexer of 64 heads of 128 in each of 61 layers; vllm-ascend keeps its keys too."""
    v3 = card(tmp_path, DEEPSEEK_V3)
    v32 = card(tmp_path, DEEPSEEK_V3, {"model_type": "deepseek_v32", "index_n_heads": 64, "index_head_dim": 128})
    indexer = 1536 * 64 * 128 + 7168 * (128 + 64) + 2 * 128
    assert v32.parameters - v3.parameters == 61 * indexer
    assert v32.replicated_bytes - v3.replicated_bytes == 2 * 61 * indexer
    assert estimate(v32, Shape(4096)).kv_per_token == 61 * (576 + 128) * 2
    assert v32.attention_flops == 0  # not every position is attended to


@pytest.mark.parametrize(
    ("sharing", "layers"),
    [
        ({"index_topk_freq": 4}, 16),
        ({"index_topk_freq": 4, "index_skip_topk_offset": 3}, 17),
        ({"index_topk_pattern": "FS" * 20}, 41),
    ],
)
def test_layers_that_take_the_choice_of_another_have_no_indexer(sharing: Any, layers: int, tmp_path: Path):
    indexed = {"model_type": "deepseek_v32", "index_n_heads": 64, "index_head_dim": 128, **sharing}
    found = estimate(card(tmp_path, DEEPSEEK_V3, indexed), Shape(4096))
    assert found.kv_per_token == (61 * 576 + layers * 128) * 2


def test_what_is_surely_kept_of_an_indexer_is_what_cuda_keeps(tmp_path: Path):
    indexed = {"model_type": "deepseek_v32", "index_n_heads": 64, "index_head_dim": 128}
    found = card(tmp_path, DEEPSEEK_V3, indexed)
    weights, latent, keys = estimate(found, Shape(8192)).weights, 61 * 576 * 2 * 8192, 61 * 128 * 8192
    assert shortfall(found, Shape(8192), weights + latent + keys) is None
    assert shortfall(found, Shape(8192), weights + latent + keys - 1) is not None


def test_larger_hccl_buffers_take_more_beside_the_budget(tmp_path: Path):
    found, two = card(tmp_path, LLAMA_8B), {"tensor_parallel_size": 2}
    usual, larger = (estimate(found, shape_of(two, of, max_model_len=512)) for of in ({}, {"HCCL_BUFFSIZE": "1024"}))
    assert larger.communication - usual.communication == 2 * (1024 - 200) * 2**20
    assert shape_of(two, {"HCCL_BUFFSIZE": "auto"}, max_model_len=512).hccl_buffer_mib == 200


def test_experts_are_divided_among_data_parallel_ranks_too(tmp_path: Path):
    """Of Mixtral's 46.7e9 weights 45.1e9 are experts: 32 layers x 8 x 3 x 4096 x 14336."""
    found = card(tmp_path, MIXTRAL)
    assert found.expert_bytes == 2 * 45_097_156_608
    rest = 2 * (46_702_792_704 - 45_097_156_608)
    assert estimate(found, Shape(4096, Parallel(data=4))).weights == pytest.approx(45_097_156_608 / 2 + rest, abs=1)


def test_layers_are_divided_among_pipeline_stages(tmp_path: Path):
    found = card(tmp_path, LLAMA_8B)
    assert estimate(found, Shape(4096, Parallel(pipeline=2))).weights == 8_030_261_248
    assert estimate(found, Shape(4096, Parallel(pipeline=2))).kv_per_token == 64 * 1024


@pytest.mark.parametrize(
    ("name", "length", "device", "fits"),
    [
        ("Llama-3.1-8B", 32768, "A100-40GB", (1, 2, 4, 8)),
        ("Llama-3.1-70B", 131072, "H100", (4, 8)),  # 66 GiB of weights on each of two, and 20 GiB for a request
        ("Qwen3-32B", 32768, "910B-64GB", (2, 4, 8)),  # 61 GiB of weights
        ("Qwen2.5-7B", 32768, "910B-32GB", (1, 2, 4)),  # 28 heads cannot be divided by 8
        ("DeepSeek-V3", 4096, "H200", ()),  # 1250 GiB at 16 bits: eight cards are not enough
    ],
)
def test_a_model_fits_where_people_run_it(name: str, length: int, device: str, fits: Any, tmp_path: Path):
    found, size = card(tmp_path, PUBLISHED[name][0]), int(known_device(device).memory_gib * GIB)
    fitting = []
    for ranks in (1, 2, 4, 8):
        shape = Shape(length, Parallel(tensor=ranks))
        if not refusals(found, shape.parallel) and room(estimate(found, shape), shape, size).fits:
            fitting.append(ranks)
    assert tuple(fitting) == fits


def test_what_is_left_of_the_budget_is_the_caches(tmp_path: Path):
    """0.9 x 40 GiB - weights - workspace, over 128 KiB a token."""
    found, shape = card(tmp_path, LLAMA_8B), Shape(8192, gpu_memory_utilization=0.9)
    need = estimate(found, shape)
    left = room(need, shape, 40 * GIB)
    assert left.kv_bytes == 36 * GIB - 16_060_522_496 - need.workspace
    assert left.tokens == left.kv_bytes // (128 * 1024)
    assert left.concurrent_requests == pytest.approx(left.kv_bytes / GIB)  # 8192 tokens are 1 GiB


def test_replicas_serve_their_requests_beside_each_other(tmp_path: Path):
    found = card(tmp_path, LLAMA_8B)
    one, two = (Shape(8192, Parallel(data=replicas)) for replicas in (1, 2))
    alone = room(estimate(found, one), one, 64 * GIB).concurrent_requests
    both = room(estimate(found, two), two, 64 * GIB).concurrent_requests
    assert both == pytest.approx(2 * alone, rel=0.02)  # less what they need to talk to each other


def test_a_workspace_grows_with_what_a_step_computes_and_captures(tmp_path: Path):
    found = card(tmp_path, LLAMA_8B)
    small, large = (estimate(found, Shape(4096, max_num_batched_tokens=tokens)) for tokens in (2048, 16384))
    assert large.activations - small.activations == 2 * (6 * 4096 + 3 * 14336) * 14336
    assert estimate(found, Shape(4096, eager=True)).graphs == 0
    assert estimate(found, Shape(4096)).communication == 0
    assert estimate(found, Shape(4096, Parallel(tensor=2))).communication == 400 * 2**20


@given(st.sampled_from(sorted(PUBLISHED)), st.integers(1, 131072), st.integers(1, 16), st.floats(1, 200))
def test_what_surely_cannot_fit_never_has_room(name: str, length: int, ranks: int, gib: float):
    """The lower bound that refuses launches is below the estimate that is shown."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        found = card(Path(folder), PUBLISHED[name][0])
    shape, size = Shape(length, Parallel(tensor=ranks)), int(gib * GIB)
    if shortfall(found, shape, size) is not None:
        assert not room(estimate(found, shape), shape, size).fits


# Refusals


def test_heads_that_cannot_be_divided_are_refused(tmp_path: Path):
    found = card(tmp_path, QWEN_7B)
    assert refusals(found, Parallel(tensor=4)) == []
    assert refusals(found, Parallel(tensor=8)) == ["28 attention heads cannot be divided by 8"]


def test_blocks_of_eight_bit_experts_cannot_be_cut(tmp_path: Path):
    """As with Qwen3-30B-A3B-FP8 on four devices: 768 / 4 is no multiple of 128."""
    blocks = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
    found = card(tmp_path, QWEN3_30B_A3B, blocks)
    assert refusals(found, Parallel(tensor=2)) == []
    assert refusals(found, Parallel(tensor=4)) == ["a width of 768 over 4 is no multiple of the FP8 blocks of 128"]


def test_latent_attention_wants_certain_numbers_of_heads_on_ascend(tmp_path: Path):
    (tmp_path / "v3").mkdir()
    (tmp_path / "lite").mkdir()
    large, lite = card(tmp_path / "v3", DEEPSEEK_V3), card(tmp_path / "lite", DEEPSEEK_V2_LITE)
    assert mla_warning(large, Parallel(tensor=4)) is None
    assert mla_warning(large, Parallel(tensor=8)) is not None  # 16 heads
    assert mla_warning(lite, Parallel()) == "16 heads per NPU; MLA kernels of vllm-ascend take 32, 64 or 128"


# Shapes and names


def test_a_shape_is_read_from_engine_arguments():
    arguments = {
        "tensor_parallel_size": 4,
        "data_parallel_size": 2,
        "max_num_seqs": 32,
        "gpu_memory_utilization": 0.9,
        "kv_cache_dtype": "fp8",
        "enforce_eager": True,
        "max_model_len": "auto",
        "block_size": None,
    }
    assert shape_of(arguments, max_model_len=512) == Shape(
        512,
        Parallel(4, 1, 2),
        max_num_seqs=32,
        gpu_memory_utilization=0.9,
        kv_cache_dtype="fp8",
        eager=True,
    )


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("910b", "910B-64GB"),
        ("910B4", "910B-32GB"),
        ("910c", "910C"),
        ("a100 80gb", "A100-80GB"),
        ("RTX 4090", "RTX4090"),
    ],
)
def test_a_device_is_known_however_it_is_written(written: str, name: str):
    assert known_device(written).name == name


def test_every_device_is_found_by_its_name():
    assert [known_device(device.name) for device in KNOWN_DEVICES] == list(KNOWN_DEVICES)


def test_a_device_that_is_not_known_is_told_with_those_that_are():
    with pytest.raises(NotFound, match=r"no device 'TPU' is known; known are 910B-64GB, .*--device-memory-gib"):
        known_device("TPU")


def test_a_card_without_dimensions_has_no_refusals(tmp_path: Path):
    assert refusals(replace(card(tmp_path, LLAMA_8B), size=None, kv_layers=(), heads=32), Parallel(tensor=8)) == []
