"""Whole jobs by the real command line that are disturbed while they run, and what must be true of them afterwards.

Shared by the tests of recovery and the soak, which load it by its path.
"""

import contextlib
import functools
import json
import os
import random
import re
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import psutil
import yaml

from autotune.access import TenantLimits
from autotune.engines.locks import DeviceLocks
from autotune.results import Job, JobStatus, Trial
from autotune.search_space import SearchSpace
from autotune.settings import Settings
from autotune.spec import JobSpec
from autotune.store import SharedStore, url_for_optuna
from autotune.study.grid import Grid
from autotune.study.persisted import PersistedStudy, open_storage
from autotune.submission import Submission
from autotune.tuner.context import admit
from autotune.tuner.owner import runner, utc_now
from autotune.tuner.sources import load_job

JOB_FILE = Path(__file__).parent / "soak" / "job.yaml"
RAY_SERVERS = {"raylet": "raylet", "gcs": "gcs_server"}
KINDS = ("cli", "actor", *RAY_SERVERS, "supervisor", "engine")
HOLD_S = 3.0  # so long a writer keeps SQLite from everybody else
POLL_S = 0.1
PATIENCE_S = 30.0  # for processes that are ending by themselves
MOST_COMMANDS = 40  # of one job: the first run and its resumes
RAY_AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")  # of a Ray that died they tell its dead head for a minute
TRIAL_FOLDER = re.compile(r"trial-(\d{4})")


# A place of its own


@dataclass(frozen=True)
class Place:
    """A home with its settings. Every process of it carries the place's own temporary folder in its environment."""

    home: Path
    scratch: Path  # short: Ray puts sockets there, whose paths have at most 107 bytes
    database: str
    environment: dict[str, str]
    outputs: list[Path] = field(default_factory=list)  # what each command said

    def start(self, *arguments: str | Path) -> "subprocess.Popen[bytes]":
        """Start `autotune ARGUMENTS` as a terminal would, in a group of its own; it writes to the last of `outputs`."""
        self.outputs.append(self.home / f"command-{len(self.outputs)}.txt")
        with self.outputs[-1].open("xb") as output:
            output.write(f"$ autotune {' '.join(map(str, arguments))}\n".encode())
            output.flush()
            return subprocess.Popen(
                [sys.executable, "-m", "autotune", "-v", *map(str, arguments)],
                env=self.environment,
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def run(self, *arguments: str | Path, timeout_s: float = 60.0) -> tuple[int, str]:
        """Run a command to its end: its exit code and what it said."""
        with self.start(*arguments) as process:
            code = process.wait(timeout_s)
        return code, self.outputs[-1].read_text()

    @functools.cached_property
    def store(self) -> SharedStore:
        """The database, opened once; to be asked for only when a command has made it, or a submission should."""
        return SharedStore.open(self.database)

    @property
    def is_written(self) -> bool:
        """Whether there is a database."""
        return not self.database.startswith("sqlite") or Path(self.database.removeprefix("sqlite:///")).is_file()

    def close(self) -> None:
        """Give the connections back."""
        if "store" in self.__dict__:
            self.store.close()

    @property
    def locks(self) -> Path:
        """Where the device locks and the engine records of this place lie."""
        return self.scratch / f"autotune-{os.getuid()}"

    def said(self) -> str:
        """What every command said."""
        return "\n".join(path.read_text(errors="replace") for path in self.outputs)


def make_place(home: Path, scratch: Path, executable: Path, database: str | None = None, **engine: str) -> Place:
    """A place whose profile `fault` is the fault engine on pretended devices; `engine` goes to its environment."""
    profile = {
        "executable": str(executable),
        "platform": "simulated",
        "environment": {"FAKE_VLLM_RECORD": "launch.json", **engine},
        "start_timeout_s": 60,
    }
    url = database or f"sqlite:///{home / 'autotune.db'}"
    settings = {"home": str(home), "database_url": url, "profiles": {"fault": profile}}
    (home / "settings.yaml").write_text(yaml.safe_dump(settings))
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("AUTOTUNE_", "RAY_"))}
    places = {"TMPDIR": str(scratch), "RAY_TMPDIR": str(scratch), "AUTOTUNE_SETTINGS": str(home / "settings.yaml")}
    return Place(home, scratch, url, ours | places | {"PYTHONUNBUFFERED": "1"})


