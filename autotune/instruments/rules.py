"""Which jobs each instrument can measure."""

import re
from typing import Literal

from autotune.spec import Sla
from autotune.workload import ClosedLoop, MultiTurn, Workload

Instrument = Literal["autotune", "vllm-bench", "guidellm"]

OLDEST_VLLM = (0, 23)  # `vllm bench serve` sends requests at given times (dataset `timed_trace`) from here on


def problems(instrument: Instrument, workload: Workload, sla: Sla) -> list[str]:
    """What keeps an instrument from measuring this job, one sentence each; empty: nothing."""
    if instrument == "autotune":
        return []
    start = f"instrument {instrument}: workload {workload.name!r} "
    advice = "; use instrument: autotune"
    found = []
    if isinstance(workload.dataset, MultiTurn):
        found.append(f"{start}has a multi_turn dataset, whose turns wait for the ones before{advice}")
    if instrument != "guidellm":
        return found
    if not isinstance(workload.arrival, ClosedLoop) and workload.arrival.max_concurrency is not None:
        found.append(
            f"{start}has arrivals with max_concurrency; GuideLLM has either arrival times or a concurrency{advice} "
            "or vllm-bench"
        )
    lines = [line.name for line in sla.latency_limits if line.metric == "itl"]
    if lines:
        found.append(
            f"instrument guidellm: the SLA has {', '.join(lines)}, but GuideLLM keeps no time of single tokens; use a "
            "tpot line, or instrument: autotune or vllm-bench"
        )
    return found


def version_problem(instrument: Instrument, vllm: str) -> str | None:
    """Why the engine's own vLLM, of this version, cannot be the instrument."""
    match = re.match(r"(\d+)\.(\d+)", vllm)
    if instrument != "vllm-bench" or match is None or (int(match[1]), int(match[2])) >= OLDEST_VLLM:
        return None
    oldest = ".".join(map(str, OLDEST_VLLM))
    return (
        f"instrument vllm-bench: the engine's vLLM {vllm} cannot send requests at given times, which `vllm bench "
        f"serve` can from {oldest} on; use instrument: autotune"
    )
