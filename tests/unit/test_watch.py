"""A job watched from this machine: what is shown of it, and how that ends."""

import io
import json
import runpy
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from autotune.cli.local import LocalPlace
from autotune.cli.logs import Reading, following
from autotune.cli.standing import code_of, course_of
from autotune.cli.watch import Watched, event_line, watch_there
from autotune.errors import AutotuneError
from autotune.report.course import best_text, course_view, duration_text, stage_text, time_left_text
from autotune.results import FailureClass, JobStatus, LoadPoint, Trial
from autotune.settings import Settings
from autotune.spec import Budget
from autotune.store import SharedStore
from autotune.submission import JobEvent, JobProgress
from autotune.tuner.loop import JobCancelled
from autotune.tuner.owner import owner, utc_now
from autotune.tuner.remaining import confirmation_left_s, time_left

play = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "data" / "played_job.py")))

MakePoint = Callable[..., LoadPoint]
MakeTrial = Callable[..., Trial]


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Any]:
    """A job that has not begun, of the baseline and two trials."""
    with play.played(tmp_path, {"trials": 2}, store_of=SharedStore) as played:
        yield played


@pytest.fixture
def here(job: Any, tmp_path: Path) -> LocalPlace:
    return LocalPlace(job.store, Settings(home=tmp_path))


def watched(here: LocalPlace, job: Any, *, as_json: bool = False) -> tuple[int, str]:
    """Watch a job to its end on something that is no terminal."""
    console = Console(file=io.StringIO(), record=True, width=120)
    code = watch_there(console, here, here.find(job.context.job.id), as_json=as_json)
    return code, console.export_text()


# How it ends


def test_a_job_that_recommends_something_ends_with_0_and_a_line_per_event(
    job: Any, here: LocalPlace, make_point: MakePoint
):
    job.run(play.Stage(lambda request: play.measured(make_point, request)))
    code, text = watched(here, job)
    lines = [line.partition("  ")[2] for line in text.splitlines()]
    assert code == 0
    assert [line.split()[:3] for line in lines if line.startswith("trial")][:2] == [
        ["trial", "0", "baseline"],
        ["trial", "0", "baseline"],
    ]
    assert "started" in lines
    assert "ended: succeeded" in lines
    assert "recommendation: " in text
    assert f"autotune pareto {job.context.job.id}" in text


def test_a_job_in_which_nothing_meets_the_sla_ends_with_4(job: Any, here: LocalPlace):
    job.run(play.Stage(lambda _: play.infeasible(FailureClass.OOM)))
    code, text = watched(here, job)
    assert code == 4
    assert "It failed." in text


def test_a_failed_job_ends_with_3_and_its_message(job: Any, here: LocalPlace):
    with pytest.raises(AutotuneError):
        job.run(play.Stage(lambda _: play.interrupted(FailureClass.ENVIRONMENT)))
    code, text = watched(here, job)
    assert code == 3
    assert job.job.message in " ".join(text.split())


def test_a_cancelled_job_ends_with_130(job: Any, here: LocalPlace, make_point: MakePoint):
    job.store.request_cancel(job.context.job.id)
    with pytest.raises(JobCancelled):
        job.run(play.Stage(lambda request: play.measured(make_point, request)))
    code, _ = watched(here, job)
    assert code == code_of(job.job) == 130


def test_ctrl_c_leaves_the_job_running_and_says_so(job: Any, here: LocalPlace, monkeypatch: pytest.MonkeyPatch):
    def press(_self: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Watched, "look", press)
    monkeypatch.setattr("autotune.cli.watch.LOOK_S", 0.0)
    code, text = watched(here, job)
    assert code == 130
    assert "goes on without you" in text
    assert not job.store.cancel_requested(job.context.job.id)


def test_json_is_an_object_per_event_and_line_and_nothing_else(
    job: Any, here: LocalPlace, make_point: MakePoint, capsys: pytest.CaptureFixture[str]
):
    job.run(play.Stage(lambda request: play.measured(make_point, request)))
    capsys.readouterr()  # what the job's own run has logged
    code, text = watched(here, job, as_json=True)
    events = [JobEvent.model_validate(json.loads(line)) for line in capsys.readouterr().out.splitlines()]
    assert (code, text) == (0, "")
    assert [event.kind for event in events if event.trial is None] == ["job_started", "job_finished"]
    assert [event.trial for event in events if event.kind == "trial_finished"] == [0, 1, 2]
    assert events == list(job.store.events(job.context.job.id))


