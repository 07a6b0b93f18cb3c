"""The service over a database of its own, without a socket and without a worker."""

import contextlib
import runpy
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient

from autotune.access import Role, TenantLimits, new_token
from autotune.results import JobResult, JobStatus, LoadPoint, Trial
from autotune.selection import pareto_front, recommend
from autotune.service.app import create_app
from autotune.settings import DATABASE_NAME, EngineProfile, ServiceSettings, Settings
from autotune.spec import Sla
from autotune.store import Lease, SharedStore
from autotune.submission import Submission

DATA = Path(__file__).parents[1] / "data"
TINY = runpy.run_path(str(DATA / "tiny_job.py"))
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
LIMITS = TenantLimits()
DEMO: dict[str, Any] = {
    "version": 1,
    "name": "demo",
    "model": "tiny-llama",
    "engine": "simulated",
    "devices": {"resource": "CPU", "max_per_trial": 1},
    "search_space": "demo",
    "workload": "demo",
    "sla": {"p99_ttft_ms": 700, "p99_tpot_ms": 16},
    "budget": {"trials": 4},
}

MakeTrial = Callable[..., Trial]
MakePoint = Callable[..., LoadPoint]


@dataclass
class Service:
    """The application, its database, and a clock that is set."""

    home: Path
    store: SharedStore
    settings: Settings
    clients: contextlib.ExitStack
    now: datetime = NOW
    app: FastAPI = field(init=False)

    def __post_init__(self) -> None:
        self.app = create_app(self.settings, self.store, now=lambda: self.now)

    def client(self, token: str | None = None, **headers: str) -> TestClient:
        """A client of its own, with a token or without."""
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        client = TestClient(self.app, base_url="http://127.0.0.1:8000", headers=headers)
        return self.clients.enter_context(client)

    def token(self, tenant: str, role: Role = Role.SUBMITTER, *, expires_at: datetime | None = None) -> str:
        token, text = new_token(tenant, role, f"{tenant}-{role}", now=self.now, expires_at=expires_at)
        self.store.add_token(token)
        return text

    def bearer(self, tenant: str, role: Role = Role.SUBMITTER) -> TestClient:
        return self.client(self.token(tenant, role))

    def queue(self, identity: str, *, tenant: str = "local") -> str:
        """Put a job into the queue, without any check."""
        job = TINY["job_context"](self.home, {"trials": 4}, identity=identity).job
        submission = Submission(tenant=tenant, queued_at=self.now, submitted_by=tenant)
        return self.store.submit(job.model_copy(update={"created_at": self.now}), submission, LIMITS)[0]

    def begin(self, identity: str, *, tenant: str = "local") -> Lease:
        """A job that a worker has taken."""
        self.queue(identity, tenant=tenant)
        taken = self.store.claim_next("a worker", now=self.now, limits=lambda _: LIMITS)
        assert taken is not None
        assert taken[0].job.id == identity
        return taken[1]

    def play(self, lease: Lease, trial: Trial) -> None:
        """A trial that has ended, or one that runs."""
        self.store.start_trial(lease, trial.model_copy(update={"result": None, "finished_at": None}))
        if trial.result is not None:
            self.store.finish_trial(lease, trial.number, trial.result, self.now)

    def finish(self, lease: Lease, trials: Sequence[Trial], status: JobStatus = JobStatus.SUCCEEDED) -> None:
        sla = Sla.model_validate({"p99_ttft_ms": 200})
        result = JobResult(stopped_by="trials", front=pareto_front(trials), recommendation=recommend(trials, (), sla))
        self.store.finish_job(lease, status, result, finished_at=self.now)

    def later(self, **time: float) -> None:
        self.now += timedelta(**time)


@contextlib.contextmanager
def _served(home: Path, **settings: Any) -> Iterator[Service]:
    configured = Settings(home=home, **settings)
    with SharedStore.open(configured.database, retry_s=0.1) as store, contextlib.ExitStack() as clients:
        yield Service(home, store, configured, clients)


@contextlib.contextmanager
def listening(service: Service) -> Iterator[str]:
    """The application as uvicorn serves it; its address."""
    config = uvicorn.Config(service.app, port=0, log_level="error", lifespan="off", timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    bound = config.bind_socket()
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        bound.close()


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database whose migrations have run; they take longer than most of these tests."""
    file = tmp_path_factory.mktemp("empty") / DATABASE_NAME
    SharedStore.open(f"sqlite:///{file}").close()
    return file


@pytest.fixture
def serve(tmp_path: Path, empty_database: Path) -> Iterator[Callable[..., Service]]:
    """Makes a service with settings."""
    shutil.copy(empty_database, tmp_path / DATABASE_NAME)
    with contextlib.ExitStack() as opened:

        def make(**settings: Any) -> Service:
            return opened.enter_context(_served(tmp_path, **settings))

        yield make


@pytest.fixture
def service(serve: Callable[..., Service]) -> Service:
    """A service without tokens: whoever reaches it is its one user."""
    secret = EngineProfile.model_validate(
        {"executable": "/opt/secret-place/vllm", "platform": "ascend", "environment": {"HF_TOKEN": "hf_secret"}}
    )
    return serve(service=ServiceSettings(rate_per_s=10_000, rate_burst=100_000), profiles={"npu": secret})


@pytest.fixture
def trials(make_trial: MakeTrial, make_point: MakePoint) -> tuple[Trial, ...]:
    """Baseline 500 tok/s at 100 ms; trial 1 700 at 150 and 900 at 600, which misses the SLA; trial 2 cannot run."""
    return (
        make_trial(0, {"max_num_seqs": 16}, make_point(100.0, 500.0)),
        make_trial(1, {"max_num_seqs": 8}, make_point(150.0, 700.0), make_point(600.0, 900.0, level=1, value=16.0)),
        make_trial(2, {"max_num_seqs": 4}, oom=True),
    )


@pytest.fixture
def finished(service: Service, trials: tuple[Trial, ...]) -> str:
    """The id of a job that has succeeded with these trials."""
    lease = service.begin("done-1")
    for trial in trials:
        service.play(lease, trial)
    service.finish(lease, trials)
    return "done-1"
