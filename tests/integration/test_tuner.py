"""A whole job on a real Ray with two pretended NPUs, and what becomes of jobs that are disturbed."""

import dataclasses
import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import combinations
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
from optuna.trial import TrialState

from autotune.errors import EnvironmentProblem
from autotune.fleet import Fleet
from autotune.results import FailureClass, Infeasible, Interrupted, Job, JobResult, JobStatus, Measured, Trial
from autotune.search_space import SearchSpace
from autotune.spec import Devices
from autotune.store import Store
from autotune.study.grid import Grid
from autotune.study.persisted import PersistedStudy, open_storage
from autotune.tuner.context import JobContext
from autotune.tuner.events import Event, Observer
from autotune.tuner.job import run_job
from autotune.tuner.ledger import Books, leased
from autotune.tuner.loop import JobCancelled

pytestmark = [pytest.mark.ray, pytest.mark.timeout(180)]

MakeContext = Callable[..., JobContext]
ON_NPUS = "devices.resource=NPU"


def ignore(_: Event) -> None:
    """Nobody watches."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a job runs: its database, its books and its devices."""

    url: str
    store: Store
    study: PersistedStudy
    fleet: Fleet

    def run(self, context: JobContext, observe: Observer = ignore) -> Job:
        """What `autotune run` does, and `autotune resume` after it."""
        current = dataclasses.replace(context, job=self.store.job(context.job.id))
        with leased(self.store, context.job.id) as lease:
            return run_job(current, Books(self.store, lease, self.study), self.fleet, observe)


@contextmanager
def place(context: JobContext, devices: Devices, home: Path) -> Iterator[Place]:
    """A database with the job in it, its study, and the fleet: what `autotune run` sets up."""
    url = f"sqlite:///{home / 'autotune.db'}"
    with Store.open(url) as store, Fleet(devices, address=None) as fleet:
        store.create_job(context.job)
        study = PersistedStudy(open_storage(url), context.job.id, context.spec.sla, Grid.of(context.space))
        yield Place(url, store, study, fleet)


def launches(folder: Path) -> dict[str, dict[str, Any]]:
    """What every engine noted of its own launch, by the folder of its trial."""
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(folder.glob("*/launch.json"))}


def widened(context: JobContext, devices: int) -> JobContext:
    """The job with every launch over so many devices."""
    document = context.space.model_dump(mode="json")
    document["parameters"]["tensor_parallel_size"] = {"type": "fixed", "value": devices}
    return dataclasses.replace(context, space=SearchSpace.model_validate(document))


# One job from the first launch to the stored result


@dataclasses.dataclass(frozen=True)
class Finished:
    context: JobContext
    url: str
    job: Job
    trials: tuple[Trial, ...]
    launches: dict[str, dict[str, Any]]

    @property
    def result(self) -> JobResult:
        assert self.job.result is not None
        return self.job.result

    @property
    def searched(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.purpose != "confirmation"]

    @property
    def confirmations(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.purpose == "confirmation"]

    def launch(self, trial: Trial) -> dict[str, Any]:
        return self.launches[f"trial-{trial.number:04d}"]

    def alive(self, trial: Trial) -> tuple[float, float]:
        """From when to when the trial's engine surely ran, by the stamps of its files."""
        folder = self.context.folder / f"trial-{trial.number:04d}"
        written = [path.stat().st_mtime for path in folder.glob("*.gz")] or [0.0]
        return (folder / "launch.json").stat().st_mtime, max(written)

    def overlapping(self, trials: list[Trial]) -> list[tuple[Trial, Trial]]:
        """The pairs of trials whose engines ran at the same time."""
        spans = {trial.number: self.alive(trial) for trial in trials}
        return [
            (one, other)
            for one, other in combinations(trials, 2)
            if spans[one.number][0] < spans[other.number][1] and spans[other.number][0] < spans[one.number][1]
        ]


