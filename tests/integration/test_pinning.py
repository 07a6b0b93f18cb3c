"""Many engines side by side on a cluster of several nodes: each sees exactly its devices, whatever Ray was told.

`AUTOTUNE_PINNING=200` (`make pinning`) runs so many trials instead of a dozen, AUTOTUNE_PINNING_AT_ONCE of them at a
time at most, and writes the figures to the file AUTOTUNE_PINNING_RECORD, if it is named.
"""

import contextlib
import dataclasses
import json
import os
import runpy
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from autotune.engine_config import EngineConfig
from autotune.fleet import Fleet
from autotune.fleet.cluster import quiet_environment
from autotune.fleet.token import LocalToken
from autotune.results import Measured, TrialResult
from autotune.spec import Devices
from autotune.trial import TrialRequest
from autotune.tuner.context import JobContext
from autotune.workload import given_levels

TRIALS = int(os.environ.get("AUTOTUNE_PINNING", "12"))
AT_ONCE = int(os.environ.get("AUTOTUNE_PINNING_AT_ONCE", "8"))

pytestmark = [pytest.mark.ray, pytest.mark.timeout(max(300, 30 * TRIALS))]

DATA = Path(__file__).parents[1] / "data"
MACHINE = runpy.run_path(str(DATA / "npu_machine.py"), run_name="npu_machine")
NOSET = "RAY_EXPERIMENTAL_NOSET_ASCEND_RT_VISIBLE_DEVICES"
VISIBLE = "ASCEND_RT_VISIBLE_DEVICES"
STORE_BYTES = 80 * 2**20
WIDTHS = (1, 1, 1, 2, 2, 4)  # of the trials, in turns
SEEN = {
    ("host", 0), ("host", 1), ("host", 2), ("host", 3),
    ("host", 4), ("host", 5), ("host", 6), ("host", 7),
    ("container", 0), ("container", 1), ("container", 2), ("container", 3),
    ("detected", 0), ("detected", 1),
}  # fmt: skip

MakeContext = Callable[..., JobContext]


@dataclass(frozen=True)
class Node:
    """How Ray is started on a node of the cluster."""

    machine: str  # whose NPUs it has
    npus: int | None  # given by hand; None: Ray finds them
    variables: dict[str, str]


NODES = (
    Node("host", 4, {VISIBLE: "0,1,2,3"}),  # one machine, its devices divided between two Rays
    Node("host", 4, {VISIBLE: "4,5,6,7", NOSET: "1"}),
    Node("container", 4, {NOSET: "1"}),  # its NPUs are 4 to 7 of some host, and 0 to 3 inside
    Node("detected", None, {}),
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Devices]:
    """Four nodes with 14 NPUs on three machines. Sockets need a short path."""
    home = Path(tempfile.mkdtemp(prefix="at-"))
    counts = {"host": 8, "container": 4, "detected": 2}
    tools = {name: MACHINE["install"](home / name, count) for name, count in counts.items()}
    token = LocalToken()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in quiet_environment().items():
            patch.setenv(name, value)
        patch.setenv("RAY_TMPDIR", str(home / "r"))
        made = Cluster()
        for number, node in enumerate(NODES):
            with pytest.MonkeyPatch.context() as there:
                for name, value in node.variables.items():
                    there.setenv(name, value)
                there.setenv("PATH", f"{tools[node.machine]}{os.pathsep}{os.environ['PATH']}")
                there.setenv("TMPDIR", str(home / node.machine))  # one for each machine: the locks are there
                there.setenv("PRETENDED_NPUS", str(home / node.machine))
                there.setenv("PRETENDED_ADDRESS", f"127.0.1.{1 + list(counts).index(node.machine)}")
                given = {} if node.npus is None else {"resources": {"NPU": node.npus}}
                with _acl(there, counts[node.machine]) if node.npus is None else contextlib.nullcontext():
                    made.add_node(
                        num_cpus=1, object_store_memory=STORE_BYTES, include_dashboard=False, wait=number == 0, **given
                    )
        made.wait_for_nodes()
        ray.init(address=made.address, log_to_driver=False, logging_level="ERROR", namespace="autotune")
        yield Devices(resource="NPU")
        ray.shutdown()
        made.shutdown()
    token.close()
    shutil.rmtree(home)


@contextlib.contextmanager
def _acl(patch: pytest.MonkeyPatch, count: int) -> Iterator[None]:
    """CANN's Python module, as far as Ray asks it for devices."""
    runtime = SimpleNamespace(get_device_count=lambda: (count, 0))
    patch.setitem(sys.modules, "acl", SimpleNamespace(rt=runtime, get_soc_name=lambda: "Ascend910B3"))
    yield


@pytest.fixture(scope="module")
def context(make_context: MakeContext, tmp_path_factory: pytest.TempPathFactory) -> JobContext:
    return make_context(tmp_path_factory.mktemp("home"), "devices.resource=NPU", platform="ascend")


def short_trial(context: JobContext, number: int) -> TrialRequest:
    width = WIDTHS[number % len(WIDTHS)]
    arguments = {"max_model_len": 64, "tensor_parallel_size": width}
    return TrialRequest(
        job=context.job.id,
        number=number,
        config=EngineConfig(arguments=arguments, devices=width),
        profile=context.profile.model_copy(update={"start_timeout_s": 240.0}),
        resource="NPU",
        model=context.model,
        engine_version=context.engine.version,
        workload=context.workload.model_copy(update={"requests_per_level": 4, "request_timeout_s": 120.0}),
        sla=context.spec.sla,
        levels=given_levels(context.workload)[:1],
        search_seed=1,
        confirm_seeds=(),
        folder=context.folder,
    )


