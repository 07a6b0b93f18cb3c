"""How SQLite says it would find what is asked often: by an index, however much there is of it."""

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy

from autotune.access import TenantLimits
from autotune.engine_config import EngineConfig
from autotune.results import Evidence, FailureClass, Infeasible, Job, JobStatus, Trial, TrialResult
from autotune.store import SharedStore
from autotune.store.engine import connect, parse_url
from autotune.submission import JobFilter, Submission

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
HOURS = TenantLimits(device_hours=10)


class Asked:
    """The statements that a store sends, and how each would be answered."""

    def __init__(self, engine: sqlalchemy.Engine) -> None:
        self._engine = engine
        self.statements: list[tuple[str, object]] = []

    @contextlib.contextmanager
    def noted(self) -> Iterator[None]:
        """Note what is sent within."""

        def note(_connection: object, _cursor: object, statement: str, given: object, *_: object) -> None:
            self.statements.append((statement, given))

        sqlalchemy.event.listen(self._engine, "before_cursor_execute", note)
        try:
            yield
        finally:
            sqlalchemy.event.remove(self._engine, "before_cursor_execute", note)

    def plans(self, table: str) -> list[str]:
        """The steps of every read that concern a table."""
        reads = [asked for asked in self.statements if asked[0].startswith("SELECT")]
        with self._engine.connect() as connection:
            steps = [
                row.detail
                for statement, given in reads
                for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", given)
            ]
        return [step for step in steps if f" {table}" in step]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sqlalchemy.Engine]:
    url = f"sqlite:///{tmp_path}/autotune.sqlite"
    SharedStore.open(url).close()
    engine = connect(parse_url(url))
    yield engine
    engine.dispose()


@pytest.fixture
def store(engine: sqlalchemy.Engine) -> Iterator[SharedStore]:
    with SharedStore(engine) as store:
        store.submit(queued("aa01"), Submission(tenant="red", queued_at=NOON), limits=HOURS)
        yield store


def queued(job_id: str) -> Job:
    words = {"name": "qwen", "status": JobStatus.QUEUED, "model_path": "/models/tiny", "folder": job_id}
    return Job(id=job_id, spec={}, space={}, workload={}, created_at=NOON, **words)


def trial(number: int) -> Trial:
    config = EngineConfig(arguments={"max_num_seqs": number + 1})
    return Trial(number=number, purpose="search", origin="gp", knobs={}, config=config, started_at=NOON)


def failed() -> TrialResult:
    return TrialResult(
        outcome=Infeasible(
            evidence=Evidence(failure=FailureClass.OOM, signature=None, cause="no room", advice="lower it")
        )
    )


def whole(steps: list[str]) -> list[str]:
    """Steps that read a table from its beginning to its end; an index with all that is asked for is not the table."""
    return [step for step in steps if step.startswith("SCAN") and "COVERING INDEX" not in step]


def test_no_query_of_a_trial_reads_the_load_points_of_all(engine: sqlalchemy.Engine, store: SharedStore):
    held = store.claim("aa01", "worker 1", now=NOON)
    asked = Asked(engine)
    with asked.noted():
        store.start_trial(held, trial(0))
        store.finish_trial(held, 0, failed(), NOON)
        store.trials("aa01")
        store.load_points("aa01")
    steps = asked.plans("autotune_load_points")
    assert len(steps) >= 2, asked.statements
    assert whole(steps) == []


def test_the_turn_of_a_tenant_is_found_without_reading_all_jobs(engine: sqlalchemy.Engine, store: SharedStore):
    asked = Asked(engine)
    with asked.noted():
        claimed = store.claim_next("worker 1", now=NOON, limits=lambda _: HOURS)
    assert claimed is not None
    steps = asked.plans("autotune_jobs")
    assert any("tenant_started_at (tenant=?" in step for step in steps), steps
    assert whole(steps + asked.plans("autotune_trials")) == []


def test_lists_and_counts_read_no_table_from_end_to_end(engine: sqlalchemy.Engine, store: SharedStore):
    asked = Asked(engine)
    with asked.noted():
        store.trial_counts(tenant="red")
        store.counts(tenant="red")
        store.waiting_since()
        store.page(JobFilter(tenant="red"))
    trials, jobs = asked.plans("autotune_trials"), asked.plans("autotune_jobs")
    assert len(trials) >= 2, trials
    assert len(jobs) >= 4, jobs
    assert whole(trials + jobs) == []
