"""What the engine logs, in vLLM's words and with its prefixes."""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autotune.engines.simulated.refusal import Refused

if TYPE_CHECKING:
    from autotune.engines.simulated.launch import Launch

VERSION = "0.32.0"
"""The version of vLLM that is imitated."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """When a line is logged, and by which process."""

    time: str  # "11-23 06:36:30"
    pid: int

    def line(self, process: str, level: str, place: str, text: str) -> str:
        """One line as vLLM's logger writes it."""
        return f"({process} pid={self.pid}) {level} {self.time} [{place}] {text}"


def now() -> Stamp:
    """The stamp of a line that this process logs now."""
    return Stamp(time.strftime("%m-%d %H:%M:%S"), os.getpid())


def start(launch: "Launch", stamp: Stamp) -> list[str]:
    """The lines of a start that goes well, up to the one that says it listens."""
    options, device = launch.options, launch.device
    api = [
        ("api_utils.py:286", f"non-default args: {dict(options.given)}"),
        ("model.py:733", f"Resolved architecture: {launch.model.architecture}"),
        ("model.py:2152", f"Using max model len {launch.max_model_len}"),
    ]
    if options.enable_chunked_prefill:
        budget = launch.limits.max_num_batched_tokens
        api.append(("scheduler.py:307", f"Chunked prefill is enabled with max_num_batched_tokens={budget}."))
    if device.family == "ascend":
        api.insert(0, ("__init__.py:48", "Platform plugin ascend is activated"))
        if options.block_size not in (None, launch.limits.block_size):
            api.append(("utils.py:1452", f"Block size is set to {launch.limits.block_size} on NPU."))
    described = (
        f"model={options.model!r}, dtype=torch.bfloat16, max_seq_len={launch.max_model_len}, "
        f"tensor_parallel_size={options.tensor_parallel_size}, pipeline_parallel_size=1, data_parallel_size=1, "
        f"enforce_eager={options.enforce_eager}, served_model_name={options.name}, "
        f"enable_prefix_caching={options.enable_prefix_caching}, "
        f"enable_chunked_prefill={options.enable_chunked_prefill}, "
        f"compilation_config={json.dumps(dict(options.compilation_config))}"
    )
    label = {"cpu": "CPU", "ascend": "NPU", "cuda": "GPU"}[device.family]
    tokens, length = launch.kv_tokens, launch.max_model_len
    core = [
        ("core.py:133", f"Initializing a V1 LLM engine (v{VERSION}) with config: {described}"),
        ("simulated.py:1", f"The device is simulated: {device.name}"),
        ("gpu_worker.py:512", f"Available KV cache memory: {launch.kv_bytes / 2**30:.2f} GiB"),
        (
            "kv_cache_utils.py:2327",
            f"{label} KV cache size: {tokens:,} tokens, "
            f"Maximum concurrency for {length:,} tokens per request: {tokens / length:.2f}x",
        ),
    ]
    return [stamp.line("APIServer", "INFO", *line) for line in api] + [
        stamp.line("EngineCore", "INFO", *line) for line in core
    ]


def refusal(refused: Refused, stamp: Stamp) -> list[str]:
    """The last lines of a start that fails, with the wrappers that vLLM puts around the cause."""
    if refused.process == "Worker":
        place = "multiproc_executor.py:1063"
        outer = f"RuntimeError: Worker failed with error '{refused.lines[0]}', please check the stack trace above"
        return [
            stamp.line("Worker", "ERROR", place, "WorkerProc hit an exception."),
            *(stamp.line("Worker", "ERROR", place, line) for line in refused.lines),
            *_core_failed([outer], stamp),
        ]
    if refused.process == "EngineCore":
        return _core_failed(refused.lines, stamp)
    return list(refused.lines)


def _core_failed(lines: Sequence[str], stamp: Stamp) -> list[str]:
    return [
        stamp.line("EngineCore", "ERROR", "core.py:1510", "EngineCore failed to start."),
        stamp.line("EngineCore", "ERROR", "core.py:1510", "Traceback (most recent call last):"),
        *(stamp.line("EngineCore", "ERROR", "core.py:1510", line) for line in lines),
        "Traceback (most recent call last):",
        "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}",
    ]
