"""What one engine launch is: arguments, environment and devices, with a hash that names it."""

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from pydantic import PositiveInt

from autotune.records import Record

Value = bool | int | float | str

# Flags of vLLM without a --no- form: leaving them out is the only way to say false.
FLAGS_WITHOUT_NO = frozenset(
    {"aggregate_engine_logging", "data_parallel_multi_port_external_lb", "disable_log_stats", "grpc", "headless"}
)


PARALLELISM = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")


def devices_needed(arguments: Mapping[str, Any]) -> int:
    """Devices that these engine arguments take: tp x pp x dp."""
    return math.prod(int(arguments.get(name, 1)) for name in PARALLELISM)


class EngineConfig(Record):
    """An engine configuration.

    `arguments` are spelled as vLLM spells them in Python (`max_num_seqs`); the values of
    `additional_config`, `compilation_config` and `speculative_config` are mappings. `devices` is tp x pp x dp.
    """

    arguments: dict[str, Any] = {}
    environment: dict[str, str] = {}
    devices: PositiveInt = 1

    @property
    def settled_arguments(self) -> dict[str, Any]:
        """The arguments that say something, keys with dashes: no unset ones, no `false` for a flag without --no-."""
        return {
            name.replace("_", "-"): value
            for name, value in self.arguments.items()
            if value is not None and not (value is False and name.replace("-", "_") in FLAGS_WITHOUT_NO)
        }

    @property
    def command_words(self) -> list[list[str]]:
        """The arguments as words of a `vllm serve` command line, one list per argument, not quoted."""
        return [_words(f"--{name}", value) for name, value in self.settled_arguments.items()]

    @property
    def canonical(self) -> str:
        """The configuration as JSON with sorted keys: equal configurations are equal texts."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    @property
    def hash(self) -> str:
        """A stable name of the configuration: the first 16 hex digits of the SHA-256 of its canonical JSON."""
        return hashlib.sha256(self.canonical.encode()).hexdigest()[:16]


def _words(flag: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [flag if value else flag.replace("--", "--no-", 1)]
    if isinstance(value, Mapping):
        return [flag, json.dumps(value)]
    if isinstance(value, list | tuple):
        return [flag, *map(str, value)]
    text = str(value)
    return [f"{flag}={text}"] if text.startswith("-") else [flag, text]
