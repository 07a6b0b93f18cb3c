"""Kinds of devices: which there are, whether they are well and idle, and how an engine is pinned to some of them."""

from autotune.platforms import ascend, cpu, cuda, simulated
from autotune.platforms.device import ANY_RESOURCE, Device, DeviceProcess, Platform, Utilization
from autotune.platforms.tool import DeviceToolFailed

PLATFORMS: dict[str, Platform] = {"ascend": ascend, "cuda": cuda, "cpu": cpu, "simulated": simulated}
"""Platform name, as an engine profile spells it -> its module."""

__all__ = ["ANY_RESOURCE", "PLATFORMS", "Device", "DeviceProcess", "DeviceToolFailed", "Platform", "Utilization"]
