"""A pretended machine with NPUs: an `npu-smi` that shows them, and the side of the driver that an engine meets.

What is on a device is what holds the lock of its file in the machine's folder, as a driver would know it. `npu-smi`
shows its process and its memory; an engine that opens a device that is taken fails as a second service on one NPU does,
and one whose HCCL ports are taken as CANN does. An engine of a node meets the machine that its environment names:

    PRETENDED_NPUS       the machine's folder; the numbers in ASCEND_RT_VISIBLE_DEVICES are those of its devices
    PRETENDED_ADDRESS    the loopback address that stands for the network of its host or container

`unwell-N` in the folder holds the health of device N when it is not OK.
"""

import fcntl
import os
import socket
import sys
from pathlib import Path

IDLE_MIB, TOTAL_MIB = 3370, 65536
RULE = "+===========================+===============+====================================================+"
HCCL_PORTS = 16


def install(folder: Path, count: int) -> Path:
    """Make a machine with so many A2 NPUs; returns the folder with its `npu-smi`."""
    tools = folder / "tools"
    tools.mkdir(parents=True)
    for device in range(count):
        (folder / f"npu-{device}").touch()
    script = tools / "npu-smi"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -S {Path(__file__).resolve()} {folder} "$@"\n')
    script.chmod(0o755)
    return tools


def devices(folder: Path) -> list[int]:
    """The machine's devices by number."""
    return sorted(int(path.name.removeprefix("npu-")) for path in folder.glob("npu-*"))


def open_devices(folder: Path, visible: list[int]) -> str:
    """Take the devices for this process's life; what the engine says when it cannot, else nothing."""
    for device in visible:
        file = os.open(folder / f"npu-{device}", os.O_RDWR)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return f"EE9999 [SqCqManage]Alloc sq cq fail, error code is 207005, device {device}"
        os.ftruncate(file, 0)
        os.pwrite(file, str(os.getpid()).encode(), 0)
    return ""


def listen_for_hccl(address: str, base: int) -> str:
    """Take a block of ports for this process's life; what CANN says when one is taken, else nothing."""
    for port in range(base, base + HCCL_PORTS):
        listener = socket.socket()
        try:
            listener.bind((address, port))
        except OSError:
            return (
                f"EJ0003: [PID: {os.getpid()}] Failed to bind the IP port. Reason: port {port} has been bound already."
            )
        listener.listen()
        os.set_inheritable(listener.fileno(), False)
        listener.detach()
    return ""


def user_of(folder: Path, device: int) -> str:
    """The process id of the engine on a device; empty when there is none."""
    with (folder / f"npu-{device}").open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.read() or "1"
    return ""


def info(folder: Path) -> str:
    """What `npu-smi info` prints."""
    rows = [RULE, "| NPU   Name | Health | Power(W) Temp(C) Hugepages-Usage(page) |"]
    rows.append("| Chip | Bus-Id | AICore(%) Memory-Usage(MB) HBM-Usage(MB) |")
    users = {device: user_of(folder, device) for device in devices(folder)}
    for device, pid in users.items():
        unwell = folder / f"unwell-{device}"
        health = unwell.read_text() if unwell.is_file() else "OK"
        used = 60000 if pid else IDLE_MIB
        rows.append(RULE)
        rows.append(f"| {device:<5} 910B3 | {health} | 90.0 36 0 / 0 |")
        rows.append(f"| 0 | 0000:{device:02X}:00.0 | 0 0 / 0 {used} / {TOTAL_MIB} |")
    rows += [RULE, "| NPU     Chip | Process id | Process name | Process memory(MB) |"]
    rows += [f"| {device} 0 | {pid} |  | 56630 |" for device, pid in users.items() if pid]
    return "\n".join(rows) + "\n"


def mapping(folder: Path) -> str:
    """What `npu-smi info -m` prints."""
    head = "\tNPU ID    Chip ID    Chip Logic ID    Chip Name\n"
    return head + "".join(f"\t{device}    0    {device}    Ascend 910B3\n" for device in devices(folder))


def usages() -> str:
    """What `npu-smi info -t usages -i CARD` prints."""
    return "\tAicore Usage Rate(%)    : 37\n\tHBM Bandwidth Usage Rate(%)    : 41\n\tChip ID    : 0\n"


if __name__ == "__main__":
    machine, asked = Path(sys.argv[1]), sys.argv[2:]
    sys.stdout.write(mapping(machine) if "-m" in asked else usages() if "usages" in asked else info(machine))