# What is shown


def shown(view: Any) -> str:
    console = Console(file=io.StringIO(), record=True, width=160)
    console.print(view)
    return console.export_text()


def running(job: Any, make_trial: MakeTrial, *trials: Trial) -> None:
    """The job as a living process runs it."""
    lease = job.store.claim(job.context.job.id, owner(), now=utc_now())
    job.store.set_status(lease, JobStatus.RUNNING)
    for trial in trials:
        job.store.start_trial(lease, trial.model_copy(update={"result": None, "finished_at": None}))
        if trial.result is not None:
            job.store.finish_trial(lease, trial.number, trial.result, utc_now())
    stage = {"stage": "loading", "level": "24 concurrent", "done": 120, "planned": 500}
    progress = JobProgress(phase="baseline and search", done=1, planned=3, running={1: stage}, at=utc_now())
    job.store.report(lease, progress)


def test_a_running_job_is_shown_with_its_progress_its_best_and_what_each_trial_does(
    job: Any, here: LocalPlace, make_trial: MakeTrial, make_point: MakePoint
):
    running(job, make_trial, make_trial(0, {"block_size": 16}, make_point(100.0, 500.0)), make_trial(1, {}))
    submitted = here.job(job.context.job.id)
    text = shown(course_view(course_of(here, submitted, here.trials(submitted.job.id)), rows=10))
    assert "running, baseline and search" in text
    assert "1/3 trials" in text
    assert "500 tok/s per device, P99 TTFT 100 ms at 4 concurrent (trial 0, baseline)" in text
    assert "1 points" in text
    assert "loading 24 concurrent (120/500)" in text
    assert "nobody runs it" not in text


def test_a_job_whose_runner_is_gone_says_how_to_go_on(job: Any, here: LocalPlace):
    lease = job.store.claim(job.context.job.id, "process 1 on nowhere", now=utc_now() - timedelta(hours=1))
    job.store.set_status(lease, JobStatus.RUNNING)
    note = course_of(here, here.job(job.context.job.id), ()).note
    assert note == f"nobody runs it any more; go on with: autotune resume {job.context.job.id}"


def test_a_waiting_job_says_whether_a_worker_is_there(job: Any, here: LocalPlace):
    assert "no worker is there" in course_of(here, here.job(job.context.job.id), ()).note


def test_without_a_feasible_trial_there_is_no_best(make_trial: MakeTrial, make_point: MakePoint):
    assert best_text([make_trial(0, {}, make_point(900.0, 800.0)), make_trial(1, {})]) == ""


def test_the_stage_of_a_trial_tells_its_level_and_how_far_that_is():
    assert stage_text({"stage": "starting the engine"}) == "starting the engine"
    assert (
        stage_text({"stage": "loading", "level": "8 concurrent", "done": 3, "planned": 9})
        == "loading 8 concurrent (3/9)"
    )


@pytest.mark.parametrize(("seconds", "text"), [(45, "45 s"), (600, "10 min"), (9000, "2.5 h")])
def test_durations_are_told_in_a_unit_that_fits(seconds: float, text: str):
    assert duration_text(seconds) == text


def test_a_relaunch_is_told_with_its_number(job: Any, here: LocalPlace):
    event = JobEvent(id=1, job="x", at=utc_now(), kind="trial_relaunched", trial=3, data={"attempt": 2})
    line = event_line(Watched(here, here.job(job.context.job.id)), event)
    assert line == "trial  3 launched again, for the 2. time"


# Time left


@pytest.mark.parametrize(
    ("kind", "data", "said"),
    [
        ("trial_started", {"purpose": "search", "origin": "gp"}, "trial  3 gp started"),
        ("trial_started", {"purpose": "confirmation", "origin": "trial 0"}, "trial  3 re-run of 0 started"),
        ("job_started", {"worker": "process 7 on host (boot 1, pid:[2], tick 3)"}, "started by process 7 on host"),
    ],
)
def test_what_begins_is_told_in_the_words_of_its_end(
    job: Any, here: LocalPlace, kind: Any, data: dict[str, str], said: str
):
    trial = 3 if kind.startswith("trial") else None
    event = JobEvent(id=1, job="x", at=utc_now(), kind=kind, trial=trial, data=data)
    assert event_line(Watched(here, here.job(job.context.job.id)), event) == said


