"""A job that is killed, stopped and resumed: what is done again, what is not, and what is written down."""

import dataclasses
import runpy
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from autotune.errors import EnvironmentProblem
from autotune.results import FailureClass, Infeasible, Interrupted, JobStatus, LoadPoint, Measured, TrialResult
from autotune.store import Lease, Store
from autotune.trial import TrialRequest
from autotune.trial.failures import defect
from autotune.tuner.events import Event
from autotune.tuner.job import close_job, run_job
from autotune.tuner.loop import JobCancelled
from autotune.tuner.rerun import rerun_request
from autotune.workload import given_levels

play = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "data" / "played_job.py")))

MakePoint = Callable[..., LoadPoint]


@pytest.fixture
def good(make_point: MakePoint) -> Callable[[TrialRequest], object]:
    """Every trial keeps the SLA."""
    return lambda request: play.measured(make_point, request)


Good = Callable[[TrialRequest], object]


# Confirmations


def test_a_resume_measures_interrupted_confirmations_again_and_no_others(tmp_path: Path, good: Good):
    """Trial 2 confirms the baseline; trial 3, which confirms trial 1, is lost twice."""

    def ill(request: TrialRequest) -> object:
        return play.interrupted(FailureClass.NODE) if request.number == 3 else good(request)

    budget = {"trials": 1, "confirm_top": 1, "confirm_runs": 2, "environment_failures": 1}
    with play.played(tmp_path, budget) as job:
        with pytest.raises(EnvironmentProblem):
            job.run(play.Stage(ill))
        again = play.Stage(good)
        ended = job.run(again)
        assert again.numbers == [4]
        assert [(trial.number, trial.confirms) for trial in job.trials[2:]] == [(2, 0), (3, 1), (4, 1)]
    assert [found.trial for found in ended.result.confirmations] == [0, 1]
    assert ended.result.recommendation.confirmed


def test_the_progress_of_a_confirmation_begins_at_none_and_ends_with_all_it_planned(tmp_path: Path, good: Good):
    seen: list[tuple[int, int]] = []

    def observe(event: Event) -> None:
        if event.phase == "confirmation":
            seen.append((event.done, event.planned))

    with play.played(tmp_path, {"trials": 2, "confirm_top": 1, "confirm_runs": 1}) as job:
        stage = play.Stage(lambda request: dataclasses.replace(good(request), polls=2))
        run_job(dataclasses.replace(job.context, job=job.job), job.books(), stage, observe)
    assert seen == [(0, 2), (1, 2), (1, 2), (2, 2)]


# Trials that were lost with their tuner


def killed_at(number: int, good: Good) -> Good:
    def script(request: TrialRequest) -> object:
        if request.number == number:
            raise play.Killed
        return good(request)

    return script


def test_a_lost_trial_for_which_no_room_can_ever_come_ends_the_job(tmp_path: Path, good: Good):
    with play.played(tmp_path, {"trials": 2}) as job:
        with pytest.raises(play.Killed):
            job.run(play.Stage(killed_at(0, good)))
        with pytest.raises(EnvironmentProblem, match="there are 0"):
            job.run(play.Stage(good, devices=0))
        assert job.job.status is JobStatus.FAILED
        assert job.trials[0].result is not None


def test_a_lost_trial_that_is_too_wide_by_now_is_closed_and_the_job_goes_on(tmp_path: Path, good: Good):
    with play.played(tmp_path, {"trials": 2}, space=play.WIDE_SPACE) as job:
        with pytest.raises(play.Killed):
            job.run(play.Stage(killed_at(1, good), devices=2))
        narrow = play.Stage(good, devices=1)
        assert job.run(narrow).status is JobStatus.SUCCEEDED
        assert narrow.numbers == [2]
        wide = job.trials[1]
    assert wide.config.devices == 2
    assert wide.result is not None
    assert isinstance(wide.result.outcome, Interrupted)
    assert "cannot be launched again: a trial needs 2 devices, there are 1" in wide.result.outcome.evidence.cause


def test_a_configuration_that_hangs_once_before_and_once_after_a_kill_cannot_run(tmp_path: Path, good: Good):
    """The launch that was lost with the tuner is none of the two."""
    failures = []

    def script(request: TrialRequest) -> object:
        if request.number != 1:
            return good(request)
        failures.append(request.failures)
        if len(failures) == 2:
            raise play.Killed
        ended = play.infeasible if request.failures else play.interrupted
        return ended(FailureClass.HANG)

    with play.played(tmp_path, {"trials": 1}) as job:
        with pytest.raises(play.Killed):
            job.run(play.Stage(script))
        job.run(play.Stage(script))
        hung = job.trials[1]
    assert (failures, hung.attempts, hung.failures) == ([0, 1, 1], 3, 1)
    assert hung.result is not None
    assert isinstance(hung.result.outcome, Infeasible)


