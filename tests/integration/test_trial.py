"""One trial without a cluster: a launch becomes a result whatever happens, and nothing is left of it."""

import contextlib
import dataclasses
import gzip
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from autotune.engine_config import EngineConfig
from autotune.engines import readback
from autotune.engines.locks import DeviceLocks
from autotune.engines.process import EngineProcess, LaunchPlan, LockRequest
from autotune.platforms import ascend, cpu, tool
from autotune.results import FailureClass, Infeasible, Interrupted, Measured, TrialResult
from autotune.trial import Control, Grant, TrialRequest, run_trial, sweep_host
from autotune.trial import run as trial_run
from autotune.trial.host import lock_folder
from autotune.tuner.context import JobContext
from autotune.workload import given_levels

pytestmark = pytest.mark.process

DATA = Path(__file__).parent.parent / "data"
ONE_CORE = Grant((), 1)
SEED = 7


@pytest.fixture(scope="module", autouse=True)
def _own_locks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Device locks lie in the temporary folder: here in one of our own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("tmp")))
        yield


MakeContext = Callable[..., JobContext]


def request(context: JobContext, arguments: dict[str, Any] | None = None, **changes: Any) -> TrialRequest:
    """A search trial with these arguments, and otherwise the engine's defaults."""
    base = TrialRequest(
        job=context.job.id,
        number=1,
        config=EngineConfig(arguments={"max_model_len": 64, **(arguments or {})}),
        profile=context.profile,
        resource=context.spec.devices.resource,
        model=context.model,
        engine_version=context.engine.version,
        workload=context.workload,
        sla=context.spec.sla,
        levels=given_levels(context.workload),
        search_seed=SEED,
        confirm_seeds=(),
        folder=context.folder,
    )
    return dataclasses.replace(base, **changes)


def patient_for(start_timeout_s: float, context: JobContext) -> dict[str, Any]:
    return {"profile": context.profile.model_copy(update={"start_timeout_s": start_timeout_s})}


def silent_for(stall_timeout_s: float, first_token_timeout_s: float, context: JobContext) -> dict[str, Any]:
    """How long an engine may be silent once it has given a token, and before."""
    return {
        "profile": context.profile.model_copy(update={"stall_timeout_s": stall_timeout_s}),
        "workload": context.workload.model_copy(update={"request_timeout_s": first_token_timeout_s}),
    }


def launch(result_of: TrialRequest) -> dict[str, Any]:
    """What the engine noted of its own launch."""
    return json.loads((result_of.artifacts / "launch.json").read_text())


class CancelledAt(Control):
    """Cancelled some time after a stage was entered; remembers when that was."""

    def __init__(self, stage: str, after_s: float) -> None:
        super().__init__()
        self._stage, self._after_s = stage, after_s
        self._timer: threading.Timer | None = None
        self.cancelled_s = 0.0

    def enter(self, stage: Any, **facts: Any) -> None:
        super().enter(stage, **facts)
        if stage == self._stage and self._timer is None:
            self._timer = threading.Timer(self._after_s, self.cancel)
            self._timer.start()

    def cancel(self) -> None:
        self.cancelled_s = time.monotonic()
        super().cancel()


# A trial that goes well


@dataclasses.dataclass(frozen=True)
class Done:
    request: TrialRequest
    result: TrialResult
    stages: list[str]
    wall_s: float

    @property
    def outcome(self) -> Measured:
        assert isinstance(self.result.outcome, Measured), self.result.outcome
        return self.result.outcome


