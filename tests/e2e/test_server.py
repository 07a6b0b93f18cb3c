"""A team's day at the command line: a server with a worker, and jobs submitted, watched and exported from elsewhere."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = [pytest.mark.process, pytest.mark.ray]

DONE, WRONG_INPUT, FAILED, NOTHING_MEETS_SLA, INTERRUPTED = 0, 2, 3, 4, 130
FILES = Path(__file__).parents[1] / "data" / "job"
JOB: dict[str, Any] = {
    "version": 1,
    "name": "tiny",
    "model": "tiny-llama",
    "engine": "simulated",
    "devices": {"resource": "CPU", "max_per_trial": 1},
    "search_space": "space.yaml",
    "workload": "workload.yaml",
    "sla": {"p99_ttft_ms": 5000},
    "sampler": "tpe",
    "budget": {"trials": 2, "start_points": 1, "confirm_top": 1, "confirm_runs": 1},
}
PATIENCE_S = 280.0


@dataclass(frozen=True)
class Team:
    """A server with one worker, and somebody with a token at another machine: a home without any database."""

    address: str
    desk: Any  # the command line there
    token: str

    def __call__(self, *words: str) -> "subprocess.CompletedProcess[str]":
        done: subprocess.CompletedProcess[str] = self.desk(*words, timeout_s=PATIENCE_S)
        assert self.token not in done.stdout + done.stderr
        return done


@contextlib.contextmanager
def serving(cli: Any) -> Iterator[str]:
    """`autotune serve` on a free port; its address."""
    command = cli.command("serve", "--port", "0")
    with subprocess.Popen(
        command, env=cli.environment, cwd=cli.home, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        try:
            announced = process.stdout.readline()
            found = re.search(r"http://\S+[^/\s]", announced)
            assert found is not None, announced
            yield found[0]
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(100)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def team(make_cli: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    office = make_cli(tmp_path_factory.mktemp("office"))
    made = office("token", "create", "--tenant", "red")
    token = made.stdout.strip()
    desk = make_cli(tmp_path_factory.mktemp("desk"))
    for name in ("space.yaml", "workload.yaml"):
        shutil.copy(FILES / name, desk.home / name)
    (desk.home / "job.yaml").write_text(yaml.safe_dump(JOB))
    secret = desk.home / "token"
    secret.write_text(token)
    secret.chmod(0o600)
    with serving(office) as address:
        desk.environment.update(AUTOTUNE_SERVER=address, AUTOTUNE_TOKEN_FILE=str(secret))
        yield Team(address, desk, token)
    assert not (desk.home / "autotune.db").exists()


@dataclass(frozen=True)
class Finished:
    """A job that was submitted and watched to its end."""

    id: str
    submitted: str
    watched: "subprocess.CompletedProcess[str]"


@pytest.fixture(scope="module")
def finished(team: Team) -> Finished:
    submitted = team("submit", "job.yaml", "--priority", "3")
    assert submitted.returncode == DONE, submitted.stderr
    job_id = submitted.stdout.split()[0]
    return Finished(job_id, submitted.stdout, team("watch", job_id))


def test_submit_tells_the_id_the_page_the_dashboard_and_how_to_watch(team: Team, finished: Finished):
    assert finished.submitted.splitlines() == [
        f"{finished.id} is in the queue of {team.address}",
        f"  its page:         {team.address}/jobs/{finished.id}",
        f"  Optuna dashboard: {team.address}/dashboard/",
        f"  watch it with:    autotune watch {finished.id} --server {team.address}",
    ]


def test_watch_tells_every_trial_and_ends_with_the_job(finished: Finished):
    assert finished.watched.returncode == DONE, finished.watched.stdout + finished.watched.stderr
    lines = [line.partition("  ")[2].split() for line in finished.watched.stdout.splitlines()]
    started = [line[1] for line in lines if line[:1] == ["trial"] and line[-1] == "started"]
    ended = [line[1] for line in lines if line[:1] == ["trial"] and line[-1] != "started"]
    assert started == ["0", "1", "2", "3", "4"]
    assert sorted(ended) == started
    assert "recommendation: confirmed by 1 re-run" in finished.watched.stdout


def test_what_is_read_from_afar_is_what_the_server_has(team: Team, finished: Finished):
    listed = json.loads(team("list", "--json").stdout)
    status = json.loads(team("status", finished.id, "--json").stdout)
    trials = json.loads(team("trials", "tiny", "--json").stdout)
    pareto = json.loads(team("pareto", finished.id[:8], "--json").stdout)
    assert [(job["id"], job["tenant"], job["priority"]) for job in listed] == [(finished.id, "red", 3)]
    assert status["job"]["result"] == pareto
    assert status["job"]["space"]["name"] == "tiny"
    assert [trial["purpose"] for trial in trials] == ["baseline", "search", "search", "confirmation", "confirmation"]


def test_the_front_is_drawn_and_the_recommendation_exported_here(team: Team, finished: Finished):
    assert team("pareto", finished.id, "--plot", "front.png").returncode == DONE
    assert team("export", finished.id, "-o", "best.yaml").returncode == DONE
    assert (team.desk.home / "front.png").read_bytes().startswith(b"\x89PNG")
    assert finished.id in (team.desk.home / "best.yaml").read_text()


def test_the_log_of_a_trial_is_followed_to_its_end(team: Team, finished: Finished):
    whole, tail = team("logs", finished.id, "0", "-f"), team("logs", finished.id, "0", "--tail", "1")
    assert "Application startup complete" in whole.stdout
    assert whole.stdout.endswith(tail.stdout)
    assert tail.stdout.count("\n") == 1


def test_a_job_in_which_nothing_meets_the_sla_ends_with_4_and_names_the_closest(team: Team, finished: Finished):
    watched = team("submit", "job.yaml", "--set", "name=hopeless", "--sla", "p99_ttft_ms=0.01", "--watch", "--json")
    first, *events = [json.loads(line) for line in watched.stdout.splitlines()]
    assert watched.returncode == NOTHING_MEETS_SLA, watched.stderr
    assert [event["kind"] for event in events if event["trial"] is None] == [
        "job_queued",
        "job_started",
        "job_finished",
    ]
    exported = team("export", first["id"])
    assert (exported.returncode, exported.stdout) == (NOTHING_MEETS_SLA, "")
    assert "closest" in exported.stderr


def test_a_job_is_cancelled_and_taken_up_again_and_its_watcher_told(team: Team, finished: Finished):
    job_id = team("submit", "job.yaml", "--set", "name=long", "--set", "budget.trials=200").stdout.split()[0]
    command = team.desk.command("watch", job_id)
    with subprocess.Popen(
        command, env=team.desk.environment, cwd=team.desk.home, stdout=subprocess.PIPE, text=True
    ) as watching:
        assert watching.stdout is not None
        next(line for line in watching.stdout if "trial  0 baseline started" in line)
        cancelled = team("cancel", job_id)
        rest = watching.stdout.read()
        assert watching.wait(60) == INTERRUPTED
    assert cancelled.returncode == DONE, cancelled.stderr
    assert cancelled.stdout.startswith(f"{job_id} is cancelled; to go on: autotune resume {job_id}")
    assert "ended: cancelled" in rest
    assert "in the queue again" in team("resume", job_id).stdout
    assert team("cancel", job_id).returncode == DONE


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("status", "nowhere"), WRONG_INPUT, "has no job 'nowhere' that you may see"),
        (("list", "--server", "http://127.0.0.1:9"), FAILED, "cannot be reached"),
        (("list", "--server", "ftp://x"), WRONG_INPUT, "is no address"),
        (("list", "--status", "done"), WRONG_INPUT, "known are queued, running"),
        (("submit", "job.yaml", "--server", ""), WRONG_INPUT, "no server is named"),
        (("submit", "job.yaml", "--set", "model=/etc/secret"), WRONG_INPUT, "/etc/secret"),
        (("submit", "job.yaml", "--set", "budget.trails=3"), WRONG_INPUT, "did you mean 'trials'"),
        (("resume", "tiny"), WRONG_INPUT, "succeeded"),
    ],
)
def test_what_is_wrong_is_one_message_and_an_exit_code(
    team: Team, finished: Finished, words: tuple[str, ...], code: int, message: str
):
    done = team(*words)
    assert done.returncode == code, done.stdout
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_token_file_that_others_can_read_is_refused(team: Team):
    secret = Path(team.desk.environment["AUTOTUNE_TOKEN_FILE"])
    secret.chmod(0o644)
    try:
        done = team("list")
    finally:
        secret.chmod(0o600)
    assert done.returncode == WRONG_INPUT
    assert f"chmod 600 {secret}" in done.stderr
