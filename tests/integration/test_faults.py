"""The fault matrix: whatever an engine does, its trial ends as the table says, and nothing is left of it."""

import contextlib
import dataclasses
import json
import runpy
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray

from autotune.diagnosis import outcome_of
from autotune.diagnosis.signatures import Signature, signatures
from autotune.engine_config import EngineConfig
from autotune.engines import procfs
from autotune.engines.locks import DeviceLocks
from autotune.engines.supervisor import OWNER_VARIABLE
from autotune.fleet import Fleet
from autotune.fleet.actor import pinned_actor
from autotune.results import Evidence, FailureClass, Infeasible, Interrupted, Measured, TrialResult
from autotune.spec import Devices
from autotune.trial import Control, Grant, TrialRequest, run_trial
from autotune.trial import run as trial_run
from autotune.trial.host import lock_folder
from autotune.tuner.context import JobContext
from autotune.workload import given_levels

pytestmark = pytest.mark.process

DATA = Path(__file__).parents[1] / "data"
MATRIX = runpy.run_path(str(DATA / "faults.py"), run_name="faults")
ONE_CORE = Grant((), 1)
OUTCOMES = {"infeasible": Infeasible, "retry": Interrupted, "interrupted": Interrupted, "abort": Interrupted}
TRIED_TWICE = ["addr_in_use", "hccp_last_process", "disk_full", "gpu_lost", "hccl_watchdog", "shm_broadcast_wait"]

MakeContext = Callable[..., JobContext]


@dataclasses.dataclass(frozen=True)
class Played:
    """A trial whose engine played a fault."""

    request: TrialRequest
    result: TrialResult

    @property
    def evidence(self) -> Evidence:
        assert isinstance(self.result.outcome, Infeasible | Interrupted), self.result.outcome
        return self.result.outcome.evidence


def trial_of(context: JobContext, fault: str, **changes: Any) -> TrialRequest:
    environment = context.profile.environment | {"FAULT": fault}
    waits = fault.startswith(("hang", "mute", "wait:"))
    limits = {
        "start_timeout_s": 1.0 if waits else 60.0,
        "start_stall_timeout_s": 2.0 if "-before-ready" in fault else 60.0,
        "stall_timeout_s": 1.0,
        "environment": environment,
    }
    request_timeout_s = 1.0 if fault == "stall:4" else 30.0  # nobody waits longer for the first token of a launch
    base = TrialRequest(
        job=context.job.id,
        number=1,
        config=EngineConfig(arguments={"max_model_len": 64}),
        profile=context.profile.model_copy(update=limits),
        resource=context.spec.devices.resource,
        model=context.model,
        engine_version=context.engine.version,
        workload=context.workload.model_copy(update={"requests_per_level": 12, "request_timeout_s": request_timeout_s}),
        sla=context.spec.sla,
        levels=given_levels(context.workload)[:1],
        search_seed=1,
        confirm_seeds=(),
        folder=context.folder,
    )
    return dataclasses.replace(base, **changes)


@pytest.fixture(scope="module")
def context(make_context: MakeContext, tmp_path_factory: pytest.TempPathFactory) -> JobContext:
    return make_context(tmp_path_factory.mktemp("home"))


