"""What a job may never set: names that would load code, move the endpoint, or belong to the operator."""

import re

# A job comes from a person who may not log in to the machine. Refused is what would load code or
# files, change who can reach the engine, or take over what the service sets for each launch.
_ARGUMENTS = (
    *("host", "port", "uds", "root_path", "api_key", "middleware", "served_model_name", "headless", "grpc"),
    *("model", "spec_model", "tokenizer", "hf_overrides", "hf_config_path", "hf_token", "model_class_overrides"),
    *("trust_remote_code", "trust_request_chat_template", "trust_request_mm_kwargs", "chat_template"),
    *("worker_cls", "worker_extension_cls", "scheduler_cls", "distributed_executor_backend", "logits_processors"),
    *("tool_parser_plugin", "reasoning_parser_plugin", "io_processor_plugin", "tool_server", "lora_modules"),
    *("kv_transfer_config", "ec_transfer_config", "kv_events_config", "weight_transfer_config", "profiler_config"),
    *("config", "log_config_file", "logging_config", "otlp_traces_endpoint", "download_dir"),
    *("allowed_local_media_path", "device_ids", "data_parallel_address", "master_addr", "nnodes", "node_rank"),
)
_WHOLE_CONFIGS = ("additional_config", "compilation_config", "speculative_config")
_ENVIRONMENT = re.compile(
    r"^(VLLM|OMP|KMP|GOMP|MKL|OPENBLAS|HCCL|NCCL|ASCEND|ACL|ATB|TASK_QUEUE|CPU_AFFINITY|PYTORCH|TORCH|CUDA|TRITON|MALLOC)_"
)
_OPERATORS_OWN = re.compile(
    r"_(PATH|HOME|DIR|FILE|PLUGINS?|LIB|LIBRARY|PRELOAD|KEY|TOKEN|PORT|PORT_RANGE|MANAGER|IP|ADDRESS|INSECURE\w*|VISIBLE_DEVICES)$"
    r"|^VLLM_(SERVER_DEV_MODE|ALLOW_\w+|USE_MODELSCOPE|S3_\w+|LOGGING_\w+|CONFIG_ROOT|CACHE_ROOT|CPU_OMP_THREADS_BIND)$"
    r"|^CUDA_INJECTION"
)
_CONFIG_KEYS = (
    *("backend", "inductor_passes", "inductor_compile_config", "cache_dir", "debug_dump_path"),
    # Of the draft model, which may name code.
    *("model", "tokenizer", "revision", "code_revision", "trust_remote_code", "hf_overrides", "load_config"),
    *("draft_load_config", "draft_model_config", "draft_parallel_config", "worker_cls", "worker_extension_cls"),
)

# argparse completes a unique beginning of a long option: `worker_extension_c` reaches the same
# option as the full name, so beginnings are refused too.
_WORD = re.compile(r"^[a-z][a-z0-9_]*$")
_KEY = re.compile(r"^[A-Za-z][A-Za-z0-9_]*(\.[A-Za-z0-9_]+)*$")
_VARIABLE = re.compile(r"^[A-Z][A-Z0-9_]*$")


def refusal(kind: str, name: str) -> str:
    """Why a target is not for a job to set; empty when it is."""
    if kind == "argument":
        return _argument(name)
    return _variable(name) if kind == "environment" else _key(name)


def _argument(name: str) -> str:
    if not _WORD.match(name):
        return f"'{name}' is not an argument's name as Python spells it, such as max_num_seqs"
    bare = name.removeprefix("no_")
    if bare in _WHOLE_CONFIGS:
        return f"'{name}' is set key by key: use target {{kind: {bare}}}"
    if bare.endswith("_config"):
        return (
            f"argument '{name}' takes a whole document, which may name code; the operator's engine profile may set it"
        )
    if bare.startswith("ssl_") or any(refused.startswith(bare) for refused in _ARGUMENTS):
        return f"argument '{name}' is not for a job to set; the operator's engine profile may"
    return ""


def _variable(name: str) -> str:
    if not _VARIABLE.match(name):
        return f"'{name}' is not the name of an environment variable"
    if not _ENVIRONMENT.match(name) or _OPERATORS_OWN.search(name):
        return f"environment variable '{name}' is not for a job to set; the operator's engine profile may"
    return ""


def _key(name: str) -> str:
    if not _KEY.match(name):
        return f"'{name}' is not a key, or keys joined by dots"
    if any(part in _CONFIG_KEYS or part.endswith(("_path", "_dir", "_file")) for part in name.split(".")):
        return f"key '{name}' is not for a job to set; the operator's engine profile may"
    return ""