def submit(place: Place, overrides: Sequence[str] = (), tenant: str = "red") -> str:
    """Put the job into the place's queue, as the service does; its id."""
    document = yaml.safe_load((place.home / "settings.yaml").read_text())
    settings = Settings(**document, model_roots=(JOB_FILE.parents[3] / "autotune" / "demo",))
    submission = Submission(tenant=tenant, queued_at=utc_now())
    queued = admit(load_job(JOB_FILE, overrides), settings)
    return place.store.submit(queued, submission, settings.service.limits_of(tenant))[0]


# What runs there


def marked(folder: str | Path) -> list[psutil.Process]:
    """Every process that has this temporary folder in its environment."""
    return _running(lambda process: process.environ().get("TMPDIR") == str(folder))


def alive(place: Place) -> list[psutil.Process]:
    """Every process of the place: by the mark in its environment, or by the folder it works in."""
    below = _running(lambda process: Path(process.cwd()).is_relative_to(place.home))
    return list({*marked(place.scratch), *below})


def _running(asked: Callable[[psutil.Process], bool]) -> list[psutil.Process]:
    """The processes for which that is so, zombies and Ray's agents left out."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            is_agent = " ".join(process.cmdline()).strip() in RAY_AGENTS
            if asked(process) and not is_agent and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def engine_records(place: Place) -> list[dict[str, Any]]:
    """What the supervisors have written about themselves and their engines."""
    records = []
    for path in sorted(place.locks.glob("*/*.json")):
        with contextlib.suppress(OSError, ValueError):
            records.append(json.loads(path.read_text()))
    return records


def victims(place: Place, kind: str, cli: int) -> list[psutil.Process]:
    """The processes of a kind that belong to this command, told apart by what the supervisors have recorded."""
    with contextlib.suppress(psutil.Error):
        command = psutil.Process(cli)
        if kind == "cli":
            return [command]
        if kind in RAY_SERVERS:
            return [child for child in command.children() if child.name() == RAY_SERVERS[kind]]
        records = [record for record in engine_records(place) if record["engine"]]
        if kind == "engine":
            return _alive(record["engine"]["pid"] for record in records)
        supervisors = _alive(record["pid"] for record in records)
        if kind == "actor":
            pipes = {Path(f"/proc/{supervisor.pid}/fd/0").readlink() for supervisor in supervisors}
            return [process for process in command.children(recursive=True) if pipes & set(_files(process))]
        return supervisors
    return []


def _alive(pids: Iterable[int]) -> list[psutil.Process]:
    found = []
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            found.append(psutil.Process(pid))
    return found


def _files(process: psutil.Process) -> Iterator[Path]:
    """What a process has open."""
    with contextlib.suppress(OSError):
        for file in Path(f"/proc/{process.pid}/fd").iterdir():
            yield file.readlink()


# What disturbs a job


@dataclass(frozen=True)
class Strike:
    """One disturbance: of what, after how many finished trials, and how long after that."""

    kind: str
    after_trials: int
    delay_s: float


def plan(rng: random.Random, kinds: Sequence[str], trials: int) -> list[Strike]:
    """The kinds in a random order at random moments of a job of so many trials."""
    shuffled = rng.sample(list(kinds), len(kinds))
    moments = sorted(rng.randrange(trials) for _ in shuffled)
    return [
        Strike(kind, moment, round(rng.uniform(0.0, 1.0), 2)) for kind, moment in zip(shuffled, moments, strict=True)
    ]


def strike(place: Place, kind: str, process: "subprocess.Popen[bytes]", rng: random.Random) -> bool:
    """Do it; False when there is nothing to strike at yet."""
    if kind == "database":
        disturb_database(place, process)
        return True
    found = victims(place, kind, process.pid)
    if not found:
        return False
    with contextlib.suppress(psutil.NoSuchProcess):
        rng.choice(found).kill()
        return True
    return False


def disturb_database(place: Place, process: "subprocess.Popen[bytes]") -> None:
    """PostgreSQL: end every backend of the database. SQLite: keep everybody else from writing for some seconds."""
    if place.database.startswith("postgresql"):
        import psycopg

        with psycopg.connect(place.database, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        return
    path = place.database.removeprefix("sqlite:///")
    with contextlib.closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        waited(process, HOLD_S)
        connection.execute("ROLLBACK")


def wait_for(look: Callable[[], Any], limit_s: float) -> Any:
    """What `look` returns as soon as it is something; a test that waits in vain fails."""
    deadline, pause = time.monotonic() + limit_s, threading.Event()
    while not (found := look()):
        assert time.monotonic() < deadline, "waited in vain"
        pause.wait(POLL_S)
    return found


def held_by(place: Place, pid: int) -> str | None:
    """The job that a process runs."""
    owners = {row.id: runner(place.store, row.id) or "" for row in jobs(place)}
    return next((job_id for job_id, name in owners.items() if name.startswith(f"process {pid} on ")), None)


def is_idle(place: Place, pid: int) -> bool:
    """Whether a worker has said that it has no job since the last one ended."""
    ended_at = max(row.finished_at for row in jobs(place) if row.finished_at is not None)
    signs = (sign for sign in place.store.workers() if sign.owner.startswith(f"process {pid} on "))
    return any(sign.job is None and sign.seen_at > ended_at for sign in signs)


def waited(process: "subprocess.Popen[bytes]", timeout_s: float) -> bool:
    """Wait for the end of a process; whether it came."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout_s)
    return process.returncode is not None


