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


def text(
    spec: JobSpec, workload: Workload, space: SearchSpace, *, job: str, engine_version: str, service: str = ""
) -> str:
    """The study's note, in Markdown. `service` is the address of the service; without it the link is relative.

    The relative link leads somewhere where the service itself shows the dashboard.
    """
    levels = f"levels {ladder_text(workload)}, {workload.requests_per_level} requests a level"
    page = f"[the job in the service]({service}/jobs/{job})"
    facts = {
        "SLA": sla_text(spec),
        "model": f"`{spec.model}`",
        "engine": f"{engine_version} (profile `{spec.engine}`), devices: {spec.devices.resource}",
        "workload": f"`{workload.name}`, {levels}",
        "search": f"space `{spec.search_space}`, sampler `{spec.sampler}`",
        "result and export": f"{page}; in a terminal `autotune pareto {job}`, `autotune export {job}`",
    }
    left_out = [f"- `{name}`: {why}" for name, why in space.dropped.items()]
    return "\n".join(
        (
            f"# {spec.name}",
            "",
            *(f"- **{name}**: {fact}" for name, fact in facts.items()),
            *(["", "Not searched, though the space has them:", "", *left_out] if left_out else []),
            "",
            "A trial's values are measured at its operating point: the load level with the highest throughput that "
            "meets the SLA, or the level that misses it least. Trials that violate the SLA are infeasible; engines "
            "that did not launch are FAIL, with cause and advice. Every finished trial has a note, and as artifacts "
            "its latency against the load, its load points as JSON, and its engine's log.",
        )
    )


def sla_text(spec: JobSpec) -> str:
    """`p99_ttft_ms ≤ 200, error_rate ≤ 0.01`."""
    lines = [f"{line.name} ≤ {line.limit_ms:g}" for line in spec.sla.latency_limits]
    return ", ".join([*lines, f"error_rate ≤ {spec.sla.error_rate:g}"])
