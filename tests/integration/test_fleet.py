"""Trials as Ray actors on a real local Ray with two pretended NPUs."""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from autotune.engine_config import EngineConfig
from autotune.errors import EnvironmentProblem
from autotune.fleet import Fleet
from autotune.fleet.actor import pinned_actor, place_of
from autotune.fleet.fleet import CANCEL_TIMEOUT_S
from autotune.results import FailureClass, Interrupted, Measured, TrialResult
from autotune.spec import Devices
from autotune.trial import TrialRequest
from autotune.tuner.context import JobContext
from autotune.workload import given_levels

pytestmark = pytest.mark.ray

PATIENCE_S = 60.0
SOON_S = 20.0  # for what takes a moment
DATA = Path(__file__).parents[1] / "data"

MakeContext = Callable[..., JobContext]
ActorBehind = Callable[[psutil.Process], psutil.Process]


@pytest.fixture
def fleet(two_npus: Devices) -> Iterator[Fleet]:
    with Fleet(two_npus, address=None) as opened:
        yield opened


@pytest.fixture
def context(make_context: MakeContext, tmp_path: Path) -> JobContext:
    return make_context(tmp_path, "devices.resource=NPU", platform="ascend")


def request(context: JobContext, number: int, *, devices: int = 1, **changes: Any) -> TrialRequest:
    base = TrialRequest(
        job=context.job.id,
        number=number,
        config=EngineConfig(arguments={"max_model_len": 64, "tensor_parallel_size": devices}, devices=devices),
        profile=context.profile,
        resource="NPU",
        model=context.model,
        engine_version=context.engine.version,
        workload=context.workload,
        sla=context.spec.sla,
        levels=given_levels(context.workload),
        search_seed=1,
        confirm_seeds=(),
        folder=context.folder,
    )
    return dataclasses.replace(base, **changes)


def results(fleet: Fleet, count: int) -> dict[int, TrialResult]:
    """Wait for so many trials to end."""
    ended: dict[int, TrialResult] = {}
    deadline = time.monotonic() + PATIENCE_S
    while len(ended) < count:
        assert time.monotonic() < deadline, f"only {sorted(ended)} ended, {fleet.busy} run"
        ended |= {request.number: result for request, result in fleet.finished(timeout_s=0.5)}
        fleet.progress()
    return ended


def until_stage(fleet: Fleet, number: int, stage: str) -> None:
    """Wait until a trial says that it is there."""
    deadline = time.monotonic() + PATIENCE_S
    while fleet.progress().get(number, {}).get("stage") != stage:
        assert time.monotonic() < deadline, fleet.progress()
        assert fleet.finished(timeout_s=0.2) == []


def launch(asked: TrialRequest) -> dict[str, Any]:
    return json.loads((asked.artifacts / "launch.json").read_text())


def visible(asked: TrialRequest) -> str:
    return launch(asked)["environment"]["ASCEND_RT_VISIBLE_DEVICES"]


def test_a_trial_that_no_node_could_ever_run_is_refused_with_what_the_cluster_has(fleet: Fleet):
    with pytest.raises(EnvironmentProblem, match=r"a trial needs 4 NPU on one node, the largest node .* has 2"):
        fleet.check_fits(4)


def test_a_trial_that_fits_is_not_refused(fleet: Fleet):
    assert (fleet.check_fits(2), fleet.most_devices) == (None, 2)


def test_two_trials_run_at_once_on_different_devices_with_ports_of_their_own(fleet: Fleet, context: JobContext):
    first, second = request(context, 0), request(context, 1)
    fleet.start(first)
    assert fleet.has_room(1)
    fleet.start(second)
    assert not fleet.has_room(1)
    ended = results(fleet, 2)
    assert all(isinstance(result.outcome, Measured) for result in ended.values())
    assert {visible(first), visible(second)} == {"0", "1"}
    assert {launch(asked)["environment"]["HCCL_IF_BASE_PORT"] for asked in (first, second)} == {"20000", "20016"}
    assert {ended[0].devices, ended[1].devices} == {("0",), ("1",)}


