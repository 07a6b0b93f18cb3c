"""A database with the data of an earlier version comes up to this one, on SQLite and PostgreSQL, and back."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, text

from autotune.engine_config import EngineConfig
from autotune.results import Evidence, FailureClass, Infeasible, Job, JobStatus, Trial, TrialResult
from autotune.store import Store, migrate
from autotune.store.engine import connect, parse_url
from autotune.store.schema import Tables

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
EVIDENCE = '{"failure": "oom", "signature": null, "cause": "no room", "advice": "lower it"}'
ROWS_OF_0001 = (
    "INSERT INTO autotune_jobs (id, name, status, cancel_requested, message, model_path, folder, spec, space, workload,"
    " created_at) VALUES ('aa01', 'qwen', 'running', false, '', '/models/tiny', 'jobs/aa01', '{\"a\": 1}', '{}', '{}',"
    " '2026-03-01 12:00:00+00:00')",
    "INSERT INTO autotune_trials (job_id, number, purpose, origin, knobs, config, config_hash, outcome, failure,"
    " result, started_at, finished_at) VALUES ('aa01', 0, 'baseline', 'baseline', '{}', '{}', 'h', 'infeasible', 'oom',"
    f' \'{{"outcome": {{"kind": "infeasible", "evidence": {EVIDENCE}}}}}\','
    " '2026-03-01 12:00:00+00:00', '2026-03-01 12:00:00+00:00')",
    "INSERT INTO autotune_trials (job_id, number, purpose, origin, knobs, config, config_hash, started_at)"
    " VALUES ('aa01', 1, 'search', 'gp', '{\"max_num_seqs\": 64}', '{}', 'h', '2026-03-01 12:00:00+00:00')",
)
OOM = Evidence(failure=FailureClass.OOM, signature=None, cause="no room", advice="lower it")
JOB = Job(
    id="aa01",
    name="qwen",
    status=JobStatus.RUNNING,
    spec={"a": 1},
    space={},
    workload={},
    model_path="/models/tiny",
    folder="jobs/aa01",
    created_at=NOON,
)
FINISHED = Trial(
    number=0,
    purpose="baseline",
    origin="baseline",
    knobs={},
    config=EngineConfig(),
    result=TrialResult(outcome=Infeasible(evidence=OOM)),
    started_at=NOON,
    finished_at=NOON,
)
RUNNING = Trial(
    number=1, purpose="search", origin="gp", knobs={"max_num_seqs": 64}, config=EngineConfig(), started_at=NOON
)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/autotune.db"
    return request.getfixturevalue("postgresql_url")


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    """A database as version 0001 left it, with a job and its trials."""
    opened = connect(parse_url(url))
    with opened.begin() as connection:
        command.upgrade(migrate.config(connection), "0001")
        for row in ROWS_OF_0001:
            connection.exec_driver_sql(row)
    yield opened
    opened.dispose()


def test_jobs_and_trials_of_the_first_version_are_kept(url: str, engine: Engine) -> None:
    with Store.open(url) as store:
        assert (store.jobs(), store.trials("aa01")) == ((JOB,), (FINISHED, RUNNING))


def test_a_job_of_the_first_version_goes_on(url: str, engine: Engine) -> None:
    """Nobody has it, and its running trial can be launched once more."""
    with Store.open(url) as store:
        assert store.owner("aa01", now=NOON) is None
        lease = store.claim("aa01", "worker 1", now=NOON)
        assert store.relaunch_trial(lease, 1, attempts=2, earlier_device_s=0.0).attempts == 2


def test_a_migrated_database_equals_the_models(engine: Engine) -> None:
    migrate.upgrade(engine)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts=migrate.options())
        assert compare_metadata(context, Tables.metadata) == []


def test_the_second_revision_can_be_taken_back_with_its_data(engine: Engine) -> None:
    migrate.upgrade(engine)
    with engine.begin() as connection:
        command.downgrade(migrate.config(connection), "0001")
    with engine.connect() as connection:
        query = text("SELECT j.id, t.number, t.outcome FROM autotune_jobs j JOIN autotune_trials t ON t.job_id = j.id")
        assert sorted(map(tuple, connection.execute(query))) == [("aa01", 0, "infeasible"), ("aa01", 1, None)]
