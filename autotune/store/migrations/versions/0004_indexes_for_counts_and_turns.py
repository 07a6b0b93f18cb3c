"""Indexes for what `/metrics`, the list of jobs and the queue count."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_TRIALS = "autotune_trials"
_TRIALS_INDEX = "ix_autotune_trials_job_id_outcome_purpose"
_JOBS = "autotune_jobs"
_JOB_INDEXES = {
    "ix_autotune_jobs_tenant_started_at": ["tenant", "started_at"],
    "ix_autotune_jobs_lease_token": ["lease_token"],
}


def upgrade() -> None:
    op.create_index(_TRIALS_INDEX, _TRIALS, ["job_id", "outcome", "purpose"])
    for name, columns in _JOB_INDEXES.items():
        op.create_index(name, _JOBS, columns)


def downgrade() -> None:
    for name in _JOB_INDEXES:
        op.drop_index(name, _JOBS)
    op.drop_index(_TRIALS_INDEX, _TRIALS)
