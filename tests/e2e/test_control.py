"""Stopping, cancelling, going on and launching again, as a user types it: one real job is hung, killed and ended."""

import contextlib
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]

DONE, WRONG_INPUT, WRONG_MACHINE, INTERRUPTED = 0, 2, 3, 130
DATA = Path(__file__).parents[1] / "data"
JOB = DATA / "job" / "job.yaml"
SMALL = ("--set", "budget.trials=1", "--set", "budget.start_points=1", "--set", "budget.confirm_top=0")
PATIENCE_S = 60.0
OBEYED_S = 10.0  # the promise is 5 s; the machine that runs the tests may stall
POLL_S = 0.05

WorkingBelow = Callable[[Path], list[int]]


def set_engine(cli: Any, **environment: str) -> None:
    """Give the engine's profile other variables: what goes wrong with it is no part of a job."""
    path = cli.home / "settings.yaml"
    settings = yaml.safe_load(path.read_text())
    settings["profiles"]["fake"]["environment"] = {"FAKE_VLLM_RECORD": "launch.json", **environment}
    path.write_text(yaml.safe_dump(settings))


def _hears_ctrl_c() -> None:
    """A shell starts background jobs with SIGINT ignored, and whoever runs the tests may be one."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextlib.contextmanager
def started(cli: Any, *arguments: str | Path, **pipes: Any) -> "Iterator[subprocess.Popen[str]]":
    """A command that runs meanwhile, in a process group of its own, and is killed in the end if it still does."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL} | pipes
    environment = cli.environment | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        cli.command(*arguments),
        env=environment,
        cwd=cli.home,
        text=True,
        start_new_session=True,
        preexec_fn=_hears_ctrl_c,  # noqa: PLW1509 -- no threads here
        **pipes,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def until(true: Callable[[], Any], what: str) -> Any:
    """Wait for something that another process does."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := true()):
        assert time.monotonic() < deadline, f"no {what} within {PATIENCE_S:g} s"
        select.select([], [], [], POLL_S)
    return found


def engine_log(cli: Any, words: str) -> Callable[[], bool]:
    """Whether the first trial's engine has said so."""
    return lambda: any(words in path.read_text() for path in cli.home.glob("jobs/*/trial-0000/engine.log"))


def jobs(cli: Any) -> list[dict[str, Any]]:
    return json.loads(cli("jobs", "--json").stdout)


def trials(cli: Any, job: str) -> list[dict[str, Any]]:
    return json.loads(cli("trials", job, "--json").stdout)


def long_job(home: Path) -> Path:
    """The job with levels that take minutes."""
    folder = home / "long"
    shutil.copytree(DATA / "job", folder)
    workload = yaml.safe_load((folder / "workload.yaml").read_text()) | {"requests_per_level": 3000}
    (folder / "workload.yaml").write_text(yaml.safe_dump(workload))
    job = yaml.safe_load((folder / "job.yaml").read_text())
    (folder / "job.yaml").write_text(yaml.safe_dump(job | {"model": str((DATA / "job" / job["model"]).resolve())}))
    return folder / "job.yaml"


# One job: hung, its tuner killed, offered, taken up again, ended


def answered(cli: Any, arguments: Sequence[str | Path], answer: str, sign: str) -> str:
    """What a terminal shows until `sign` when a question is answered; the command is killed then."""
    ours, theirs = pty.openpty()
    shown = ""
    with started(cli, *arguments, stdin=theirs, stdout=theirs, stderr=theirs):
        os.close(theirs)
        deadline, asked = time.monotonic() + PATIENCE_S, False
        while sign not in shown and time.monotonic() < deadline:
            if select.select([ours], [], [], POLL_S)[0]:
                shown += re.sub(r"\x1b\[[0-9;]*m", "", os.read(ours, 4096).decode(errors="replace"))
            if "[Y/n]" in shown and not asked:
                os.write(ours, f"{answer}\n".encode())
                asked = True
    os.close(ours)
    return " ".join(shown.split())