def test_the_trials_left_take_as_long_as_those_before_them(make_trial: MakeTrial, make_point: MakePoint):
    trials = [make_trial(number, {}, make_point()) for number in range(4)] + [make_trial(4, {})]
    assert time_left(Budget(trials=10), trials, worked_s=400.0) == {"trials": 700.0}


def test_every_limit_of_the_budget_has_its_own_estimate_and_the_nearest_is_told(
    make_trial: MakeTrial, make_point: MakePoint
):
    trials = [make_trial(0, {}, make_point(), earlier_device_s=1800.0)]
    left = time_left(Budget(trials=10, wall_clock_s=900, device_hours=1), trials, worked_s=600.0)
    assert left == {"trials": 6000.0, "wall_clock_s": 300.0, "device_hours": 600.0}
    assert time_left_text(left) == "about 5 min (estimate: wall clock)"


def test_before_the_first_trial_has_ended_only_the_clock_is_known(make_trial: MakeTrial):
    assert time_left(Budget(wall_clock_s=900), [make_trial(0, {})], worked_s=60.0) == {"wall_clock_s": 840.0}
    assert time_left_text({}) == ""


def test_a_confirmation_takes_as_long_as_those_before_it(make_trial: MakeTrial, make_point: MakePoint):
    began = utc_now()
    again = make_trial(5, {}, make_point(), confirms=1, started_at=began, finished_at=began + timedelta(seconds=30))
    assert confirmation_left_s([again], 3) == 90.0
    assert confirmation_left_s([make_trial(0, {}, make_point())], 3) is None


# Logs


@pytest.fixture
def log(job: Any, make_trial: MakeTrial) -> Path:
    """The log of trial 0, which runs."""
    running(job, make_trial, make_trial(0, {}))
    folder = Path(job.job.folder) / "trial-0000"
    folder.mkdir(parents=True)
    return folder / "engine.log"


def reading(here: LocalPlace, job: Any) -> Reading:
    return Reading(here, job.context.job.id, here.trial(job.context.job.id, 0))


def test_a_log_is_read_on_from_where_it_was_left_also_within_a_character(job: Any, here: LocalPlace, log: Path):
    words = "模型 loaded\n".encode()
    log.write_bytes(words[:4])
    read = reading(here, job)
    first = read.rest()
    with log.open("ab") as file:
        file.write(words[4:])
    assert first + read.rest() == "模型 loaded\n"
    assert read.rest() == ""


def test_a_log_that_was_begun_anew_is_read_from_its_beginning(job: Any, here: LocalPlace, log: Path):
    log.write_text("a long first log\n")
    read = reading(here, job)
    read.rest()
    log.write_text("short\n")
    assert read.rest() == "short\n"


def test_following_ends_with_the_trial_after_its_last_words(
    job: Any, here: LocalPlace, log: Path, make_trial: MakeTrial, make_point: MakePoint
):
    log.write_text("up\n")

    def end(_: float) -> None:
        with log.open("a") as file:
            file.write("down\n")
        lease = job.store.claim(job.context.job.id, "another", now=utc_now(), gone=lambda _: True)
        result = make_trial(0, {}, make_point()).result
        job.store.finish_trial(lease, 0, result, utc_now())

    assert "".join(following(reading(here, job), here, end)) == "up\ndown\n"


def test_a_relaunch_is_followed_into_its_own_log(job: Any, here: LocalPlace, log: Path):
    log.write_text("first\n")
    read = reading(here, job)
    read.rest()
    again = log.parent.with_name("trial-0000-attempt-2")
    again.mkdir()
    (again / "engine.log").write_text("second\n")
    lease = job.store.claim(job.context.job.id, "another", now=utc_now(), gone=lambda _: True)
    job.store.relaunch_trial(lease, 0, attempts=2, earlier_device_s=1.0)

    class Enough(Exception):
        pass

    def stop(_: float) -> None:
        raise Enough

    told: list[str] = []
    with pytest.raises(Enough):
        told.extend(iter(following(read, here, stop)))
    assert "".join(told) == "--- launched again, for the 2. time ---\nsecond\n"
