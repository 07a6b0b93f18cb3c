"""Alembic runs this for every command; the connection and its transaction belong to `autotune.store.migrate`."""

from typing import Any, Literal

from alembic import context

from autotune.store.migrate import options
from autotune.store.schema import Tables, UtcDateTime


def plain_types(kind: str, item: Any, _context: Any) -> str | Literal[False]:
    """Write our type of instants as what the database has: a revision must not depend on code that changes."""
    return "sa.DateTime(timezone=True)" if kind == "type" and isinstance(item, UtcDateTime) else False


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Tables.metadata,
    render_item=plain_types,
    **options(),
)
with context.begin_transaction():
    context.run_migrations()
