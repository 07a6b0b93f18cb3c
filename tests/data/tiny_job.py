"""A job that is ready to run without an engine, a model or a probe: for tests that play its trials.

job_context = runpy.run_path(str(DATA / "tiny_job.py"))["job_context"]
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from autotune.engines.examine import EngineInfo
from autotune.model_card import ModelCard
from autotune.results import Job, JobStatus
from autotune.search_space import SearchSpace
from autotune.settings import EngineProfile
from autotune.spec import JobSpec
from autotune.tuner.context import JobContext
from autotune.workload import Workload

CREATED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
DEFAULTS = {"max_num_seqs": 16, "block_size": 128, "tensor_parallel_size": 1}

SPACE = {
    "version": 1,
    "name": "tiny",
    "parameters": {
        "max_num_seqs": {"type": "int", "values": [4, 8, 16]},
        "block_size": {"type": "int", "values": [16, 64, 128]},
        "tensor_parallel_size": {"type": "int", "values": [1, 2]},
    },
    "starting_points": {"baseline": DEFAULTS, "queues": {"max_num_seqs": 4}},
}
WORKLOAD = {
    "version": 1,
    "name": "tiny",
    "dataset": {
        "kind": "synthetic",
        "input_tokens": {"kind": "fixed", "tokens": 16},
        "output_tokens": {"kind": "fixed", "tokens": 16},
    },
    "arrival": {"kind": "closed_loop"},
    "levels": [4, 16],
    "requests_per_level": 32,
}
JOB = {
    "version": 1,
    "name": "tiny",
    "model": "nowhere",
    "devices": {"resource": "NPU"},
    "search_space": "tiny",
    "workload": "tiny",
    "sla": {"p99_ttft_ms": 200},
    "sampler": "random",
}


def job_context(
    home: Path,
    budget: Mapping[str, Any],
    *,
    identity: str = "tiny-1",
    space: Mapping[str, Any] = SPACE,
    spec: Mapping[str, Any] | None = None,
) -> JobContext:
    """The job, as `prepare` would make it; `spec` replaces fields of the job file."""
    asked = JobSpec.model_validate({**JOB, **(spec or {}), "budget": dict(budget)})
    searched, workload = SearchSpace.model_validate(space), Workload.model_validate(WORKLOAD)
    job = Job(
        id=identity,
        name="tiny",
        status=JobStatus.QUEUED,
        spec=asked.document,
        space=searched.model_dump(mode="json"),
        workload=workload.model_dump(mode="json"),
        model_path="nowhere",
        folder=str(home / "jobs" / identity),
        created_at=CREATED,
    )
    engine = EngineInfo(
        executable="vllm", interpreter="python", versions={"vllm": "0"}, platform="npu", arguments=frozenset()
    )
    profile = EngineProfile(executable=Path("vllm"), platform="ascend")
    model = ModelCard(Path("nowhere"), 100, 100, frozenset(), 4096, 0)
    return JobContext(job, asked, searched, workload, profile, model, engine, {"max_model_len": 64})
