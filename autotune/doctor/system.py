"""Judges the host, Ray, the disk and the database."""

from pathlib import Path

from packaging.version import Version

from autotune.doctor.facts import DatabaseFacts, DiskFacts, Facts, HostFacts, RayFacts
from autotune.doctor.finding import Finding, fail, ok, warn
from autotune.releases import parsed

_GIB = 2**30
_MIB = 2**20
_LEAST_SHM = 64 * _MIB  # docker's default, in which engines with several ranks end with a bus error
_LEAST_DISK, _WANTED_DISK = _GIB, 10 * _GIB
_OLDEST_RAY = Version("2.47")
_CORES_PER_NPU = 5  # below, vllm-ascend does not bind its workers to cores


def check_host(facts: Facts) -> list[Finding]:
    """Shared memory, and what makes a host slower than it need be."""
    host = facts.host
    findings = [*_shm(facts), *_cores(host)]
    if facts.platform == "ascend":
        findings += [*_swap(host), *_jemalloc(facts)]
        devices = len(facts.devices.devices)
        if devices and host.cores < _CORES_PER_NPU * devices:
            told = f"{host.cores} cores for {devices} NPUs; vllm-ascend binds its workers from {_CORES_PER_NPU} each on"
            findings.append(warn("CPU", told, "give the container more cores, or set enable_cpu_binding: false"))
    return findings


def check_ray(ray: RayFacts) -> list[Finding]:
    """The tuner's own Ray; a cluster must have the same."""
    installed = parsed(ray.version)
    if installed is not None and installed < _OLDEST_RAY:
        return [fail("Ray", f"Ray {ray.version} is older than {_OLDEST_RAY}", "upgrade ray in the tuner's environment")]
    if ray.address is None:
        return [ok("Ray", f"Ray {ray.version}, started locally by each job")]
    told = f"Ray {ray.version}, Python {ray.python}; the cluster at {ray.address} must have exactly these on every node"
    return [ok("Ray", told)]


def check_disk(disk: DiskFacts) -> list[Finding]:
    """Room for logs, request records and an SQLite database."""
    told = f"{disk.free_bytes / _GIB:.1f} GiB free in {disk.home}"
    if not disk.writable:
        return [fail("disk", f"{disk.home} is not writable", "set AUTOTUNE_HOME to a folder that is")]
    if disk.free_bytes < _LEAST_DISK:
        return [fail("disk", told, "make room, or set AUTOTUNE_HOME to another disk")]
    if disk.free_bytes < _WANTED_DISK:
        return [warn("disk", told, "a long job's logs and records take some GiB; make room")]
    return [ok("disk", told)]


def check_database(database: DatabaseFacts) -> list[Finding]:
    """Whether it can be reached, and whether this version knows its schema."""
    state = database.state
    if state is None:
        return [fail("database", database.problem, "correct AUTOTUNE_DATABASE_URL, or start the server")]
    if not state.exists:
        return [ok("database", f"{state.shown} is made by the first job")]
    if not state.known:
        told = f"{state.shown} has schema {state.revision}, this version knows schemas up to {state.newest}"
        return [fail("database", told, "upgrade vllm-autotune, or use another database")]
    if state.revision != state.newest:
        told = f"{state.shown} has schema {state.revision or 'none'}, it is brought to {state.newest} when it is opened"
        return [ok("database", told)]
    return [ok("database", f"{state.shown}, schema {state.newest}")]


def check_settings(problems: tuple[str, ...]) -> list[Finding]:
    """The settings file and its variables."""
    return [fail("settings", problem, "correct it (docs/settings.md)") for problem in problems]


def _shm(facts: Facts) -> list[Finding]:
    host, inference_card = facts.host, any("310P" in device.name for device in facts.devices.devices)
    wanted = 10 if inference_card else 1  # GiB; the official recipes, and vllm-ascend PR #3645
    if host.shm_bytes is None:
        return [fail("shared memory", "there is no /dev/shm", f"mount a tmpfs of {wanted} GiB at /dev/shm")]
    told = f"{host.shm_bytes / _MIB:,.0f} MiB in /dev/shm"
    if facts.platform == "simulated" or host.shm_bytes >= wanted * _GIB:
        return [ok("shared memory", told)]
    here = f"start the container with --shm-size={wanted}g"
    fix = here if host.in_container else f"remount /dev/shm with {wanted} GiB or more"
    return [(fail if host.shm_bytes <= _LEAST_SHM else warn)("shared memory", told, fix)]


def _cores(host: HostFacts) -> list[Finding]:
    findings = []
    slow = {name: count for name, count in host.governors.items() if name != "performance"}
    if slow:
        told = ", ".join(f"{name} on {count} cores" for name, count in sorted(slow.items()))
        findings.append(warn("CPU", f"the governor is {told}", "cpupower frequency-set -g performance (on the host)"))
    if host.numa_balancing and host.numa_nodes > 1:
        told = f"automatic NUMA balancing moves pages between {host.numa_nodes} nodes while engines run"
        findings.append(warn("CPU", told, "sysctl kernel.numa_balancing=0 (on the host)"))
    if not findings:
        kind = "performance governor" if host.governors else "governor not shown"
        nodes = f"{host.numa_nodes} NUMA node{'s' if host.numa_nodes != 1 else ''}"
        findings.append(ok("CPU", f"{host.cores} cores, {nodes}, {kind}"))
    return findings


def _swap(host: HostFacts) -> list[Finding]:
    if not host.swappiness:
        return []
    told = f"vm.swappiness is {host.swappiness}: vllm-ascend's guide wants 0"
    return [warn("CPU", told, "sysctl vm.swappiness=0 (on the host)")]


def _jemalloc(facts: Facts) -> list[Finding]:
    """The official image preloads it in ~/.bashrc, which a process that is started by another one does not read."""
    preloaded = facts.engine.libraries
    lost = [path for path, there in preloaded.items() if not there]
    if lost:
        told = f"LD_PRELOAD names {', '.join(lost)}, which is not there"
        return [warn("jemalloc", told, "correct the profile's environment; openEuler has it in /usr/lib64")]
    if any("jemalloc" in Path(path).name or "tcmalloc" in Path(path).name for path in preloaded):
        return [ok("jemalloc", f"preloaded: {', '.join(preloaded)}")]
    if facts.host.jemalloc:
        return [
            warn(
                "jemalloc",
                f"{facts.host.jemalloc[0]} is there but engines do not preload it",
                "set jemalloc: true in the engine profile",
            )
        ]
    return [warn("jemalloc", "not installed; the host part of each step is slower without", "apt install libjemalloc2")]
