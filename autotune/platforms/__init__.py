"""Kinds of devices: which there are, whether they are well and idle, and how an engine is pinned to some of them."""

from autotune.platforms import ascend, cpu, cuda
from autotune.platforms.device import Device, DeviceProcess, Platform

PLATFORMS: dict[str, Platform] = {"ascend": ascend, "cuda": cuda, "cpu": cpu}
"""Platform name, as an engine profile spells it -> its module."""

__all__ = ["PLATFORMS", "Device", "DeviceProcess", "Platform"]