@pytest.fixture(scope="module")
def finished(make_context: MakeContext, two_npus: Devices, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Eight trials and their confirmation; the space's second recipe cannot launch."""
    home = tmp_path_factory.mktemp("home")
    context = make_context(home, ON_NPUS, "budget.trials=8", platform="ascend")
    with place(context, two_npus, home) as here:
        job = here.run(context)
        trials = here.store.trials(job.id)
    return Finished(context, here.url, job, trials, launches(context.folder))


def test_the_job_succeeds_and_says_what_ended_its_search(finished: Finished):
    assert (finished.job.status, finished.result.stopped_by) == (JobStatus.SUCCEEDED, "trials")


def test_the_budget_is_kept_and_every_trial_has_a_result(finished: Finished):
    assert [trial.number for trial in finished.searched] == list(range(9))
    assert all(trial.result is not None for trial in finished.trials)


def test_the_baseline_is_the_first_trial_and_is_launched_without_a_searched_argument(finished: Finished):
    first = finished.trials[0]
    assert (first.purpose, first.config.arguments) == ("baseline", {"max_model_len": 64})
    assert not {"--max-num-seqs", "--block-size"} & set(finished.launch(first)["argv"])


def test_a_searched_trial_is_launched_with_its_knobs(finished: Finished):
    trial = next(trial for trial in finished.trials if trial.origin == "recipe:queues")
    argv = finished.launch(trial)["argv"]
    assert argv[argv.index("--max-num-seqs") + 1] == "2"


def test_trials_really_overlap_in_time(finished: Finished):
    assert finished.overlapping(finished.searched) != []


def test_an_engine_sees_exactly_the_device_of_its_trial(finished: Finished):
    for trial in finished.trials:
        assert trial.result is not None
        assert trial.result.devices in (("0",), ("1",))
        seen = finished.launch(trial)["environment"]["ASCEND_RT_VISIBLE_DEVICES"]
        assert (seen,) == trial.result.devices


def test_engines_that_overlap_have_different_devices_ports_and_hccl_blocks(finished: Finished):
    def port(trial: Trial) -> str:
        argv = finished.launch(trial)["argv"]
        return argv[argv.index("--port") + 1]

    for one, other in finished.overlapping(finished.searched):
        environments = [finished.launch(trial)["environment"] for trial in (one, other)]
        assert port(one) != port(other)
        for name in ("ASCEND_RT_VISIBLE_DEVICES", "HCCL_IF_BASE_PORT"):
            assert environments[0][name] != environments[1][name]


def test_no_configuration_is_launched_twice_in_the_search(finished: Finished):
    hashes = [trial.config.hash for trial in finished.searched]
    assert len(set(hashes)) == len(hashes) == 9


def test_a_launch_that_fails_is_explained_and_not_repeated(finished: Finished):
    failed = [trial for trial in finished.searched if trial.knobs["block_size"] == 16]
    assert len(failed) >= 1
    for trial in failed:
        assert trial.result is not None
        assert isinstance(trial.result.outcome, Infeasible)
        assert trial.result.outcome.evidence.failure == FailureClass.CONFIG
    assert "trial-0002-attempt-2" not in finished.launches


def shown(finished: Finished) -> dict[int, optuna.trial.FrozenTrial]:
    study = optuna.load_study(study_name=finished.job.id, storage=finished.url)
    return {trial.user_attrs["autotune_trial"]: trial for trial in study.trials}


def test_the_study_people_watch_holds_the_searched_trials_with_their_real_knobs(finished: Finished):
    assert {number: trial.params for number, trial in shown(finished).items()} == {
        trial.number: trial.knobs for trial in finished.searched
    }


def test_the_study_shows_the_measured_values_of_our_rows(finished: Finished):
    for trial in finished.searched:
        outcome = trial.result and trial.result.outcome
        if isinstance(outcome, Measured):
            point = outcome.closest_point
            assert shown(finished)[trial.number].values == [point.output_throughput_per_device, point.p99_ttft_ms]


def test_the_study_fails_exactly_the_trials_that_could_not_launch(finished: Finished):
    failed = {number for number, trial in shown(finished).items() if trial.state == TrialState.FAIL}
    assert failed == {t.number for t in finished.searched if t.result and isinstance(t.result.outcome, Infeasible)}


def test_the_study_calls_infeasible_what_violates_the_sla(finished: Finished):
    for trial in finished.searched:
        outcome = trial.result and trial.result.outcome
        if isinstance(outcome, Measured):
            limits = shown(finished)[trial.number].constraints
            assert (limits["p99_ttft_ms <= 400"] <= 0) == (outcome.closest_point.violations["p99_ttft_ms"] <= 0)


def test_the_front_holds_only_points_that_meet_the_sla(finished: Finished):
    by_number = {trial.number: trial for trial in finished.trials}
    assert finished.result.front.points != ()
    for on_front in finished.result.front.points:
        outcome = by_number[on_front.trial].result.outcome  # type: ignore[union-attr]
        point = next(point for point in outcome.points if point.level == on_front.level)
        assert point.feasible
        assert on_front.p99_ttft_ms <= 400


def test_no_point_of_the_front_is_dominated_by_a_feasible_one(finished: Finished):
    demoted = {(c.trial, c.runs[0].level) for c in finished.result.confirmations if not c.holds}
    feasible = [
        (point.output_throughput_per_device, point.p99_ttft_ms)
        for trial in finished.searched
        if trial.result and isinstance(trial.result.outcome, Measured)
        for point in trial.result.outcome.points
        if point.feasible and (trial.number, point.level) not in demoted
    ]
    for on_front in finished.result.front.points:
        better = [
            (throughput, p99_ms)
            for throughput, p99_ms in feasible
            if throughput >= on_front.output_throughput_per_device
            and p99_ms <= on_front.p99_ttft_ms
            and (throughput, p99_ms) != (on_front.output_throughput_per_device, on_front.p99_ttft_ms)
        ]
        assert better == []


def test_the_front_is_a_table_of_the_database(finished: Finished):
    with closing(sqlite3.connect(finished.url.removeprefix("sqlite:///"))) as database:
        rows = database.execute(
            "SELECT trial, level, p99_ttft_ms FROM autotune_front_points WHERE job_id = ? ORDER BY position",
            (finished.job.id,),
        ).fetchall()
    assert rows == [(point.trial, point.level, point.p99_ttft_ms) for point in finished.result.front.points]


def test_the_baseline_and_the_best_are_measured_again(finished: Finished):
    again = [trial.confirms for trial in finished.confirmations]
    assert again[0] == 0
    assert len(again) >= 3
    assert len(set(again)) == len(again)


def test_confirmations_have_fresh_seeds(finished: Finished):
    def seeds(trials: list[Trial]) -> set[int]:
        outcomes = [trial.result.outcome for trial in trials if trial.result]
        return {point.seed for outcome in outcomes if isinstance(outcome, Measured) for point in outcome.points}

    assert seeds(finished.searched) == {3}
    assert seeds(finished.confirmations) == {4, 5}


def test_a_confirmation_runs_alone(finished: Finished):
    confirmations = {trial.number for trial in finished.confirmations}
    pairs = finished.overlapping(list(finished.trials))
    assert [pair for pair in pairs if {pair[0].number, pair[1].number} & confirmations] == []


def test_the_recommendation_is_confirmed_and_gives_its_reason(finished: Finished):
    choice = finished.result.recommendation
    assert choice.confirmed
    assert choice.trial in {trial.number for trial in finished.searched}
    assert choice.reason.startswith("confirmed by 2 re-runs: ")


def test_no_engine_is_left(finished: Finished, working_below: Callable[[Path], list[int]]):
    assert working_below(finished.context.folder) == []


# Jobs that cannot succeed, or are disturbed


def test_a_job_that_fits_no_node_fails_at_once_and_says_what_there_is(
    make_context: MakeContext, two_npus: Devices, tmp_path: Path
):
    context = widened(make_context(tmp_path, ON_NPUS, platform="ascend"), 4)
    with place(context, two_npus, tmp_path) as here:
        with pytest.raises(EnvironmentProblem, match="needs 4 NPU"):
            here.run(context)
        job = here.store.job(context.job.id)
    assert job.status == JobStatus.FAILED
    assert "the largest node of the Ray cluster has 2" in job.message


def test_a_broken_environment_fails_the_job_after_one_launch_with_advice(
    make_context: MakeContext, fake_vllm: Path, two_npus: Devices, tmp_path: Path
):
    """Both NPUs are free, but until an engine has come up one launch finds out whether any can."""
    broken = tmp_path / "broken"
    shutil.copytree(fake_vllm.parent, broken)
    (broken / "vllm").write_text(
        "#!/bin/sh\necho launched >> launches.txt\n"
        "echo 'ImportError: libascend_hal.so: cannot open shared object file: No such file or directory'\nexit 1\n"
    )
    context = make_context(tmp_path, ON_NPUS, platform="ascend", executable=broken / "vllm")
    with place(context, two_npus, tmp_path) as here:
        with pytest.raises(EnvironmentProblem, match="every trial would fail"):
            here.run(context)
        job = here.store.job(context.job.id)
    assert job.status == JobStatus.FAILED
    assert "libascend_hal.so" in job.message
    assert [path.read_text() for path in context.folder.glob("*/launches.txt")] == ["launched\n"]


def test_a_trial_whose_actor_was_killed_is_tried_once_more_and_the_job_goes_on(
    make_context: MakeContext,
    two_npus: Devices,
    tmp_path: Path,
    actor_behind: Callable[[psutil.Process], psutil.Process],
):
    context = make_context(
        tmp_path, ON_NPUS, "budget.trials=1", "budget.start_points=1", "budget.confirm_top=0", platform="ascend"
    )
    killed: list[int] = []

    def kill_the_first_baseline(event: Event) -> None:
        if not killed and event.running.get(0, {}).get("stage") == "loading":
            engine = psutil.Process(json.loads((context.folder / "trial-0000" / "launch.json").read_text())["pid"])
            actor = actor_behind(engine.parents()[0])
            killed.append(actor.pid)
            actor.kill()

    longer = context.workload.model_copy(update={"requests_per_level": 120, "levels": (4.0,)})
    slow = dataclasses.replace(context, workload=longer)
    with place(slow, two_npus, tmp_path) as here:
        job = here.run(slow, kill_the_first_baseline)
        baseline = here.store.trials(job.id)[0]
    assert len(killed) == 1
    assert job.status == JobStatus.SUCCEEDED
    assert baseline.result is not None
    assert isinstance(baseline.result.outcome, Measured)
    assert baseline.attempts == 2
    assert baseline.earlier_device_s > 0  # what the lost launch has cost is counted
    assert "trial-0000-attempt-2" in launches(context.folder)


def test_a_cancelled_job_keeps_what_was_measured_and_leaves_nothing_running(
    make_context: MakeContext, two_npus: Devices, tmp_path: Path, working_below: Callable[[Path], list[int]]
):
    context = make_context(tmp_path, ON_NPUS, platform="ascend")
    with place(context, two_npus, tmp_path) as here:
        store = here.store

        def cancel_after_the_first(event: Event) -> None:
            if event.finished is not None and not store.cancel_requested(context.job.id):
                store.request_cancel(context.job.id)

        with pytest.raises(JobCancelled):
            here.run(context, cancel_after_the_first)
        job, trials = store.job(context.job.id), store.trials(context.job.id)
        states = {trial.state for trial in optuna.load_study(study_name=context.job.id, storage=here.url).trials}
    outcomes = [trial.result.outcome for trial in trials if trial.result]
    assert job.status == JobStatus.CANCELLED
    assert any(isinstance(outcome, Measured) for outcome in outcomes)
    assert {o.evidence.failure for o in outcomes if isinstance(o, Interrupted)} == {FailureClass.CANCELLED}
    assert len(outcomes) == len(trials)
    assert TrialState.RUNNING not in states
    assert working_below(context.folder) == []
