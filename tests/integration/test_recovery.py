"""Jobs whose processes are killed with SIGKILL at random moments go on, lose nothing and leave nothing.

`AUTOTUNE_KILLS=50` (`make kills`) strikes that often, on SQLite and on PostgreSQL; `AUTOTUNE_SEED` repeats a schedule.
"""

import contextlib
import dataclasses
import json
import os
import random
import runpy
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from ray.cluster_utils import Cluster

from autotune.fleet import Fleet
from autotune.results import JobStatus, Measured
from autotune.store import Store
from autotune.study.grid import Grid
from autotune.study.persisted import PersistedStudy, open_storage
from autotune.tuner.context import JobContext
from autotune.tuner.events import Event
from autotune.tuner.job import run_job
from autotune.tuner.ledger import Books, leased

TESTS = Path(__file__).parents[1]
turmoil = SimpleNamespace(**runpy.run_path(str(TESTS / "data" / "turmoil.py")))
postgresql = runpy.run_path(str(TESTS / "contract" / "conftest.py"))
_server, postgresql_url = postgresql["_server"], postgresql["postgresql_url"]

PER_JOB = 5
KILLS = int(os.environ.get("AUTOTUNE_KILLS", str(PER_JOB)))
SEED = int(os.environ.get("AUTOTUNE_SEED", "1"))
DATABASES = ("sqlite", "postgresql") if KILLS > PER_JOB else ("sqlite",)
TRIALS = 10
SOAKED = 12
JOB_LIMIT_S = 240.0

pytestmark = [pytest.mark.ray, pytest.mark.timeout(60 + JOB_LIMIT_S * KILLS / PER_JOB)]


@pytest.fixture
def scratch() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="at-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=DATABASES)
def place(request: pytest.FixtureRequest, scratch: Path, fake_vllm: Path, tmp_path: Path) -> Iterator[Any]:
    database = request.getfixturevalue("postgresql_url") if request.param == "postgresql" else None
    made = turmoil.make_place(tmp_path, scratch, fake_vllm, database)
    yield made
    made.close()


def kinds_of(number: int, rng: random.Random) -> list[str]:
    """The first two jobs get every kind of process, later ones any; each job's database is disturbed once."""
    if number < 2:
        return ["database", "cli", "actor", ("raylet", "gcs")[(SEED + number) % 2], "supervisor", "engine"]
    return ["database", *rng.choices(turmoil.KINDS, k=PER_JOB)]


def test_after_kills_at_random_moments_the_job_succeeds_with_nothing_lost_repeated_or_left(place: Any):
    rng, killed, number = random.Random(SEED), 0, 0
    while killed < KILLS:
        schedule = turmoil.plan(rng, kinds_of(number, rng), TRIALS)
        story = turmoil.run_disturbed(place, ("--set", f"seed={number}"), schedule, rng.randrange(2**31), JOB_LIMIT_S)
        told = f"seed {SEED}, job {number}, schedule {schedule}, struck {story.struck}; see {place.outputs}"
        assert turmoil.lost(place, story) == [], told
        assert turmoil.duplicates(place, story) == [], told
        assert turmoil.wrong_ending(place, story) == [], told
        assert place.run("export", story.job_id)[0] == 0, place.outputs[-1].read_text()
        assert turmoil.leftovers(place) == [], told
        killed += sum(struck.kind != "database" for struck in story.struck)
        number += 1
        assert number <= 2 * KILLS / PER_JOB, told
    assert len(turmoil.jobs(place)) == number


def test_a_queued_job_is_taken_over_from_workers_that_are_killed(place: Any):
    """As above, with the worker in place of the command; nobody asks for the job to be resumed."""
    rng = random.Random(SEED)
    schedule = turmoil.plan(rng, ["cli", "cli", "engine", "database"], TRIALS)
    story = turmoil.run_disturbed(place, (), schedule, rng.randrange(2**31), JOB_LIMIT_S, queued=True)
    told = f"seed {SEED}, schedule {schedule}, struck {story.struck}; see {place.outputs}"
    assert turmoil.lost(place, story) == [], told
    assert turmoil.duplicates(place, story) == [], told
    assert turmoil.wrong_ending(place, story) == [], told
    assert turmoil.leftovers(place) == [], told
    assert sum(struck.kind == "cli" for struck in story.struck) == 2, told