@dataclass
class Story:
    """What happened to one job."""

    job_id: str | None = None
    struck: list[Strike] = field(default_factory=list)
    pending: list[Strike] = field(default_factory=list)
    commands: int = 0
    committed: dict[int, Trial] = field(default_factory=dict)  # every finished row, as it was first seen
    launched: dict[int, set[str]] = field(default_factory=dict)  # the launches of a row when it was first seen finished
    changed: list[str] = field(default_factory=list)


def run_disturbed(
    place: Place,
    overrides: Sequence[str],
    strikes: Sequence[Strike],
    seed: int,
    limit_s: float,
    *,
    queued: bool = False,
) -> Story:
    """Run a new job, strike as planned, and resume it until it has succeeded or `limit_s` are over.

    `queued`: it waits in the queue, a worker takes it, and whoever comes next takes it over from a dead one.
    """
    known = {job.id for job in jobs(place)}
    rng, story = random.Random(seed), Story(pending=list(strikes))
    deadline = time.monotonic() + limit_s
    if queued:
        story.job_id = submit(place, [word for word in overrides if word != "--set"])
    while story.commands < MOST_COMMANDS and time.monotonic() < deadline:
        arguments = _command(place, overrides, story, queued=queued)
        story.commands += 1
        with place.start(*arguments) as process:
            _watch(place, process, story, rng, known, deadline)
        _look(place, story, known)
        if story.job_id is not None and job(place, story.job_id).status is JobStatus.SUCCEEDED:
            return story
    return story


def _command(place: Place, overrides: Sequence[str], story: Story, *, queued: bool) -> list[str | Path]:
    """What starts the job, or goes on with it; a job that has failed is put into the queue again."""
    if not queued:
        return ["run", JOB_FILE, *overrides] if story.job_id is None else ["resume", story.job_id]
    assert story.job_id is not None
    if job(place, story.job_id).status in (JobStatus.FAILED, JobStatus.CANCELLED):
        place.store.requeue(story.job_id, now=utc_now(), limits=lambda _: TenantLimits())
    return ["worker", "--once"]


def _watch(
    place: Place,
    process: "subprocess.Popen[bytes]",
    story: Story,
    rng: random.Random,
    known: set[str],
    deadline: float,
) -> None:
    """Strike when it is time, until the command ends."""
    due_s: float | None = None
    while not waited(process, POLL_S):
        if time.monotonic() >= deadline:
            process.kill()
        _look(place, story, known)
        if not story.pending or len(story.committed) < story.pending[0].after_trials:
            continue
        due_s = due_s if due_s is not None else time.monotonic() + story.pending[0].delay_s
        if time.monotonic() >= due_s and strike(place, story.pending[0].kind, process, rng):
            story.struck.append(story.pending.pop(0))
            due_s = None
            _look(place, story, known)


def _look(place: Place, story: Story, known: set[str]) -> None:
    """Remember the rows that are finished by now, and compare those that were before."""
    story.job_id = story.job_id or next((job.id for job in jobs(place) if job.id not in known), None)
    if story.job_id is None:
        return
    for trial in trials(place, story.job_id):
        first = story.committed.get(trial.number)
        if first is not None and first != trial:
            story.changed.append(f"row {trial.number} was changed after it was finished")
        if first is None and trial.result is not None:
            story.committed[trial.number] = trial
            story.launched[trial.number] = launches(place, story.job_id).get(trial.number, set())


# What must be true of a job


def jobs(place: Place) -> tuple[Job, ...]:
    """The rows of all jobs."""
    return place.store.jobs() if place.is_written else ()


def job(place: Place, job_id: str) -> Job:
    """The row of a job."""
    return place.store.job(job_id)


def trials(place: Place, job_id: str) -> tuple[Trial, ...]:
    """The rows of a job's trials."""
    return place.store.trials(job_id)