def test_a_wide_trial_waits_for_its_devices_and_then_runs(fleet: Fleet, context: JobContext):
    """The actor of the narrow trial must not rest on a device that the wide one waits for."""
    narrow, wide = request(context, 0), request(context, 1, devices=2)
    fleet.start(narrow)
    fleet.start(wide)
    ended = results(fleet, 2)
    assert all(isinstance(result.outcome, Measured) for result in ended.values())
    assert visible(wide) == "0,1"


def test_a_killed_actor_is_an_interrupted_trial_whose_engine_ends_too(
    fleet: Fleet, context: JobContext, actor_behind: ActorBehind, working_below: Callable[[Path], list[int]]
):
    slow = context.workload.model_copy(update={"requests_per_level": 4000})
    asked = request(context, 0, workload=slow)
    fleet.start(asked)
    until_stage(fleet, 0, "loading")
    engine = psutil.Process(launch(asked)["pid"])
    supervisor = engine.parents()[0]
    actor_behind(supervisor).kill()
    result = results(fleet, 1)[0]
    assert isinstance(result.outcome, Interrupted)
    assert result.outcome.evidence.failure == FailureClass.NODE
    assert result.device_s > 0  # nobody tells any more which device it was
    assert psutil.wait_procs([engine, supervisor], timeout=15)[1] == []
    assert working_below(context.folder) == []


@pytest.fixture
def alarm(npu_tools: Path) -> Iterator[None]:
    """NPU 0, the first of the table, has an alarm."""
    script = npu_tools / "npu-smi"
    well = script.read_text()
    table = npu_tools / "alarm.txt"
    table.write_text((DATA / "npu_smi" / "info_a2_idle.txt").read_text().replace("| OK   ", "| Alarm", 1))
    script.write_text(well.replace(str(DATA / "npu_smi" / "info_a2_idle.txt"), str(table)))
    yield
    script.write_text(well)


@pytest.mark.usefixtures("alarm")
def test_a_device_that_is_not_well_leaves_the_pool_and_the_trial_runs_elsewhere(fleet: Fleet, context: JobContext):
    first = request(context, 0)
    fleet.start(first)
    outcome = results(fleet, 1)[0].outcome
    assert isinstance(outcome, Interrupted)
    assert outcome.evidence.failure == FailureClass.HARDWARE
    assert fleet.most_devices == 1
    with pytest.raises(
        EnvironmentProblem, match=r"largest node .* has 1 \(without 1 that were taken out: Device 0 \(Alarm"
    ):
        fleet.check_fits(2)
    fleet.start(first.next_attempt())
    assert isinstance(results(fleet, 1)[0].outcome, Measured)
    assert visible(first.next_attempt()) == "1"


@pytest.mark.usefixtures("alarm")
def test_the_sibling_of_a_device_that_is_not_well_stays_in_the_pool(fleet: Fleet, context: JobContext):
    """A trial of both ends at the alarm of one; the other one runs the next trial."""
    fleet.start(request(context, 0, devices=2))
    result = results(fleet, 1)[0]
    assert (result.unwell, result.device_health) == (("0",), {"0": "Alarm"})
    assert fleet.most_devices == 1
    fleet.check_fits(1)
    deadline = time.monotonic() + PATIENCE_S
    while not fleet.has_room(1):
        assert time.monotonic() < deadline
        fleet.finished(timeout_s=0.2)
    narrow = request(context, 1)
    fleet.start(narrow)
    assert isinstance(results(fleet, 1)[1].outcome, Measured)
    assert (visible(narrow), fleet.has_room(2), fleet.most_devices) == ("1", False, 1)


@pytest.mark.usefixtures("alarm")
def test_devices_that_were_taken_out_of_a_node_that_is_gone_are_missed_nowhere_else(
    fleet: Fleet, context: JobContext, monkeypatch: pytest.MonkeyPatch
):
    """Their node goes and another one comes, which has as many."""
    fleet.start(request(context, 0))
    results(fleet, 1)
    assert (fleet.most_devices, fleet.has_room(2)) == (1, False)
    gone = [{**node, "Alive": False} for node in ray.nodes()]
    come = {"NodeID": "another", "NodeManagerHostname": "another", "Alive": True, "Resources": {"NPU": 2.0}}
    monkeypatch.setattr(ray, "nodes", lambda: [*gone, come])
    assert (fleet.most_devices, fleet.has_room(2)) == (2, True)


