"""The command line of `vllm serve`, as far as it is simulated; other options of vLLM are accepted and do nothing."""

import argparse
import functools
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from autotune.engines.simulated import config_file, transcript
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

SWITCHES = (
    "enable_chunked_prefill",
    "enable_prefix_caching",
    "enforce_eager",
    "async_scheduling",
    "scheduler_reserve_full_isl",
)
"""Names of the modelled arguments that are on or off."""

_LISTS = frozenset({"ignore_patterns", "logits_processors"})

GIVEN_VARIABLES = frozenset(
    {"SIMULATED_DEVICE", "VLLM_CPU_KVCACHE_SPACE", "HCCL_OP_EXPANSION_MODE", "HCCL_BUFFSIZE", "TASK_QUEUE_ENABLE"}
)
"""Environment variables that change what is simulated."""

AUTO = -1
"""The `max_model_len` that stands for `auto`: the longest that fits, up to the model's own."""

_DECIMAL = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_FLAGS = re.compile(r"(enable|disable|trust|skip)_")  # of ACCEPTED, those that take no value
_MORE = "    For further information visit https://errors.pydantic.dev/2.14/v/"


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
    scheduler_reserve_full_isl: bool = True
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

    A command line that vLLM refuses ends the process in vLLM's words and with its exit code, mostly 2.
    """
    try:
        return read(argv, os.environ)
    except Refused as refused:
        sys.stderr.write("".join(f"{line}\n" for line in transcript.refusal(refused, transcript.now())))
        raise SystemExit(refused.exit_code) from refused


def read(argv: Sequence[str], environment: Mapping[str, str]) -> Options:
    """As `parse`, for any environment. Raises Refused."""
    words = [_spelled(word) for word in config_file.expanded(argv)]
    if words[:1] != ["serve"]:
        raise by_parser(f"argument subparser: invalid choice: {(words or [''])[0]!r} (choose from 'serve')")
    dotted = [word for word in words if word.startswith(("--compilation-config.", "-cc."))]
    if dotted:
        raise by_parser(f"argument --compilation-config: {dotted[0]} is not simulated; give one JSON object")
    removed = [word for word in words if word.partition("=")[0] in REMOVED]
    if removed:
        raise by_parser(f"unrecognized arguments: {' '.join(removed)}")
    values = {
        name: value
        for name, value in vars(_parser().parse_known_args(words[1:])[0]).items()
        if value is not None and name not in ACCEPTED
    }
    model = _model(words, values.pop("model_tag", None), values.pop("model", None))
    if model is None:
        raise by_parser("the following arguments are required: model_tag")
    kept = {name: environment[name] for name in sorted(GIVEN_VARIABLES & environment.keys())}
    shown = {name: value for name, value in values.items() if name != "api_key"}
    return Options(model=model, given={"model_tag": model, **shown}, environment=kept, **values)


def _model(words: Sequence[str], positional: str | None, option: str | None) -> str | None:
    """The model right after `serve` wins over `--model`; elsewhere a lone word may be an unknown option's value."""
    return positional if option is None or words[1:2] == [positional] else option


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise by_parser(message)


@functools.cache
def _parser() -> _Parser:
    parser = _Parser(prog="vllm", allow_abbrev=False, add_help=False, argument_default=None)
    parser.add_argument("model_tag", nargs="?")
    for flag in ("--model", "--host", "--served-model-name", "--api-key"):
        parser.add_argument(flag)
    for flag in ("--port", "--max-num-seqs", "--block-size", "--num-gpu-blocks-override"):
        parser.add_argument(flag, type=int)
    for flag in ("--tensor-parallel-size", "--pipeline-parallel-size", "--data-parallel-size"):
        short = f"-{flag[2]}p"
        parser.add_argument(short, flag, type=int)
    parser.add_argument("--max-model-len", type=human_readable_int_or_auto)
    for flag in ("--kv-cache-memory-bytes", "--max-num-batched-tokens"):
        parser.add_argument(flag, type=human_readable_int)
    parser.add_argument("--gpu-memory-utilization", type=float)
    parser.add_argument("--compilation-config", "-cc", type=_compilation)
    for field_name in SWITCHES:
        parser.add_argument(f"--{field_name.replace('_', '-')}", action=argparse.BooleanOptionalAction)
    for name in sorted(ACCEPTED):
        flag = f"--{name.replace('_', '-')}"
        if _FLAGS.match(name):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction)
        else:
            parser.add_argument(flag, nargs="*" if name in _LISTS else None)
    return parser


def human_readable_int(text: str) -> int:
    """`25G` is 25 x 2^30, `2.5g` 2.5 x 10^9, as vLLM's function of this name, which argparse's messages name."""
    matched = re.fullmatch(r"(\d+(?:\.\d+)?)([kKmMgGtT])", text.strip())
    if matched is None:
        return int(text)
    number, suffix = matched.groups()
    if suffix in _DECIMAL:
        return int(float(number) * _DECIMAL[suffix])
    if "." in number:
        raise argparse.ArgumentTypeError(
            f"Decimals are not allowed with binary suffixes like {suffix}. Did you mean to use "
            f"{number}{suffix.lower()} instead?"
        )
    return int(number) * _BINARY[suffix]


def human_readable_int_or_auto(text: str) -> int:
    """As `human_readable_int`; `auto` is `AUTO`."""
    return AUTO if text.strip().lower() == "auto" else human_readable_int(text)


def _compilation(text: str) -> dict[str, Any]:
    """A compilation configuration; what pydantic says of a wrong one is what argparse says."""
    try:
        value = json.loads(text)
    except ValueError as exc:
        raise _compilation_error(
            f"  Invalid JSON: {exc}", f"json_invalid, input_value={text!r}, input_type=str"
        ) from exc
    if not isinstance(value, dict):
        given = f"input_value={value!r}, input_type={type(value).__name__}"
        raise _compilation_error("  Input should be an object", f"dataclass_type, {given}")
    sizes = [(f"cudagraph_capture_sizes.{n}", one) for n, one in enumerate(value.get("cudagraph_capture_sizes") or ())]
    for name, size in [*sizes, ("max_cudagraph_capture_size", value.get("max_cudagraph_capture_size"))]:
        if size is not None and not re.fullmatch(r"-?\d+", str(size)):
            problem = f"{name}\n  Input should be a valid integer, unable to parse string as an integer"
            raise _compilation_error(problem, f"int_parsing, input_value={size!r}, input_type={type(size).__name__}")
    return value


def _compilation_error(problem: str, given: str) -> argparse.ArgumentTypeError:
    kind = given.partition(",")[0]
    return argparse.ArgumentTypeError(
        f"1 validation error for CompilationConfig\n{problem} [type={given}]\n{_MORE}{kind}"
    )


def _spelled(word: str) -> str:
    """Options may be spelled with underscores, up to a dot or the value."""
    matched = re.match(r"--[^.=]*", word)
    return matched[0].replace("_", "-") + word[matched.end() :] if matched else word