class Remembering(Control):
    """Keeps the stages it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.stages: list[str] = []

    def enter(self, stage: Any, **facts: Any) -> None:
        super().enter(stage, **facts)
        if self.stages[-1:] != [stage]:
            self.stages.append(stage)


@pytest.fixture(scope="module")
def done(make_context: MakeContext, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """A measured trial that asked for a block size, started in an environment as Ray would make it."""
    context = make_context(tmp_path_factory.mktemp("home"))
    asked = request(context, {"block_size": 64})
    control = Remembering()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
        patch.setenv("OMP_NUM_THREADS", "93")
        started_s = time.monotonic()
        result = run_trial(asked, ONE_CORE, control)
        return Done(asked, result, control.stages, time.monotonic() - started_s)


def test_every_level_is_measured_with_every_request(done: Done):
    assert [(p.level, p.load.value, p.completed, p.failed) for p in done.outcome.points] == [
        (0, 4.0, 40, 0),
        (1, 16.0, 40, 0),
    ]


def test_throughput_is_counted_from_the_servers_usage(done: Done):
    point = done.outcome.points[0]
    assert point.output_throughput * point.duration_s == pytest.approx(40 * 24)


def test_the_operating_point_is_the_feasible_level_of_highest_throughput(done: Done):
    feasible = [point for point in done.outcome.points if point.feasible]
    assert done.outcome.operating_point == max(feasible, key=lambda point: point.output_throughput)


def test_the_effective_configuration_is_read_back(done: Done):
    assert done.outcome.effective_config["block_size"] == "64"
    assert done.outcome.overridden == {}


def test_the_engines_own_counters_cover_the_level(done: Done):
    assert done.outcome.points[0].engine["generation_tokens"] == 40 * 24


def test_log_and_requests_are_on_disk_and_listed(done: Done):
    assert {"engine.log", "requests-level-0-seed-7.jsonl.gz", "requests-level-1-seed-7.jsonl.gz"} <= set(
        done.result.artifacts
    )
    assert all((done.request.folder / path).is_file() for path in done.result.artifacts.values())


def test_a_request_record_is_kept_for_every_request(done: Done):
    with gzip.open(done.request.artifacts / "requests-level-1-seed-7.jsonl.gz", "rt") as file:
        records = [json.loads(line) for line in file]
    assert {record["output_tokens"] for record in records} == {24}
    assert sorted(record["index"] for record in records) == list(range(40))


def test_the_phases_add_up_to_the_trials_wall_time(done: Done):
    timings = done.result.timings
    phases_s = timings.wait_s + timings.start_s + timings.load_s + timings.stop_s
    assert min(timings.start_s, timings.load_s, timings.stop_s) > 0
    assert phases_s <= timings.total_s <= done.wall_s
    assert timings.total_s - phases_s < 1.0


def test_the_stages_are_told_in_their_order(done: Done):
    assert done.stages == ["waiting for devices", "starting the engine", "warming up", "loading", "stopping"]


def test_the_api_key_is_in_the_environment_and_never_in_argv(done: Done):
    noted = launch(done.request)
    key = noted["environment"]["VLLM_API_KEY"]
    assert len(key) >= 32
    assert not any(key in word for word in noted["argv"])


def test_the_engine_inherits_nothing_of_ray(done: Done):
    environment = launch(done.request)["environment"]
    assert [name for name in environment if name.startswith("RAY_")] == []
    assert environment["OMP_NUM_THREADS"] == "1"


def test_the_engine_listens_on_loopback_only(done: Done):
    argv = launch(done.request)["argv"]
    assert argv[argv.index("--host") + 1] == "127.0.0.1"


def test_no_process_is_left(done: Done, working_below: Callable[[Path], list[int]]):
    assert working_below(done.request.folder) == []


def test_no_lock_and_no_engine_record_is_left(done: Done):
    folder = lock_folder() / "cpu"
    assert list(folder.glob("*.json")) == []
    locks = DeviceLocks(folder)
    free = locks.acquire(done.result.devices, 1)
    locks.close()
    assert free == done.result.devices


def test_a_confirmation_measures_its_one_level_with_each_seed(make_context: MakeContext, tmp_path: Path):
    context = make_context(tmp_path)
    asked = request(context, levels=given_levels(context.workload)[1:], confirm_seeds=(21, 22))
    outcome = run_trial(asked, ONE_CORE, Control()).outcome
    assert isinstance(outcome, Measured)
    assert [(point.level, point.seed) for point in outcome.points] == [(1, 21), (1, 22)]


def test_the_climb_ends_at_the_level_that_violates_the_sla(make_context: MakeContext, tmp_path: Path):
    """One seat for 4 users makes them wait 0.2 s for a first token."""
    context = make_context(tmp_path, "sla.p99_ttft_ms=50")
    workload = context.workload.model_copy(update={"requests_per_level": 12})
    outcome = run_trial(request(context, {"max_num_seqs": 1}, workload=workload), ONE_CORE, Control()).outcome
    assert isinstance(outcome, Measured)
    assert [point.level for point in outcome.points] == [0]
    assert outcome.operating_point is None


# Trials that fail


def test_a_refused_argument_is_infeasible_with_cause_advice_line_and_log(make_context: MakeContext, tmp_path: Path):
    asked = request(make_context(tmp_path), {"block_size": 16})
    outcome = run_trial(asked, ONE_CORE, Control()).outcome
    assert isinstance(outcome, Infeasible)
    evidence = outcome.evidence
    assert evidence.failure == FailureClass.CONFIG
    assert evidence.line == "ValueError: No common block size for 16 (CPU_ATTN: [MultipleOf(32)])"
    assert evidence.log_path == str(asked.artifacts / "engine.log")
    assert "multiple" in f"{evidence.cause} {evidence.advice}".lower()


def test_an_engine_that_ends_under_load_for_an_unknown_reason_is_infeasible(make_context: MakeContext, tmp_path: Path):
    asked = request(make_context(tmp_path, environment={"FAULT": "exit:7"}))
    outcome = run_trial(asked, ONE_CORE, Control()).outcome
    assert isinstance(outcome, Infeasible)
    assert outcome.evidence.failure == FailureClass.UNKNOWN
    assert "exit code 7" in outcome.evidence.cause


@pytest.mark.parametrize("fault", ["hang-before-ready", "mute"])
def test_an_engine_that_never_answers_hangs_and_the_first_time_nothing_is_learnt(
    fault: str, make_context: MakeContext, tmp_path: Path
):
    context = make_context(tmp_path, environment={"FAULT": fault})
    outcome = run_trial(request(context, **patient_for(2.5, context)), ONE_CORE, Control()).outcome
    assert isinstance(outcome, Interrupted)
    assert outcome.evidence.failure == FailureClass.HANG
    assert "2.5 s" in outcome.evidence.cause


def test_an_engine_that_hangs_a_second_time_is_infeasible(make_context: MakeContext, tmp_path: Path):
    context = make_context(tmp_path, environment={"FAULT": "hang-before-ready"})
    asked = request(context, attempt=2, failures=1, **patient_for(1.0, context))
    assert isinstance(run_trial(asked, ONE_CORE, Control()).outcome, Infeasible)
    assert asked.artifacts.name == "trial-0001-attempt-2"


def test_an_executable_that_vanished_is_a_broken_environment(make_context: MakeContext, tmp_path: Path):
    context = make_context(tmp_path)
    profile = context.profile.model_copy(update={"executable": tmp_path / "gone" / "vllm"})
    outcome = run_trial(request(context, profile=profile), ONE_CORE, Control()).outcome
    assert isinstance(outcome, Interrupted)
    assert outcome.evidence.failure == FailureClass.ENVIRONMENT
    assert "gone/vllm" in outcome.evidence.cause


@pytest.mark.parametrize(
    ("stage", "fault"),
    [("starting the engine", "hang-before-ready"), ("starting the engine", "mute"), ("loading", "")],
)
def test_a_cancel_is_heard_within_five_seconds_and_leaves_nothing(
    stage: str, fault: str, make_context: MakeContext, tmp_path: Path, working_below: Callable[[Path], list[int]]
):
    context = make_context(tmp_path, environment={"FAULT": fault})
    workload = context.workload.model_copy(update={"requests_per_level": 4000})
    control = CancelledAt(stage, after_s=1.0)
    outcome = run_trial(request(context, workload=workload), ONE_CORE, control).outcome
    assert time.monotonic() - control.cancelled_s < 5.0
    assert isinstance(outcome, Interrupted)
    assert outcome.evidence.failure == FailureClass.CANCELLED
    assert working_below(context.folder) == []


def test_a_wait_for_devices_is_cancelled_without_a_launch(make_context: MakeContext, tmp_path: Path):
    context = make_context(tmp_path)
    asked = request(context)
    every_core = tuple(device.id for device in cpu.discover())
    locks = DeviceLocks(lock_folder() / "cpu")
    locks.acquire(every_core, len(every_core))
    try:
        outcome = run_trial(asked, ONE_CORE, CancelledAt("waiting for devices", after_s=0.5)).outcome
    finally:
        locks.close()
    assert isinstance(outcome, Interrupted)
    assert outcome.evidence.failure == FailureClass.CANCELLED
    assert not (asked.artifacts / "launch.json").exists()


def test_a_cancel_while_the_engine_ends_keeps_what_was_measured(make_context: MakeContext, tmp_path: Path):
    """The engine ignores SIGTERM and would have 20 s."""
    context = make_context(tmp_path, environment={"FAULT": "ignore-sigterm"})
    control = CancelledAt("stopping", after_s=0.2)
    outcome = run_trial(request(context, levels=given_levels(context.workload)[:1]), ONE_CORE, control).outcome
    assert time.monotonic() - control.cancelled_s < 5.0
    assert isinstance(outcome, Measured)


def test_a_cancel_under_load_does_not_wait_for_an_engine_that_ignores_sigterm(
    make_context: MakeContext, tmp_path: Path, working_below: Callable[[Path], list[int]]
):
    context = make_context(tmp_path, environment={"FAULT": "ignore-sigterm"})
    workload = context.workload.model_copy(update={"requests_per_level": 4000})
    control = CancelledAt("loading", after_s=0.2)
    outcome = run_trial(request(context, workload=workload), ONE_CORE, control).outcome
    assert time.monotonic() - control.cancelled_s < 5.0
    assert isinstance(outcome, Interrupted)
    assert outcome.evidence.failure == FailureClass.CANCELLED
    assert working_below(context.folder) == []


class FreezesAt(CancelledAt):
    """Freezes the engine, SIGSTOP, as soon as a stage is entered with these facts; cancelled half a second later."""

    def __init__(self, stage: str, engine: Callable[[], int], **facts: Any) -> None:
        super().__init__("", after_s=0.5)
        self._at, self._facts, self._engine = stage, facts, engine

    def enter(self, stage: Any, **facts: Any) -> None:
        if stage == self._at and facts.items() >= self._facts.items():
            os.kill(self._engine(), signal.SIGSTOP)
            self._stage = stage
        super().enter(stage, **facts)


@pytest.mark.parametrize("done", [4, 12])
def test_a_cancel_is_heard_within_five_seconds_while_a_frozen_engine_is_asked_for_its_counters(
    done: int,
    make_context: MakeContext,
    tmp_path: Path,
    working_below: Callable[[Path], list[int]],
    monkeypatch: pytest.MonkeyPatch,
):
    """It accepts connections and answers none: before the first level, after its last request, and while it ends."""
    monkeypatch.setattr(readback, "_METRICS_TIMEOUT_S", 60.0)
    context = make_context(tmp_path)
    workload = context.workload.model_copy(update={"requests_per_level": 12})
    asked = request(context, workload=workload)
    control = FreezesAt("loading", lambda: launch(asked)["pid"], done=done)
    outcome = run_trial(asked, ONE_CORE, control).outcome
    assert time.monotonic() - control.cancelled_s < 5.0
    assert isinstance(outcome, Interrupted)
    assert outcome.evidence.failure == FailureClass.CANCELLED
    assert working_below(context.folder) == []


# A lost supervisor, a stalled engine, an engine that serves nobody


def supervisors() -> list[psutil.Process]:
    ours = set()
    for file in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            ours.add(file.readlink())
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):
            if "autotune.engines.supervisor" in process.cmdline():
                found += [process] if Path(f"/proc/{process.pid}/fd/0").readlink() in ours else []
    return found


class KillsTheSupervisorAt(Control):
    """Kills it when a stage is entered."""

    def __init__(self, stage: str) -> None:
        super().__init__()
        self._stage = stage

    def enter(self, stage: Any, **facts: Any) -> None:
        super().enter(stage, **facts)
        if stage == self._stage:
            self._stage = ""
            for supervisor in supervisors():
                supervisor.kill()


@pytest.mark.parametrize("stage", ["starting the engine", "warming up", "loading"])
@pytest.mark.parametrize("failures", [0, 1])
def test_a_lost_supervisor_is_the_nodes_fault_and_its_engine_is_ended(
    stage: str, failures: int, make_context: MakeContext, tmp_path: Path, working_below: Callable[[Path], list[int]]
):
    asked = request(make_context(tmp_path), failures=failures)
    result = run_trial(asked, ONE_CORE, KillsTheSupervisorAt(stage))
    assert isinstance(result.outcome, Interrupted)
    assert result.outcome.evidence.failure == FailureClass.NODE
    assert "supervisor" in result.outcome.evidence.cause
    assert working_below(asked.folder) == []
    locks = DeviceLocks(lock_folder() / "cpu")
    assert locks.acquire(result.devices, 1) == result.devices
    locks.close()


def test_a_supervisor_that_is_lost_while_the_engine_ends_costs_no_measurement(
    make_context: MakeContext, tmp_path: Path, working_below: Callable[[Path], list[int]]
):
    asked = request(context := make_context(tmp_path), levels=given_levels(context.workload)[:1])
    outcome = run_trial(asked, ONE_CORE, KillsTheSupervisorAt("stopping")).outcome
    assert isinstance(outcome, Measured)
    assert working_below(asked.folder) == []


@pytest.mark.parametrize(
    ("tokens", "first_token_s", "seen"),
    [
        (4, 0.6, "no request got a token for 1 s"),  # the check of readiness takes four: the warm-up already gets none
        (4, 1.4, "no request got a token for 1.4 s"),
        (400, 30.0, "no request got a token for 1 s, with"),
    ],
)
def test_an_engine_that_stalls_under_load_hangs(
    tokens: int, first_token_s: float, seen: str, make_context: MakeContext, tmp_path: Path
):
    """Before the first token of a launch both limits must have passed."""
    context = make_context(tmp_path, environment={"FAULT": f"stall:{tokens}"})
    asked = request(context, **silent_for(1.0, first_token_s, context))
    outcome = run_trial(asked, ONE_CORE, Control()).outcome
    assert isinstance(outcome, Interrupted)
    assert outcome.evidence.failure == FailureClass.HANG
    assert seen in outcome.evidence.cause


def test_a_first_token_that_comes_later_than_a_stall_may_last_is_measured(make_context: MakeContext, tmp_path: Path):
    """The requests of the warm-up wait 1.5 s."""
    context = make_context(tmp_path, environment={"FAULT": "compiles:1.5"})
    asked = request(context, levels=given_levels(context.workload)[:1], **silent_for(1.0, 30.0, context))
    assert isinstance(run_trial(asked, ONE_CORE, Control()).outcome, Measured)


def test_an_engine_that_stalls_a_second_time_is_infeasible(make_context: MakeContext, tmp_path: Path):
    context = make_context(tmp_path, environment={"FAULT": "stall:4"})
    asked = request(context, failures=1, **silent_for(0.5, 0.5, context))
    assert isinstance(run_trial(asked, ONE_CORE, Control()).outcome, Infeasible)


def test_an_engine_that_serves_nobody_is_measured_and_a_file_says_why(make_context: MakeContext, tmp_path: Path):
    context = make_context(tmp_path, environment={"FAULT": "wrong-tokens:1"})
    asked = request(context)
    result = run_trial(asked, ONE_CORE, Control())
    assert isinstance(result.outcome, Measured)
    (point,) = result.outcome.points
    assert (point.completed, point.violations) == (0, {"p99_ttft_ms": 1.5, "error_rate": 1.5})
    assert (point.aborted, point.failed + point.unfinished) == (True, 40)
    assert (context.folder / result.artifacts["failed-requests.txt"]).read_text().splitlines() == [
        f"4 concurrent: {point.failed} of {point.failed} requests failed",
        f"{point.failed:8d} x asked for 24 tokens, got 23",
    ]


def test_an_attempt_after_a_killed_tuner_is_still_the_first_failure(make_context: MakeContext, tmp_path: Path):
    context = make_context(tmp_path, environment={"FAULT": "log:hccl_socket_timeout"})
    outcome = run_trial(request(context, attempt=3, failures=0), ONE_CORE, Control()).outcome
    assert isinstance(outcome, Interrupted)
    assert outcome.evidence.failure == FailureClass.COMMUNICATION


# An engine that is ended by us

BLAMES_A_SIGNAL = """#!/bin/sh
trap 'echo "Worker proc VllmWorker-0 died unexpectedly (exit code: -9), shutting down executor."; exit 1' TERM
while :; do sleep 0.1; done
"""


def test_what_an_engine_says_of_our_signals_is_not_why_it_failed(make_context: MakeContext, tmp_path: Path):
    """It never becomes ready, and blames the main memory when it is ended."""
    script = tmp_path / "vllm"
    script.write_text(BLAMES_A_SIGNAL)
    script.chmod(0o755)
    context = make_context(tmp_path)
    profile = context.profile.model_copy(update={"executable": script, "start_timeout_s": 1.0})
    asked = request(context, profile=profile)
    outcome = run_trial(asked, ONE_CORE, Control()).outcome
    assert "died unexpectedly (exit code: -9)" in (asked.artifacts / "engine.log").read_text()
    assert isinstance(outcome, Interrupted)
    assert outcome.evidence.failure == FailureClass.HANG


# Logs


def test_what_a_killed_tuner_left_in_the_folder_of_a_launch_is_moved_aside(make_context: MakeContext, tmp_path: Path):
    asked = request(make_context(tmp_path, environment={"FAULT": "log:npu_oom"}))
    for number in (1, 2):
        asked.artifacts.mkdir(parents=True)
        (asked.artifacts / "engine.log").write_text(f"left {number}\n")
        result = run_trial(asked, ONE_CORE, Control())
        assert "left" not in (asked.artifacts / "engine.log").read_text()
        assert set(result.artifacts) == {"engine.log", "launch.json"}
        if number == 1:
            asked.artifacts.rename(tmp_path / "first")
    kept = sorted(path.name for path in asked.folder.iterdir())
    assert kept == ["trial-0001", "trial-0001-left-1", "trial-0001-left-2"]
    assert (asked.folder / "trial-0001-left-2" / "engine.log").read_text() == "left 2\n"


def test_a_labelled_launch_keeps_its_logs_beside_the_first_ones(make_context: MakeContext, tmp_path: Path):
    asked = request(make_context(tmp_path), number=7, label="rerun-1")
    assert asked.artifacts == asked.folder / "trial-0007-rerun-1"
    assert asked.next_attempt().artifacts == asked.folder / "trial-0007-rerun-1-attempt-2"


def test_a_debug_launch_logs_all_it_can(make_context: MakeContext, tmp_path: Path):
    asked = request(make_context(tmp_path, environment={"FAULT": "log:npu_oom"}), debug=True)
    run_trial(asked, ONE_CORE, Control())
    environment = launch(asked)["environment"]
    assert environment["VLLM_LOGGING_LEVEL"] == "DEBUG"
    assert "ASCEND_GLOBAL_LOG_LEVEL" not in environment


def test_on_ascend_a_debug_launch_keeps_what_cann_logs_beside_the_engines_log(
    make_context: MakeContext, npus: Path, tmp_path: Path
):
    context = make_context(npus, "devices.resource=NPU", platform="ascend", environment={"FAULT": "log:npu_oom"})
    asked = request(context, debug=True)
    run_trial(asked, Grant(("0",), 1), Control())
    environment = launch(asked)["environment"]
    assert environment["ASCEND_GLOBAL_LOG_LEVEL"] == "1"
    assert environment["ASCEND_PROCESS_LOG_PATH"] == str(asked.artifacts / "plog")


# The sweep of the whole host


def test_the_sweep_of_the_host_ends_engines_of_every_platform_and_leaves_running_trials_alone(tmp_path: Path):
    sleeper = LaunchPlan(("/bin/sleep", "600"), dict(os.environ), tmp_path, tmp_path / "lost.log")
    with EngineProcess() as lost, EngineProcess() as running:
        lost.lock(LockRequest(lock_folder() / "ascend", ("0",), 1, 5.0))
        orphan = lost.launch(sleeper)
        running.lock(LockRequest(lock_folder() / "cuda", ("0",), 1, 5.0))
        kept = running.launch(dataclasses.replace(sleeper, log=tmp_path / "kept.log"))
        os.kill(lost.pid, signal.SIGKILL)
        psutil.wait_procs([psutil.Process(lost.pid)], timeout=10)
        assert sweep_host() == (orphan.pid,)
        assert psutil.pid_exists(kept.pid)


def test_the_sweep_of_the_host_survives_broken_records_and_removes_sockets_of_dead_actors():
    folder = lock_folder() / "npu-of-tomorrow"
    folder.mkdir(parents=True)
    (folder / "4194305.json").write_text('{"pid": 41943')
    sockets = [lock_folder() / name for name in ("s4194305-dead", f"s{os.getpid()}-alive")]
    for place in sockets:
        place.mkdir()
    assert sweep_host() == ()
    assert list(folder.iterdir()) == []
    assert [place.exists() for place in sockets] == [False, True]
    sockets[1].rmdir()


def test_the_sweep_of_a_host_that_never_ran_a_trial_finds_nothing(tmp_path: Path):
    said = subprocess.run(
        [sys.executable, "-c", "from autotune.trial import sweep_host; print(sweep_host())"],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout == "()\n"


# What is seen before a launch


@pytest.fixture
def npus(install_npu_smi: Callable[[Path, str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an npu-smi on PATH that shows eight NPUs, of which number 6 has an Alarm."""
    install_npu_smi(tmp_path, "info_a2_busy_alarm")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return tmp_path