@dataclass(frozen=True)
class Story:
    """What each command said of the job."""

    cli: Any
    job: str
    pid: int  # of the tuner that was killed
    refused: "subprocess.CompletedProcess[str]"  # resume, while it ran
    listed: str  # jobs, after it was killed
    anew: str  # run, without a terminal
    declined: str  # run, answered with n
    accepted: str  # run, answered with y
    cancelled: "subprocess.CompletedProcess[str]"
    closed: list[dict[str, Any]]  # the rows then
    status: str  # of the job then
    finished: "subprocess.CompletedProcess[str]"  # run --resume


@pytest.fixture(scope="module")
def story(make_cli: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Story:
    cli = make_cli(tmp_path_factory.mktemp("home"), FAULT="hang-before-ready")
    run = ("run", JOB, *SMALL)
    with started(cli, *run) as process:
        until(lambda: list(cli.home.glob("jobs/*/trial-0000/launch.json")), "launch")
        refused = cli("resume", "tiny")
        process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE_S)
    (row,) = jobs(cli)
    listed = " ".join(cli("jobs").stdout.split())
    with started(cli, *run) as process:
        assert process.stdout is not None
        anew = next((line for line in process.stdout if "unfinished" in line), "") + next(iter(process.stdout), "")
    declined = answered(cli, run, "n", "budget: baseline")
    accepted = answered(cli, run, "y", "budget: baseline")
    cancelled = cli("cancel", row["id"])
    closed, status = trials(cli, row["id"]), jobs(cli)[0]["status"]
    set_engine(cli)
    finished = cli(*run, "--resume")
    return Story(
        cli, row["id"], process.pid, refused, listed, anew, declined, accepted, cancelled, closed, status, finished
    )


def test_a_running_job_is_not_taken_and_the_process_that_runs_it_is_named(story: Story):
    assert story.refused.returncode == WRONG_MACHINE
    assert re.search(rf"job '{story.job}' is being run by process \d+ on \S+", story.refused.stderr)
    assert f"stop it with: autotune cancel {story.job}" in story.refused.stderr


def test_jobs_says_that_nobody_runs_a_job_whose_tuner_was_killed(story: Story):
    assert "nobody runs it any more" in story.listed


def test_run_without_a_terminal_says_in_one_line_how_to_go_on_and_starts_anew(story: Story):
    assert f"autotune resume {story.job}" in story.anew
    assert f"{story.job}: tiny-llama" not in story.anew


def test_run_at_a_terminal_asks_and_no_starts_anew(story: Story):
    assert f"Job {story.job} of the same files is unfinished (running). Go on with it? [Y/n]" in story.declined
    assert "going on with" not in story.declined
    assert f"{story.job}: tiny-llama" not in story.declined


def test_run_at_a_terminal_asks_and_yes_goes_on(story: Story):
    assert f"going on with {story.job} (running): 0 trials are kept, 1 that were running are launched" in story.accepted


def test_cancel_closes_a_job_whose_tuner_was_killed(story: Story):
    assert story.cancelled.returncode == DONE, story.cancelled.stderr
    assert story.status == "cancelled"
    (row,) = story.closed
    assert row["result"]["outcome"]["evidence"]["failure"] == "cancelled"


def test_run_with_resume_goes_on_with_the_unfinished_job_and_keeps_its_rows(story: Story):
    assert story.finished.returncode == DONE, story.finished.stdout + story.finished.stderr
    assert f"going on with {story.job} (cancelled)" in " ".join(story.finished.stdout.split())
    assert trials(story.cli, story.job)[0] == story.closed[0]
    assert [job["status"] for job in jobs(story.cli)] == ["succeeded"]


def test_a_job_that_has_succeeded_is_not_resumed(story: Story):
    refused = story.cli("resume", story.job)
    assert (refused.returncode, refused.stdout) == (WRONG_INPUT, "")
    assert f"see: autotune pareto {story.job}" in refused.stderr


