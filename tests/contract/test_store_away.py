"""A database that goes away for a while: connections are cut, servers refuse, files are locked."""

import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import pytest
from sqlalchemy import Connection, Engine, create_engine, event, text
from structlog.testing import capture_logs

from autotune.engine_config import EngineConfig
from autotune.errors import InputError, LeaseLost, StoreError
from autotune.results import (
    Evidence,
    FailureClass,
    Interrupted,
    Job,
    JobResult,
    JobStatus,
    ParetoFront,
    Recommendation,
    Trial,
    TrialResult,
)
from autotune.store import RETRY_S, Lease, Store, migrate
from autotune.store.engine import connect, parse_url

Answer = TypeVar("Answer")

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
JOB = Job(
    id="aa01",
    name="qwen",
    status=JobStatus.QUEUED,
    spec={},
    space={},
    workload={},
    model_path="/models/tiny",
    folder="jobs/aa01",
    created_at=NOON,
)
TRIAL = Trial(
    number=0, purpose="search", origin="gp", knobs={"max_num_seqs": 64}, config=EngineConfig(), started_at=NOON
)
PORT_TAKEN = TrialResult(
    outcome=Interrupted(evidence=Evidence(failure=FailureClass.PORT, signature=None, cause="taken", advice="wait"))
)
NOTHING = JobResult(
    stopped_by="trials", front=ParetoFront(), recommendation=Recommendation(trial=None, level=None, reason="none")
)