@pytest.mark.usefixtures("alarm")
def test_devices_that_were_taken_out_are_missed_on_their_own_node_only(
    fleet: Fleet, context: JobContext, monkeypatch: pytest.MonkeyPatch
):
    """Two nodes of one host share its name."""
    fleet.start(request(context, 0))
    results(fleet, 1)
    (own,) = ray.nodes()
    monkeypatch.setattr(ray, "nodes", lambda: [own, {**own, "NodeID": "another"}])
    assert fleet.most_devices == 2


@pytest.fixture
def others_trial(two_npus: Devices) -> Iterator[None]:
    """Somebody else's trial has both devices."""
    actor = pinned_actor("NPU", 2)
    ray.get(place_of(actor, "NPU"), timeout=PATIENCE_S)
    yield
    ray.kill(actor)


@pytest.mark.usefixtures("others_trial")
def test_a_cancel_ends_a_trial_that_waits_for_devices_in_ray(fleet: Fleet, context: JobContext):
    """It is not given another actor, which would wait as well; and it has occupied nothing."""
    fleet.start(request(context, 0))
    assert (fleet.finished(timeout_s=0.5), fleet.progress()) == ([], {})
    fleet.cancel_all()
    ended = fleet.finished(timeout_s=SOON_S)
    assert [(asked.number, result.outcome.kind, result.device_s) for asked, result in ended] == [
        (0, "interrupted", 0.0)
    ]
    assert fleet.busy == ()
    ((_, result),) = ended
    assert isinstance(result.outcome, Interrupted)
    assert result.outcome.evidence.failure is FailureClass.CANCELLED
    assert result.outcome.evidence.cause == "The job was stopped before this trial had begun."


@pytest.mark.usefixtures("others_trial")
def test_leaving_the_fleet_does_not_wait_for_devices_that_a_trial_waits_for(two_npus: Devices, context: JobContext):
    with Fleet(two_npus, address=None) as fleet:
        fleet.start(request(context, 0))
        began_s = time.monotonic()
    assert time.monotonic() - began_s < SOON_S < CANCEL_TIMEOUT_S


def test_actors_that_are_ended_leave_their_supervisors_to_end_the_engines(
    fleet: Fleet, context: JobContext, actor_behind: ActorBehind, working_below: Callable[[Path], list[int]]
):
    """A Ray worker that ends kills its children without waiting: a supervisor is none of them."""
    slow = context.workload.model_copy(update={"requests_per_level": 4000})
    asked = request(context, 0, workload=slow)
    fleet.start(asked)
    until_stage(fleet, 0, "loading")
    engine = psutil.Process(launch(asked)["pid"])
    supervisor = engine.parents()[0]
    actor = actor_behind(supervisor)
    assert supervisor not in actor.children(recursive=True)
    fleet.kill_all()
    assert psutil.wait_procs([engine, supervisor], timeout=15)[1] == []
    assert working_below(context.folder) == []


def test_a_cancel_ends_every_running_trial(fleet: Fleet, context: JobContext):
    slow = context.workload.model_copy(update={"requests_per_level": 4000})
    fleet.start(request(context, 0, workload=slow))
    fleet.start(request(context, 1, workload=slow))
    until_stage(fleet, 0, "loading")
    fleet.cancel_all()
    outcomes = [result.outcome for result in results(fleet, 2).values()]
    assert [outcome.evidence.failure for outcome in outcomes if isinstance(outcome, Interrupted)] == [
        FailureClass.CANCELLED,
        FailureClass.CANCELLED,
    ]


def test_leaving_the_fleet_leaves_no_engine(
    two_npus: Devices, context: JobContext, working_below: Callable[[Path], list[int]]
):
    slow = context.workload.model_copy(update={"requests_per_level": 4000})
    with Fleet(two_npus, address=None) as fleet:
        fleet.start(request(context, 0, workload=slow))
        until_stage(fleet, 0, "loading")
    assert working_below(context.folder) == []
