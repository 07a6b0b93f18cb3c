"""The study people watch when PostgreSQL goes away: every failure is a StoreError, and one sync makes it right."""

from collections.abc import Callable, Iterator

import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy import Connection, create_engine, event, text

from autotune.errors import StoreError
from autotune.results import LoadPoint, Trial
from autotune.spec import Sla
from autotune.store import url_for_optuna
from autotune.study.grid import Grid, Knob
from autotune.study.persisted import PersistedStudy, open_storage

SLA = Sla.model_validate({"p99_ttft_ms": 200})
GRID = Grid((Knob("max_num_seqs", (4, 8, 16, 32), ordered=True),))


@pytest.fixture
def storage(postgresql_url: str) -> Iterator[RDBStorage]:
    opened = open_storage(url_for_optuna(postgresql_url))
    yield opened
    opened.scoped_session.remove()
    opened.engine.dispose()


@pytest.fixture
def study(storage: RDBStorage) -> PersistedStudy:
    return PersistedStudy(storage, "demo-1", SLA, GRID)


@pytest.fixture
def rows(make_trial: Callable[..., Trial], make_point: Callable[..., LoadPoint]) -> list[Trial]:
    """Measured, infeasible, running."""
    return [
        make_trial(0, {"max_num_seqs": 4}, make_point(120.0, 800.0)),
        make_trial(1, {"max_num_seqs": 8}, oom=True),
        make_trial(2, {"max_num_seqs": 16}),
    ]


@pytest.fixture
def cut(storage: RDBStorage) -> Iterator[Callable[[], None]]:
    """Terminates every other connection to the database."""
    query = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = current_database()"
    admin = create_engine(storage.url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        yield lambda: connection.execute(text(f"{query} AND pid <> pg_backend_pid()")).all() and None
    admin.dispose()


def test_a_connection_that_was_cut_between_calls_is_replaced(
    study: PersistedStudy, rows: list[Trial], cut: Callable[[], None]
) -> None:
    study.started(rows[0])
    cut()
    study.finished(rows[0])
    cut()
    assert study.differences(rows[:1]) == []


@pytest.mark.parametrize("commit", range(1, 22, 2))
def test_a_study_that_was_cut_at_any_commit_is_made_right_by_the_next_sync(
    study: PersistedStudy, storage: RDBStorage, rows: list[Trial], cut: Callable[[], None], commit: int
) -> None:
    study.started(rows[0])
    study.started(rows[1])
    left = [commit]

    def cut_in_time(_connection: Connection) -> None:
        left[0] -= 1
        if left[0] == 0:
            cut()

    event.listen(storage.engine, "commit", cut_in_time)
    with pytest.raises(StoreError, match="the study 'demo-1' cannot be written or read"):
        study.sync(rows)
    study.sync(rows)
    assert study.differences(rows) == []


def test_a_trial_whose_addition_lost_its_answer_is_noticed_and_shown_once(
    study: PersistedStudy,
    storage: RDBStorage,
    rows: list[Trial],
    cut: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Optuna adds it once more by itself, so that there are two; the next sync fails the one nobody will tell."""
    is_added = [False]

    def commit_and_cut(connection: Connection) -> None:
        driver = connection.connection.dbapi_connection
        if is_added[0] or driver is None or not driver.execute("SELECT count(*) FROM trials").fetchone()[0]:
            return
        is_added[0] = True
        driver.commit()
        driver.execute("SELECT 1")  # a transaction, so that there is a commit to fail
        cut()

    event.listen(storage.engine, "commit", commit_and_cut)
    monkeypatch.setattr("optuna.storages._rdb.storage.random.random", lambda: 0.0)  # Optuna's pause before it retries
    with pytest.raises(StoreError, match="has trials that were not there before trial 1"):
        study.started(rows[2])
    assert study.differences(rows[2:]) == ["trial 1 (RUNNING) is of no row"]
    study.sync(rows[2:])
    trials = storage.get_all_trials(storage.get_study_id_from_name("demo-1"))
    assert [trial.state for trial in trials] == [TrialState.RUNNING, TrialState.FAIL]
    assert study.differences(rows[2:]) == []


def test_a_server_without_the_database_is_a_store_error(postgresql_url: str) -> None:
    missing = postgresql_url.replace("/store_", "/nobody_made_")
    with pytest.raises(StoreError, match=r"Optuna's tables in the database cannot be opened: .*does not exist"):
        open_storage(url_for_optuna(missing))