def test_two_workers_share_a_queue_and_one_goes_on_with_the_job_of_the_other(place: Any):
    """Four jobs of two tenants; the first worker is killed in the middle of a job."""
    small = ("budget.trials=3", "budget.start_points=1", "budget.confirm_top=1")
    ids = [
        turmoil.submit(place, (*small, f"seed={number}"), tenant)
        for number, tenant in enumerate(["red"] * 3 + ["blue"])
    ]
    with place.start("worker") as first, place.start("worker") as second:
        try:
            mine = turmoil.wait_for(lambda: turmoil.held_by(place, first.pid), JOB_LIMIT_S)
            turmoil.wait_for(lambda: any(t.result for t in turmoil.trials(place, mine)), JOB_LIMIT_S)
            first.kill()
            turmoil.wait_for(
                lambda: all(turmoil.job(place, one).status is JobStatus.SUCCEEDED for one in ids), JOB_LIMIT_S
            )
            turmoil.wait_for(lambda: turmoil.is_idle(place, second.pid), 60)
            second.terminate()  # a worker that has left Ray still hears it
            assert second.wait(60) == 0
        finally:
            for worker in (first, second):
                if worker.poll() is None:
                    worker.kill()
    for one in ids:
        story = turmoil.Story(job_id=one)
        assert turmoil.duplicates(place, story) == []
        assert turmoil.wrong_ending(place, story) == []
    begun = {one: [event.kind for event in place.store.events(one)].count("job_started") for one in ids}
    assert begun == dict.fromkeys(ids, 1)
    assert [event.kind for event in place.store.events(mine)].count("job_resumed") == 1
    assert turmoil.leftovers(place) == []


# A node of a cluster


@dataclasses.dataclass(frozen=True)
class Rack:
    """A Ray cluster of two nodes with one pretended NPU each, and what tells a node's processes apart."""

    cluster: Cluster
    nodes: dict[str, Any]  # by its temporary folder, where a host keeps its device locks

    def lose(self, host: str) -> None:
        """A node whose power is cut: its raylet, its actors, their supervisors and engines end at once."""
        for process in turmoil.marked(host):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.cluster.remove_node(self.nodes.pop(host), allow_graceful=False)


@pytest.fixture
def rack(scratch: Path) -> Iterator[Rack]:
    quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
    with pytest.MonkeyPatch.context() as patch:
        for name in ("TMPDIR", "RAY_TMPDIR"):
            patch.setenv(name, str(scratch))
        head = {"num_cpus": 0, "include_dashboard": False, "_system_config": quick}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        nodes = {}
        for number in range(2):
            host = scratch / f"host-{number}"
            host.mkdir()
            nodes[str(host)] = cluster.add_node(num_cpus=0, resources={"NPU": 1}, env_vars={"TMPDIR": str(host)})
        yield Rack(cluster, nodes)
        cluster.shutdown()


def host_of(context: JobContext, folder: str) -> str:
    """The temporary folder of the node that a launch was on."""
    return json.loads((context.folder / folder / "launch.json").read_text())["environment"]["TMPDIR"]


def test_a_trial_whose_node_was_lost_is_tried_again_on_another_and_the_job_succeeds(
    rack: Rack, make_context: Callable[..., JobContext], working_below: Callable[[Path], list[int]], tmp_path: Path
):
    small = ("budget.trials=2", "budget.start_points=1", "budget.confirm_top=0")
    context = make_context(tmp_path, "devices.resource=NPU", *small, platform="simulated")
    lost: list[str] = []

    def lose_the_first_node(event: Event) -> None:
        if not lost and event.running.get(0, {}).get("stage") == "loading":
            lost.append(host_of(context, "trial-0000"))
            rack.lose(lost[0])

    url = f"sqlite:///{tmp_path / 'autotune.db'}"
    with Store.open(url) as store, Fleet(context.spec.devices, address=rack.cluster.address) as fleet:
        store.create_job(context.job)
        study = PersistedStudy(open_storage(url), context.job.id, context.spec.sla, Grid.of(context.space))
        with leased(store, context.job.id) as lease:
            job = run_job(context, Books(store, lease, study), fleet, lose_the_first_node)
        trials = store.trials(job.id)
        assert study.differences(trials) == []
    assert job.status is JobStatus.SUCCEEDED
    assert [trial.number for trial in trials] == [0, 1, 2]
    baseline = trials[0]
    assert baseline.result is not None
    assert isinstance(baseline.result.outcome, Measured)
    assert baseline.attempts == 2
    assert host_of(context, "trial-0000-attempt-2") not in lost
    assert working_below(context.folder) == []


# Faults of the engine and kills together


def test_a_short_soak_loses_repeats_and_leaves_nothing(tmp_path: Path, scratch: Path):
    """`make soak` does the same with hundreds of trials."""
    soak = SimpleNamespace(**runpy.run_path(str(TESTS.parent / "benchmarks" / "soak.py")))
    tally = soak.soak(tmp_path, scratch, trials=SOAKED, seed=SEED, deadline_s=JOB_LIMIT_S)
    assert tally.problems == {"leftovers": [], "lost": [], "duplicates": [], "unfinished": []}
    assert tally.trials == SOAKED
    assert sum(tally.kills.values()) == 1
    assert sum(tally.faults.values()) > 0
