"""The real vLLM: a trial measures it, its refusal is understood, and it starts with what we export."""

import dataclasses
import os
import shlex
import socket
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from autotune.engines.loopback import Answer, Server, request
from autotune.engines.readiness import Ready, StartWatch, wait_ready
from autotune.export import ExportSource, export
from autotune.platforms import cpu
from autotune.results import FailureClass, Infeasible, Measured, Trial, TrialResult
from autotune.spec import Devices
from autotune.trial import Control, Grant, TrialRequest, run_trial
from autotune.tuner.context import JobContext
from autotune.workload import given_levels

pytestmark = [pytest.mark.live, pytest.mark.timeout(400)]

KNOBS = {"max_num_seqs": 32, "max_num_batched_tokens": 512, "block_size": 64}


def trial_request(context: JobContext, number: int, knobs: dict[str, Any]) -> TrialRequest:
    return TrialRequest(
        job=context.job.id,
        number=number,
        config=context.configuration(knobs),
        profile=context.profile,
        resource="CPU",
        model=context.model,
        engine_version=context.engine.version,
        workload=context.workload,
        sla=context.spec.sla.model_copy(update={"p99_ttft_ms": 5000.0}),
        levels=given_levels(context.workload),
        search_seed=1,
        confirm_seeds=(),
        folder=context.folder,
    )


@dataclasses.dataclass(frozen=True)
class Done:
    request: TrialRequest
    result: TrialResult

    @property
    def outcome(self) -> Measured:
        assert isinstance(self.result.outcome, Measured), self.result.outcome
        return self.result.outcome


@pytest.fixture(scope="module")
def done(context: JobContext) -> Done:
    """A trial that asks for blocks of 64 tokens, on every core."""
    asked = trial_request(context, 1, KNOBS)
    return Done(asked, run_trial(asked, Grant((), len(cpu.discover())), Control()))


def test_the_real_engine_is_measured_at_every_level(done: Done):
    assert [(point.load.value, point.completed, point.failed) for point in done.outcome.points] == [
        (8.0, 48, 0),
        (24.0, 48, 0),
    ]


def test_latencies_are_real_numbers_in_their_natural_order(done: Done):
    for point in done.outcome.points:
        ttft, e2el = point.ttft.at(50).value_ms, point.e2el.at(50).value_ms
        assert ttft is not None
        assert e2el is not None
        assert 0 < ttft < e2el


def test_tokens_are_counted_from_the_servers_usage(done: Done):
    for point in done.outcome.points:
        assert point.output_throughput * point.duration_s == pytest.approx(48 * 16)
        assert point.engine["generation_tokens"] == 48 * 16


def test_the_block_size_that_was_asked_for_is_read_back(done: Done):
    assert done.outcome.effective_config["block_size"] == "64"
    assert done.outcome.effective_config["max_num_batched_tokens"] == "512"
    assert done.outcome.overridden == {}


def test_nothing_of_the_real_engine_is_left(done: Done, working_below: Callable[[Path], list[int]]):
    assert working_below(done.request.folder) == []


def test_the_real_refusal_of_a_block_size_is_infeasible_with_its_line(context: JobContext):
    asked = trial_request(context, 2, {**KNOBS, "block_size": 16})
    outcome = run_trial(asked, Grant((), len(cpu.discover())), Control()).outcome
    assert isinstance(outcome, Infeasible)
    assert outcome.evidence.failure == FailureClass.CONFIG
    assert "No common block size for 16" in outcome.evidence.line


# What is exported starts the engine


@dataclasses.dataclass(frozen=True)
class Started:
    server: Server
    log: Path


def source(context: JobContext, done: Done) -> ExportSource:
    now = datetime.now(UTC)
    trial = Trial(
        number=1,
        purpose="search",
        origin="sobol",
        knobs=KNOBS,
        config=done.request.config,
        result=done.result,
        started_at=now,
        finished_at=now,
    )
    return ExportSource(
        job_id=context.job.id,
        job_name=context.spec.name,
        model=str(context.model.path),
        workload=context.workload.name,
        workload_digest="",
        engine="vllm",
        devices=Devices(resource="CPU"),
        instrument="autotune",
        confirm_runs=3,
        sla=context.spec.sla,
        engine_version=context.engine.version,
        trial=trial,
        point=done.outcome.closest_point,
        exported_at=now,
    )


def variables(env_file: str) -> dict[str, str]:
    """The export as a shell reads it."""
    words = [word for line in env_file.splitlines() for word in shlex.split(line, comments=True)]
    return dict(word.split("=", 1) for word in words)


@pytest.fixture(scope="module")
def started(context: JobContext, done: Done, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """`vllm serve --config` with the exported file and the exported environment, as an operator types it."""
    folder = tmp_path_factory.mktemp("operator")
    (folder / "best.yaml").write_text(export(source(context, done), "vllm"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    where = ["--host", "127.0.0.1", "--port", str(port)]
    command = [str(context.profile.executable), "serve", "--config", "best.yaml", *where]
    environment = {**os.environ, **variables(export(source(context, done), "env")), "VLLM_NO_USAGE_STATS": "1"}
    log = folder / "engine.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(command, env=environment, cwd=folder, stdout=output, stderr=subprocess.STDOUT) as engine,
    ):
        server = Server(f"http://127.0.0.1:{port}", str(context.model.path), "")
        watch = StartWatch(log, 240.0, lambda: engine.poll() is not None, lambda _: None, lambda: False)
        ready = wait_ready(server, watch)
        family = [*psutil.Process(engine.pid).children(recursive=True), psutil.Process(engine.pid)]
        try:
            assert isinstance(ready, Ready), log.read_text()[-3000:]
            yield Started(server, log)
        finally:
            engine.terminate()
            engine.wait(60)
            for process in psutil.wait_procs(family, timeout=20)[1]:
                process.kill()


def test_the_real_engine_starts_with_the_exported_file_and_answers(started: Started):
    question = {"model": started.server.model, "prompt": [10, 11, 12], "max_tokens": 5, "ignore_eos": True}
    answer: Answer = request(started.server, "/v1/completions", document=question, timeout_s=60)
    assert answer.status == 200
    assert yaml.safe_load(answer.body)["usage"]["completion_tokens"] == 5


def test_the_real_engine_runs_with_the_exported_knobs(started: Started):
    assert 'block_size="64"' in request(started.server, "/metrics").body
    log = started.log.read_text()
    assert "'max_num_seqs': 32" in log
    assert "'max_num_batched_tokens': 512" in log