@pytest.fixture
def play(
    context: JobContext,
    tmp_path: Path,
    working_below: Callable[[Path], list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Played]:
    """Runs a trial of a fault, with device locks of its own, and makes sure that nothing is left of it."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(trial_run, "GRACE_S", 1.0)  # nobody waits 20 s for an engine that ignores SIGTERM

    def run(fault: str, failures: int = 0) -> Played:
        monkeypatch.setattr(trial_run, "HEALTH_TIMEOUT_S", 0.2)
        if fault == "deaf:3600":
            monkeypatch.setattr(trial_run, "DYING_S", 0.5)
        asked = trial_of(context, fault, failures=failures, folder=tmp_path)
        result = run_trial(asked, ONE_CORE, Control())
        assert working_below(tmp_path) == []
        assert_nothing_left(json.loads((asked.artifacts / "launch.json").read_text()), result.devices)
        return Played(asked, result)

    return run


def assert_nothing_left(launch: dict[str, Any], devices: tuple[str, ...]) -> None:
    """No marked process, no record, no lock, and a port that the next engine can listen on."""
    assert procfs.with_environment(f"{OWNER_VARIABLE}={launch['environment'][OWNER_VARIABLE]}") == ()
    assert list(lock_folder().iterdir()) == [lock_folder() / "cpu"]
    folder = lock_folder() / "cpu"
    assert [path.name for path in folder.iterdir() if path.suffix != ".lock"] == []
    locks = DeviceLocks(folder)
    with contextlib.closing(locks):
        assert locks.acquire(devices, len(devices)) == devices
    with socket.socket() as following:
        following.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as vLLM binds
        following.bind(("127.0.0.1", int(launch["argv"][launch["argv"].index("--port") + 1])))
        following.listen()


def assert_failed(played: Played, failure: str, verdict: str) -> None:
    """The class, what becomes of the trial, and where a person may look."""
    assert played.evidence.failure == FailureClass(failure)
    assert type(played.result.outcome) is OUTCOMES[verdict]
    log = played.request.artifacts / "engine.log"
    assert played.evidence.log_path == str(log)
    text = log.read_text().rstrip()
    if failure == "hang":  # what it wrote while it was ended is left out
        assert played.evidence.log_tail in text
    else:
        assert played.evidence.log_tail == "\n".join(text.split("\n")[-30:])
    assert played.evidence.cause.endswith(".")
    assert played.evidence.advice.endswith(".")


# Messages in the log


@pytest.mark.parametrize("known", signatures(), ids=lambda known: known.id)
def test_a_message_in_the_log_ends_the_trial_with_its_class_cause_and_advice(
    known: Signature, play: Callable[..., Played]
):
    failure = MATRIX["class_of"](known.id)
    played = play(MATRIX["fault_of"](known.id))
    assert_failed(played, failure, MATRIX["CLASSES"][failure][1])
    assert played.evidence.signature == known.id
    assert played.evidence.cause == known.cause
    if failure != "unknown":  # of a message that only says that something failed, the advice is to read the log
        assert played.evidence.advice == known.advice
    assert known.sample.strip().split("\n")[-1].split()[-1] in played.evidence.log_tail
    assert played.evidence.line


@pytest.mark.parametrize("identity", TRIED_TWICE)
def test_a_second_failure_decides_what_the_first_left_open(identity: str, play: Callable[..., Played]):
    failure = MATRIX["class_of"](identity)
    assert_failed(play(MATRIX["fault_of"](identity), failures=1), failure, MATRIX["CLASSES"][failure][2])


def test_every_class_that_is_tried_twice_is_played_twice():
    """A lost node and a late client have no message of the engine's; `test_trial.py` loses supervisors."""
    twice = {name for name, (_, first, second) in MATRIX["CLASSES"].items() if first == "retry" != second}
    assert {MATRIX["class_of"](identity) for identity in TRIED_TWICE} == twice - {"node", "client"}


# What engines do


@pytest.mark.parametrize(
    "behaviour",
    [entry for entry in MATRIX["BEHAVIOURS"] if entry.failure],
    ids=lambda entry: entry.fault,
)
def test_an_engine_that_fails_otherwise_ends_the_trial_as_the_matrix_says(behaviour: Any, play: Callable[..., Played]):
    played = play(behaviour.fault)
    assert_failed(played, behaviour.failure, MATRIX["CLASSES"][behaviour.failure][1])
    assert behaviour.says in played.evidence.cause


@pytest.mark.parametrize(
    "behaviour",
    [entry for entry in MATRIX["BEHAVIOURS"] if not entry.failure],
    ids=lambda entry: entry.fault or "well",
)
def test_an_engine_that_runs_is_measured_whatever_it_answers(behaviour: Any, play: Callable[..., Played]):
    played = play(behaviour.fault)
    outcome = played.result.outcome
    assert isinstance(outcome, Measured), outcome
    (point,) = outcome.points
    # A level that is close to the limit is measured twice; one whose SLA is out of reach ends early.
    assert point.completed + point.failed + point.unfinished in (12, 24)
    assert point.failed >= (min(1, behaviour.failed) if point.aborted else behaviour.failed)
    assert point.feasible == behaviour.feasible
    assert ("failed-requests.txt" in played.result.artifacts) == (behaviour.failed > 0)


# The table itself


def test_the_matrix_has_every_signature_and_no_other():
    named = [name for names in MATRIX["OF_SIGNATURES"].values() for name in names.split()]
    assert sorted(named) == sorted(known.id for known in signatures())


def test_no_collected_signature_was_lost():
    collected = MATRIX["COLLECTED"].split()
    assert len(collected) == 58
    assert {known.id for known in signatures()} >= set(collected)


def test_the_matrix_has_every_class_with_the_verdicts_of_the_code():
    assert set(MATRIX["CLASSES"]) == {str(failure) for failure in FailureClass}
    for name, (_, first, second) in MATRIX["CLASSES"].items():
        verdicts = outcome_of(FailureClass(name), attempt=1), outcome_of(FailureClass(name), attempt=2)
        assert (name, *verdicts) == (name, first, second)


def test_the_tables_in_the_docs_are_those_of_the_matrix():
    """`python tests/data/faults.py` writes them."""
    text = MATRIX["PAGE"].read_text()
    assert MATRIX["page"](text) == text


# The fault engine


@pytest.fixture
def draw(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., str]:
    """What the fault engine plays in a launch's folder for a seed and a command line."""
    chosen_fault = runpy.run_path(str(DATA / "fault_vllm.py"), run_name="fault_vllm")["chosen_fault"]

    def choose(seed: int, *argv: str, folder: str = "trial-0001", **variables: str) -> str:
        (tmp_path / folder).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / folder)
        for name, value in {"FAULT": f"random:{seed}", **variables}.items():
            monkeypatch.setenv(name, value)
        name, parameter = chosen_fault(list(argv))
        return f"{name}:{parameter}" if parameter else name

    return choose


