"""A queue of submitted jobs, their events, tokens, browser sessions and workers."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_JOBS = "autotune_jobs"
_JOB_INDEXES = {
    "ix_autotune_jobs_tenant_created_at_id": ["tenant", "created_at", "id"],
    "ix_autotune_jobs_created_at_id": ["created_at", "id"],
    "ix_autotune_jobs_status_queued_at": ["status", "queued_at"],
}
_KEY_INDEX = "ix_autotune_jobs_tenant_idempotency_key"


def _new_job_columns() -> list[sa.Column[Any]]:
    """Fresh objects: each belongs to one operation."""
    return [
        sa.Column("tenant", sa.String(), server_default="local", nullable=False),
        sa.Column("submitted_by", sa.String(), server_default="", nullable=False),
        sa.Column("priority", sa.Integer(), server_default="0", nullable=False),
        sa.Column("queued_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("idempotency_key", sa.String(), nullable=True),
        sa.Column("request_hash", sa.String(), server_default="", nullable=False),
        sa.Column("progress", sa.JSON(), nullable=True),
    ]


def upgrade() -> None:
    for column in _new_job_columns():
        op.add_column(_JOBS, column)
    for name, columns in _JOB_INDEXES.items():
        op.create_index(name, _JOBS, columns)
    op.create_index(_KEY_INDEX, _JOBS, ["tenant", "idempotency_key"], unique=True)
    op.add_column("autotune_trials", sa.Column("device_s", sa.Double(), server_default="0", nullable=False))
    op.create_index("ix_autotune_trials_finished_at", "autotune_trials", ["finished_at"])
    op.create_index(
        "ix_autotune_load_points_best",
        "autotune_load_points",
        ["job_id", "feasible", "output_throughput_per_device"],
    )
    op.create_table(
        "autotune_events",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("trial", sa.Integer(), nullable=True),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["autotune_jobs.id"], name="fk_autotune_events_job_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_autotune_events"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_autotune_events_job_id_id", "autotune_events", ["job_id", "id"])
    op.create_table(
        "autotune_tokens",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("secret_hash", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_autotune_tokens"),
    )
    op.create_table(
        "autotune_sessions",
        sa.Column("key_hash", sa.String(), nullable=False),
        sa.Column("token_id", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("key_hash", name="pk_autotune_sessions"),
    )
    op.create_table(
        "autotune_workers",
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("job", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("owner", name="pk_autotune_workers"),
    )


def downgrade() -> None:
    for table in ("autotune_workers", "autotune_sessions", "autotune_tokens", "autotune_events"):
        op.drop_table(table)
    op.drop_index("ix_autotune_load_points_best", "autotune_load_points")
    op.drop_index("ix_autotune_trials_finished_at", "autotune_trials")
    op.drop_column("autotune_trials", "device_s")
    for name in (*_JOB_INDEXES, _KEY_INDEX):
        op.drop_index(name, _JOBS)
    for column in _new_job_columns():
        op.drop_column(_JOBS, column.name)
