"""The loop of one job, by a clock that is set: what it counts, what it names, and what it hears."""

import runpy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from autotune.results import FailureClass, LoadPoint, Measured, Trial, TrialResult
from autotune.spec import Budget
from autotune.trial import TrialRequest
from autotune.tuner.budget import Spent, stop_reason
from autotune.tuner.confirm import confirm
from autotune.tuner.loop import JobCancelled
from autotune.workload import Level

play = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "data" / "played_job.py")))
HOUR_S = 3600.0

MakePoint = Callable[..., LoadPoint]
MakeTrial = Callable[..., Trial]


# Limits


def test_device_hours_count_launches_that_still_run(tmp_path: Path, make_point: MakePoint):
    """Trial 1 runs on while others end, which cost nothing here. From the poll that sees it at work it has occupied its
    device for 40 s when trial 7 starts, and for 50 s after it.
    """
    clock = play.Clock()

    def script(request: TrialRequest) -> object:
        slow = {"polls": 60, "device_s": 600.0} if request.number == 1 else {}
        return play.measured(make_point, request, **slow)

    stage = play.Stage(script, devices=2, clock=clock)
    with play.played(tmp_path, {"trials": 10, "device_hours": 45 / HOUR_S}) as job:
        assert job.tuning(stage, clock).search() == "device_hours"
    assert stage.numbers == [0, 1, 2, 3, 4, 5, 6, 7]


def test_device_hours_do_not_count_the_time_in_which_a_trial_is_in_line_for_devices(
    tmp_path: Path, make_point: MakePoint
):
    """Others have the devices, and let trial 1 wait for 600 s; all that is left is launched beside it."""
    clock = play.Clock()

    def script(request: TrialRequest) -> object:
        in_line = {"polls": 60, "stage": "waiting for devices"} if request.number == 1 else {}
        return play.measured(make_point, request, **in_line)

    stage = play.Stage(script, devices=2, clock=clock)
    with play.played(tmp_path, {"trials": 10, "device_hours": 45 / HOUR_S}) as job:
        assert job.tuning(stage, clock).search() == "trials"
    assert clock.now_s == 610.0


def test_device_hours_count_a_launch_that_failed_once(tmp_path: Path, make_point: MakePoint):
    """Trial 1 fails in second 40 and has cost 30; were it also taken for still running, trial 5 would have to wait."""
    clock, started_s = play.Clock(), {}

    def script(request: TrialRequest) -> object:
        started_s[request.number] = clock.now_s
        if request.number != 1:
            return play.measured(make_point, request)
        if request.failures == 0:
            return play.interrupted(FailureClass.NODE, polls=3, device_s=30.0)
        return play.measured(make_point, request, polls=5)

    stage = play.Stage(script, devices=2, clock=clock)
    with play.played(tmp_path, {"trials": 6, "device_hours": 45 / HOUR_S}) as job:
        job.tuning(stage, clock).search()
    assert (started_s[1], started_s[5]) == (40.0, 40.0)


def test_device_hours_count_launches_that_were_tried_again(tmp_path: Path, make_point: MakePoint):
    """The baseline costs 5 device-seconds, the two launches of trial 1 cost 10 each."""

    def script(request: TrialRequest) -> object:
        if request.number == 0:
            return play.measured(make_point, request, device_s=5.0)
        if request.failures == 0:
            return play.interrupted(FailureClass.NODE, device_s=10.0)
        return play.measured(make_point, request, device_s=10.0)

    stage = play.Stage(script)
    with play.played(tmp_path, {"trials": 10, "device_hours": 25 / HOUR_S}) as job:
        assert job.tuning(stage, play.Clock()).search() == "device_hours"
        assert job.trials[1].earlier_device_s == 10.0
    assert stage.numbers == [0, 1, 1]


