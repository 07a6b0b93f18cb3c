"""Devices that exist on paper only: any number of them is well and idle, and none has to be pinned."""

from collections.abc import Sequence

from autotune.platforms.device import ANY_RESOURCE, Device

RESOURCE = ANY_RESOURCE
REST_S = 0.0

_COUNT = 64  # as many as a local Ray is ever given, so that every id it assigns is known


def visibility(devices: Sequence[str]) -> dict[str, str]:
    """Nothing: a simulated engine uses no device."""
    return {}


def environment(devices: Sequence[str], ranks: int = 1) -> dict[str, str]:
    """Nothing: the engine profile's `SIMULATED_DEVICE` says what is simulated."""
    return {}


def idle_command(devices: Sequence[str]) -> None:
    """Nothing to wait for."""


def utilization(devices: Sequence[str]) -> None:
    """Not known: what is simulated are step times."""


def discover() -> tuple[Device, ...]:
    """Devices "0" to "63", all well and idle; without memory figures, which the simulated engine has itself."""
    return tuple(Device(str(number), "simulated", "OK") for number in range(_COUNT))
