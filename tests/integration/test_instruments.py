"""A tool's run: it is bounded, heard, ended with all its processes, and its failures are told apart."""

import dataclasses
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from autotune.engine_config import EngineConfig
from autotune.instruments import Client, InstrumentFailed, InstrumentOverdue, send
from autotune.instruments import level as tool_level
from autotune.level_run import LevelRun, LevelWatch
from autotune.results import FailureClass, Interrupted, Load, Measured, TrialOutcome
from autotune.trial import Control, Grant, TrialRequest, run_trial
from autotune.tuner.context import JobContext
from autotune.workload import LevelPlan, PlannedRequest, given_levels

pytestmark = pytest.mark.process

DATA = Path(__file__).parent.parent / "data"
TOOL = DATA / "instruments" / "scripted_tool.py"
PLAN = LevelPlan(
    Load(kind="request_rate", value=4),
    tuple(PlannedRequest(index, 0.25 * index, (50, 51), 3) for index in range(4)),
    None,
    30.0,
    0,
)


@pytest.fixture(scope="module")
def tool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripted `vllm`, as an executable."""
    script = tmp_path_factory.mktemp("tool") / "vllm"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} {TOOL} "$@"\n')
    script.chmod(0o755)
    return script


def client(tool: Path, folder: Path, behaviour: str) -> Client:
    return Client(
        instrument="vllm-bench",
        executable=tool,
        base_url="http://127.0.0.1:1",
        model="tiny",
        model_folder=folder,
        folder=folder,
        environment={"TOOL": behaviour, "CHILD": str(folder / "child")},
        api_key="secret-key",
    )


def test_a_tool_that_goes_well_brings_every_request_home(tool, tmp_path):
    run = send(client(tool, tmp_path, "well"), PLAN, LevelWatch())
    assert [(record.scheduled_s, record.error) for record in run.records] == [
        (0.0, None),
        (0.25, None),
        (0.5, None),
        (0.75, None),
    ]
    assert run.planned == 4
    assert run.records[1].token_times_s == pytest.approx((0.30, 0.31, 0.32))


def test_an_empty_plan_starts_no_tool(tmp_path):
    empty = dataclasses.replace(PLAN, requests=())
    assert send(client(Path("/nowhere"), tmp_path, "well"), empty, LevelWatch()) == LevelRun(())


@pytest.mark.parametrize(
    ("behaviour", "told"),
    [
        ("exit:3", "vllm-bench ended with exit code 3"),
        ("nothing-served", "completed no request; the first failed with: Internal Server Error"),
        ("no-results", "vllm-bench ended well, but wrote no results"),
        ("broken-results", "vllm-bench ended well, but its results cannot be read"),
    ],
)
def test_a_tool_without_a_measurement_has_failed(behaviour, told, tool, tmp_path):
    with pytest.raises(InstrumentFailed, match=told):
        send(client(tool, tmp_path, behaviour), PLAN, LevelWatch())


def test_what_a_failed_tool_said_is_kept(tool, tmp_path):
    with pytest.raises(InstrumentFailed) as caught:
        send(client(tool, tmp_path, "exit:2"), PLAN, LevelWatch())
    assert caught.value.said.endswith("vllm: error: argument --timed-trace-sec: no such thing")
    assert caught.value.log == tmp_path / "vllm-bench-1.log"
    assert "no such thing" in caught.value.log.read_text()


def test_every_level_has_a_log_of_its_own(tool, tmp_path):
    for _ in range(2):
        send(client(tool, tmp_path, "well"), PLAN, LevelWatch())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vllm-bench-1.log", "vllm-bench-2.log"]


def test_an_executable_that_is_missing_has_failed(tmp_path):
    with pytest.raises(InstrumentFailed, match="/nowhere/vllm cannot be started"):
        send(client(Path("/nowhere/vllm"), tmp_path, "well"), PLAN, LevelWatch())


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_stopped_tool_comes_back_without_records_and_leaves_no_process(tool, tmp_path):
    child = tmp_path / "child"
    run = send(client(tool, tmp_path, "hang"), PLAN, LevelWatch(stopped=lambda: bool(_text(child))))
    assert run == LevelRun((), planned=4)
    assert gone(int(child.read_text()))  # though it ignores SIGTERM


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def test_a_tool_that_waits_in_vain_is_ended_and_leaves_no_process(tool, tmp_path, monkeypatch):
    monkeypatch.setattr(tool_level, "quiet_s", lambda _plan, *, tells_progress: 3.0 if tells_progress else 600.0)
    with pytest.raises(InstrumentOverdue, match="waited for answers in vain"):
        send(client(tool, tmp_path, "hang"), PLAN, LevelWatch())
    assert gone(int((tmp_path / "child").read_text()))


def test_progress_is_passed_on(tool, tmp_path):
    heard: list[tuple[int, int]] = []
    stop = threading.Event()

    def report(done: int, planned: int) -> None:
        heard.append((done, planned))
        stop.set()

    send(client(tool, tmp_path, "hang"), PLAN, LevelWatch(stopped=stop.is_set, report=report))
    assert heard[0] == (0, 4)


# Whole trials, with the tool in the engine's environment


@pytest.fixture
def trial(
    tool: Path,
    make_context: Callable[..., JobContext],
    fake_vllm: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., tuple[TrialRequest, TrialOutcome]]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where device locks lie
    context = make_context(tmp_path / "home")

    def run(behaviour: str, **fault: str) -> tuple[TrialRequest, TrialOutcome]:
        environment = {**context.profile.environment, "TOOL": behaviour, "ENGINE": str(fake_vllm), **fault}
        changes: dict[str, Any] = {"executable": tool, "environment": environment}
        request = TrialRequest(
            job=context.job.id,
            number=1,
            config=EngineConfig(arguments={"max_model_len": 64}),
            profile=context.profile.model_copy(update=changes),
            resource="CPU",
            model=context.model,
            engine_version=context.engine.version,
            workload=context.workload,
            sla=context.spec.sla,
            levels=given_levels(context.workload),
            search_seed=7,
            confirm_seeds=(),
            folder=context.folder,
            instrument="vllm-bench",
        )
        return request, run_trial(request, Grant((), 1), Control()).outcome

    return run


def test_a_trial_is_measured_with_the_other_instrument(trial):
    request, outcome = trial("well")
    assert isinstance(outcome, Measured), outcome
    assert [(point.completed, point.failed) for point in outcome.points] == [(40, 0), (40, 0)]
    assert outcome.points[0].ttft.at(50).value_ms == pytest.approx(50)
    assert (request.artifacts / "vllm-bench-1.log").exists()


def test_a_tool_that_fails_beside_a_healthy_engine_says_nothing_about_the_configuration(trial):
    _, outcome = trial("exit:3")
    assert isinstance(outcome, Interrupted)
    assert outcome.evidence.failure == FailureClass.CLIENT
    assert outcome.evidence.cause == "The load client failed: vllm-bench ended with exit code 3."
    assert "no such thing" in outcome.evidence.log_tail
    assert "vllm-bench-1.log" in outcome.evidence.advice
