"""The real command line as a subprocess, on a home of its own with the scripted engine in its settings."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from autotune.results import Bottleneck, Job, JobResult, JobStatus, LoadPoint, Trial
from autotune.selection import pareto_front, recommend
from autotune.store import Store
from autotune.study import note
from autotune.study.artifacts import Shelf
from autotune.study.grid import Grid
from autotune.study.persisted import PersistedStudy, open_storage
from autotune.tuner.context import JobContext

HELD_BACK = {
    "bottleneck": Bottleneck(kind="slots", evidence="31.8 of 32 slots were in use", advice="Raise max_num_seqs.")
}
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)

MakeContext = Callable[..., JobContext]
MakeTrial = Callable[..., Trial]
MakePoint = Callable[..., LoadPoint]


@dataclass(frozen=True)
class Cli:
    """The command line with its home folder."""

    home: Path
    environment: dict[str, str]

    def __call__(self, *arguments: str | Path, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            env=self.environment,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def command(self, *arguments: str | Path) -> list[str]:
        return [sys.executable, "-m", "autotune", *map(str, arguments)]


@pytest.fixture(scope="session")
def make_cli(fake_vllm: Path) -> Iterator[Callable[..., Cli]]:
    """Makes a command line whose settings know the scripted engine as the profile `fake`."""
    short = tempfile.mkdtemp(prefix="at-")  # short: Ray puts sockets there, whose paths have at most 107 bytes

    def make(home: Path, **engine_environment: str) -> Cli:
        profile = {
            "executable": str(fake_vllm),
            "platform": "cpu",
            "environment": {"FAKE_VLLM_RECORD": "launch.json", **engine_environment},
        }
        (home / "settings.yaml").write_text(yaml.safe_dump({"home": str(home), "profiles": {"fake": profile}}))
        ours = {name: value for name, value in os.environ.items() if not name.startswith("AUTOTUNE_")}
        places = {"AUTOTUNE_SETTINGS": str(home / "settings.yaml"), "TMPDIR": short, "RAY_TMPDIR": short}
        return Cli(home, ours | places)

    yield make
    shutil.rmtree(short)


@dataclass(frozen=True)
class Archive:
    """A home with a finished job whose trials are known by heart, and one in which nothing meets the SLA."""

    cli: Cli
    job: Job
    hopeless: Job


@pytest.fixture(scope="session")
def archive(
    make_cli: Callable[..., Cli],
    make_context: MakeContext,
    make_trial: MakeTrial,
    make_point: MakePoint,
    tmp_path_factory: pytest.TempPathFactory,
) -> Archive:
    """Baseline 500 tok/s at 100 ms; trial 1 700 at 150; trial 2 misses the SLA with 900 at 600; trial 3 cannot run."""
    home = tmp_path_factory.mktemp("archive")

    def point(p99_ttft_ms: float, throughput: float) -> LoadPoint:
        return make_point(p99_ttft_ms, throughput, limit_ms=400.0)

    trials = [
        make_trial(0, {"max_num_seqs": 256, "block_size": 128}, point(100.0, 500.0)),
        make_trial(1, {"max_num_seqs": 32, "block_size": 64}, point(150.0, 700.0).model_copy(update=HELD_BACK)),
        make_trial(2, {"max_num_seqs": 2, "block_size": 128}, point(600.0, 900.0)),
        make_trial(3, {"max_num_seqs": 8, "block_size": 16}, oom=True),
    ]
    first, second = make_context(home), make_context(home)
    trials[3] = _with_log(trials[3], Path(first.job.folder))
    return Archive(make_cli(home), _store(home, first, trials), _store(home, second, [trials[2]]))


def _with_log(trial: Trial, folder: Path) -> Trial:
    """The trial with the log that its engine has left in the job's folder."""
    log = folder / f"trial-{trial.number:04d}" / "engine.log"
    log.parent.mkdir(parents=True)
    log.write_text("INFO starting\nNPU out of memory. Tried to allocate 22.00 MiB\n")
    assert trial.result is not None
    result = trial.result.model_copy(update={"artifacts": {log.name: str(log.relative_to(folder))}})
    return trial.model_copy(update={"result": result})


def _store(home: Path, context: JobContext, trials: list[Trial]) -> Job:
    """A finished job with its rows and its study, as a tuner leaves them."""
    url = f"sqlite:///{home / 'autotune.db'}"
    job, sla, version = context.job, context.spec.sla, context.engine.version
    shelf = Shelf(home / "artifacts", Path(job.folder), job.id, sla)
    study = PersistedStudy(open_storage(url), job.id, sla, Grid.of(context.space), shelf)
    text = note.text(context.spec, context.workload, context.space, job=job.id, engine_version=version)
    study.describe(note.attributes(context.spec, version), text)
    result = JobResult(
        stopped_by="trials", front=pareto_front(trials), recommendation=recommend(trials, (), context.spec.sla)
    )
    with Store.open(url) as store:
        store.create_job(context.job)
        lease = store.claim(context.job.id, "a test", now=NOW)
        for trial in trials:
            store.start_trial(lease, trial.model_copy(update={"result": None, "finished_at": None}))
            assert trial.result is not None
            store.finish_trial(lease, trial.number, trial.result, NOW)
        study.sync(trials)
        store.finish_job(lease, JobStatus.SUCCEEDED, result, finished_at=NOW)
        return store.job(context.job.id)
