"""Jobs, trials, load points and fronts in SQLite or PostgreSQL; the only importer of sqlalchemy and alembic."""

from autotune.store.engine import url_for_optuna
from autotune.store.lease import LEASE_S, Lease
from autotune.store.look import DatabaseState, look
from autotune.store.retry import RETRY_S
from autotune.store.shared import SharedStore
from autotune.store.store import Store

__all__ = ["LEASE_S", "RETRY_S", "DatabaseState", "Lease", "SharedStore", "Store", "look", "url_for_optuna"]
