"""Devices and the protocol that every platform module satisfies."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

ANY_RESOURCE = "any"
"""The resource of a platform whose devices stand for any kind."""


@dataclass(frozen=True, slots=True)
class DeviceProcess:
    """A process that uses a device; its name may be blank."""

    pid: int
    name: str
    memory_mib: int | None


@dataclass(frozen=True, slots=True)
class Device:
    """One accelerator (or CPU core) as its tool reports it now. Memory is None where there is none of its own."""

    id: str
    name: str
    health: str  # npu-smi's words: OK, Warning, Alarm, Critical, UNKNOWN
    memory_used_mib: int | None = None
    memory_total_mib: int | None = None
    processes: tuple[DeviceProcess, ...] = ()
    driver_mib: int = 0  # what the driver itself may hold of an idle device
    complaint: str = ""  # what the tool says about a health that is not OK, where it does

    @property
    def usable(self) -> bool:
        """Whether trials may run on it: a Warning is usable, an Alarm can hang every copy to the device."""
        return self.health in ("OK", "Warning")

    @property
    def health_text(self) -> str:
        """The health with what the tool says about it, for a person."""
        return f"{self.health}: {self.complaint}" if self.complaint else self.health

    @property
    def idle(self) -> bool:
        """No process, and no more memory in use than the driver's own, or than a tenth."""
        if self.processes:
            return False
        if self.memory_used_mib is None or not self.memory_total_mib:
            return True
        return self.memory_used_mib < max(self.driver_mib, 0.1 * self.memory_total_mib)


@dataclass(frozen=True, slots=True)
class Utilization:
    """How busy devices are, 0-1, on the average over them. None: the platform's tool does not say."""

    compute: float | None = None
    memory_bandwidth: float | None = None


class Platform(Protocol):
    """What a kind of device needs; satisfied by the modules `ascend`, `cuda`, `cpu` and `simulated`."""

    @property
    def RESOURCE(self) -> str:  # noqa: N802 - a module's constant
        """The name of the devices as a cluster resource: NPU, GPU, CPU, or `ANY_RESOURCE`."""

    @property
    def REST_S(self) -> float:  # noqa: N802 - a module's constant
        """How long devices are left alone after a process on them was killed."""

    def visibility(self, devices: Sequence[str]) -> dict[str, str]:
        """The variables that show exactly these devices to an engine."""

    def environment(self, devices: Sequence[str], ranks: int = 1) -> dict[str, str]:
        """Further variables for an engine of `ranks` workers on these devices, next to other engines on the node."""

    def idle_command(self, devices: Sequence[str]) -> tuple[str, ...] | None:
        """A command that exits 0 when these devices are idle; None where there is nothing to wait for."""

    def utilization(self, devices: Sequence[str]) -> Utilization | None:
        """How busy these devices are now; None where nobody knows. Raises EnvironmentProblem when their tool fails."""

    def discover(self) -> tuple[Device, ...]:
        """The devices of this machine. Raises EnvironmentProblem when their tool fails."""


def sorted_ids(devices: Sequence[str]) -> list[str]:
    """Device ids in numeric order, ids that are no numbers behind them: the runtime numbers ranks by this order."""
    return sorted(devices, key=lambda device: (not device.isdigit(), int(device) if device.isdigit() else 0, device))