def test_a_device_with_an_alarm_interrupts_without_a_launch(make_context: MakeContext, npus: Path):
    context = make_context(npus, "devices.resource=NPU", platform="ascend")
    asked = request(context)
    outcome = run_trial(asked, Grant(("6",), 1), Control()).outcome
    assert isinstance(outcome, Interrupted)
    assert outcome.evidence.failure == FailureClass.HARDWARE
    assert outcome.evidence.cause == "Device 6 (Alarm) is not well."
    assert list(asked.artifacts.iterdir()) == []


@pytest.fixture
def npu_smi_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts an npu-smi on PATH that does something before it shows eight NPUs that are idle and well."""

    def does(what: str) -> None:
        tables = DATA / "npu_smi"
        script = tmp_path / "npu-smi"
        script.write_text(
            f"#!/bin/sh\n{what}\n"
            f'case "$*" in *" -m") cat {tables}/m_a2.txt ;; *) cat {tables}/info_a2_idle.txt ;; esac\n'
        )
        script.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    return does


def test_a_device_tool_that_hangs_takes_its_node_out_of_the_pool(
    make_context: MakeContext,
    npu_smi_that: Callable[[str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """Nothing is known about any device there then; the job goes on elsewhere."""
    context = make_context(tmp_path, "devices.resource=NPU", platform="ascend")
    npu_smi_that("exec sleep 600")
    monkeypatch.setattr(tool, "TIMEOUT_S", 0.5)
    result = run_trial(request(context), Grant(("0",), 1), Control())
    assert isinstance(result.outcome, Interrupted)
    assert result.outcome.evidence.failure == FailureClass.HARDWARE
    assert "`npu-smi info` did not answer within 0.5 s" in result.outcome.evidence.cause
    assert (result.node_unwell, result.unwell) == (True, ())


def test_a_failure_on_a_device_that_got_an_alarm_meanwhile_is_the_devices(
    make_context: MakeContext, npu_smi_that: Callable[[str], None], tmp_path: Path
):
    """The engine's log says only that an operator failed; of the two devices one is to blame."""
    context = make_context(tmp_path, "devices.resource=NPU", platform="ascend", environment={"FAULT": "log:acl_507034"})
    asked = request(context, config=EngineConfig(arguments={"tensor_parallel_size": 2}, devices=2))
    table = (DATA / "npu_smi" / "info_a2_idle.txt").read_text().replace("| 1     910B3               | OK   ", "X")
    assert table.count("X") == 1
    (tmp_path / "alarm.txt").write_text(table.replace("X", "| 1     910B3               | Alarm"))
    launched = asked.artifacts / "launch.json"
    npu_smi_that(f'[ -e {launched} ] && [ "$*" = info ] && exec cat {tmp_path}/alarm.txt')
    result = run_trial(asked, Grant(("0", "1"), 2), Control())
    assert isinstance(result.outcome, Interrupted)
    evidence = result.outcome.evidence
    assert (evidence.failure, evidence.signature) == (FailureClass.HARDWARE, "acl_507034")
    assert evidence.cause.startswith("Device 1 (Alarm) went bad under the trial, which failed so: ")
    assert (result.unwell, result.device_health) == (("1",), {"1": "Alarm"})


