"""The command line of `vllm serve`, as far as it is simulated; other options of vLLM are accepted and do nothing."""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import yaml

from autotune.engines.simulated import transcript
from autotune.engines.simulated.refusal import Refused, by_parser

REMOVED = frozenset(
    {"--swap-space", "--use-v2-block-manager", "--num-scheduler-steps", "--enable-chunked-context", "--preemption-mode"}
)
"""Options that vLLM once had: it refuses them today, and so does the simulation."""

ACCEPTED = frozenset(
    {
        "additional_config", "all2all_backend", "api_server_count", "chat_template", "code_revision", "config_format",
        "cpu_offload_gb", "data_parallel_backend", "disable_cascade_attn",
        "disable_log_stats", "distributed_executor_backend", "download_dir", "dtype", "enable_auto_tool_choice",
        "enable_expert_parallel", "enable_lora", "enable_sleep_mode", "generation_config",
        "hf_overrides", "ignore_patterns", "kv_cache_dtype", "kv_transfer_config", "limit_mm_per_prompt", "load_format",
        "logits_processors", "long_prefill_token_threshold", "max_logprobs", "max_lora_rank", "max_loras",
        "max_parallel_loading_workers", "mm_processor_kwargs",
        "optimization_level", "override_generation_config", "performance_mode", "quantization", "reasoning_parser",
        "revision", "runner", "safetensors_load_strategy", "scheduler_cls",
        "scheduling_policy", "seed", "skip_tokenizer_init", "speculative_config", "stream_interval",
        "tokenizer", "tokenizer_mode", "tokenizer_revision", "tool_call_parser", "trust_remote_code",
        "uvicorn_log_level",
    }
)  # fmt: skip
"""Names of common arguments of `vllm serve` that change nothing here."""

GIVEN_VARIABLES = frozenset(
    {"SIMULATED_DEVICE", "VLLM_CPU_KVCACHE_SPACE", "HCCL_OP_EXPANSION_MODE", "HCCL_BUFFSIZE", "TASK_QUEUE_ENABLE"}
)
"""Environment variables that change what is simulated."""

_SIZES = {"k": 10**3, "m": 10**6, "g": 10**9, "K": 2**10, "M": 2**20, "G": 2**30}


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for. None: vLLM's own default for the device, which `launch.prepare` fills in."""

    model: str
    host: str = "0.0.0.0"  # noqa: S104 - vLLM's default; the tuner gives 127.0.0.1
    port: int = 8000
    served_model_name: str | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    max_model_len: int | None = None
    block_size: int | None = None
    gpu_memory_utilization: float = 0.92
    kv_cache_memory_bytes: int | None = None
    num_gpu_blocks_override: int | None = None
    enable_chunked_prefill: bool = True
    enable_prefix_caching: bool = True
    enforce_eager: bool = False
    async_scheduling: bool | None = None
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    data_parallel_size: int = 1
    compilation_config: Mapping[str, Any] = field(default_factory=dict)
    api_key: str | None = None
    given: Mapping[str, Any] = field(default_factory=dict)  # what differs from the defaults, as the log shows it
    environment: Mapping[str, str] = field(default_factory=dict)  # of GIVEN_VARIABLES, those that are set

    @property
    def name(self) -> str:
        """The name that requests must give."""
        return self.served_model_name or self.model


def parse(argv: Sequence[str]) -> Options:
    """The options of `serve MODEL …`, which is what follows the executable, and of this process's environment.

    A command line that vLLM refuses ends the process in vLLM's words with exit code 2.
    """
    try:
        return read(argv, os.environ)
    except Refused as refused:
        sys.stderr.write("".join(f"{line}\n" for line in transcript.refusal(refused, transcript.now())))
        raise SystemExit(refused.exit_code) from refused


def read(argv: Sequence[str], environment: Mapping[str, str]) -> Options:
    """As `parse`, for any environment. Raises Refused."""
    words = _with_config_file([_spelled(word) for word in argv])
    if words[:1] != ["serve"]:
        raise by_parser(f"argument subparser: invalid choice: {(words or [''])[0]!r} (choose from 'serve')")
    removed = [word for word in words if word.partition("=")[0] in REMOVED]
    if removed:
        raise by_parser(f"unrecognized arguments: {' '.join(removed)}")
    values = {
        name: value for name, value in vars(_parser().parse_known_args(words[1:])[0]).items() if value is not None
    }
    model = values.pop("model", None) or values.pop("model_tag", None)
    values.pop("model_tag", None)
    if model is None:
        raise by_parser("the following arguments are required: model_tag")
    kept = {name: environment[name] for name in sorted(GIVEN_VARIABLES & environment.keys())}
    shown = {name: value for name, value in values.items() if name != "api_key"}
    return Options(model=model, given={"model_tag": model, **shown}, environment=kept, **values)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise by_parser(message)


def _parser() -> _Parser:
    parser = _Parser(prog="vllm", allow_abbrev=False, add_help=False, argument_default=None)
    parser.add_argument("model_tag", nargs="?")
    for flag in ("--model", "--host", "--served-model-name", "--api-key"):
        parser.add_argument(flag)
    for flag in ("--port", "--max-num-seqs", "--max-num-batched-tokens", "--block-size", "--num-gpu-blocks-override"):
        parser.add_argument(flag, type=int)
    for flag in ("--tensor-parallel-size", "--pipeline-parallel-size", "--data-parallel-size"):
        short = f"-{flag[2]}p"
        parser.add_argument(short, flag, type=int)
    parser.add_argument("--max-model-len", type=_human_int)
    parser.add_argument("--kv-cache-memory-bytes", type=_human_int)
    parser.add_argument("--gpu-memory-utilization", type=float)
    parser.add_argument("--compilation-config", "-cc", type=_json)
    for flag in ("--enable-chunked-prefill", "--enable-prefix-caching", "--enforce-eager", "--async-scheduling"):
        parser.add_argument(flag, action=argparse.BooleanOptionalAction)
    return parser


def _human_int(text: str) -> int:
    """`25G` is 25 x 2^30, `25g` 25 x 10^9, as vLLM's `human_readable_int`."""
    scale = _SIZES.get(text[-1:], 1)
    return int(float(text[:-1]) * scale) if scale > 1 else int(text)


def _json(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"Value {text} is not a JSON object.")
    return value


def _spelled(word: str) -> str:
    """Options may be spelled with underscores."""
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else word


def _with_config_file(words: list[str]) -> list[str]:
    """The options of `--config FILE` before the others, which win over them."""
    if "--config" not in words:
        return words
    place = words.index("--config")
    with open(words[place + 1], encoding="utf-8") as file:  # noqa: PTH123 - the path as it was typed
        content: dict[str, Any] = yaml.safe_load(file) or {}
    from_file: list[str] = []
    for name, value in content.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            from_file.append(flag if value else flag.replace("--", "--no-", 1))
        else:
            from_file += [flag, json.dumps(value) if isinstance(value, dict) else str(value)]
    rest = words[:place] + words[place + 2 :]
    own = rest[1:2] if rest[1:2] and not rest[1].startswith("-") else []
    return [*rest[:1], *own, *from_file, *rest[1 + len(own) :]]
