"""Opening a database brings it to this version's schema, or says why it cannot."""

import socket
import sqlite3
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, inspect

from autotune.errors import InputError, StoreError
from autotune.store import Store, migrate, url_for_optuna
from autotune.store.engine import connect, parse_url
from autotune.store.schema import Tables

OURS = {
    "autotune_alembic_version",
    "autotune_events",
    "autotune_front_points",
    "autotune_jobs",
    "autotune_load_points",
    "autotune_sessions",
    "autotune_tokens",
    "autotune_trials",
    "autotune_workers",
}


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/autotune.db"


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    opened = connect(parse_url(url))
    yield opened
    opened.dispose()


def test_the_head_equals_the_models(engine: Engine) -> None:
    migrate.upgrade(engine)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts=migrate.options())
        assert compare_metadata(context, Tables.metadata) == []


def test_a_database_of_optuna_gains_our_tables_and_keeps_its_own(url: str, engine: Engine) -> None:
    """Two products, two alembic version tables, one database; ours compares only what is ours."""
    storage = optuna.storages.RDBStorage(url_for_optuna(url))
    optuna.create_study(storage=storage, study_name="watched")
    theirs = set(inspect(engine).get_table_names())
    migrate.upgrade(engine)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts=migrate.options())
        assert compare_metadata(context, Tables.metadata) == []
    assert set(inspect(engine).get_table_names()) == theirs | OURS
    assert [study.study_name for study in storage.get_all_studies()] == ["watched"]
    storage.engine.dispose()


def test_our_database_takes_optunas_tables_in(url: str, engine: Engine) -> None:
    """Optuna's own migration check must not read our revision."""
    migrate.upgrade(engine)
    storage = optuna.storages.RDBStorage(url_for_optuna(url))
    assert storage.get_current_version() == storage.get_head_version()
    storage.engine.dispose()


def test_every_revision_can_be_taken_back(engine: Engine) -> None:
    migrate.upgrade(engine)
    with engine.begin() as connection:
        command.downgrade(migrate.config(connection), "base")
    assert inspect(engine).get_table_names() == ["autotune_alembic_version"]


def test_opening_again_changes_nothing(url: str, engine: Engine) -> None:
    Store.open(url).close()
    Store.open(url).close()
    assert set(inspect(engine).get_table_names()) == OURS


def test_several_may_open_a_new_database_at_once(url: str, engine: Engine) -> None:
    with ThreadPoolExecutor(4) as pool:
        for store in pool.map(Store.open, [url] * 4):
            store.close()
    assert set(inspect(engine).get_table_names()) == OURS


def test_a_current_database_opens_while_another_process_writes(url: str) -> None:
    """A reader must not wait for the time-out of a long write."""
    Store.open(url).close()
    writer = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    with Store.open(url) as store:
        assert store.jobs() == ()
    writer.close()


def test_sqlite_is_set_up_for_several_processes(engine: Engine) -> None:
    with engine.connect() as connection:
        pragmas = ("journal_mode", "busy_timeout", "foreign_keys", "synchronous")
        values = [connection.exec_driver_sql(f"PRAGMA {pragma}").scalar() for pragma in pragmas]
    assert values == ["wal", 30_000, 1, 1]


def test_a_database_newer_than_the_code_is_refused_with_advice(url: str) -> None:
    Store.open(url).close()
    with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
        connection.execute("UPDATE autotune_alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(StoreError, match=r"schema 9999, this version .* up to \w+; upgrade vllm-autotune"):
        Store.open(url)


def test_missing_folders_are_made(tmp_path: Path) -> None:
    Store.open(f"sqlite:///{tmp_path}/a/b/autotune.db").close()
    assert (tmp_path / "a/b/autotune.db").is_file()


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.db").write_text("not a database, but long enough to have a header" * 50)
    with pytest.raises(StoreError, match="cannot be opened: file is not a database"):
        Store.open(f"sqlite:///{tmp_path}/notes.db")


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"folder of the database .* cannot be made"):
        Store.open(f"sqlite:///{tmp_path}/file/autotune.db")


def test_a_database_that_breaks_later_is_a_store_error(url: str) -> None:
    with Store.open(url) as store:
        with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
            connection.execute("DROP TABLE autotune_trials")
        connection.close()
        with pytest.raises(StoreError, match=r"autotune\.db fails: no such table: autotune_trials"):
            store.trials("aa01")


def test_postgresql_without_its_driver_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StoreError, match=r"pip install 'vllm-autotune\[postgres\]'"):
        Store.open("postgresql://tuner@127.0.0.1/autotune")


def test_an_unreachable_server_is_named_without_its_password() -> None:
    pytest.importorskip("psycopg", reason="the extra `postgres` is not installed")
    with socket.socket() as bound_but_not_listening:
        bound_but_not_listening.bind(("127.0.0.1", 0))
        port = bound_but_not_listening.getsockname()[1]
        with pytest.raises(StoreError, match="cannot be opened") as refused:
            Store.open(f"postgresql://tuner:hunter2@127.0.0.1:{port}/autotune")
    assert f"tuner:***@127.0.0.1:{port}/autotune" in str(refused.value)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("autotune.db", "not given as a URL; use sqlite:///FILE"),
        ("mysql://tuner:hunter2@host/autotune", "kind 'mysql' are not supported"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite://autotune.db", "names no file"),
        ("postgresql://tuner:hunter2@host:port/autotune", "not given as a URL"),
    ],
)
def test_a_wrong_url_is_refused_with_advice(url: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem) as refused:
        Store.open(url)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "for_optuna"),
    [
        ("sqlite:///autotune.db", "sqlite:///autotune.db?timeout=30"),
        ("sqlite+pysqlite:////data/autotune.db", "sqlite:////data/autotune.db?timeout=30"),
        (
            "postgres://tuner:hunter2@host/autotune",
            "postgresql+psycopg://tuner:hunter2@host/autotune"
            "?connect_timeout=10&keepalives_idle=10&tcp_user_timeout=30000",
        ),
        (
            "postgresql+psycopg2://host/autotune?connect_timeout=3",
            "postgresql+psycopg://host/autotune?connect_timeout=3&keepalives_idle=10&tcp_user_timeout=30000",
        ),
    ],
)
def test_optuna_gets_the_same_database_with_its_password(url: str, for_optuna: str) -> None:
    assert url_for_optuna(url) == for_optuna
