"""Judges a job: its files, its model, and whether the model has room on the devices."""

from autotune.doctor.facts import Facts, JobFacts
from autotune.doctor.finding import Finding, fail, ok, warn
from autotune.model_card import GIB, ModelCard, Shape, estimate, mla_warning, refusals, room
from autotune.platforms import ANY_RESOURCE, PLATFORMS, Device

_KEPT_OF_910 = 3 * GIB  # npu-smi shows 65536 or 32768 MiB, torch_npu 60.96 or 29.5 GiB: the driver keeps the rest


def check_job(facts: Facts) -> list[Finding]:
    """The job file with its space and workload, the model, and the memory of every width that is searched."""
    job = facts.job
    if job is None:
        return []
    if job.spec is None:
        return [fail("job", problem, "correct the file; docs/job-file.md has every field") for problem in job.problems]
    findings = [ok("job", f"{job.spec.name}: SLA {job.spec.sla.text}"), *_resource(facts, job)]
    findings += [fail("model", problem, "correct the job's model, or download it") for problem in job.problems]
    if job.card is None:
        return findings
    return [*findings, *_model(facts, job.card), *_memory(facts, job, job.card)]


def _resource(facts: Facts, job: JobFacts) -> list[Finding]:
    assert job.spec is not None
    has = PLATFORMS[facts.platform].RESOURCE
    if has in (job.spec.devices.resource, ANY_RESOURCE) or facts.engine.profile is None:
        return []  # without a profile the platform is a guess, and what is missing is told there
    told = f"the job wants {job.spec.devices.resource}, profile {facts.engine.name} runs on {has}"
    return [fail("job", told, f"set devices.resource: {has}, or name another engine profile")]


def _model(facts: Facts, card: ModelCard) -> list[Finding]:
    support = facts.engine.info.model if facts.engine.info else None
    if support is not None and support.unsupported:
        told = f"{', '.join(support.unsupported)} is not among the architectures of this vLLM"
        return [fail("model", told, "upgrade the engine, or take another model")]
    return [ok("model", f"{card.path}: {card.summary}")]


def _memory(facts: Facts, job: JobFacts, card: ModelCard) -> list[Finding]:
    if facts.platform in ("cpu", "simulated"):
        return _main_memory(facts, card)
    sizes = [size for device in facts.devices.devices if device.usable and (size := _memory_of(device))]
    if not sizes:
        return [warn("memory", "not judged: the devices do not tell their memory", "compare with: autotune estimate")]
    if not card.weight_bytes:
        return [warn("memory", "not judged: the size of the weights is not known", "download the weights")]
    device_bytes = min(sizes)
    told = [(shape, _told(card, shape, device_bytes, facts.platform)) for shape in job.shapes]
    fitting = [text for _, (fits, text) in told if fits]
    misfits = [text for _, (fits, text) in told if not fits]
    if not fitting:
        fix = "raise tensor_parallel_size in the search space, lower the workload's lengths, or quantise the model"
        return [fail("memory", "; ".join(misfits), fix)]
    findings = [ok("memory", "; ".join(fitting))]
    if misfits:
        findings.append(warn("memory", "; ".join(misfits), "leave these widths out of the search space"))
    return findings


def _memory_of(device: Device) -> int:
    """Bytes that an engine sees of it; 0 when the tool does not say."""
    reported = (device.memory_total_mib or 0) * 2**20
    return max(0, reported - _KEPT_OF_910) if "910" in device.name else reported


def _main_memory(facts: Facts, card: ModelCard) -> list[Finding]:
    memory = facts.host.memory_bytes
    if facts.platform == "simulated" or memory is None:
        return []
    told = f"{card.summary}, {memory / GIB:,.1f} GiB of main memory"
    if card.weight_bytes > memory:
        return [fail("memory", told, "take a smaller model, or a larger machine")]
    return [ok("memory", told)]


def _told(card: ModelCard, shape: Shape, device_bytes: int, platform: str) -> tuple[bool, str]:
    """Whether a width fits, in words."""
    width = f"TP {shape.parallel.tensor}" + (f" x PP {shape.parallel.pipeline}" if shape.parallel.pipeline > 1 else "")
    width += f" x DP {shape.parallel.data}" if shape.parallel.data > 1 else ""
    refused = refusals(card, shape.parallel)
    if refused:
        return False, f"{width}: {'; '.join(refused)}"
    need = estimate(card, shape)
    left = room(need, shape, device_bytes)
    held = f"{need.weights / GIB:.1f} GiB of weights on each of {shape.parallel.devices} x {device_bytes / GIB:.1f} GiB"
    if not left.fits:
        return False, f"{width}: {held} leave no room for a request of {shape.max_model_len} tokens"
    note = mla_warning(card, shape.parallel) if platform == "ascend" else None
    requests = f"{left.concurrent_requests:,.0f} requests of {shape.max_model_len} tokens at once"
    return True, f"{width}: {held}, {requests}" + (f" ({note})" if note else "")