@dataclass
class Course:
    """What was run, and how many at a time."""

    ended: list[tuple[TrialRequest, TrialResult]] = dataclasses.field(default_factory=list)
    most_at_once: int = 0
    seconds: float = 0.0


def run_all(fleet: Fleet, requests: list[TrialRequest]) -> Course:
    course, waiting, began_s = Course(), list(requests), time.monotonic()
    while waiting or fleet.busy:
        while waiting and len(fleet.busy) < AT_ONCE and fleet.has_room(waiting[0].config.devices):
            fleet.start(waiting.pop(0))
        at_work = [one for one in fleet.progress().values() if one["stage"] != "queued"]
        course.most_at_once = max(course.most_at_once, len(at_work))
        course.ended += fleet.finished(timeout_s=0.5)
    course.seconds = time.monotonic() - began_s
    return course


def launch(asked: TrialRequest) -> dict[str, Any]:
    return json.loads((asked.artifacts / "launch.json").read_text())


@pytest.fixture(scope="module")
def course(cluster: Devices, context: JobContext) -> Course:
    with Fleet(cluster, address=None) as fleet:
        return run_all(fleet, [short_trial(context, number) for number in range(TRIALS)])


def test_no_engine_meets_another_one_on_its_devices_or_ports(course: Course):
    """An engine that does ends at once, as CANN would end it."""
    failed = [(r.number, result.outcome) for r, result in course.ended if not isinstance(result.outcome, Measured)]
    assert failed == []
    assert sorted(request.number for request, _ in course.ended) == list(range(TRIALS))


def test_every_engine_sees_exactly_the_devices_of_its_trial_in_numeric_order(course: Course):
    for request, result in course.ended:
        environment = launch(request)["environment"]
        shown = environment[VISIBLE].split(",")
        assert len(shown) == request.config.devices
        assert shown == sorted(result.devices, key=int)
        assert environment["HCCL_IF_BASE_PORT"] == str(20000 + 16 * int(shown[0]))


def test_every_device_of_every_node_is_used_and_counted_as_its_machine_counts_it(course: Course):
    used = Counter(
        (Path(environment["PRETENDED_NPUS"]).name, int(device))
        for environment in (launch(request)["environment"] for request, _ in course.ended)
        for device in environment[VISIBLE].split(",")
    )
    assert set(used) <= SEEN
    assert {machine for machine, _ in used} == {"host", "container", "detected"}
    assert set(used) == SEEN or TRIALS < 100


def test_engines_do_run_side_by_side_and_get_none_of_rays_variables(course: Course):
    assert course.most_at_once >= 3
    named = {name for request, _ in course.ended for name in launch(request)["environment"]}
    assert [name for name in named if name.startswith("RAY_")] == []
    threads = {launch(request)["environment"]["OMP_NUM_THREADS"] for request, _ in course.ended}
    assert threads == {"1"}
    if TRIALS >= 100:
        record = Path(os.environ["AUTOTUNE_PINNING_RECORD"]) if "AUTOTUNE_PINNING_RECORD" in os.environ else None
        if record is not None:
            record.write_text(f"{TRIALS} trials, {course.most_at_once} at a time at most, {course.seconds:.0f} s\n")


def test_a_device_of_a_busy_node_that_gets_an_alarm_is_the_only_one_to_leave(cluster: Devices, context: JobContext):
    """Its siblings of the same trial go on: the node's widest trial is one device narrower."""
    home = Path(launch(short_trial(context, 0))["environment"]["PRETENDED_NPUS"]).parent
    unwell = home / "host" / "unwell-5"
    unwell.write_text("Alarm")
    with Fleet(cluster, address=None) as fleet:
        wide = [
            dataclasses.replace(short_trial(context, WIDTHS.index(4)), number=TRIALS + place) for place in range(3)
        ]  # one for each node of four: one of them meets the alarm
        ended = run_all(fleet, wide).ended
        lost = [result for _, result in ended if not isinstance(result.outcome, Measured)]
        assert [result.unwell for result in lost] == [("5",)]
        assert fleet.most_devices == 4  # of the other nodes
        wait_for_free(fleet, 5)  # its three siblings, and the two that the wide trials left
        narrow = [dataclasses.replace(short_trial(context, 0), number=TRIALS + 10 + place) for place in range(6)]
        again = run_all(fleet, narrow).ended
        assert all(isinstance(result.outcome, Measured) for _, result in again)
        machines = {request.number: launch(request)["environment"]["PRETENDED_NPUS"] for request, _ in again}
        assert [r for r, result in again if result.devices == ("5",) and machines[r.number] == str(home / "host")] == []
    unwell.unlink()


def wait_for_free(fleet: Fleet, count: int) -> None:
    """Until Ray has so many devices to give away."""
    deadline = time.monotonic() + 60.0
    while ray.available_resources().get("NPU", 0) != count:
        assert time.monotonic() < deadline, ray.available_resources()
        fleet.finished(timeout_s=0.2)