# Stopping


def test_a_failure_that_would_have_been_retried_is_a_cancelled_trial_when_the_job_stops(tmp_path: Path, good: Good):
    """Nothing was learnt about its configuration, which is the first to come again."""
    with play.played(tmp_path, {"trials": 1}) as job:

        def script(request: TrialRequest) -> object:
            if request.number == 1:
                job.store.request_cancel(job.context.job.id)
            return good(request)

        with pytest.raises(JobCancelled):
            job.run(play.Stage(script, stopped=play.interrupted(FailureClass.NODE)))
        lost = job.trials[1]
        again = play.Stage(good)
        assert job.run(again).status is JobStatus.SUCCEEDED
    assert lost.result is not None
    assert isinstance(lost.result.outcome, Interrupted)
    assert lost.result.outcome.evidence.failure is FailureClass.CANCELLED
    assert [(request.number, request.config) for request in again.launched] == [(2, lost.config)]


class InterruptedStore(Store):
    """A Ctrl-C comes when trial 1 is about to be written down for the first time."""

    pressed = False

    def finish_trial(self, lease: Lease, number: int, result: TrialResult, finished_at: datetime) -> None:
        if number == 1 and not self.pressed:
            self.pressed = True
            raise KeyboardInterrupt
        super().finish_trial(lease, number, result, finished_at)


def test_a_result_that_has_arrived_is_written_down_though_a_ctrl_c_comes_before_its_commit(tmp_path: Path, good: Good):
    with play.played(tmp_path, {"trials": 4}, store_of=InterruptedStore) as job:
        with pytest.raises(KeyboardInterrupt):
            job.run(play.Stage(good))
        results = [trial.result for trial in job.trials]
        assert job.job.status is JobStatus.CANCELLED
    assert [result is not None and isinstance(result.outcome, Measured) for result in results] == [True, True]


def test_closing_a_job_that_has_ended_meanwhile_leaves_it_alone(tmp_path: Path, good: Good):
    with play.played(tmp_path, {"trials": 1}) as job:
        before = job.job
        ended = job.run(play.Stage(good))
        close_job(before, job.books())
        assert job.job == ended
    assert ended.status is JobStatus.SUCCEEDED


# What is told


def test_the_message_of_a_defect_has_its_traceback(tmp_path: Path):
    try:
        len(7)  # type: ignore[arg-type]
    except TypeError as exc:
        ended = play.Play(Interrupted(evidence=defect(exc)))
    with play.played(tmp_path, {"trials": 1}) as job:
        with pytest.raises(EnvironmentProblem) as problem:
            job.run(play.Stage(lambda _: ended))
        assert job.job.message == str(problem.value)
    assert "Traceback (most recent call last):" in str(problem.value)
    assert "TypeError: object of type 'int' has no len()" in str(problem.value).splitlines()


# Launching one trial again to look at it


def test_a_rerun_has_a_folder_of_its_own_whatever_launch_its_trial_was(tmp_path: Path, good: Good):
    with play.played(tmp_path, {"trials": 1}) as job:
        job.run(play.Stage(good))
        trial = job.trials[1].model_copy(update={"attempts": 2, "failures": 1})
        first = rerun_request(job.context, trial, job.trials, debug=True)
        first.artifacts.mkdir(parents=True)
        second = rerun_request(job.context, trial, job.trials, debug=True)
    assert (first.artifacts.name, second.artifacts.name) == ("trial-0001-rerun-1", "trial-0001-rerun-2")
    assert (first.levels, first.confirm_seeds, first.failures, first.debug) == (
        given_levels(job.context.workload),
        (),
        0,
        True,
    )


def test_a_confirmation_is_rerun_with_its_level_and_its_seeds(tmp_path: Path, good: Good):
    with play.played(tmp_path, {"trials": 1, "confirm_top": 1, "confirm_runs": 2}) as job:
        stage = play.Stage(good)
        job.run(stage)
        again = rerun_request(job.context, job.trials[3], job.trials, debug=False)
    asked = stage.launched[3]
    assert (asked.number, asked.levels, len(asked.confirm_seeds)) == (3, given_levels(job.context.workload)[1:], 2)
    assert (again.levels, again.confirm_seeds) == (asked.levels, asked.confirm_seeds)