def test_a_failure_on_devices_that_are_well_is_the_configurations(
    make_context: MakeContext, npu_smi_that: Callable[[str], None], tmp_path: Path
):
    context = make_context(tmp_path, "devices.resource=NPU", platform="ascend", environment={"FAULT": "log:acl_507034"})
    npu_smi_that("")
    result = run_trial(request(context), Grant(("0",), 1), Control())
    assert isinstance(result.outcome, Infeasible)
    assert (result.outcome.evidence.failure, result.unwell) == (FailureClass.OPERATOR, ())


def test_a_device_that_warns_is_used_and_told_of(
    make_context: MakeContext, npu_smi_that: Callable[[str], None], tmp_path: Path
):
    context = make_context(tmp_path, "devices.resource=NPU", platform="ascend")
    table = (DATA / "npu_smi" / "info_a2_idle.txt").read_text().replace("| OK     ", "| Warning", 1)
    (tmp_path / "warning.txt").write_text(table)
    npu_smi_that(f'[ "$*" = info ] && exec cat {tmp_path}/warning.txt')
    result = run_trial(request(context), Grant(("0",), 1), Control())
    assert isinstance(result.outcome, Measured)
    assert (result.unwell, result.device_health) == ((), {"0": "Warning"})


def test_a_model_that_surely_cannot_fit_is_out_of_memory_without_a_launch(make_context: MakeContext, npus: Path):
    """65536 MiB of the NPU against 100 GiB of weights."""
    context = make_context(npus, "devices.resource=NPU", platform="ascend")
    large = dataclasses.replace(context.model, weight_bytes=100 * 2**30)
    asked = request(context, model=large)
    outcome = run_trial(asked, Grant(("0",), 1), Control()).outcome
    assert isinstance(outcome, Infeasible)
    assert outcome.evidence.failure == FailureClass.OOM
    assert "weights (100.0 GiB)" in outcome.evidence.cause
    assert list(asked.artifacts.iterdir()) == []


