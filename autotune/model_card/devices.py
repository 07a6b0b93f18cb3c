"""Accelerators by name, with the memory that their software reports: less than the data sheet's figure."""

import re
from dataclasses import dataclass
from typing import Literal

from autotune.errors import NotFound


@dataclass(frozen=True, slots=True)
class KnownDevice:
    """One device as vLLM counts devices: of an Ascend 910C one die, of a 300I Duo one chip."""

    name: str
    kind: Literal["ascend", "cuda"]
    memory_gib: float
    aliases: tuple[str, ...] = ()


KNOWN_DEVICES = (
    # "NPU out of memory … 60.96 GiB total capacity" (vllm-ascend#1670, #1127) and "29.50 GiB" (910B4)
    KnownDevice("910B-64GB", "ascend", 60.96, ("910b", "910b1", "910b2", "910b2c", "910b3", "ascend-910b")),
    KnownDevice("910B-32GB", "ascend", 29.50, ("910b4",)),
    KnownDevice("910C", "ascend", 61.27, ("910c-64gb", "ascend910", "ascend-910c", "a3")),  # sglang#29838
    KnownDevice("310P", "ascend", 43.24, ("310p3", "300i-duo")),
    # "CUDA out of memory … has a total capacity of …", the smallest of what is reported
    KnownDevice("H100", "cuda", 79.10, ("h100-80gb", "h800")),
    KnownDevice("H200", "cuda", 139.72),
    KnownDevice("H20", "cuda", 95.00),
    KnownDevice("A100-80GB", "cuda", 79.14, ("a100", "a800")),
    KnownDevice("A100-40GB", "cuda", 39.25),
    KnownDevice("L40S", "cuda", 44.34, ("l40", "l20")),
    KnownDevice("RTX4090", "cuda", 23.52, ("4090",)),
)
"""In the order in which they are shown; per device, in GiB."""


def known_device(name: str) -> KnownDevice:
    """The device of this name, however it is written. Raises NotFound with the names there are."""
    wanted = _plain(name)
    for device in KNOWN_DEVICES:
        if wanted in {_plain(known) for known in (device.name, *device.aliases)}:
            return device
    names = ", ".join(device.name for device in KNOWN_DEVICES)
    raise NotFound(f"no device {name!r} is known; known are {names}; for others give --device-memory-gib")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
