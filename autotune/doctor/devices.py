"""Judges the accelerators: health, who uses them, device nodes, mounts, and the ports of their engines."""

from autotune.doctor.facts import Facts
from autotune.doctor.finding import Finding, fail, ok, warn
from autotune.doctor.host import ASCEND_MOUNTS, ASCEND_NODES
from autotune.platforms import Device, ascend

_LOOK = "look with `npu-smi info -t health -i CARD -c CHIP` (`npu-smi info -m` says which logic id these have)"
_NEEDED_MOUNTS = ("/usr/local/Ascend/driver/lib64", "/usr/local/bin/npu-smi")  # the others only tell versions


def check_devices(facts: Facts) -> list[Finding]:
    """Everything about the accelerators of this platform; for CPUs only that there are cores."""
    if facts.platform == "simulated":
        return [ok("devices", "the engine is simulated and needs none")]
    if facts.platform == "cpu":
        return [ok("devices", f"{facts.host.cores} CPU cores")]
    findings = _nodes(facts)
    findings += _mounts(facts) if facts.platform == "ascend" else []
    if facts.devices.problem:
        return [*findings, fail("devices", facts.devices.problem, _tool_fix(facts))]
    findings += _health(facts.devices.devices) + _in_use(facts.devices.devices)
    return findings + (_ports(facts) if facts.platform == "ascend" else [])


def _tool_fix(facts: Facts) -> str:
    if facts.platform == "cuda":
        return "start the container with --gpus all" if facts.host.in_container else _driver_fix(facts)
    if "-8020" in facts.devices.problem or "is used" in facts.devices.problem:
        return "another container holds the NPUs: stop it, or give each container NPUs of its own"
    if facts.host.in_container:
        return "mount npu-smi and the driver into the container (docs/ascend.md)"
    return _driver_fix(facts)


def _driver_fix(facts: Facts) -> str:
    if facts.platform == "cuda":
        return "install the NVIDIA driver; `nvidia-smi` as root makes its device nodes"
    return "install the Ascend driver and firmware (HDK), or see in dmesg why it is not loaded"


def _nodes(facts: Facts) -> list[Finding]:
    host = facts.host
    numbered = "davinci" if facts.platform == "ascend" else "nvidia"
    wanted = ASCEND_NODES if facts.platform == "ascend" else ("nvidiactl", "nvidia-uvm")
    found = [node for node in host.nodes if node.removeprefix(numbered).isdigit()]
    missing = [f"/dev/{node}" for node in wanted if node not in host.nodes]
    if not found:
        missing.insert(0, f"/dev/{numbered}0")
    if missing:
        flags = " ".join(f"--device {node}" for node in missing)
        fix = f"start the container with {flags}" if host.in_container else _driver_fix(facts)
        return [fail("device nodes", f"missing: {', '.join(missing)}", fix)]
    if host.closed_nodes:
        closed = ", ".join(f"/dev/{node}" for node in sorted(host.closed_nodes))
        group = "HwHiAiUser" if facts.platform == "ascend" else "the device nodes' group"
        return [fail("device nodes", f"may not be opened by this user: {closed}", f"add the user to {group}")]
    shown = len(facts.devices.devices)
    if facts.platform == "ascend" and 0 < shown < len(found):
        told = f"{len(found)} devices in /dev, npu-smi shows {shown}: one may have fallen off its bus"
        return [warn("device nodes", told, "look at `npu-smi info` and dmesg on the host; trials keep away from it")]
    return [ok("device nodes", f"{len(found)} devices in /dev, with their managers")]


def _mounts(facts: Facts) -> list[Finding]:
    missing = [path for path in ASCEND_MOUNTS if path not in facts.host.mounted]
    if not missing:
        return [ok("mounts", "driver libraries, npu-smi and version files are there")]
    flags = " ".join(f"-v {path}:{path}" for path in missing)
    told = f"missing: {', '.join(missing)}"
    needed = any(path in missing for path in _NEEDED_MOUNTS)
    fix = f"start the container with {flags}" if facts.host.in_container else _driver_fix(facts)
    return [fail("mounts", told, fix) if needed else warn("mounts", told, fix)]


def _health(devices: tuple[Device, ...]) -> list[Finding]:
    unwell = [device for device in devices if not device.usable]
    warned = [device for device in devices if device.usable and device.health != "OK"]
    findings = []
    if unwell:
        told = ", ".join(f"{device.id}: {device.health_text}" for device in unwell)
        judge = fail if len(unwell) == len(devices) else warn
        fix = f"{_LOOK}, and leave these out of ASCEND_RT_VISIBLE_DEVICES"
        findings.append(judge("devices", f"not usable: {told}; trials keep away from them", fix))
    if warned:
        told = ", ".join(f"{device.id}: {device.health_text}" for device in warned)
        findings.append(warn("devices", f"usable, but {told}", _LOOK))
    if not findings:
        names = ", ".join(sorted({device.name for device in devices}))
        findings.append(ok("devices", f"{len(devices)} x {names}, all OK"))
    return findings


def _in_use(devices: tuple[Device, ...]) -> list[Finding]:
    busy = [device for device in devices if device.usable and not device.idle]
    if not busy:
        return []
    told = ", ".join(f"{device.id} ({_users(device)})" for device in busy)
    return [
        warn("devices", f"in use: {told}", "trials wait for idle devices; end these processes or name other devices")
    ]


def _users(device: Device) -> str:
    if not device.processes:
        return f"{device.memory_used_mib} MiB, no process shown"
    return ", ".join(f"pid {process.pid} {process.name}".strip() for process in device.processes)


def _ports(facts: Facts) -> list[Finding]:
    """The blocks of HCCL ports that engines on these NPUs would get."""
    numbers = ascend.node_numbers(facts.host.nodes)
    blocks = {device.id: ascend.hccl_ports(device.id, numbers) for device in facts.devices.devices}
    at_work = {device.id for device in facts.devices.devices if not device.idle}
    heard = {device: facts.host.listening.intersection(block) for device, block in blocks.items()}
    taken = {port for device, ports in heard.items() if device not in at_work for port in ports}
    findings = []
    if any(heard[device] for device in at_work):
        told = (
            f"NPUs at work use theirs: {', '.join(device for device in blocks if device in at_work and heard[device])}"
        )
        findings.append(warn("HCCL ports", told, "look again when their engines have ended"))
    if taken:
        told = f"HCCL ports in use: {', '.join(map(str, sorted(taken)))}"
        findings.append(
            fail("HCCL ports", told, "find who listens with `ss -ltnp`; engines with several NPUs need them")
        )
    low, high = facts.host.ephemeral or (0, -1)
    shared = [block for block in blocks.values() if block[0] <= high and block[-1] >= low]
    if shared:
        told = f"the ports {shared[0][0]}-{shared[-1][-1]} lie in net.ipv4.ip_local_port_range: anyone may get them"
        reserve = f"sysctl net.ipv4.ip_local_reserved_ports={shared[0][0]}-{shared[-1][-1]}"
        findings.append(warn("HCCL ports", told, reserve))
    if not findings and blocks:
        ports = [port for block in blocks.values() for port in block]
        findings.append(ok("HCCL ports", f"{min(ports)}-{max(ports)} are free"))
    return findings
