"""What the simulated engine says of itself: its version and the arguments it takes."""

import dataclasses
import sys
from pathlib import Path

from autotune import __version__
from autotune.engines.examine import EngineInfo
from autotune.engines.simulated.options import ACCEPTED, Options

MODELLED_VERSIONS = {
    "cpu": {"vllm": "0.32.0"},
    "cuda": {"vllm": "0.32.0"},
    "ascend": {"vllm": "0.30.0", "vllm-ascend": "0.30.0rc2"},
}
"""Device family -> the releases whose defaults and rules are simulated."""

_NOT_ARGUMENTS = frozenset({"given", "environment"})


def describe(executable: Path) -> EngineInfo:
    """What the probe script would say of a real engine; nothing is started for it."""
    modelled = {field.name for field in dataclasses.fields(Options)} - _NOT_ARGUMENTS
    return EngineInfo(
        executable=str(executable),
        interpreter=sys.executable,
        versions={"python": sys.version.split()[0], "vllm-simulated": __version__},
        platform="simulated",
        arguments=frozenset(modelled | ACCEPTED),
    )
