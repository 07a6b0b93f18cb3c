"""The connection: SQLite made fit for several processes, or PostgreSQL through psycopg 3."""

from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError

from autotune.errors import InputError, StoreError

BUSY_TIMEOUT_S = 30
CONNECT_TIMEOUT_S = 10
SILENCE_S = 30  # a server that vanished answers nothing, not even that it has gone
WRITES = "autotune_writes"  # execution option of connections that are going to write

_PRAGMAS = (
    f"busy_timeout = {BUSY_TIMEOUT_S * 1000}",  # first: the next one may already have to wait
    "journal_mode = WAL",  # readers do not wait for the writer
    "synchronous = NORMAL",  # with WAL a power cut may lose the last commits, never the database
    "foreign_keys = ON",
)
_POOL = 10  # connections that are kept: for the threads of the service, and a few more
_POSTGRESQL = {
    "connect_timeout": str(CONNECT_TIMEOUT_S),
    "keepalives_idle": str(CONNECT_TIMEOUT_S),
    "tcp_user_timeout": str(SILENCE_S * 1000),
}
_EXAMPLES = "use sqlite:///FILE or postgresql://USER@HOST/DATABASE"


def parse_url(text: str) -> URL:
    """The database URL with its driver settled. Raises InputError for anything but SQLite files and PostgreSQL."""
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        # The text is not quoted and the cause is cut off: both may hold a password.
        raise InputError(f"the database is not given as a URL; {_EXAMPLES}") from None
    backend = url.get_backend_name()
    if backend in {"postgresql", "postgres"}:
        return url.set(drivername="postgresql+psycopg")
    if backend != "sqlite":
        raise InputError(f"databases of kind {backend!r} are not supported; {_EXAMPLES}")
    if url.host or url.database in {None, "", ":memory:"}:
        raise InputError(f"the database URL {text!r} names no file (three slashes, then the path); {_EXAMPLES}")
    return url.set(drivername="sqlite")


def url_for_optuna(text: str) -> str:
    """The same database for Optuna, password included, with our patience for locks and for silent servers."""
    url = parse_url(text)
    patience = {"timeout": str(BUSY_TIMEOUT_S)} if url.drivername == "sqlite" else _POSTGRESQL
    return url.update_query_dict({**patience, **url.query}).render_as_string(hide_password=False)


def connect(url: URL) -> Engine:
    """An engine for a URL from `parse_url`; makes the missing folders of an SQLite file. Nothing is opened yet."""
    try:
        if url.drivername == "sqlite":
            return _sqlite(url)
        ours = {key: value for key, value in _POSTGRESQL.items() if key not in url.query}
        return create_engine(url, pool_size=_POOL, pool_pre_ping=True, connect_args=ours)
    except ModuleNotFoundError as exc:
        raise StoreError("PostgreSQL needs psycopg; install it with: pip install 'vllm-autotune[postgres]'") from exc
    except OSError as exc:
        raise StoreError(f"the folder of the database {url.database} cannot be made: {exc}") from exc


def _sqlite(url: URL) -> Engine:
    assert url.database is not None
    Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, pool_size=_POOL)  # a connection beyond the pool is opened for one transaction
    event.listen(engine, "connect", _set_pragmas)
    event.listen(engine, "begin", _begin)
    return engine


def _set_pragmas(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver must not begin transactions behind our back: `_begin` does
    cursor = connection.cursor()
    for pragma in _PRAGMAS:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: Connection) -> None:
    # A transaction that reads first and writes later fails at once when another process wrote in between, however
    # long the busy time-out. So one that is going to write takes the lock at its start.
    writes = connection.get_execution_options().get(WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