def test_a_random_fault_depends_on_seed_configuration_and_launch_and_not_on_the_port(draw: Callable[..., str]):
    every = {"FAULT_PROBABILITY": "1"}
    first = [draw(seed, "serve", "m", "--port", "1", "--x", "2", **every) for seed in range(40)]
    assert [draw(seed, "serve", "m", "--port", "9", "--x", "2", **every) for seed in range(40)] == first
    assert [draw(seed, "serve", "m", "--port", "1", "--x", "3", **every) for seed in range(40)] != first
    again = [
        draw(seed, "serve", "m", "--port", "1", "--x", "2", folder="trial-0001-attempt-2", **every)
        for seed in range(40)
    ]
    assert again != first
    assert "" not in first


def test_random_faults_come_as_often_as_asked_and_from_the_choices(draw: Callable[..., str]):
    assert {draw(seed, "serve", FAULT_PROBABILITY="0") for seed in range(20)} == {""}
    chosen = {draw(seed, "serve", FAULT_PROBABILITY="0.5", FAULT_CHOICES="exit:7,mute") for seed in range(60)}
    assert chosen == {"", "exit:7", "mute"}


# On a cluster


@pytest.mark.ray
def test_a_cancel_that_comes_before_its_trial_is_heard_and_the_next_trial_runs(
    make_context: MakeContext, two_npus: Devices, tmp_path: Path
):
    context = make_context(tmp_path, "devices.resource=NPU", platform="ascend")
    actor = pinned_actor(two_npus.resource, 1)
    ray.get(actor.cancel.remote())
    first, second = (ray.get(actor.run.remote(trial_of(context, "log:npu_oom", number=n), 1)) for n in (1, 2))
    ray.kill(actor)
    assert [first.outcome.evidence.failure, second.outcome.evidence.failure] == [
        FailureClass.CANCELLED,
        FailureClass.OOM,
    ]


@pytest.mark.ray
@pytest.mark.parametrize(
    "faults", [("die:SIGKILL", "stall:4"), ("hang-before-ready", "orphan"), ("log:hccl_bind", "die:SIGSEGV")]
)
def test_after_trials_that_failed_on_every_device_a_trial_of_full_width_runs(
    faults: tuple[str, str], make_context: MakeContext, two_npus: Devices, tmp_path: Path
):
    context = make_context(tmp_path, "devices.resource=NPU", platform="ascend")
    wide = EngineConfig(arguments={"max_model_len": 64, "tensor_parallel_size": 2}, devices=2)
    with Fleet(two_npus, address=None) as fleet:
        for number, fault in enumerate(faults):
            fleet.start(trial_of(context, fault, number=number))
        ended: list[tuple[TrialRequest, TrialResult]] = []
        while len(ended) < 2:
            ended += fleet.finished(timeout_s=5.0)
        fleet.start(trial_of(context, "", number=2, config=wide))
        while len(ended) < 3:
            ended += fleet.finished(timeout_s=5.0)
    outcome = ended[-1][1].outcome
    assert isinstance(outcome, Measured), outcome
    assert ended[-1][1].devices == ("0", "1")
