"""Gathers facts about the operating system from the files below a root folder."""

import os
import platform
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from autotune.doctor.facts import HostFacts
from autotune.engines import preload
from autotune.export import container

ASCEND_MOUNTS = container.ASCEND_DRIVER
"""What the official image needs of its host."""

ASCEND_NODES = tuple(node.removeprefix("/dev/") for node in container.ASCEND_NODES)
"""Device nodes that an Ascend container needs beside its NPUs."""

_NODES = ("davinci[0-9]*", *ASCEND_NODES, "nvidia[0-9]*", "nvidiactl", "nvidia-uvm")
_CANN = ("usr/local/Ascend/cann", "usr/local/Ascend/ascend-toolkit/latest")  # 8.5 and newer; older
_CANN_VARIABLES = ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME")
_IN_CONTAINER = (".dockerenv", "run/.containerenv", "run/secrets/kubernetes.io", "var/run/secrets/kubernetes.io")
_LISTEN = "0A"  # the state of a socket that listens, in /proc/net/tcp


def gather_host(root: Path, environment: Mapping[str, str]) -> HostFacts:
    """What the files below `root` say; those that are missing are left out."""
    nodes = {node.name for pattern in _NODES for node in (root / "dev").glob(pattern)}
    return HostFacts(
        architecture=platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=_memory(root / "proc/meminfo"),
        shm_bytes=_size(root / "dev/shm"),
        governors=_governors(root / "sys/devices/system/cpu"),
        numa_nodes=len(list((root / "sys/devices/system/node").glob("node[0-9]*"))),
        numa_balancing=_switch(root / "proc/sys/kernel/numa_balancing"),
        swappiness=_number(root / "proc/sys/vm/swappiness"),
        jemalloc=tuple(_seen(file, root) for file in preload.installed(root)),
        listening=frozenset(port for name in ("tcp", "tcp6") for port in _listening(root / "proc/net" / name)),
        ephemeral=_pair(root / "proc/sys/net/ipv4/ip_local_port_range"),
        nodes=frozenset(nodes),
        closed_nodes=frozenset(node for node in nodes if not os.access(root / "dev" / node, os.R_OK | os.W_OK)),
        mounted=frozenset(path for path in ASCEND_MOUNTS if (root / path.lstrip("/")).exists()),
        driver=_driver(root),
        cann=_cann(root, environment),
        in_container=any((root / mark).exists() for mark in _IN_CONTAINER),
    )


def missing_libraries(root: Path, preload: str) -> dict[str, bool]:
    """The libraries of an LD_PRELOAD value, and whether each is there."""
    names = [name for name in re.split(r"[:\s]+", preload) if name]
    return {name: (root / name.lstrip("/")).exists() for name in names if name.startswith("/")}


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _number(file: Path) -> int | None:
    text = _text(file)
    return int(text) if text.isdigit() else None


def _switch(file: Path) -> bool | None:
    number = _number(file)
    return None if number is None else number > 0


def _pair(file: Path) -> tuple[int, int] | None:
    words = _text(file).split()
    return (int(words[0]), int(words[1])) if len(words) == 2 and all(map(str.isdigit, words)) else None


def _memory(file: Path) -> int | None:
    match = re.search(r"^MemTotal:\s+(\d+) kB", _text(file), re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def _size(folder: Path) -> int | None:
    try:
        found = os.statvfs(folder)
    except OSError:
        return None
    return found.f_frsize * found.f_blocks


def _governors(folder: Path) -> dict[str, int]:
    return dict(Counter(filter(None, map(_text, folder.glob("cpu[0-9]*/cpufreq/scaling_governor")))))


def _listening(file: Path) -> Iterator[int]:
    for line in _text(file).splitlines()[1:]:
        words = line.split()
        if len(words) > 3 and words[3] == _LISTEN:
            yield int(words[1].rpartition(":")[2], 16)


def _seen(file: Path, root: Path) -> str:
    return f"/{file.relative_to(root)}"


def _driver(root: Path) -> str | None:
    ascend = re.search(r"^Version\s*=\s*(\S+)", _text(root / "usr/local/Ascend/driver/version.info"), re.MULTILINE)
    if ascend:
        return ascend[1]
    nvidia = re.search(r"Kernel Module(?: for \S+)?\s+(\d[\d.]+)", _text(root / "proc/driver/nvidia/version"))
    return nvidia[1] if nvidia else None


def _cann(root: Path, environment: Mapping[str, str]) -> str | None:
    """Where the engine's environment points, else where CANN is installed by default."""
    named = [environment[name].lstrip("/") for name in _CANN_VARIABLES if environment.get(name)]
    for place in (*named, *_CANN):
        for file in sorted((root / place).glob("*-linux/ascend_toolkit_install.info")):
            match = re.search(r"^version=(\S+)", _text(file), re.MULTILINE)
            if match:
                return match[1]
    return None