def launches(place: Place, job_id: str) -> dict[int, set[str]]:
    """The folders of all launches of a job, by the number of their trial."""
    found: dict[int, set[str]] = {}
    for path in (place.home / "jobs" / job_id).glob("*/launch.json"):
        match = TRIAL_FOLDER.match(path.parent.name)
        assert match is not None
        found.setdefault(int(match[1]), set()).add(path.parent.name)
    return found


def lost(place: Place, story: Story) -> list[str]:
    """What was finished once and is not there, or not as it was; and rows that should be there."""
    if story.job_id is None:
        return ["the job has no row"]
    rows = {trial.number: trial for trial in trials(place, story.job_id)}
    missing = [f"row {number} is gone" for number in story.committed if number not in rows]
    holes = [] if sorted(rows) == list(range(len(rows))) else [f"the rows are numbered {sorted(rows)}"]
    return missing + holes + sorted(set(story.changed))


def duplicates(place: Place, story: Story) -> list[str]:
    """Configurations that were searched twice, and trials that were launched again after they were finished."""
    assert story.job_id is not None
    rows = trials(place, story.job_id)
    judged = [trial for trial in rows if trial.purpose != "confirmation" and not trial.was_cancelled]
    hashes = Counter(trial.config.hash for trial in judged)
    twice = [f"trial {trial.number} was searched elsewhere too" for trial in judged if hashes[trial.config.hash] > 1]
    confirmed = Counter(trial.confirms for trial in rows if trial.confirms is not None and not trial.was_cancelled)
    twice += [f"trial {number} was confirmed {count} times" for number, count in confirmed.items() if count > 1]
    now = launches(place, story.job_id)
    again = {number: now.get(number, set()) - folders for number, folders in story.launched.items()}
    return twice + [f"trial {number} was launched after its end: {sorted(new)}" for number, new in again.items() if new]


def wrong_ending(place: Place, story: Story) -> list[str]:
    """Whether the job has succeeded with a front, nothing is open, and the study people watch says the same."""
    assert story.job_id is not None
    row, rows = job(place, story.job_id), trials(place, story.job_id)
    problems = [f"the job is {row.status}: {row.message}"] if row.status is not JobStatus.SUCCEEDED else []
    problems += [f"trial {trial.number} has no result" for trial in rows if trial.result is None]
    problems += ["the front is empty"] if row.result is None or not row.result.front.points else []
    holder = runner(place.store, row.id) or place.store.owner(row.id, now=utc_now())
    problems += [f"the job is still held by {holder}"] if holder else []
    return problems + wrong_study(place, row, rows)


def wrong_study(place: Place, row: Job, rows: Sequence[Trial]) -> list[str]:
    """In what the study people watch is not as our rows say."""
    space, sla = SearchSpace.model_validate(row.space), JobSpec.model_validate(row.spec).sla
    storage = open_storage(url_for_optuna(place.database))
    try:
        found = PersistedStudy(storage, row.id, sla, Grid.of(space)).differences(rows)
        shown = optuna.load_study(study_name=row.id, storage=storage).trials
        return found + [f"the study's trial {t.number} is {t.state.name}" for t in shown if not t.state.is_finished()]
    finally:
        storage.remove_session()
        storage.engine.dispose()


def leftovers(place: Place, patience_s: float = PATIENCE_S) -> list[str]:
    """Processes, locks, engine records, sockets and ports of the place that are still there after some patience."""
    deadline = time.monotonic() + patience_s
    running = alive(place)
    while running and time.monotonic() < deadline:
        running = psutil.wait_procs(running, timeout=POLL_S)[1] and alive(place)
    left = [f"process {_shown(process)}" for process in running]
    left += [f"lock {path.name}" for path in place.locks.glob("*/*.lock") if not _free(path)]
    left += [f"engine record {path}" for path in place.locks.glob("*/*") if path.suffix in (".json", ".partial")]
    left += [f"sockets {path}" for path in place.locks.glob("s*-*")]
    return left + [f"port {port} is open" for port in _ports(place) if _listens(port)]


def _shown(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return f"{process.pid} of {process.ppid()}: {' '.join(process.cmdline())[:160]}"
    return str(process.pid)


def _free(lock: Path) -> bool:
    locks = DeviceLocks(lock.parent)
    taken = locks.acquire((lock.stem,), 1)
    locks.close()
    return taken is not None


def _ports(place: Place) -> Iterator[int]:
    for path in place.home.glob("jobs/*/*/launch.json"):
        argv = json.loads(path.read_text())["argv"]
        yield int(argv[argv.index("--port") + 1])


def _listens(port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(1.0)
        return client.connect_ex(("127.0.0.1", port)) == 0
