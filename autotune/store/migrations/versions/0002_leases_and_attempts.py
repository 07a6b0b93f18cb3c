"""Leases of jobs and the seconds worked on them; launches of trials."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("autotune_jobs", sa.Column("worked_s", sa.Double(), server_default="0", nullable=False))
    op.add_column("autotune_jobs", sa.Column("lease_token", sa.String(), nullable=True))
    op.add_column("autotune_jobs", sa.Column("lease_owner", sa.String(), nullable=True))
    op.add_column("autotune_jobs", sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("autotune_trials", sa.Column("attempts", sa.Integer(), server_default="1", nullable=False))
    op.add_column("autotune_trials", sa.Column("failures", sa.Integer(), server_default="0", nullable=False))
    op.add_column("autotune_trials", sa.Column("earlier_device_s", sa.Double(), server_default="0", nullable=False))


def downgrade() -> None:
    for column in ("earlier_device_s", "failures", "attempts"):
        op.drop_column("autotune_trials", column)
    for column in ("lease_expires_at", "lease_owner", "lease_token", "worked_s"):
        op.drop_column("autotune_jobs", column)
