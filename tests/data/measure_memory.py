"""Run by the engine's own interpreter: loads a model with random weights and prints what it takes, as JSON.

python measure_memory.py FOLDER MAX_MODEL_LEN MAX_NUM_BATCHED_TOKENS
"""

import json
import sys

from vllm import LLM
from vllm.model_executor.model_loader import base_loader


def main() -> None:
    folder, length, tokens = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    weights: list[int] = []
    pack = base_loader.process_weights_after_loading

    def count(model, *rest):
        """The CPU backend packs its weights into other places afterwards."""
        weights.append(sum(one.numel() * one.element_size() for one in model.parameters()))
        return pack(model, *rest)

    base_loader.process_weights_after_loading = count
    llm = LLM(
        folder,
        load_format="dummy",
        enforce_eager=True,
        skip_tokenizer_init=True,
        max_model_len=length,
        max_num_batched_tokens=tokens,
        max_num_seqs=8,
    )
    cache = llm.llm_engine.vllm_config.cache_config
    found = {
        "weight_bytes": weights[0],
        "block_size": cache.block_size,
        "kv_cache_size_tokens": cache.kv_cache_size_tokens,
        "kv_cache_max_concurrency": cache.kv_cache_max_concurrency,
    }
    sys.stdout.write("\n" + json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
