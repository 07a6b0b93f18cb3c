"""How `vllm serve` is called: its argument list and its environment."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from autotune.engine_config import EngineConfig
from autotune.errors import InputError

OWNED_ARGUMENTS = frozenset({"model", "served_model_name", "host", "port", "uds", "api_key"})
"""What the service decides itself for every engine."""

_LEFTOVER_PREFIXES = ("RAY_", "AUTOTUNE_")
_LEFTOVERS = frozenset(
    {
        "OMP_NUM_THREADS",  # Ray sets it from num_cpus
        "MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE",
        "HCCL_HOST_SOCKET_PORT_RANGE",  # wins over the block of ports that keeps engines of one host apart
        "ASCEND_LAUNCH_BLOCKING",  # left over from debugging: graphs cannot be captured with it (error 107027)
        "PROMETHEUS_MULTIPROC_DIR",  # of the service: the engine would count into its folder
        "PYTHONHOME", "VLLM_API_KEY", "VLLM_PORT", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__",
    }
)  # fmt: skip
_FIXED_ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_LOGGING_LEVEL": "INFO",  # the log is read for failures and for effective values
    "PYTHONUNBUFFERED": "1",
    "SPT_NOENV": "1",  # setproctitle leaves /proc/PID/environ alone: a sweep finds orphaned workers by it
}


def serve_arguments(config: EngineConfig, *, model: str) -> list[str]:
    """The arguments after the `vllm` executable, with the literal `{port}` for the supervisor to fill in.

    Raises InputError when the configuration sets an argument that the service owns.
    """
    owned = sorted(OWNED_ARGUMENTS & config.arguments.keys())
    if owned:
        raise InputError([f"the engine argument {name!r} is set by the service; remove it" for name in owned])
    chosen = "distributed_executor_backend" in config.arguments
    backend = [] if chosen else ["--distributed-executor-backend", "mp"]  # a nested engine must never join our Ray
    words = [word for argument in config.command_words for word in argument]
    return ["serve", model, "--host", "127.0.0.1", "--port", "{port}", *backend, *words]


def environment(base: Mapping[str, str], *layers: Mapping[str, str], model: str, api_key: str) -> dict[str, str]:
    """The engine's complete environment: `base` (ours) without leftovers, then the layers, later ones win.

    Give the layers in this order: platform, profile, configuration, visible devices. The key is passed here and never
    in argv, where every user of the machine could read it.
    """
    inherited = {
        name: value
        for name, value in base.items()
        if name not in _LEFTOVERS and not name.startswith(_LEFTOVER_PREFIXES)
    }
    if "PYTHONPATH" in inherited:
        inherited["PYTHONPATH"] = _foreign_folders(inherited["PYTHONPATH"])
    offline = {"HF_HUB_OFFLINE": "1"} if Path(model).is_dir() else {}
    merged = inherited | _FIXED_ENVIRONMENT | offline
    for layer in layers:
        merged |= layer
    return merged | {"VLLM_API_KEY": api_key}


def _foreign_folders(python_path: str) -> str:
    """The entries that do not belong to the tuner's own environment: CANN's set_env.sh adds some that NPUs need."""
    folders = [Path(folder) for folder in python_path.split(os.pathsep) if folder]
    own = (Path(sys.prefix), Path(__file__).parents[2])
    return os.pathsep.join(str(f) for f in folders if not any(f.is_relative_to(place) for place in own))