class Waiting:
    """A clock that only pauses move; what happens during a pause is given."""

    def __init__(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        self.pauses_s: list[float] = []
        self._meanwhile = meanwhile

    def pause(self, seconds: float) -> None:
        self.pauses_s.append(seconds)
        self._meanwhile()

    def clock(self) -> float:
        return sum(self.pauses_s)


def never_wait() -> None:
    raise AssertionError("this must not be tried again")


class TestPostgresql:
    @pytest.fixture
    def engine(self, postgresql_url: str) -> Iterator[Engine]:
        opened = connect(parse_url(postgresql_url))
        migrate.upgrade(opened)
        yield opened
        opened.dispose()

    @pytest.fixture
    def server(self, postgresql_url: str) -> Iterator[Connection]:
        """A connection to another database of the same server, which outlives what it does to ours."""
        url = parse_url(postgresql_url).set(database="postgres")
        admin = create_engine(url, isolation_level="AUTOCOMMIT")
        with admin.connect() as connection:
            yield connection
        admin.dispose()

    @pytest.fixture
    def cut_every_backend(self, postgresql_url: str, server: Connection) -> Callable[[], None]:
        name = parse_url(postgresql_url).database
        query = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = :name"
        return lambda: server.execute(text(query), {"name": name}).all() and None

    def test_a_connection_that_was_cut_between_calls_is_replaced(
        self, engine: Engine, cut_every_backend: Callable[[], None]
    ) -> None:
        store = Store(engine, pause=lambda _s: never_wait())
        store.create_job(JOB)
        cut_every_backend()
        store.request_cancel("aa01")
        cut_every_backend()
        assert store.cancel_requested("aa01")

    @pytest.mark.parametrize("is_written", [False, True], ids=["before the commit", "with the answer to the commit"])
    def test_a_job_whose_every_commit_is_cut_ends_as_if_nothing_had_happened(
        self, engine: Engine, cut_every_backend: Callable[[], None], *, is_written: bool
    ) -> None:
        cuts = Cuts(engine, cut_every_backend, is_written=is_written)
        waiting = Waiting()
        store = Store(engine, pause=waiting.pause, clock=waiting.clock)
        cuts.once(lambda: store.create_job(JOB))
        lease = cuts.once(lambda: store.claim("aa01", "worker 1", now=NOON))
        cuts.once(lambda: store.set_status(lease, JobStatus.RUNNING))
        cuts.once(lambda: store.renew(lease, now=NOON, worked_s=8.0))
        cuts.once(lambda: store.start_trial(lease, TRIAL))
        cuts.once(lambda: store.relaunch_trial(lease, 0, attempts=2, earlier_device_s=4.0))
        cuts.once(lambda: store.finish_trial(lease, 0, PORT_TAKEN, NOON))
        cuts.once(lambda: store.request_cancel("aa01"))
        cuts.once(lambda: store.finish_job(lease, JobStatus.CANCELLED, NOTHING, finished_at=NOON, message="why"))
        ended = {"status": JobStatus.CANCELLED, "message": "why", "worked_s": 8.0, "result": NOTHING}
        assert cuts.once(store.jobs) == (JOB.model_copy(update={**ended, "finished_at": NOON}),)
        twice = {"attempts": 2, "earlier_device_s": 4.0, "result": PORT_TAKEN, "finished_at": NOON}
        assert cuts.once(lambda: store.trials("aa01")) == (TRIAL.model_copy(update=twice),)
        assert waiting.pauses_s == [0.1] * 11

    @pytest.mark.parametrize("is_written", [False, True], ids=["before the commit", "with the answer to the commit"])
    def test_a_release_may_be_cut(
        self, engine: Engine, cut_every_backend: Callable[[], None], *, is_written: bool
    ) -> None:
        cuts = Cuts(engine, cut_every_backend, is_written=is_written)
        store = Store(engine, pause=lambda _s: None)
        store.create_job(JOB)
        lease = store.claim("aa01", "worker 1", now=NOON)
        cuts.once(lambda: store.release(lease))
        assert store.owner("aa01", now=NOON) is None

    def test_a_job_that_was_taken_while_the_database_was_away_is_not_written_to(
        self, engine: Engine, postgresql_url: str, cut_every_backend: Callable[[], None]
    ) -> None:
        """The thief comes during the pause; the second try must look at the lease again."""
        with Store.open(postgresql_url) as thief:
            waiting = Waiting(lambda: thief.claim("aa01", "worker 2", now=NOON, gone=lambda _owner: True))
            cuts = Cuts(engine, cut_every_backend, is_written=False)
            store = Store(engine, pause=waiting.pause, clock=waiting.clock)
            store.create_job(JOB)
            lease = store.claim("aa01", "worker 1", now=NOON)
            with pytest.raises(LeaseLost, match="worker 2 has taken it over"):
                cuts.once(lambda: store.start_trial(lease, TRIAL))
            assert thief.trials("aa01") == ()

    def test_a_server_that_refuses_connections_for_a_while_is_waited_for(
        self, engine: Engine, postgresql_url: str, server: Connection, cut_every_backend: Callable[[], None]
    ) -> None:
        name = parse_url(postgresql_url).database

        def set_open(is_open: bool) -> None:
            server.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS {is_open}"))

        waiting = Waiting(lambda: set_open(len(waiting.pauses_s) == 3))
        store = Store(engine, pause=waiting.pause, clock=waiting.clock)
        set_open(False)
        cut_every_backend()
        store.create_job(JOB)
        assert (waiting.pauses_s, store.jobs()) == ([0.1, 0.2, 0.4], (JOB,))

    def test_a_missing_database_is_told_at_once_when_it_is_opened(self, postgresql_url: str) -> None:
        url = parse_url(postgresql_url).set(database="nobody_made_it").render_as_string(hide_password=False)
        with pytest.raises(StoreError, match=r'cannot be opened: .*"nobody_made_it" does not exist'):
            Store.open(url, pause=lambda _s: never_wait())

    def test_a_wrong_input_is_not_tried_again(self, engine: Engine) -> None:
        store = Store(engine, pause=lambda _s: never_wait())
        with pytest.raises(InputError, match="holds no jobs"):
            store.job("aa01")


class Cuts:
    """Terminates the backend of a call's first commit: before it, or when it is done and its answer is on its way."""

    def __init__(self, engine: Engine, cut_every_backend: Callable[[], None], *, is_written: bool) -> None:
        self._cut, self._is_written, self._is_armed = cut_every_backend, is_written, False
        event.listen(engine, "commit", self._commit)

    def once(self, call: Callable[[], Answer]) -> Answer:
        self._is_armed = True
        answer = call()
        assert not self._is_armed
        return answer

    def _commit(self, connection: Connection) -> None:
        if not self._is_armed:
            return
        self._is_armed = False
        if self._is_written:
            driver = connection.connection.dbapi_connection
            assert driver is not None
            driver.commit()
            driver.execute("SELECT 1")  # a transaction, so that there is a commit to fail
        self._cut()


class TestSqlite:
    @pytest.fixture
    def engine(self, tmp_path: Path) -> Iterator[Engine]:
        """A database whose locks are told at once instead of after half a minute."""
        opened = connect(parse_url(f"sqlite:///{tmp_path}/autotune.db"))
        event.listen(opened, "connect", lambda driver, _record: driver.execute("PRAGMA busy_timeout = 0"))
        migrate.upgrade(opened)
        yield opened
        opened.dispose()

    @pytest.fixture
    def writer(self, engine: Engine, tmp_path: Path) -> Iterator[sqlite3.Connection]:
        """Another process in the middle of a write."""
        connection = sqlite3.connect(tmp_path / "autotune.db", isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        yield connection
        connection.close()

    def test_a_locked_file_is_waited_for_with_growing_pauses(self, engine: Engine, writer: sqlite3.Connection) -> None:
        def give_way() -> None:
            if len(waiting.pauses_s) == 4:
                writer.rollback()

        waiting = Waiting(give_way)
        store = Store(engine, pause=waiting.pause, clock=waiting.clock)
        store.create_job(JOB)
        assert (waiting.pauses_s, store.jobs()) == ([0.1, 0.2, 0.4, 0.8], (JOB,))

    def test_patience_ends_after_its_time(self, engine: Engine, writer: sqlite3.Connection) -> None:
        waiting = Waiting()
        store = Store(engine, pause=waiting.pause, clock=waiting.clock)
        with pytest.raises(StoreError, match="fails: database is locked; check the disk and the server"):
            store.create_job(JOB)
        assert RETRY_S - 5 < waiting.clock() <= RETRY_S

    def test_a_lost_database_is_logged_once_per_call(self, engine: Engine, writer: sqlite3.Connection) -> None:
        waiting = Waiting()
        store = Store(engine, pause=waiting.pause, clock=waiting.clock)
        with capture_logs() as logs, pytest.raises(StoreError):
            store.create_job(JOB)
        assert [(log["event"], log["problem"]) for log in logs] == [("database_lost", "database is locked")]

    def test_readers_do_not_wait_for_the_writer(self, engine: Engine, writer: sqlite3.Connection) -> None:
        assert Store(engine, pause=lambda _s: never_wait()).jobs() == ()

    def test_what_will_not_pass_is_told_at_once(self, engine: Engine, tmp_path: Path) -> None:
        with sqlite3.connect(tmp_path / "autotune.db") as connection:
            connection.execute("DROP TABLE autotune_load_points")
        connection.close()
        store = Store(engine, pause=lambda _s: never_wait())
        with pytest.raises(StoreError, match="no such table: autotune_load_points"):
            store.load_points("aa01")

    def test_a_write_that_was_refused_needs_no_second_try(self, engine: Engine) -> None:
        store = Store(engine, pause=lambda _s: never_wait())
        store.create_job(JOB)
        with pytest.raises(LeaseLost):
            store.start_trial(Lease("aa01", "never given"), TRIAL)
