"""Ascend NPUs, seen through `npu-smi`."""

import contextlib
import dataclasses
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from autotune.errors import EnvironmentProblem
from autotune.platforms.device import Device, Utilization, sorted_ids
from autotune.platforms.npu_smi import Place, parse_complaint, parse_info, parse_mapping, parse_usages
from autotune.platforms.tool import DeviceToolFailed, run

RESOURCE = "NPU"
REST_S = 10.0  # after a kill; sooner HCCP may say that the last process still runs (EJ0001)

_NODES = Path("/dev")
_NODE = "davinci"  # and the number of the chip on this host
_HCCL_FIRST_PORT = 20000  # away from the default block 60000-60015 and below the ports that Linux gives to anyone
HCCL_PORTS = 16  # taken from the base port on (CANN, HCCL_IF_BASE_PORT)
_HCCL_BLOCKS = 512  # so that all lie below 32768, whatever number a chip has
_HCCL_EXEC_TIMEOUT_S = 300  # default 1836: a hung collective should end a trial, not half an hour of it
_COMPLAINT_TIMEOUT_S = 5.0  # it only explains


def visibility(devices: Sequence[str]) -> dict[str, str]:
    """Exactly these NPUs, by logic id, sorted: CANN refuses an unsorted list."""
    return {"ASCEND_RT_VISIBLE_DEVICES": ",".join(sorted_ids(devices))}


def environment(devices: Sequence[str], ranks: int = 1) -> dict[str, str]:
    """A block of HCCL ports that no other engine on the host has, and a short time-out for collectives.

    Containers that share the host's network each count their NPUs from 0: the chip's number on the host decides.
    """
    nodes = _nodes()
    first = min(hccl_ports(device, nodes)[0] for device in devices)
    return {
        "HCCL_IF_BASE_PORT": str(first),
        "HCCL_EXEC_TIMEOUT": str(_HCCL_EXEC_TIMEOUT_S),
        "OMP_NUM_THREADS": "1",  # as the official image; Ray would set it from its CPU share
    }


def hccl_ports(device: str, nodes: Sequence[int]) -> range:
    """The block of an engine whose lowest NPU this is; `nodes` are the numbers of the device nodes that are here."""
    number = int(device)
    on_host = nodes[number] if number < len(nodes) else number
    first = _HCCL_FIRST_PORT + HCCL_PORTS * (on_host % _HCCL_BLOCKS)
    return range(first, first + HCCL_PORTS)


def idle_command(devices: Sequence[str]) -> tuple[str, ...]:
    """Asks npu-smi; needed because the driver frees a dead process's memory seconds later (error EJ0001 else)."""
    return (sys.executable, "-P", "-m", "autotune.platforms.idle", "ascend", *sorted_ids(devices))


def utilization(devices: Sequence[str]) -> Utilization | None:
    """AI core and HBM bandwidth shares, as far as npu-smi shows them. Raises EnvironmentProblem when it fails or hangs.

    A device that the mapping does not name is taken for the card of that number, as `parse_info` does.
    """
    mapping = _mapping()
    counted = runtime_ids([str(logic) for logic in mapping.values()], _nodes())
    places = {counted[str(logic)]: place for place, logic in mapping.items() if str(logic) in counted}
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
    """The NPUs that engines here can be given, by the ids that ASCEND_RT_VISIBLE_DEVICES counts.

    Raises DeviceToolFailed when npu-smi fails, hangs or shows none, EnvironmentProblem when it is missing.
    """
    info = run(("npu-smi", "info"))
    mapping = _mapping()
    shown = parse_info(info, mapping)
    if not shown:
        raise DeviceToolFailed(
            f"npu-smi shows no NPU: {info.strip()[:300]}. A device that another container holds is not shown (-8020); "
            "otherwise check the driver and the container's /dev/davinci* devices",
            hangs=False,
        )
    counted = runtime_ids([device.id for device in shown], _nodes())
    complained = [_with_complaint(device, mapping) for device in shown if device.id in counted]
    return tuple(dataclasses.replace(device, id=counted[device.id]) for device in complained)


def runtime_ids(shown: Sequence[str], nodes: Sequence[int]) -> dict[str, str]:
    """Id that npu-smi shows -> id that the runtime counts; `nodes` are the numbers of the device nodes that are here.

    In a container the runtime counts the NPUs that were mounted from 0 (with 4 and 5 mounted, 4 is refused as out of
    the range [0-2)), while npu-smi may go on showing the host's numbers, or all NPUs of the host. So where it shows
    every node's number, or one that is too large to be the container's own, it counts as the host does: then those of
    the nodes count, in the nodes' order, also where one of them is not shown. Else it has renumbered them itself.
    """
    here = [node for node in nodes if str(node) in shown]
    counts_as_host = len(here) == len(nodes) or any(int(device) >= len(nodes) for device in shown)
    if not here or not counts_as_host:
        return {device: device for device in shown}
    return {str(node): str(nodes.index(node)) for node in here}


def node_numbers(names: Iterable[str]) -> list[int]:
    """The numbers of the NPUs among the names of device nodes, rising."""
    numbers = (name.removeprefix(_NODE) for name in names if name.startswith(_NODE))
    return sorted(int(number) for number in numbers if number.isdigit())


def _nodes() -> list[int]:
    return node_numbers(path.name for path in _NODES.glob(f"{_NODE}[0-9]*"))


def _mapping() -> dict[Place, int]:
    """Empty where an old driver refuses the question; the table of `npu-smi info` has to do then."""
    try:
        return parse_mapping(run(("npu-smi", "info", "-m")))
    except DeviceToolFailed as problem:
        if problem.hangs:
            raise
        return {}


def _with_complaint(device: Device, mapping: Mapping[Place, int]) -> Device:
    """What npu-smi says about a health that is not OK, if it says it soon."""
    if device.health == "OK":
        return device
    places = {str(logic): place for place, logic in mapping.items()}
    card, chip = places.get(device.id, (int(device.id), 0))
    complaint = ""
    with contextlib.suppress(EnvironmentProblem):
        asked = ("npu-smi", "info", "-t", "health", "-i", str(card), "-c", str(chip))
        complaint = parse_complaint(run(asked, timeout_s=_COMPLAINT_TIMEOUT_S))
    return dataclasses.replace(device, complaint=complaint)
