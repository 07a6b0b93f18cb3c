"""One trial without a cluster: a launch becomes a result whatever happens, and nothing is left of it."""

import dataclasses
import gzip
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from autotune.engine_config import EngineConfig
from autotune.engines.locks import DeviceLocks
from autotune.platforms import cpu
from autotune.results import FailureClass, Infeasible, Interrupted, Measured, TrialResult
from autotune.trial import Control, Grant, TrialRequest, run_trial
from autotune.trial.run import lock_folder
from autotune.tuner.context import JobContext

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
        levels=(0, 1),
        search_seed=SEED,
        confirm_seeds=(),
        folder=context.folder,
    )
    return dataclasses.replace(base, **changes)


def patient_for(start_timeout_s: float, context: JobContext) -> dict[str, Any]:
    return {"profile": context.profile.model_copy(update={"start_timeout_s": start_timeout_s})}


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
    asked = request(make_context(tmp_path), levels=(1,), confirm_seeds=(21, 22))
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
    assert evidence.line == "ValueError: No common block size for 16 (CPU_ATTN: [MultipleOf(32)])."
    assert evidence.log_path == str(asked.artifacts / "engine.log")
    assert "multiple" in f"{evidence.cause} {evidence.advice}".lower()


def test_an_engine_that_ends_under_load_for_an_unknown_reason_is_infeasible(make_context: MakeContext, tmp_path: Path):
    asked = request(make_context(tmp_path, environment={"FAKE_VLLM_MODE": "crash"}))
    outcome = run_trial(asked, ONE_CORE, Control()).outcome
    assert isinstance(outcome, Infeasible)
    assert outcome.evidence.failure == FailureClass.UNKNOWN
    assert "exit code 7" in outcome.evidence.cause


@pytest.mark.parametrize("mode", ["hang", "mute"])
def test_an_engine_that_never_answers_hangs_and_the_first_time_nothing_is_learnt(
    mode: str, make_context: MakeContext, tmp_path: Path
):
    context = make_context(tmp_path, environment={"FAKE_VLLM_MODE": mode})
    outcome = run_trial(request(context, **patient_for(2.5, context)), ONE_CORE, Control()).outcome
    assert isinstance(outcome, Interrupted)
    assert outcome.evidence.failure == FailureClass.HANG
    assert "2.5 s" in outcome.evidence.cause


def test_an_engine_that_hangs_a_second_time_is_infeasible(make_context: MakeContext, tmp_path: Path):
    context = make_context(tmp_path, environment={"FAKE_VLLM_MODE": "hang"})
    asked = request(context, attempt=2, **patient_for(1.0, context))
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
    ("stage", "mode"), [("starting the engine", "hang"), ("starting the engine", "mute"), ("loading", "")]
)
def test_a_cancel_is_heard_within_five_seconds_and_leaves_nothing(
    stage: str, mode: str, make_context: MakeContext, tmp_path: Path, working_below: Callable[[Path], list[int]]
):
    context = make_context(tmp_path, environment={"FAKE_VLLM_MODE": mode})
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
