"""What the study says about itself in the dashboard."""

from autotune.search_space import SearchSpace
from autotune.spec import JobSpec
from autotune.workload import Workload, ladder_text


def attributes(spec: JobSpec, engine_version: str) -> dict[str, str]:
    """User attributes of the study."""
    return {
        "model": spec.model,
        "engine version": engine_version,
        "workload": spec.workload,
        "search space": spec.search_space,
        "sampler": spec.sampler,
        "SLA": sla_text(spec),
    }


def text(spec: JobSpec, workload: Workload, space: SearchSpace) -> str:
    """The study's note, in Markdown."""
    left_out = [f"- `{name}`: {why}" for name, why in space.dropped.items()]
    levels = ladder_text(workload)
    return "\n".join(
        (
            f"# {spec.name}",
            f"**SLA**: {sla_text(spec)}",
            f"**Model**: `{spec.model}`, **engine profile**: `{spec.engine}`, **devices**: {spec.devices.resource}",
            f"**Workload**: `{workload.name}`, levels {levels}, {workload.requests_per_level} requests a level",
            *(["", "Not searched, though the space has them:", "", *left_out] if left_out else []),
            "",
            "A trial's values are measured at its operating point: the load level with the highest throughput that "
            "meets the SLA, or the level that misses it least. Trials that violate the SLA are infeasible; engines "
            "that did not launch are FAIL, with cause and advice in their attributes and note.",
        )
    )


def sla_text(spec: JobSpec) -> str:
    """`p99_ttft_ms ≤ 200, error_rate ≤ 0.01`."""
    lines = [f"{line.name} ≤ {line.limit_ms:g}" for line in spec.sla.latency_limits]
    return ", ".join([*lines, f"error_rate ≤ {spec.sla.error_rate:g}"])