def test_devices_whose_tool_is_missing_are_a_broken_environment(
    make_context: MakeContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    context = make_context(tmp_path, "devices.resource=NPU", platform="ascend")
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    outcome = run_trial(request(context), Grant(("0",), 1), Control()).outcome
    assert isinstance(outcome, Interrupted)
    assert outcome.evidence.failure == FailureClass.ENVIRONMENT
    assert "npu-smi" in outcome.evidence.cause


def test_a_cancel_is_heard_while_the_device_tool_hangs(
    make_context: MakeContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    context = make_context(tmp_path, "devices.resource=NPU", platform="ascend")
    tool = tmp_path / "npu-smi"
    tool.write_text("#!/bin/sh\nexec sleep 15\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    control = Control()
    threading.Timer(0.3, control.cancel).start()
    started_s = time.monotonic()
    outcome = run_trial(request(context), Grant(("0",), 1), control).outcome
    assert time.monotonic() - started_s < 5.3
    assert isinstance(outcome, Interrupted)
    assert outcome.evidence.failure == FailureClass.CANCELLED


def occupied_while(exists: Path, folder: Path) -> None:
    """An npu-smi in a folder that shows a process on device 2 while a file exists."""
    tables, tool = DATA / "npu_smi", folder / "npu-smi"
    tool.write_text(
        f'#!/bin/sh\ncase "$*" in "info -m") exec cat {tables}/m_a2.txt ;; esac\n'
        f"test -e {exists} && exec cat {tables}/info_a2_busy_alarm.txt\nexec cat {tables}/info_a2_idle.txt\n"
    )
    tool.chmod(0o755)


def test_a_device_that_a_killed_engine_is_still_leaving_is_waited_for(
    make_context: MakeContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The first question whether it is idle is also the last moment of the old engine."""
    switch = tmp_path / "occupied"
    switch.touch()
    occupied_while(switch, tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    vanishes = ("/bin/sh", "-c", f"rm {switch}")
    monkeypatch.setattr(ascend, "idle_command", lambda _: vanishes if switch.exists() else ("/bin/true",))
    context = make_context(tmp_path, "devices.resource=NPU", platform="ascend", environment={"FAULT": "log:npu_oom"})
    outcome = run_trial(request(context), Grant(("2",), 1), Control()).outcome
    assert isinstance(outcome, Infeasible)
    assert outcome.evidence.signature == "npu_oom"


def test_a_device_that_somebody_else_keeps_is_busy_after_a_wait_that_hears_a_cancel(
    make_context: MakeContext,
    install_npu_smi: Callable[[Path, str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    install_npu_smi(tmp_path, "info_a2_busy_alarm")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    asked = request(make_context(tmp_path, "devices.resource=NPU", platform="ascend"))
    control = CancelledAt("waiting for devices", after_s=2.0)
    outcome = run_trial(asked, Grant(("2",), 1), control).outcome
    assert time.monotonic() - control.cancelled_s < 5.0
    assert isinstance(outcome, Interrupted)
    assert outcome.evidence.failure == FailureClass.CANCELLED
    monkeypatch.setattr(trial_run, "IDLE_TIMEOUT_S", 0.0)
    outcome = run_trial(asked, Grant(("2",), 1), Control()).outcome
    assert isinstance(outcome, Interrupted)
    assert outcome.evidence.failure == FailureClass.BUSY
    assert not (asked.artifacts / "launch.json").exists()


class OccupiesTheDevice(CancelledAt):
    """From the warm-up on npu-smi shows a process on the device; cancelled while the engine ends."""

    def __init__(self, switch: Path) -> None:
        super().__init__("stopping", after_s=0.2)
        self._switch = switch

    def enter(self, stage: Any, **facts: Any) -> None:
        super().enter(stage, **facts)
        if stage == "warming up":
            self._switch.touch()


def test_a_device_that_never_becomes_idle_does_not_hold_up_a_cancel_and_stays_locked(
    make_context: MakeContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    switch = tmp_path / "occupied"
    occupied_while(switch, tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    context = make_context(tmp_path, "devices.resource=NPU", platform="ascend")
    control = OccupiesTheDevice(switch)
    outcome = run_trial(request(context, levels=given_levels(context.workload)[:1]), Grant(("2",), 1), control).outcome
    assert time.monotonic() - control.cancelled_s < 5.0
    assert isinstance(outcome, Measured)
    locks = DeviceLocks(lock_folder() / "ascend")
    assert locks.acquire(("2",), 1) is None
    holder = psutil.Process(locks.holder_pid)
    switch.unlink()
    holder.wait(timeout=60)
    assert locks.acquire(("2",), 1) == ("2",)
    locks.close()