def test_a_rerun_keeps_its_debug_logs_beside_the_first_ones_and_changes_no_row(story: Story):
    before, folders = trials(story.cli, story.job), {path.name for path in story.cli.home.glob("jobs/*/*")}
    done = story.cli("rerun", story.job, "1", "--debug")
    assert done.returncode == DONE, done.stdout + done.stderr
    new = {path.name for path in story.cli.home.glob("jobs/*/*")} - folders
    assert new == {"trial-0001-rerun-1"}
    folder = story.cli.home / "jobs" / story.job / "trial-0001-rerun-1"
    assert json.loads((folder / "launch.json").read_text())["environment"]["VLLM_LOGGING_LEVEL"] == "DEBUG"
    assert trials(story.cli, story.job) == before


def test_a_rerun_of_a_trial_that_does_not_exist_names_those_that_do(story: Story):
    refused = story.cli("rerun", story.job, "99")
    assert refused.returncode == WRONG_INPUT
    assert re.search(r"has no trial 99; its trials are 0 to \d", refused.stderr)


# Signals


def closed_as_cancelled(cli: Any) -> bool:
    (job,) = jobs(cli)
    rows = trials(cli, job["id"])
    return job["status"] == "cancelled" and rows != [] and all(row["result"] is not None for row in rows)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_stops_the_job_and_exits_130(
    number: signal.Signals, make_cli: Callable[..., Any], tmp_path: Path, working_below: WorkingBelow
):
    cli = make_cli(tmp_path)
    with started(cli, "run", long_job(tmp_path)) as process:
        until(engine_log(cli, "startup complete"), "ready engine")
        process.send_signal(number)
        assert process.wait(PATIENCE_S) == INTERRUPTED
        assert process.stdout is not None
        assert "cancelled; what was measured is kept" in " ".join(process.stdout.read().split())
    assert closed_as_cancelled(cli)
    assert working_below(tmp_path / "jobs") == []


def test_ctrl_c_twice_leaves_at_once_and_the_engine_that_ignores_sigterm_ends_soon(
    make_cli: Callable[..., Any], tmp_path: Path, working_below: WorkingBelow
):
    cli = make_cli(tmp_path, FAULT="ignore-sigterm")
    with started(cli, "run", long_job(tmp_path)) as process:
        until(engine_log(cli, "startup complete"), "ready engine")
        os.killpg(process.pid, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.5)
        os.killpg(process.pid, signal.SIGINT)
        second_s = time.monotonic()
        assert process.wait(PATIENCE_S) == INTERRUPTED
        assert time.monotonic() - second_s < OBEYED_S
    assert closed_as_cancelled(cli)
    until(lambda: working_below(tmp_path / "jobs") == [], "end of the engine")


# Cancel from another process


def is_stopping(cli: Any) -> Callable[[], bool]:
    """The last level is written down, and its engine ignores SIGTERM."""
    return lambda: bool(list(cli.home.glob("jobs/*/trial-0000/requests-level-1-*.gz")))


@pytest.mark.parametrize(
    ("phase", "fault"), [("launch", "hang-before-ready"), ("load", ""), ("stop", "ignore-sigterm")]
)
def test_a_cancel_is_obeyed_within_seconds_in_every_phase(
    phase: str, fault: str, make_cli: Callable[..., Any], tmp_path: Path, working_below: WorkingBelow
):
    cli = make_cli(tmp_path, FAULT=fault)
    reached = {
        "launch": lambda: bool(list(cli.home.glob("jobs/*/trial-0000/launch.json"))),
        "load": engine_log(cli, "startup complete"),
        "stop": is_stopping(cli),
    }[phase]
    with started(cli, "run", long_job(tmp_path) if phase == "load" else JOB) as tuner:
        until(reached, phase)
        with started(cli, "cancel", "tiny") as cancel:
            assert cancel.stdout is not None
            stamps = {line.split()[0]: time.monotonic() for line in cancel.stdout}
        assert tuner.wait(PATIENCE_S) == INTERRUPTED
    asked_s, ended_s = stamps["asked"], max(stamps.values())
    assert ended_s - asked_s < OBEYED_S
    assert closed_as_cancelled(cli)
    (job,) = jobs(cli)
    outcome = trials(cli, job["id"])[0]["result"]["outcome"]
    assert outcome["kind"] == ("measured" if phase == "stop" else "interrupted")
    until(lambda: working_below(tmp_path / "jobs") == [], "end of the engine")
