"""Jobs, trials, load points and fronts in SQLite or PostgreSQL; the only importer of sqlalchemy and alembic."""

from autotune.store.engine import url_for_optuna
from autotune.store.store import Store

__all__ = ["Store", "url_for_optuna"]
