"""NVIDIA GPUs, seen through `nvidia-smi`."""

import csv
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence

from autotune.platforms.device import Device, DeviceProcess, Utilization, sorted_ids
from autotune.platforms.tool import run

RESOURCE = "GPU"
REST_S = 0.0

_FORMAT = "--format=csv,noheader,nounits"


def visibility(devices: Sequence[str]) -> dict[str, str]:
    """Exactly these GPUs, numbered as nvidia-smi numbers them (CUDA's own default order is by speed)."""
    return {"CUDA_VISIBLE_DEVICES": ",".join(sorted_ids(devices)), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def environment(devices: Sequence[str], ranks: int = 1) -> dict[str, str]:
    """Nothing: NCCL finds free ports itself."""
    return {}


def idle_command(devices: Sequence[str]) -> tuple[str, ...]:
    """Asks nvidia-smi."""
    return (sys.executable, "-P", "-m", "autotune.platforms.idle", "cuda", *sorted_ids(devices))


def utilization(devices: Sequence[str]) -> Utilization | None:
    """The share of time in which a kernel ran. Raises EnvironmentProblem when nvidia-smi fails or hangs.

    Its `utilization.memory` is no share of the bandwidth, but of the time in which memory was used at all.
    """
    query = ("nvidia-smi", "--query-gpu=utilization.gpu", _FORMAT, "-i", ",".join(sorted_ids(devices)))
    return parse_utilization(run(query))


def parse_utilization(gpu_rows: str) -> Utilization | None:
    """The mean over the GPUs of the query of `utilization`; None when none of them says anything."""
    shares = [int(share) / 100 for (share,) in _rows(gpu_rows, 1) if share.strip().isdigit()]
    return Utilization(statistics.fmean(shares)) if shares else None


def discover() -> tuple[Device, ...]:
    """All GPUs that nvidia-smi shows. Raises EnvironmentProblem when it fails or hangs."""
    gpus = run(("nvidia-smi", "--query-gpu=index,uuid,name,memory.used,memory.total", _FORMAT))
    processes = run(("nvidia-smi", "--query-compute-apps=gpu_uuid,pid,process_name,used_memory", _FORMAT))
    return parse(gpus, processes)


def parse(gpu_rows: str, process_rows: str) -> tuple[Device, ...]:
    """Devices from the two queries of `discover`, by index. Memory is in MiB; `[N/A]` (unified memory) becomes None."""
    users: dict[str, list[DeviceProcess]] = defaultdict(list)
    for uuid, pid, name, memory in _rows(process_rows, 4):
        users[uuid].append(DeviceProcess(int(pid), name, _mib(memory)))
    return tuple(
        Device(index, name, "OK", _mib(used), _mib(total), tuple(users[uuid]))
        for index, uuid, name, used, total in _rows(gpu_rows, 5)
    )


def _rows(text: str, columns: int) -> list[list[str]]:
    return [row for row in csv.reader(text.splitlines(), skipinitialspace=True) if len(row) == columns]


def _mib(text: str) -> int | None:
    return int(text) if text.strip().isdigit() else None
