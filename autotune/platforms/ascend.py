"""Ascend NPUs, seen through `npu-smi`."""

import statistics
import sys
from collections.abc import Sequence

from autotune.errors import EnvironmentProblem
from autotune.platforms.device import Device, Utilization, sorted_ids
from autotune.platforms.npu_smi import parse_info, parse_mapping, parse_usages
from autotune.platforms.tool import run

RESOURCE = "NPU"

_HCCL_FIRST_PORT = 20000  # away from the default block 60000-60015 and below the ports that Linux gives to anyone
_HCCL_PORTS = 16  # taken from the base port on (CANN, HCCL_IF_BASE_PORT)
_HCCL_EXEC_TIMEOUT_S = 300  # default 1836: a hung collective should end a trial, not half an hour of it


def visibility(devices: Sequence[str]) -> dict[str, str]:
    """Exactly these NPUs, by logic id, sorted: CANN refuses an unsorted list."""
    return {"ASCEND_RT_VISIBLE_DEVICES": ",".join(sorted_ids(devices))}


def environment(devices: Sequence[str], ranks: int = 1) -> dict[str, str]:
    """A block of HCCL ports that no other engine on the node has, and a short time-out for collectives."""
    first = min(map(int, devices))
    return {
        "HCCL_IF_BASE_PORT": str(_HCCL_FIRST_PORT + _HCCL_PORTS * first),
        "HCCL_EXEC_TIMEOUT": str(_HCCL_EXEC_TIMEOUT_S),
        "OMP_NUM_THREADS": "1",  # as the official image; Ray would set it from its CPU share
    }


def idle_command(devices: Sequence[str]) -> tuple[str, ...]:
    """Asks npu-smi; needed because the driver frees a dead process's memory seconds later (error EJ0001 else)."""
    return (sys.executable, "-P", "-m", "autotune.platforms.idle", "ascend", *sorted_ids(devices))


def utilization(devices: Sequence[str]) -> Utilization | None:
    """AI core and HBM bandwidth shares, as far as npu-smi shows them. Raises EnvironmentProblem when it fails or hangs.

    A device that the mapping does not name is taken for the card of that number, as `parse_info` does.
    """
    places = {str(logic): place for place, logic in parse_mapping(run(("npu-smi", "info", "-m"))).items()}
    wanted = [places.get(device, (int(device), 0)) for device in sorted_ids(devices)]
    usages = {
        card: parse_usages(run(("npu-smi", "info", "-t", "usages", "-i", str(card)))) for card in {c for c, _ in wanted}
    }
    return mean_utilization([usages[card][chip] for card, chip in wanted if chip in usages[card]])


def mean_utilization(found: Sequence[Utilization]) -> Utilization | None:
    """The means over devices, each over those that have the figure; None when there is none."""
    compute = [one.compute for one in found if one.compute is not None]
    bandwidth = [one.memory_bandwidth for one in found if one.memory_bandwidth is not None]
    if not compute and not bandwidth:
        return None
    return Utilization(
        statistics.fmean(compute) if compute else None, statistics.fmean(bandwidth) if bandwidth else None
    )


def discover() -> tuple[Device, ...]:
    """All NPUs that npu-smi shows. Raises EnvironmentProblem when it fails, hangs or shows none."""
    info = run(("npu-smi", "info"))
    devices = parse_info(info, parse_mapping(run(("npu-smi", "info", "-m"))))
    if not devices:
        raise EnvironmentProblem(
            f"npu-smi shows no NPU: {info.strip()[:300]}. A device that another container holds is not shown (-8020); "
            "otherwise check the driver and the container's /dev/davinci* devices"
        )
    return devices
