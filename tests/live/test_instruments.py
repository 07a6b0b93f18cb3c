"""The real tools: `vllm bench serve` and GuideLLM measure a simulated and a real engine, and we read their results."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autotune.engines import vllm
from autotune.engines.loopback import Server
from autotune.engines.readback import counters, fetch_metrics
from autotune.engines.readiness import Ready, StartWatch, wait_ready
from autotune.instruments import Client, send
from autotune.level_run import LevelRun, LevelWatch
from autotune.model_card import read_model
from autotune.platforms import cpu
from autotune.results import Measured
from autotune.settings import built_in_profiles
from autotune.trial import Control, Grant, TrialRequest, run_trial
from autotune.tuner.context import JobContext
from autotune.workload import LevelPlan, Vocabulary, Workload, given_levels, open_source, plan_level

pytestmark = [pytest.mark.live, pytest.mark.timeout(400)]

TINY = Path(__file__).parents[2] / "autotune" / "demo" / "tiny-llama"
KEY = "the-key"
REQUESTS = 20


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A simulated engine that asks for a key."""
    log = tmp_path_factory.mktemp("engine") / "engine.log"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(built_in_profiles()["simulated"].executable), "serve", str(TINY), "--port", str(port)]
    command += ["--block-size", "32"]
    environment = {"VLLM_API_KEY": KEY, "VLLM_CPU_KVCACHE_SPACE": "1"}
    with log.open("wb") as output, subprocess.Popen(command, env=environment, stdout=output, stderr=output) as engine:
        server = Server(f"http://127.0.0.1:{port}", str(TINY), KEY)
        watch = StartWatch(log, 60.0, lambda: engine.poll() is not None, lambda _: None, lambda: False)
        try:
            assert isinstance(wait_ready(server, watch), Ready), log.read_text()
            yield server
        finally:
            engine.terminate()


@pytest.fixture(scope="session")
def guidellm() -> Path:
    """The `guidellm` that AUTOTUNE_GUIDELLM names; it needs an environment of its own, which CI does not make."""
    named = os.environ.get("AUTOTUNE_GUIDELLM")
    if not named or shutil.which(named) is None:
        pytest.skip("no GuideLLM: set AUTOTUNE_GUIDELLM to the guidellm script of its own environment")
    return Path(named)


def level(**arrival: Any) -> LevelPlan:
    workload = Workload.model_validate(
        {
            "version": 1,
            "name": "w",
            "dataset": {
                "kind": "synthetic",
                "input_tokens": {"kind": "uniform", "min": 20, "max": 60},
                "output_tokens": {"kind": "uniform", "min": 4, "max": 12},
                "shared_prefix_tokens": 64,
            },
            "arrival": arrival,
            "levels": [4],
            "requests_per_level": REQUESTS,
            "request_timeout_s": 60,
        }
    )
    model = read_model(TINY)
    source = open_source(workload.dataset, Vocabulary(model.vocab_size, model.special_ids), model=TINY)
    return plan_level(workload, given_levels(workload)[0], devices=1, seed=3, source=source)


def measured(instrument: Any, executable: Path, server: Server, plan: LevelPlan, folder: Path) -> LevelRun:
    client = Client(
        instrument=instrument,
        executable=executable,
        base_url=server.base_url,
        model=server.model,
        model_folder=TINY,
        folder=folder,
        environment=vllm.environment(os.environ, model=server.model, api_key=server.api_key),
        api_key=server.api_key,
    )
    run = send(client, plan, LevelWatch())
    assert [record.error for record in run.records if record.error] == [], folder
    return run


def lengths(run: LevelRun) -> list[tuple[int, int]]:
    return [(record.input_tokens, record.output_tokens) for record in run.records]


def planned_lengths(plan: LevelPlan) -> list[tuple[int, int]]:
    return [(len(request.prompt), request.max_tokens) for request in plan.requests]


def test_vllm_bench_sends_the_plans_lengths_exactly_and_in_time(real_vllm, simulated, tmp_path):
    plan = level(kind="constant")
    run = measured("vllm-bench", real_vllm, simulated, plan, tmp_path)
    assert lengths(run) == planned_lengths(plan)
    assert [record.scheduled_s for record in run.records] == [request.offset_s for request in plan.requests]
    assert all(record.lag_s >= 0 for record in run.records)
    assert [len(record.token_times_s) for record in run.records] == [request.max_tokens for request in plan.requests]


def test_vllm_bench_keeps_common_beginnings_common(real_vllm, simulated, tmp_path):
    """Its own tokens stand for ours one by one: the shared prefix of 64 tokens is found in the prefix cache."""
    before = hits(simulated)
    measured("vllm-bench", real_vllm, simulated, level(kind="closed_loop"), tmp_path)
    assert hits(simulated) - before >= 64 * (REQUESTS - 4)  # all but those that the first four users begin with


def hits(server: Server) -> float:
    return counters(fetch_metrics(server))["prefix_cache_hits"]


@pytest.mark.parametrize("kind", ["poisson", "closed_loop"])
def test_guidellm_sends_every_answers_length(kind, guidellm, simulated, tmp_path):
    plan = level(kind=kind)
    run = measured("guidellm", guidellm, simulated, plan, tmp_path)
    assert [record.output_tokens for record in run.records] == [request.max_tokens for request in plan.requests]


def test_a_trial_of_the_real_engine_is_measured_with_its_own_vllm_bench(context: JobContext):
    arrival = {"kind": "closed_loop"}
    changes = {"levels": (4.0,), "requests_per_level": REQUESTS, "warmup_requests": 0}
    document = context.workload.model_dump() | changes | {"arrival": arrival, "min_level_duration_s": 0}
    workload = Workload.model_validate(document)
    request = TrialRequest(
        job=context.job.id,
        number=77,
        config=context.configuration({"max_num_seqs": 32, "max_num_batched_tokens": 512, "block_size": 64}),
        profile=context.profile,
        resource="CPU",
        model=context.model,
        engine_version=context.engine.version,
        workload=workload,
        sla=context.spec.sla.model_copy(update={"p99_ttft_ms": 5000.0}),
        levels=given_levels(workload),
        search_seed=1,
        confirm_seeds=(),
        folder=context.folder,
        instrument="vllm-bench",
    )
    outcome = run_trial(request, Grant((), len(cpu.discover())), Control()).outcome
    assert isinstance(outcome, Measured), outcome
    (point,) = outcome.points
    assert (point.completed, point.failed) == (REQUESTS, 0)
    expected = sum(request.max_tokens for request in _plan_of(context, workload).requests)
    assert point.engine["generation_tokens"] == expected
    assert point.output_throughput * point.duration_s == pytest.approx(expected)


def _plan_of(context: JobContext, workload: Workload) -> LevelPlan:
    source = open_source(
        workload.dataset, Vocabulary(context.model.vocab_size, context.model.special_ids), model=context.model.path
    )
    return plan_level(workload, given_levels(workload)[0], devices=1, seed=1, source=source)
