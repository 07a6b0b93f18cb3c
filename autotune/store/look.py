"""Looks at a database without changing it: whether it can be reached, and of which version its schema is."""

import os
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError

from autotune.errors import StoreError
from autotune.store import engine, migrate


@dataclass(frozen=True, slots=True)
class DatabaseState:
    """What was found. `revision` is None where there is no schema of ours yet."""

    shown: str  # the URL without its password
    exists: bool
    revision: str | None
    newest: str  # the revision this version brings a database to

    @property
    def known(self) -> bool:
        """Whether this version can use it, after migrations at most."""
        return self.revision is None or self.revision in migrate.known_revisions()


def look(url: str) -> DatabaseState:
    """Look at the database at this URL; nothing is created or migrated.

    Raises InputError for another kind of URL, StoreError when it cannot be reached or an SQLite file could not be made.
    """
    parsed = engine.parse_url(url)
    shown = parsed.render_as_string(hide_password=True)
    if parsed.drivername == "sqlite" and not Path(str(parsed.database)).exists():
        _check_can_be_made(parsed)
        return DatabaseState(shown, exists=False, revision=None, newest=migrate.head())
    opened = engine.connect(parsed)
    try:
        with opened.connect() as connection:
            return DatabaseState(shown, True, migrate.revision(connection), migrate.head())
    except DBAPIError as exc:
        raise StoreError(f"the database {shown} cannot be opened: {exc.orig}; check the URL and the server") from exc
    finally:
        opened.dispose()


def _check_can_be_made(url: URL) -> None:
    folder = Path(str(url.database)).absolute().parent
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise StoreError(f"the database {url.database} cannot be made: {existing} is not writable; choose another")
