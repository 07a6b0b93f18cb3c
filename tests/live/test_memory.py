"""What the real engine takes of memory, against the estimate from the same `config.json`."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from autotune.engines.examine import interpreter_of
from autotune.model_card import ModelCard, Shape, estimate, read_model

pytestmark = [pytest.mark.live, pytest.mark.timeout(240)]

SCRIPT = Path(__file__).parents[1] / "data" / "measure_memory.py"
CACHE_BYTES = 2**30
LENGTH, IN_FLIGHT = 2048, 1024
SMALL = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "vocab_size": 384,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 4,
    "max_position_embeddings": 8192,
    "torch_dtype": "bfloat16",
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}
MODELS: dict[str, dict[str, Any]] = {
    "tied": {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "tie_word_embeddings": True,
    },
    "biased": {
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        "use_sliding_window": False,
        "sliding_window": 4096,
        "max_window_layers": 4,
    },
    "experts": {
        "model_type": "qwen3_moe",
        "architectures": ["Qwen3MoeForCausalLM"],
        "head_dim": 64,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 128,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    },
    "latent": {
        "model_type": "deepseek_v2",
        "architectures": ["DeepseekV2ForCausalLM"],
        "num_key_value_heads": 4,
        "q_lora_rank": None,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "n_routed_experts": 8,
        "n_shared_experts": 2,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 128,
        "first_k_dense_replace": 1,
        "moe_layer_freq": 1,
        "n_group": 1,
        "topk_group": 1,
        "topk_method": "greedy",
        "scoring_func": "softmax",
        "norm_topk_prob": False,
        "routed_scaling_factor": 1.0,
    },
    "windows": {
        "model_type": "gemma2",
        "architectures": ["Gemma2ForCausalLM"],
        "head_dim": 64,
        "sliding_window": 512,
        "query_pre_attn_scalar": 64,
        "hidden_activation": "gelu_pytorch_tanh",
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "tie_word_embeddings": True,
    },
}


@dataclass(frozen=True)
class Taken:
    card: ModelCard
    engine: dict[str, Any]

    @property
    def shape(self) -> Shape:
        return Shape(LENGTH, max_num_batched_tokens=IN_FLIGHT, block_size=self.engine["block_size"])


@pytest.fixture(scope="module", params=sorted(MODELS))
def taken(request: pytest.FixtureRequest, real_vllm: Path, tmp_path_factory: pytest.TempPathFactory) -> Taken:
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "config.json").write_text(json.dumps({**SMALL, **MODELS[request.param]}))
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "RAY_"))},
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine in this one process
        "VLLM_CPU_KVCACHE_SPACE": "1",
    }
    command = [interpreter_of(str(real_vllm)), str(SCRIPT), str(folder), str(LENGTH), str(IN_FLIGHT)]
    done = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return Taken(read_model(folder), json.loads(done.stdout.strip().rpartition("\n")[2]))


def test_the_engine_holds_as_many_bytes_of_weights_as_computed(taken: Taken):
    assert taken.engine["weight_bytes"] == taken.card.weight_bytes


def test_the_engine_says_the_same_of_how_many_requests_fit(taken: Taken):
    """It counts whole blocks of its one GiB."""
    computed = CACHE_BYTES / estimate(taken.card, taken.shape).kv_per_request
    assert taken.engine["kv_cache_max_concurrency"] == pytest.approx(computed, rel=0.001)


def test_the_engine_says_the_same_of_how_many_tokens_fit(taken: Taken):
    """With windows it counts tokens as if all layers kept as much as those of a request of the greatest length."""
    need = estimate(taken.card, taken.shape)
    windowed = any(kind.window for kind in taken.card.kv_layers)
    computed = CACHE_BYTES / need.kv_per_request * LENGTH if windowed else CACHE_BYTES / need.kv_per_token
    assert taken.engine["kv_cache_size_tokens"] == pytest.approx(computed, rel=0.001)