def test_the_limit_that_was_reached_first_is_named_though_another_is_reached_while_trials_end(
    tmp_path: Path, make_point: MakePoint
):
    """Two failures in a row after 18 device-seconds; when trial 1 ends at last, it is 28 of 25."""

    def script(request: TrialRequest) -> object:
        if request.number > 1:
            return play.infeasible(FailureClass.OOM, device_s=4.0)
        return play.measured(make_point, request, polls=1 + 5 * request.number, device_s=10.0)

    stage = play.Stage(script, devices=2)
    with play.played(tmp_path, {"trials": 10, "failures": 2, "device_hours": 25 / HOUR_S}) as job:
        assert job.tuning(stage, play.Clock()).search() == "failures"
    assert stage.numbers == [0, 1, 2, 3]


def test_the_time_of_the_confirmation_is_not_counted(tmp_path: Path, make_point: MakePoint):
    """Two polls of search, then two confirmations of 30 polls each, during which the job's time is written down."""
    clock = play.Clock()
    stage = play.Stage(lambda r: play.measured(make_point, r, polls=30 if r.confirm_seeds else 1), clock=clock)
    with play.played(tmp_path, {"trials": 1, "confirm_top": 1, "confirm_runs": 1, "wall_clock_s": 100}) as job:
        tuning = job.tuning(stage, clock)
        assert tuning.search() == "trials"
        confirm(tuning)
        assert job.job.worked_s == 20.0
    assert clock.now_s == 620.0


def test_trials_that_were_interrupted_do_not_count_for_patience(make_trial: MakeTrial, make_point: MakePoint):
    """Patience is asked after 30 trials: here one was measured, and none of the others told anything."""
    lost = TrialResult(outcome=play.interrupted(FailureClass.NODE).outcome)
    trials = [make_trial(0, {}, make_point()), *(make_trial(n, {}, result=lost) for n in range(1, 40))]
    assert stop_reason(Budget(trials=100, patience=2), trials, Spent(0.0, 0.0)) is None
    trials += [make_trial(n, {}, make_point()) for n in (40, 41)]
    assert stop_reason(Budget(trials=100, patience=2), trials, Spent(0.0, 0.0)) == "patience"


# Cancels


def test_a_cancel_is_heard_before_each_question_to_the_sampler(tmp_path: Path, make_point: MakePoint):
    """Eight devices are being filled when it comes, and every question may take seconds."""
    with play.played(tmp_path, {"trials": 10}) as job:

        def script(request: TrialRequest) -> object:
            if request.number == 2:
                job.store.request_cancel(job.context.job.id)
            return play.measured(make_point, request)

        stage = play.Stage(script, devices=8)
        with pytest.raises(JobCancelled):
            job.tuning(stage, play.Clock()).search()
    assert stage.numbers == [0, 1, 2]


def test_the_job_is_kept_while_its_engines_are_stopped(tmp_path: Path, make_point: MakePoint):
    """The baseline takes until second 10; the cancelled trial then needs five polls, and each renews the lease."""
    clock = play.Clock()
    with play.played(tmp_path, {"trials": 10}) as job:

        def script(request: TrialRequest) -> object:
            if request.number == 1:
                job.store.request_cancel(job.context.job.id)
            return play.measured(make_point, request)

        stage = play.Stage(script, stopped=play.interrupted(FailureClass.CANCELLED, polls=5), clock=clock)
        tuning = job.tuning(stage, clock)
        with pytest.raises(JobCancelled):
            tuning.search()
        assert job.job.worked_s == 10.0
        tuning.abandon(within_s=60.0)
        assert (job.job.worked_s, clock.now_s) == (50.0, 60.0)


def test_a_trial_that_is_measured_after_all_is_kept_though_the_job_is_stopped(tmp_path: Path, make_point: MakePoint):
    """It ended on its own before it heard the cancel."""
    with play.played(tmp_path, {"trials": 10}) as job:

        def script(request: TrialRequest) -> object:
            if request.number == 1:
                job.store.request_cancel(job.context.job.id)
            return play.measured(make_point, request)

        request_of_1 = SimpleNamespace(levels=(Level(0, 4.0, 0),), confirm_seeds=(), number=1)
        stage = play.Stage(script, stopped=play.measured(make_point, request_of_1))
        tuning = job.tuning(stage, play.Clock())
        with pytest.raises(JobCancelled):
            tuning.search()
        tuning.abandon(within_s=60.0)
        result = job.trials[1].result
    assert result is not None
    assert isinstance(result.outcome, Measured)
