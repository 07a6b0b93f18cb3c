"""Brings a database to the schema of this version; needs no alembic.ini, so it works from an installed wheel.

A developer makes the next revision from a difference between `schema` and a database with
`alembic.command.revision(config(connection), "what changed", autogenerate=True)`.
"""

import threading
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, func, select

from autotune.errors import StoreError
from autotune.store.engine import WRITES
from autotune.store.schema import PREFIX

VERSION_TABLE = PREFIX + "alembic_version"  # Optuna keeps its own revision in alembic_version of the same database
_FOLDER = Path(__file__).parent / "migrations"
_POSTGRESQL_LOCK = 0x6175746F  # "auto": any number that nobody else uses for an advisory lock
_ALEMBIC = threading.Lock()  # alembic keeps the current migration in module globals


def ours(_object: object, name: str | None, kind: str, _reflected: bool, _compare_to: object) -> bool:
    """Whether autogenerate looks at this thing: not at tables without our prefix."""
    return kind != "table" or (name or "").startswith(PREFIX)


def options() -> dict[str, Any]:
    """How alembic is told about our part of the database."""
    return {"version_table": VERSION_TABLE, "include_object": ours}


def config(connection: Connection) -> Config:
    """Alembic's configuration for one connection; the transaction stays the caller's."""
    made = Config()
    made.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    made.attributes["connection"] = connection
    return made


def head() -> str:
    """The newest revision this version knows."""
    revision = ScriptDirectory(str(_FOLDER)).get_current_head()
    assert revision is not None
    return revision


def upgrade(engine: Engine) -> None:
    """Run the missing migrations in one transaction. Raises StoreError when the database is newer than this version."""
    with engine.connect() as connection:
        if revision(connection) == head():
            return  # so that opening a current database never waits for its writer
    with _ALEMBIC, engine.execution_options(**{WRITES: True}).begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(select(func.pg_advisory_xact_lock(_POSTGRESQL_LOCK)))
        found = revision(connection)  # again, under the lock: another process may have been faster
        _refuse_unknown(found)
        if found != head():
            command.upgrade(config(connection), "head")


def revision(connection: Connection) -> str | None:
    """The revision of the part of a database that is ours; None where there is none."""
    return MigrationContext.configure(connection, opts=options()).get_current_revision()


def known_revisions() -> frozenset[str]:
    """All revisions this version knows."""
    return frozenset(script.revision for script in ScriptDirectory(str(_FOLDER)).walk_revisions())


def _refuse_unknown(found: str | None) -> None:
    if found is not None and found not in known_revisions():
        raise StoreError(
            f"the database has schema {found}, this version of vllm-autotune knows schemas up to {head()}; "
            "upgrade vllm-autotune (pip install -U vllm-autotune), or use another database"
        )
