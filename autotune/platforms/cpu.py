"""CPU cores: no tool, no idle check; an engine is pinned by binding its OpenMP threads."""

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

from autotune.platforms.device import Device, sorted_ids

RESOURCE = "CPU"
REST_S = 0.0

_TOPOLOGY = Path("/sys/devices/system/cpu")


def visibility(devices: Sequence[str]) -> dict[str, str]:
    """Nothing: vLLM's variable for the CPU counts memory nodes, not cores."""
    return {}


def environment(devices: Sequence[str], ranks: int = 1) -> dict[str, str]:
    """Bind the workers' threads to these cores, see `thread_binding`.

    OMP_NUM_THREADS is for the API server and the scheduler; vLLM sets the workers' own to the cores they are bound to.
    """
    return {"VLLM_CPU_OMP_THREADS_BIND": thread_binding(devices, ranks, thread_siblings()), "OMP_NUM_THREADS": "1"}


def thread_binding(devices: Sequence[str], ranks: int, siblings: Mapping[str, str]) -> str:
    """VLLM_CPU_OMP_THREADS_BIND for these cores: `0,1,2|3,4,5` for two ranks.

    Follows what vLLM's `auto` does with a whole machine (vllm.utils.ompmultiprocessing 0.32), for only our cores:
    one hardware thread per physical core, and one core per rank left to the scheduler and the API server as long as
    there are more cores than ranks: OpenMP threads that share a core with them spin while the others wait.
    `siblings` maps a core to a name that it shares with the other hardware threads of its physical core.
    """
    ids = sorted_ids(devices)
    last_of_core = {siblings.get(device, device): device for device in ids}
    cores = [device for device in ids if device in last_of_core.values()]
    if len(cores) < ranks:
        cores = ids
    share = max(1, len(cores) // ranks)
    blocks = [cores[rank * share : (rank + 1) * share] for rank in range(ranks)]
    return "|".join(",".join(block[:-1] or block) for block in blocks)


def thread_siblings(topology: Path = _TOPOLOGY) -> dict[str, str]:
    """Core id -> the list of hardware threads of its physical core, on x86; elsewhere every thread is a core."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return {}
    files = topology.glob("cpu[0-9]*/topology/thread_siblings_list")
    return {file.parent.parent.name.removeprefix("cpu"): file.read_text().strip() for file in files}


def idle_command(devices: Sequence[str]) -> None:
    """Nothing to wait for: the kernel has taken back a dead process's memory when it is reaped."""


def utilization(devices: Sequence[str]) -> None:
    """Not known: threads that wait for each other spin, so a busy core says nothing."""


def discover() -> tuple[Device, ...]:
    """The cores this process may use."""
    name = platform.processor() or platform.machine()
    return tuple(Device(str(core), name, "OK") for core in sorted(os.sched_getaffinity(0)))
